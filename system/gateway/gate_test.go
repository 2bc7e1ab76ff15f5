package gateway_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

// checking is a kernel that knows one token: it answers Info and List, opens a watch
// and a run, denies Status, and keeps Kill until release is closed.
func checking(t *testing.T, arrived chan<- struct{}, release <-chan struct{}) gatewaytest.Handler {
	watcher := streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		_ = conn.Send(record(1))
		_, _, _ = conn.Receive(&solov1.WatchRequest{})
	})
	run := runner(t, echo(&solov1.RunExit{}))
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		if req.GetToken() != token {
			files.Close()
			_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.Unauthenticated), Reason: "UNAUTHENTICATED", Message: "no"})
			return
		}
		switch req.GetOp().(type) {
		case *controlv1.Request_Watch:
			watcher(k, req, files)
		case *controlv1.Request_Run:
			run(k, req, files)
		case *controlv1.Request_Info:
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Pid: 7}}})
		case *controlv1.Request_List:
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_List{List: &solov1.ListResponse{}}})
		case *controlv1.Request_Status:
			_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.PermissionDenied), Reason: "PERMISSION_DENIED", Message: "no"})
		case *controlv1.Request_Kill:
			arrived <- struct{}{}
			<-release
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: "stopped"}}})
		default:
			t.Errorf("the kernel got %T", req.GetOp())
		}
	}
}

// visitor is one client whose connection can be told from the next one it makes.
type visitor struct {
	*grpc.ClientConn
	dials *atomic.Int32
}

func visit(t *testing.T, network, addr string, creds credentials.TransportCredentials) visitor {
	t.Helper()
	return visitBy(t, creds, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	})
}

func visitBy(t *testing.T, creds credentials.TransportCredentials, dial func(context.Context) (net.Conn, error)) visitor {
	t.Helper()
	v := visitor{dials: new(atomic.Int32)}
	var err error
	v.ClientConn, err = grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			v.dials.Add(1)
			return dial(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func (v visitor) check(t *testing.T) error {
	t.Helper()
	_, err := healthpb.NewHealthClient(v).Check(patient(t), &healthpb.HealthCheckRequest{})
	return err
}

// kept reports whether it still has its first connection.
func (v visitor) kept(t *testing.T) bool {
	t.Helper()
	return v.check(t) == nil && v.dials.Load() == 1
}

// withToken is a patient context with that token.
func withToken(t *testing.T, token string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(patient(t), "authorization", "Bearer "+token)
}

// alive reports whether the gateway answers a ping.
func (p *peer) alive() bool {
	if p.framer.WritePing(false, [8]byte{}) != nil {
		return false
	}
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return false
		}
		if ping, ok := f.(*http2.PingFrame); ok && ping.IsAck() {
			return true
		}
	}
}

// proofs are what a client does before it is compared with idle ones.
var proofs = []struct {
	name   string
	do     func(t *testing.T, v visitor, arrived <-chan struct{}) error
	proves bool
}{
	{"nothing", func(t *testing.T, v visitor, _ <-chan struct{}) error { return v.check(t) }, false},
	{"reflection", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		s, err := reflectionpb.NewServerReflectionClient(v).ServerReflectionInfo(patient(t))
		if err == nil {
			err = s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		}
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}, false},
	{"no token", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		_, err := api.NewKernelServiceClient(v).Info(patient(t), &solov1.InfoRequest{})
		refused(t, err, codes.Unauthenticated, "UNAUTHENTICATED")
		return nil
	}, false},
	{"wrong token", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		s, err := api.NewSoloServiceClient(v).Watch(withToken(t, "solo_wrong"), &solov1.WatchRequest{})
		if err != nil {
			return err
		}
		refused(t, s.RecvMsg(&solov1.WatchResponse{}), codes.Unauthenticated, "UNAUTHENTICATED")
		return nil
	}, false},
	{"refused by the gateway", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		_, err := api.NewSoloServiceClient(v).Deploy(withToken(t, token), source(1<<20+1))
		refused(t, err, codes.InvalidArgument, "INVALID_MANIFEST")
		return nil
	}, false},
	{"given up", func(t *testing.T, v visitor, arrived <-chan struct{}) error {
		ctx, cancel := context.WithCancel(withToken(t, token))
		ended := make(chan error, 1)
		go func() {
			_, err := api.NewSoloServiceClient(v).Kill(ctx, &solov1.KillRequest{})
			ended <- err
		}()
		take(t, arrived, "the call")
		cancel()
		_ = take(t, ended, "its end")
		return nil
	}, false},
	{"answered", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		_, err := api.NewKernelServiceClient(v).Info(withToken(t, token), &solov1.InfoRequest{})
		return err
	}, true},
	{"denied", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		_, err := api.NewSoloServiceClient(v).Status(withToken(t, token), &solov1.StatusRequest{})
		refused(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
		return nil
	}, true},
	{"watch", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		s, err := api.NewSoloServiceClient(v).Watch(withToken(t, token), &solov1.WatchRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}, true},
	{"run", func(t *testing.T, v visitor, _ <-chan struct{}) error {
		s, err := api.NewLifecycleServiceClient(v).Run(withToken(t, token))
		if err == nil {
			err = s.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: &solov1.RunStart{}}})
		}
		if err == nil {
			err = s.Send(stdin([]byte("x")))
		}
		if err == nil {
			_, err = s.Recv() // the program echoes
		}
		return err
	}, true},
	{"under way", func(t *testing.T, v visitor, arrived <-chan struct{}) error {
		ctx := withToken(t, token)
		go func() { _, _ = api.NewSoloServiceClient(v).Kill(ctx, &solov1.KillRequest{}) }()
		take(t, arrived, "the call")
		// The kernel has had the time to refuse it.
		<-time.After(testenv.Scale(150 * time.Millisecond))
		return nil
	}, true},
}

// TestProof fills the gateway with idle connections that are younger than a client:
// a new one takes its place, unless it is proven.
func TestProof(t *testing.T) {
	for _, test := range proofs {
		t.Run(test.name, func(t *testing.T) {
			arrived, release := make(chan struct{}, 1), make(chan struct{})
			g := gatewaytest.Start(t, checking(t, arrived, release), nil)
			defer close(release)
			v := visit(t, "unix", g.Socket, insecure.NewCredentials())
			if err := test.do(t, v, arrived); err != nil {
				t.Fatal(err)
			}
			var idle []*peer
			for range gateway.MaxConnections - 1 {
				idle = append(idle, mustDial(t, g))
			}
			if !idle[0].alive() || !v.kept(t) {
				t.Fatal("a connection ended before there were too many")
			}
			newcomer := mustDial(t, g)
			if kept := v.kept(t); kept != test.proves {
				t.Errorf("the client keeps its connection: %v", kept)
			}
			// If it has connected again, it has replaced the first idle one itself.
			if test.proves && idle[0].alive() {
				t.Error("the oldest idle connection has stayed")
			}
			if !idle[1].alive() || !newcomer.alive() {
				t.Error("more than one connection went")
			}
		})
	}
}

// TestProofTCP is the same over TLS, and that each transport has places of its own.
func TestProofTCP(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	g := gatewaytest.Start(t, checking(t, nil, nil), load(t, certs.Dir))
	creds := func() credentials.TransportCredentials {
		c := load(t, certs.Dir)
		c.RootCAs, c.ServerName = certs.Pool, "localhost"
		c.Certificates[0] = certs.Client
		return credentials.NewTLS(c)
	}
	proven, unproven := visit(t, "tcp", g.TCP, creds()), visit(t, "tcp", g.TCP, creds())
	if _, err := api.NewKernelServiceClient(proven).Info(withToken(t, token), &solov1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := unproven.check(t); err != nil {
		t.Fatal(err)
	}
	other := mustDial(t, g)
	for range gateway.MaxConnections - 1 {
		conn, err := net.Dial("tcp", g.TCP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if err := visit(t, "tcp", g.TCP, creds()).check(t); err != nil {
		t.Errorf("a new client: %v", err)
	}
	if !proven.kept(t) || unproven.kept(t) {
		t.Error("the wrong connection was replaced")
	}
	if !other.alive() {
		t.Error("a connection to the other listener was replaced")
	}
}

// TestAllProven: when every connection is proven, one more is refused, and one that
// ends makes room.
func TestAllProven(t *testing.T) {
	g := gatewaytest.Start(t, checking(t, nil, nil), nil)
	var all []visitor
	for range gateway.MaxConnections {
		v := visit(t, "unix", g.Socket, insecure.NewCredentials())
		if _, err := api.NewKernelServiceClient(v).Info(withToken(t, token), &solov1.InfoRequest{}); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	for range 3 {
		if p, err := dial(g); err == nil {
			_ = p.conn.Close()
			t.Error("a connection over the limit is served")
		}
	}
	if !all[0].kept(t) || !all[len(all)-1].kept(t) {
		t.Error("a proven connection was replaced")
	}
	_ = all[0].Close()
	testenv.Eventually(t, gatewaytest.Patience, "room for a connection", func() bool {
		p, err := dial(g)
		if err == nil {
			_ = p.conn.Close()
		}
		return err == nil
	})
}

// TestProveTime: whoever has shown no good token for that long is cut off, and others
// are not, also when the kernel takes its time.
func TestProveTime(t *testing.T) {
	for _, test := range proofs {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			arrived, release := make(chan struct{}, 1), make(chan struct{})
			g := gatewaytest.StartConfig(t, checking(t, arrived, release), gateway.Config{ProveTime: testenv.Scale(time.Second)})
			defer close(release)
			v := visit(t, "unix", g.Socket, insecure.NewCredentials())
			if err := test.do(t, v, arrived); err != nil {
				t.Fatal(err)
			}
			// One that came later ends after it, if it ends.
			p := mustDial(t, g)
			if _, err := io.Copy(io.Discard, p.conn); err != nil {
				t.Fatalf("an idle connection is not closed: %v", err)
			}
			if !test.proves {
				testenv.Eventually(t, gatewaytest.Patience, "the client's connection to end", func() bool { return !v.kept(t) })
			} else if !v.kept(t) {
				t.Error("the client's connection has ended")
			}
		})
	}
}
