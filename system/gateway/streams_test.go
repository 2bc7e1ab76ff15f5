package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

func watchOpened() *controlv1.Response {
	return &controlv1.Response{Result: &controlv1.Response_Watch{Watch: &controlv1.WatchOpened{}}}
}

func tailOpened() *controlv1.Response {
	return &controlv1.Response{Result: &controlv1.Response_AuditTail{AuditTail: &controlv1.TailOpened{}}}
}

// streamer is a kernel that opens a stream and lets write own its end.
func streamer(t *testing.T, opened func() *controlv1.Response, write func(*controlv1.Request, *ipc.Conn)) gatewaytest.Handler {
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		files.Close()
		conn, other, err := ipc.Pair()
		if err != nil {
			t.Errorf("pair: %v", err)
			return
		}
		err = k.Respond(req, opened(), other)
		_ = other.Close()
		if err != nil {
			t.Errorf("respond: %v", err)
		}
		write(req, conn)
	}
}

func watch(t *testing.T, ctx context.Context, g *gatewaytest.Gateway, req *solov1.WatchRequest) api.SoloService_WatchClient {
	t.Helper()
	stream, err := open(t, g).Solo.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func record(i int) *solov1.WatchResponse {
	return &solov1.WatchResponse{Sequence: uint64(i), Service: "a", Item: &solov1.WatchResponse_Log{
		Log: &solov1.LogLine{Stream: "stdout", Text: []byte(fmt.Sprint("line ", i))}}}
}

// TestWatch passes the request on and the records back, to their end.
func TestWatch(t *testing.T) {
	const n = 1000
	asked := make(chan *controlv1.Request, 1)
	g := gatewaytest.Start(t, streamer(t, watchOpened, func(req *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		asked <- proto.CloneOf(req)
		for i := range n {
			if err := conn.Send(record(i + 1)); err != nil {
				t.Errorf("send: %v", err)
			}
		}
	}), nil)
	in := &solov1.WatchRequest{Service: "a", Kinds: []string{"log"}, Since: "start", NoFollow: true}
	stream := watch(t, patient(t), g, in)
	for i := range n {
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record(i+1), got, protocmp.Transform()); diff != "" {
			t.Fatalf("record %d (-want +got):\n%s", i+1, diff)
		}
	}
	if m, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last record: %v, %v", m, err)
	}
	req := take(t, asked, "the request")
	if diff := cmp.Diff(in, req.GetWatch(), protocmp.Transform()); diff != "" || req.GetToken() != token {
		t.Errorf("request with token %q (-want +got):\n%s", req.GetToken(), diff)
	}
}

func TestTail(t *testing.T) {
	asked := make(chan *controlv1.Request, 1)
	want := []string{`{"number":8}`, `{"number":9,"what":"ü"}`}
	g := gatewaytest.Start(t, streamer(t, tailOpened, func(req *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		asked <- proto.CloneOf(req)
		for _, r := range want {
			if err := conn.Send(&solov1.TailResponse{Record: r}); err != nil {
				t.Errorf("send: %v", err)
			}
		}
	}), nil)
	in := &solov1.TailRequest{After: 7, Follow: true}
	stream, err := open(t, g).Audit.Tail(patient(t), in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetRecord())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(in, take(t, asked, "the request").GetAuditTail(), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestWatchClientGone: when the client goes, the writer sees it, whether or not it
// has something to write.
func TestWatchClientGone(t *testing.T) {
	ended := make(chan error, 1)
	g := gatewaytest.Start(t, streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		_ = conn.Send(record(1))
		_, _, err := conn.Receive(&solov1.WatchRequest{})
		ended <- err
	}), nil)
	ctx, leave := context.WithCancel(patient(t))
	stream := watch(t, ctx, g, &solov1.WatchRequest{})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	leave()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if err := take(t, ended, "the writer to see the end"); !errors.Is(err, io.EOF) {
		t.Errorf("the writer sees %v", err)
	}
}

// TestWatchSlowClient: a client that does not read stops the writer, not the
// gateway, and loses nothing.
func TestWatchSlowClient(t *testing.T) {
	big := func(i int) *solov1.WatchResponse {
		m := record(i)
		m.GetLog().Text = []byte(strings.Repeat("x", 16<<10))
		return m
	}
	stuck, read := make(chan int, 1), make(chan struct{})
	g := gatewaytest.Start(t, streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) {
		defer func() { _ = conn.Close() }()
		n := 0
		for {
			if err := conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				t.Errorf("deadline: %v", err)
			}
			if err := conn.Send(big(n + 1)); err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("send: %v", err)
				}
				break
			}
			n++
		}
		stuck <- n
		<-read
		if err := errors.Join(conn.SetWriteDeadline(time.Time{}), conn.Send(big(n+1))); err != nil {
			t.Errorf("send: %v", err)
		}
	}), nil)
	stream := watch(t, patient(t), g, &solov1.WatchRequest{})
	n := take(t, stuck, "the writer to be stopped")
	if n > 500 {
		t.Errorf("%d records were taken that nobody reads", n)
	}
	close(read)
	for i := range n + 1 {
		m, err := stream.Recv()
		if err != nil || m.GetSequence() != uint64(i+1) {
			t.Fatalf("record %d: got %d, %v", i+1, m.GetSequence(), err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last record: %v", err)
	}
}

// TestWatchKernel: what goes wrong on the other side is an error, and never an end.
func TestWatchKernel(t *testing.T) {
	for _, test := range []struct {
		name string
		h    func(t *testing.T) gatewaytest.Handler
		code codes.Code
	}{
		{"refusal", func(*testing.T) gatewaytest.Handler {
			return func(k *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
				_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.NotFound), Message: "no such service"})
			}
		}, codes.NotFound},
		{"no descriptor", func(*testing.T) gatewaytest.Handler {
			return func(k *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) { _ = k.Respond(req, watchOpened()) }
		}, codes.Internal},
		{"another answer", func(t *testing.T) gatewaytest.Handler {
			return streamer(t, tailOpened, func(_ *controlv1.Request, conn *ipc.Conn) { _ = conn.Close() })
		}, codes.Internal},
		{"no connection", func(t *testing.T) gatewaytest.Handler {
			return func(k *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
				p := pipe(t)
				defer closeAll(p[0], p[1])
				_ = k.Respond(req, watchOpened(), p[0])
			}
		}, codes.Internal},
		{"nonsense", func(t *testing.T) gatewaytest.Handler {
			return streamer(t, watchOpened, func(_ *controlv1.Request, conn *ipc.Conn) {
				defer func() { _ = conn.Close() }()
				// Field 9 does not exist in WatchResponse.
				_ = conn.Send(&solov1.Plan{Ports: []string{"x"}})
			})
		}, codes.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gatewaytest.Start(t, test.h(t), nil)
			if m, err := watch(t, patient(t), g, &solov1.WatchRequest{}).Recv(); status.Code(err) != test.code {
				t.Errorf("got %v, %v, want %v", m, err, test.code)
			}
		})
	}
}
