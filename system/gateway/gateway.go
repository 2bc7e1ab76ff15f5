// Package gateway serves Solo's public API over gRPC and passes every call on to
// the kernel.
//
// Trust: runs sandboxed and unprivileged; clients are untrusted, the kernel is
// trusted. The gateway decides nothing: it forwards the token that came with a
// call, also a missing one, and the kernel's one switch answers. What it does
// itself is to bound what a client may make it hold (connections, streams,
// headers, messages, uploads) and to move bodies into sealed memfds.
//
// Whoever can reach a socket can fill it. So of the MaxConnections of a listener only
// those are safe that are proven: the kernel has answered a call on them with
// anything but UNAUTHENTICATED (health and reflection do not ask it), or it has worked
// on one for longer than a refusal takes. A new connection above the limit takes the
// place of the oldest other one, which has had half a second for certain; it is
// refused only when all are proven. Without a call at the kernel, unproven ones end
// after 30 seconds. Holders of a token can still fill a listener.
//
// It needs no socket(2), connect(2), bind(2) or listen(2): its listeners and its
// control connection are inherited.
//
//	client ──gRPC──▶ gateway ──Request{id}──▶ kernel
//	       ◀────────         ◀─Response{id}──
//	                   ◀═ descriptors: Watch and Tail records, a run's stdio
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
)

// Limits that hold for every client; grpc-go leaves most of them open.
const (
	// MaxMessage is the largest message that a client may send, in bytes.
	MaxMessage = 4 << 20
	// MaxConnections is the largest number of open connections per listener. Above it
	// a new one takes the place of one that is not proven; see gate.
	MaxConnections = 512
	// MaxStreams is the largest number of calls in flight per connection.
	MaxStreams = 256
	// MaxHeaderBytes is the largest header list of one call.
	MaxHeaderBytes = 16 << 10
	// MaxUploads is the number of uploads in flight at once.
	MaxUploads = 16
	// DefaultUploadBytes is the largest upload until the kernel says otherwise.
	DefaultUploadBytes = 64 << 20
)

const (
	handshakeTime  = 5 * time.Second
	idleTime       = 10 * time.Minute
	pingAfter      = 30 * time.Second
	pingTimeout    = 15 * time.Second
	minPingTime    = 5 * time.Second
	defaultGrace   = 10 * time.Second
	uploadIdle     = 30 * time.Second
	flushTime      = time.Second
	maxTokenLength = 512
)

// Config is what a gateway works with. Serve takes ownership of all of it.
type Config struct {
	// Control is the connection to the kernel.
	Control *ipc.Conn
	// Unix is the listener of api.sock; always there.
	Unix net.Listener
	// TCP is the optional second listener; it needs TLS.
	TCP net.Listener
	// TLS is used on TCP; see LoadTLS.
	TLS *tls.Config
	// UploadIdle is how long an upload may bring nothing before it is ended and makes
	// room for another; 30 seconds when 0.
	UploadIdle time.Duration
	// ProveTime is how long a connection may stay open before the kernel has known the
	// token of a call on it; 30 seconds when 0.
	ProveTime time.Duration
}

// Validate says what is missing or does not fit together.
func (c Config) Validate() error {
	switch {
	case c.Control == nil:
		return errors.New("gateway: no control connection")
	case c.Unix == nil:
		return errors.New("gateway: no listener named api.sock")
	case c.TCP != nil && c.TLS == nil:
		return errors.New("gateway: refusing to serve TCP without mutual TLS")
	case c.TCP != nil && (c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.MinVersion < tls.VersionTLS13):
		return errors.New("gateway: refusing to serve TCP without verified client certificates and TLS 1.3")
	}
	return nil
}

func (c Config) close() {
	if c.Control != nil {
		_ = c.Control.Close()
	}
	for _, l := range []net.Listener{c.Unix, c.TCP} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// errStopped is the cancellation cause of an orderly stop.
var errStopped = errors.New("this Solo is shutting down")

// Serve answers calls until the kernel orders a stop (nil) or something ends it:
// the control connection, a listener, or ctx. It announces itself to the kernel
// with Hello once it accepts, and blocks meanwhile.
func Serve(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		c.close()
		return err
	}
	defer c.close()
	g := &gateway{link: newLink(c.Control), uploads: make(chan struct{}, MaxUploads), uploadIdle: cmp.Or(c.UploadIdle, uploadIdle)}
	g.life, g.end = context.WithCancelCause(context.Background())
	defer g.end(errStopped)
	g.link.observer = g.seen.use
	defer g.seen.use(nil)

	limit := cmp.Or(c.ProveTime, proveTime)
	servers := []*server{g.newServer("unix", newGate(c.Unix, MaxConnections, limit), nil)}
	if c.TCP != nil {
		servers = append(servers, g.newServer("tcp", newGate(c.TCP, MaxConnections, limit), credentials.NewTLS(c.TLS)))
	}
	defer func() {
		for _, s := range servers {
			s.gate.cut()
			s.grpc.Stop()
		}
	}()

	failed := make(chan error, len(servers)+1)
	for _, s := range servers {
		go func() {
			if err := s.grpc.Serve(s.gate); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failed <- fmt.Errorf("serve %s: %w", s.transport, err)
			}
		}()
	}
	stop := make(chan time.Duration, 1)
	go func() { failed <- g.link.receive(stop) }()
	if err := g.link.send(&controlv1.FromService{Item: &controlv1.FromService_Hello{Hello: &controlv1.Hello{Protocol: 1}}}); err != nil {
		return fmt.Errorf("announce: %w", err)
	}

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case grace := <-stop:
		g.drain(servers, grace)
		return nil
	}
}

// gateway is the state that all servers share.
type gateway struct {
	link    *link
	uploads chan struct{}
	// uploadIdle is Config.UploadIdle.
	uploadIdle time.Duration
	// life ends with the order to stop; streams without an end of their own end
	// with it.
	life context.Context
	end  context.CancelCauseFunc
	// calls counts Solo's own calls in flight.
	calls inflight
	seen  observer
}

// server is one gRPC server: there is one per transport, since credentials belong
// to a server and the transport's name is part of each request.
type server struct {
	*gateway
	transport string
	gate      *gate
	grpc      *grpc.Server
	health    *health.Server
}

func (g *gateway) newServer(transport string, gate *gate, creds credentials.TransportCredentials) *server {
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newBodyCodec()),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingTime, PermitWithoutStream: true}),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	s := &server{gateway: g, transport: transport, gate: gate, grpc: grpc.NewServer(opts...), health: health.NewServer()}
	for _, desc := range []*grpc.ServiceDesc{
		&api.SoloService_ServiceDesc, &api.LifecycleService_ServiceDesc, &api.ArtifactService_ServiceDesc,
		&api.AuditService_ServiceDesc, &api.KernelService_ServiceDesc,
	} {
		s.health.SetServingStatus(desc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	reg := observed{s}
	api.RegisterSoloServiceServer(reg, soloService{server: s})
	api.RegisterLifecycleServiceServer(reg, lifecycleService{server: s})
	api.RegisterArtifactServiceServer(reg, artifactService{server: s})
	api.RegisterAuditServiceServer(reg, auditService{server: s})
	api.RegisterKernelServiceServer(reg, kernelService{server: s})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// drain stops accepting, ends the streams that would not end, lets the calls in
// flight finish within grace, and leaves clients a moment to read the answers.
func (g *gateway) drain(servers []*server, grace time.Duration) {
	if grace <= 0 {
		grace = defaultGrace
	}
	g.end(errStopped)
	for _, s := range servers {
		s.health.Shutdown()
	}
	done := make(chan struct{})
	go func() {
		var all sync.WaitGroup
		for _, s := range servers {
			all.Go(s.grpc.GracefulStop)
		}
		all.Wait()
		close(done)
	}()
	limit := time.NewTimer(grace)
	defer limit.Stop()
	select {
	case <-done:
		return
	case <-limit.C:
		return
	case <-g.calls.none():
	}
	// What is left are health and reflection streams, and answers being written.
	select {
	case <-done:
	case <-time.After(min(flushTime, grace)):
	}
}
