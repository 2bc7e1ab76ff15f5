package gateway_test

import (
	"context"
	"os"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

const token = "solo_test"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		os.Exit(serveInherited(dir))
	}
	os.Exit(testenv.CheckMain(m))
}

func open(t *testing.T, g *gatewaytest.Gateway) *client.Client {
	t.Helper()
	return openWith(t, client.Options{Addr: "unix://" + g.Socket, Token: token})
}

func openWith(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// raw is a connection without a token.
func raw(t *testing.T, g *gatewaytest.Gateway, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("unix://"+g.Socket, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), gatewaytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// take receives from a channel, or fails the test when nothing comes.
func take[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(gatewaytest.Patience):
		t.Fatalf("waited for %s", what)
		panic("unreachable")
	}
}

// answer is a handler that gives every request the same response.
func answer(t *testing.T, seen chan<- *controlv1.Request, r *controlv1.Response) gatewaytest.Handler {
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		defer files.Close()
		seen <- proto.CloneOf(req)
		if err := k.Respond(req, proto.CloneOf(r)); err != nil {
			t.Errorf("respond: %v", err)
		}
	}
}

// nothing is a handler for tests in which no request may reach the kernel.
func nothing(t *testing.T) gatewaytest.Handler {
	return func(_ *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		files.Close()
		t.Errorf("the kernel got a %T of %d bytes", req.GetOp(), proto.Size(req))
	}
}

// refused fails the test unless err is a status of that code and ErrorInfo reason.
func refused(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	got := ""
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
		}
	}
	if status.Code(err) != code || got != reason {
		t.Errorf("got %v with reason %q, want %v with %q", err, got, code, reason)
	}
}

// violations are the fields that err's BadRequest names.
func violations(err error) []string {
	var fields []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return fields
}
