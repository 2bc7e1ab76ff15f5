package gateway_test

import (
	"context"
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
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestUnaryCalls passes each unary call through, request and response.
func TestUnaryCalls(t *testing.T) {
	type calls struct{ c *client.Client }
	for _, test := range []struct {
		name string
		call func(context.Context, calls) (proto.Message, error)
		want *controlv1.Request
		resp *controlv1.Response
		out  proto.Message
	}{
		{
			name: "Deploy",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Solo.Deploy(ctx, &solov1.DeployRequest{Name: "a", Wait: true})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Deploy{Deploy: &controlv1.DeployOp{Request: &solov1.DeployRequest{Name: "a", Wait: true}}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: &solov1.DeployResponse{ServiceId: "id", Version: 3, State: "ready", StartupMs: 1.5}}},
			out:  &solov1.DeployResponse{ServiceId: "id", Version: 3, State: "ready", StartupMs: 1.5},
		},
		{
			name: "Status",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Solo.Status(ctx, &solov1.StatusRequest{Service: "a"})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Status{Status: &solov1.StatusRequest{Service: "a"}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Status{Status: &solov1.StatusResponse{Service: &solov1.ServiceStatus{Name: "a", State: "ready"}}}},
			out:  &solov1.StatusResponse{Service: &solov1.ServiceStatus{Name: "a", State: "ready"}},
		},
		{
			name: "List",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Solo.List(ctx, &solov1.ListRequest{Filter: "t/", PageSize: 2, System: true})
			},
			want: &controlv1.Request{Op: &controlv1.Request_List{List: &solov1.ListRequest{Filter: "t/", PageSize: 2, System: true}}},
			resp: &controlv1.Response{Result: &controlv1.Response_List{List: &solov1.ListResponse{NextPageToken: "n"}}},
			out:  &solov1.ListResponse{NextPageToken: "n"},
		},
		{
			name: "Kill",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Solo.Kill(ctx, &solov1.KillRequest{Service: "a", Force: true})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Kill{Kill: &solov1.KillRequest{Service: "a", Force: true}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: "stopped", Reason: "killed"}}},
			out:  &solov1.KillResponse{State: "stopped", Reason: "killed"},
		},
		{
			name: "Shutdown",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Solo.Shutdown(ctx, &solov1.ShutdownRequest{TimeoutMs: 7})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Shutdown{Shutdown: &solov1.ShutdownRequest{TimeoutMs: 7}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Shutdown{Shutdown: &solov1.ShutdownResponse{}}},
			out:  &solov1.ShutdownResponse{},
		},
		{
			name: "Start",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Lifecycle.Start(ctx, &solov1.StartRequest{Service: "a"})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Start{Start: &solov1.StartRequest{Service: "a"}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Start{Start: &solov1.StartResponse{State: "starting"}}},
			out:  &solov1.StartResponse{State: "starting"},
		},
		{
			name: "Restart",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Lifecycle.Restart(ctx, &solov1.RestartRequest{Service: "a", Wait: true})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Restart{Restart: &solov1.RestartRequest{Service: "a", Wait: true}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Restart{Restart: &solov1.RestartResponse{State: "ready"}}},
			out:  &solov1.RestartResponse{State: "ready"},
		},
		{
			name: "Delete",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: "a"})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Delete{Delete: &solov1.DeleteRequest{Service: "a"}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Delete{Delete: &solov1.DeleteResponse{}}},
			out:  &solov1.DeleteResponse{},
		},
		{
			name: "Info",
			call: func(ctx context.Context, c calls) (proto.Message, error) {
				return c.c.Kernel.Info(ctx, &solov1.InfoRequest{})
			},
			want: &controlv1.Request{Op: &controlv1.Request_Info{Info: &solov1.InfoRequest{}}},
			resp: &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Pid: 4, Version: "v"}}},
			out:  &solov1.InfoResponse{Pid: 4, Version: "v"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(chan *controlv1.Request, 1)
			g := gatewaytest.Start(t, answer(t, seen, test.resp), nil)
			out, err := test.call(patient(t), calls{open(t, g)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.out, out, protocmp.Transform()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			got := <-seen
			if got.GetId() == 0 {
				t.Error("the request has no id")
			}
			got.Id = 0
			test.want.Token, test.want.Transport = token, "unix"
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRefusedOperations: operations without a result yet reach the kernel's switch
// all the same, and its refusal the client.
func TestRefusedOperations(t *testing.T) {
	seen := make(chan *controlv1.Request, 2)
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		files.Close()
		seen <- proto.CloneOf(req)
		_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.Unimplemented), Message: "later"})
	}, nil)
	c := open(t, g)
	_, err := c.Solo.GrantCapability(patient(t), &solov1.GrantCapabilityRequest{Scope: "a/"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("GrantCapability: %v", err)
	}
	if got := (<-seen).GetGrant().GetScope(); got != "a/" {
		t.Errorf("grant arrived with scope %q", got)
	}
	stream, err := c.Solo.Update(patient(t), &solov1.UpdateRequest{Service: "a", Manifest: &solov1.DeployRequest{
		Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Code: strings.Repeat("x", 1<<20)}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("Update: %v", err)
	}
	if got := (<-seen).GetUpdate().GetService(); got != "a" {
		t.Errorf("update arrived for service %q", got)
	}
}

// TestManyInFlight answers calls in another order than they came.
func TestManyInFlight(t *testing.T) {
	const n = 32
	arrived := make(chan struct{}, n)
	release := make(chan struct{})
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
		arrived <- struct{}{}
		<-release
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Status{Status: &solov1.StatusResponse{
			Service: &solov1.ServiceStatus{Name: req.GetStatus().GetService()}}}})
	}, nil)
	c := open(t, g)
	ctx := patient(t)
	errs := make(chan string, n)
	for i := range n {
		go func() {
			name := strings.Repeat("x", i+1)
			r, err := c.Solo.Status(ctx, &solov1.StatusRequest{Service: name})
			if err != nil || r.GetService().GetName() != name {
				errs <- name
				return
			}
			errs <- ""
		}()
	}
	for range n {
		<-arrived
	}
	close(release)
	for range n {
		if name := <-errs; name != "" {
			t.Errorf("call for %s was answered wrongly", name)
		}
	}
}

func TestCancel(t *testing.T) {
	ids := make(chan uint64, 1)
	g := gatewaytest.Start(t, func(_ *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) { ids <- req.GetId() }, nil)
	ctx, cancel := context.WithCancel(patient(t))
	done := make(chan error, 1)
	c := open(t, g)
	go func() {
		_, err := c.Solo.Deploy(ctx, &solov1.DeployRequest{Name: "a", Wait: true})
		done <- err
	}()
	id := <-ids
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	select {
	case got := <-g.Kernel.Cancelled:
		if got != id {
			t.Errorf("request %d was cancelled, want %d", got, id)
		}
	case <-time.After(gatewaytest.Patience):
		t.Error("the kernel was not told")
	}
	// A late answer to it does no harm.
	if err := g.Kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: &controlv1.Response{Id: id}}}); err != nil {
		t.Fatal(err)
	}
}
