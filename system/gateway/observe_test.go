package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

// observe gives the gateway a connection for observations and returns the other end.
func observe(t *testing.T, g *gatewaytest.Gateway) *ipc.Conn {
	t.Helper()
	conn, other, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	err = g.Kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_OpenObserver{OpenObserver: &controlv1.OpenObserver{}}}, other)
	_ = other.Close()
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func next(t *testing.T, conn *ipc.Conn) string {
	t.Helper()
	type result struct {
		o   *controlv1.Observation
		err error
	}
	got := make(chan result, 1)
	go func() {
		o := &controlv1.Observation{}
		_, _, err := conn.Receive(o)
		got <- result{o, err}
	}()
	r := take(t, got, "an observation")
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.o.GetDurationMs() <= 0 {
		t.Errorf("%s took %v ms", r.o.GetMethod(), r.o.GetDurationMs())
	}
	return r.o.GetMethod() + " " + r.o.GetCode()
}

// gateKeeper answers Info, refuses Kill, and closes every Watch at once.
func gateKeeper(t *testing.T) gatewaytest.Handler {
	watcher := streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) { _ = conn.Close() })
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		switch req.GetOp().(type) {
		case *controlv1.Request_Info:
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{}}})
		case *controlv1.Request_Watch:
			watcher(k, req, files)
		default:
			_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.NotFound), Message: "none"})
		}
	}
}

// TestObservations: one record for each call, also for one whose body is nonsense,
// and none for health.
func TestObservations(t *testing.T) {
	g := gatewaytest.Start(t, gateKeeper(t), nil)
	conn := observe(t, g)
	c := open(t, g)
	// Control messages and calls take different ways: the first call that is seen
	// shows that the observer is there.
	seen := make(chan string, 100)
	go func() {
		for {
			o := &controlv1.Observation{}
			if _, _, err := conn.Receive(o); err != nil {
				return
			}
			seen <- o.GetMethod() + " " + o.GetCode()
		}
	}()
	testenv.Eventually(t, gatewaytest.Patience, "an observation", func() bool {
		if _, err := c.Kernel.Info(patient(t), &solov1.InfoRequest{}); err != nil {
			t.Fatal(err)
		}
		return len(seen) > 0
	})
	_, _ = c.Solo.Kill(patient(t), &solov1.KillRequest{Service: "a"})
	if stream, err := c.Solo.Watch(patient(t), &solov1.WatchRequest{}); err != nil {
		t.Error(err)
	} else if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("watch: %v", err)
	}
	bad := raw(t, g, grpc.WithDefaultCallOptions(grpc.ForceCodec(encoding.Codec(junk{}))))
	_, _ = api.NewSoloServiceClient(bad).Deploy(patient(t), &solov1.DeployRequest{})
	counts := map[string]int{}
	for len(counts) < 4 {
		counts[take(t, seen, fmt.Sprintf("the observations beside %v", counts))]++
	}
	var got []string
	for name := range counts {
		got = append(got, name)
	}
	sort.Strings(got)
	want := []string{"Deploy InvalidArgument", "Info OK", "Kill NotFound", "Watch OK"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("observations (-want +got):\n%s", diff)
	}
}

// TestObserverReplaced: a new connection takes over, and the old one ends.
func TestObserverReplaced(t *testing.T) {
	g := gatewaytest.Start(t, gateKeeper(t), nil)
	first := observe(t, g)
	second := observe(t, g)
	if _, _, err := first.Receive(&controlv1.Observation{}); !errors.Is(err, io.EOF) {
		t.Errorf("the first observer sees %v", err)
	}
	if _, err := open(t, g).Kernel.Info(patient(t), &solov1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := next(t, second); got != "Info OK" {
		t.Errorf("the second observer sees %q", got)
	}
}

// TestDeafObserver: whether the observer does not read or has gone, calls go on.
func TestDeafObserver(t *testing.T) {
	g := gatewaytest.Start(t, gateKeeper(t), nil)
	conn := observe(t, g)
	c := open(t, g)
	call := func() {
		t.Helper()
		if _, err := c.Kernel.Info(patient(t), &solov1.InfoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2000 { // more than the socket holds
		call()
	}
	_ = conn.Close()
	call()
	again := observe(t, g)
	testenv.Eventually(t, gatewaytest.Patience, "an observation", func() bool {
		call()
		_ = again.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := again.Receive(&controlv1.Observation{})
		return err == nil
	})
}
