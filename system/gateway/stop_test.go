package gateway_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

func stop(t *testing.T, g *gatewaytest.Gateway, graceMs uint32) {
	t.Helper()
	if err := g.Kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{GraceMs: graceMs}}}); err != nil {
		t.Fatal(err)
	}
}

// long is a grace that no test waits for.
const long = 600_000

func TestStopIdle(t *testing.T) {
	g := gatewaytest.Start(t, nothing(t), nil)
	cc := raw(t, g)
	if _, err := healthpb.NewHealthClient(cc).Check(patient(t), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	stop(t, g, long)
	if err := g.Wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if conn, err := net.Dial("unix", g.Socket); err == nil {
		_ = conn.Close()
		t.Error("a gateway that has stopped accepts connections")
	}
}

// TestStopFinishesCalls: a call in flight is answered, a watch ends with a reason,
// health says so, and nobody gets in any more.
func TestStopFinishesCalls(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	watching := make(chan error, 1)
	watcher := streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		_ = conn.Send(record(1))
		_, _, err := conn.Receive(&solov1.WatchRequest{})
		watching <- err
	})
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		if req.GetWatch() != nil {
			watcher(k, req, files)
			return
		}
		close(arrived)
		<-release
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: "stopped"}}})
	}, nil)
	health, err := healthpb.NewHealthClient(raw(t, g)).Watch(patient(t), &healthpb.HealthCheckRequest{Service: "solo.v1.SoloService"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := health.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", r, err)
	}
	stream := watch(t, patient(t), g, &solov1.WatchRequest{})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	c, ctx := open(t, g), patient(t)
	killed := make(chan string, 1)
	go func() {
		r, err := c.Solo.Kill(ctx, &solov1.KillRequest{Service: "a"})
		if err != nil {
			killed <- err.Error()
			return
		}
		killed <- r.GetState()
	}()
	take(t, arrived, "the call")

	stop(t, g, long)
	if r, err := health.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("watch: %v", err)
	}
	if err := take(t, watching, "the watch to end"); !errors.Is(err, io.EOF) {
		t.Errorf("the watch's writer sees %v", err)
	}
	close(release)
	if got := take(t, killed, "the call to end"); got != "stopped" {
		t.Errorf("the call in flight got %q", got)
	}
	if err := g.Wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestStopGrace: a call that does not end is cut off when the grace is over. Orders
// that come twice change nothing.
func TestStopGrace(t *testing.T) {
	arrived := make(chan struct{})
	g := gatewaytest.Start(t, func(*gatewaytest.Kernel, *controlv1.Request, ipc.Files) { close(arrived) }, nil)
	c, ctx := open(t, g), patient(t)
	done := make(chan error, 1)
	go func() {
		_, err := c.Solo.Kill(ctx, &solov1.KillRequest{Service: "a"})
		done <- err
	}()
	take(t, arrived, "the call")
	stop(t, g, 50)
	stop(t, g, long)
	if err := g.Wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := take(t, done, "the call to end"); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("the call got %v", err)
	}
}

// TestStopUnderLoad stops while calls begin all the time: each ends, one way or the
// other, and the gateway does too.
func TestStopUnderLoad(t *testing.T) {
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{}}})
	}, nil)
	c, ctx := open(t, g), patient(t)
	const callers = 8
	begun, ended := make(chan struct{}, callers), make(chan error, callers)
	for range callers {
		go func() {
			_, err := c.Kernel.Info(ctx, &solov1.InfoRequest{})
			begun <- struct{}{}
			for err == nil {
				_, err = c.Kernel.Info(ctx, &solov1.InfoRequest{})
			}
			ended <- err
		}()
	}
	for range callers {
		take(t, begun, "the load")
	}
	stop(t, g, long)
	if err := g.Wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
	for range callers {
		if err := take(t, ended, "the callers"); status.Code(err) != codes.Unavailable {
			t.Errorf("a caller got %v", err)
		}
	}
}

// TestStopWhileFull: strangers at every place and before the door keep nothing open,
// and a call in flight is answered.
func TestStopWhileFull(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	g := gatewaytest.Start(t, checking(t, arrived, release), nil)
	c, ctx := open(t, g), patient(t)
	killed := make(chan error, 1)
	go func() {
		_, err := c.Solo.Kill(ctx, &solov1.KillRequest{Service: "a"})
		killed <- err
	}()
	take(t, arrived, "the call")
	var strangers []net.Conn
	for range gateway.MaxConnections + 10 {
		conn, err := net.Dial("unix", g.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		strangers = append(strangers, conn)
	}
	mustDial(t, g) // so that all of them had their turn
	stop(t, g, long)
	close(release)
	if err := take(t, killed, "the call to end"); err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := g.Wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
	for _, conn := range strangers {
		if err := conn.SetReadDeadline(time.Now().Add(gatewaytest.Patience)); err != nil {
			t.Fatal(err)
		}
		var ne net.Error
		if _, err := io.Copy(io.Discard, conn); errors.As(err, &ne) && ne.Timeout() {
			t.Fatal("a stranger's connection is open")
		}
	}
}

// TestKernelGone: without its kernel the gateway ends, and says so to its callers.
func TestKernelGone(t *testing.T) {
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, _ *controlv1.Request, _ ipc.Files) { k.Close() }, nil)
	if _, err := open(t, g).Solo.Status(patient(t), &solov1.StatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if err := g.Wait(t); err == nil {
		t.Error("Serve returned without an error")
	}
}

// TestKernelProtocol: a kernel that breaks the protocol is not served.
func TestKernelProtocol(t *testing.T) {
	one := func(m *controlv1.FromKernel, files int) func(*testing.T, *gatewaytest.Gateway) {
		return func(t *testing.T, g *gatewaytest.Gateway) {
			p := pipe(t)
			defer closeAll(p[0], p[1])
			if err := g.Kernel.Send(m, p[:files]...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, do := range map[string]func(*testing.T, *gatewaytest.Gateway){
		"a message for another service":   one(&controlv1.FromKernel{Item: &controlv1.FromKernel_PortClose{PortClose: &controlv1.PortClose{Id: 1}}}, 0),
		"an observer without descriptor":  one(&controlv1.FromKernel{Item: &controlv1.FromKernel_OpenObserver{OpenObserver: &controlv1.OpenObserver{}}}, 0),
		"an observer with two":            one(&controlv1.FromKernel{Item: &controlv1.FromKernel_OpenObserver{OpenObserver: &controlv1.OpenObserver{}}}, 2),
		"an observer that is no socket":   one(&controlv1.FromKernel{Item: &controlv1.FromKernel_OpenObserver{OpenObserver: &controlv1.OpenObserver{}}}, 1),
		"a stop order with a descriptor":  one(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}}, 1),
		"a welcome with two descriptors":  one(&controlv1.FromKernel{Item: &controlv1.FromKernel_Welcome{Welcome: &controlv1.Welcome{Protocol: 1}}}, 2),
		"a stranger's file in its config": one(&controlv1.FromKernel{Item: &controlv1.FromKernel_GatewayConfig{GatewayConfig: &controlv1.GatewayConfig{}}}, 1),
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, nothing(t), nil)
			do(t, g)
			if err := g.Wait(t); err == nil {
				t.Error("Serve returned without an error")
			}
		})
	}
}

func TestServeContext(t *testing.T) {
	k, conn := gatewaytest.New(t, nothing(t))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- gateway.Serve(ctx, gateway.Config{Control: conn, Unix: l}) }()
	take(t, k.Ready, "the gateway")
	cause := errors.New("test over")
	cancel(cause)
	if err := take(t, done, "Serve"); !errors.Is(err, cause) {
		t.Errorf("Serve: %v", err)
	}
}

// TestServeRefuses: what is not complete is not served, and closed.
func TestServeRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		drop func(*gateway.Config)
		want string
	}{
		{"no control connection", func(c *gateway.Config) { c.Control = nil }, "no control connection"},
		{"no socket", func(c *gateway.Config) { c.Unix = nil }, "no listener named api.sock"},
		{"TCP without TLS", func(c *gateway.Config) { c.TLS = nil }, "without mutual TLS"},
		{"TLS without client certificates", func(c *gateway.Config) { c.TLS.ClientAuth = tls.VerifyClientCertIfGiven }, "verified client certificates"},
		{"TLS 1.2", func(c *gateway.Config) { c.TLS.MinVersion = tls.VersionTLS12 }, "TLS 1.3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, conn := gatewaytest.New(t, nothing(t))
			unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Close() }()
			tcp, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tcp.Close() }()
			defer func() { _ = conn.Close() }()
			c := gateway.Config{Control: conn, Unix: unix, TCP: tcp, TLS: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}}
			if err := c.Validate(); err != nil {
				t.Fatalf("a complete configuration: %v", err)
			}
			test.drop(&c)
			if err := gateway.Serve(t.Context(), c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if _, err := tcp.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the listener is not closed: %v", err)
			}
		})
	}
}
