package gateway_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestTokens: the gateway forwards what it got and decides nothing.
func TestTokens(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []string
		want   string
	}{
		{"none", nil, ""},
		{"bearer", []string{"Bearer abc"}, "abc"},
		{"lower case", []string{"bearer abc"}, "abc"},
		{"other scheme", []string{"Basic abc"}, ""},
		{"bare", []string{"abc"}, ""},
		{"two", []string{"Bearer a", "Bearer b"}, ""},
		{"long", []string{"Bearer " + strings.Repeat("a", 5000)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(chan *controlv1.Request, 1)
			g := gatewaytest.Start(t, answer(t, seen, &controlv1.Response{Error: &controlv1.Error{Code: uint32(codes.Unauthenticated), Message: "no"}}), nil)
			ctx := patient(t)
			for _, v := range test.values {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
			}
			_, err := api.NewKernelServiceClient(raw(t, g)).Info(ctx, &solov1.InfoRequest{})
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("got %v", err)
			}
			if got := (<-seen).GetToken(); got != test.want {
				t.Errorf("token %q arrived, want %q", got, test.want)
			}
		})
	}
}

func TestErrorDetails(t *testing.T) {
	full := &controlv1.Error{
		Code: uint32(codes.PermissionDenied), Message: "no", Reason: "PERMISSION_DENIED", Metadata: map[string]string{"k": "v"},
		Violations: []*controlv1.Violation{{Field: "name", Description: "bad"}},
		Denial:     &solov1.Denial{Layer: "capability", Asked: "status", MissingRight: "status", HowToRequest: "ask"},
	}
	for _, test := range []struct {
		name    string
		err     *controlv1.Error
		code    codes.Code
		details []proto.Message
	}{
		{"all", full, codes.PermissionDenied, []proto.Message{
			&errdetails.ErrorInfo{Reason: "PERMISSION_DENIED", Domain: "solo", Metadata: map[string]string{"k": "v"}},
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "name", Description: "bad"}}},
			full.Denial,
		}},
		{"bare", &controlv1.Error{Code: uint32(codes.NotFound), Message: "none"}, codes.NotFound, nil},
		{"no code", &controlv1.Error{Message: "x"}, codes.Internal, nil},
		{"code out of range", &controlv1.Error{Code: 99, Message: "x"}, codes.Internal, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gatewaytest.Start(t, answer(t, make(chan *controlv1.Request, 1), &controlv1.Response{Error: test.err}), nil)
			_, err := open(t, g).Solo.Status(patient(t), &solov1.StatusRequest{Service: "a"})
			st := status.Convert(err)
			if st.Code() != test.code || st.Message() != test.err.Message {
				t.Errorf("got %v", st)
			}
			var got []proto.Message
			for _, d := range st.Details() {
				got = append(got, d.(proto.Message))
			}
			if diff := cmp.Diff(test.details, got, protocmp.Transform()); diff != "" {
				t.Errorf("details (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnexpectedAnswers: a kernel that answers something else is an internal error,
// never a success, and its descriptors are closed.
func TestUnexpectedAnswers(t *testing.T) {
	g := gatewaytest.Start(t, answer(t, make(chan *controlv1.Request, 9), &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{}}}), nil)
	c := open(t, g)
	if _, err := c.Solo.Status(patient(t), &solov1.StatusRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("Status: %v", err)
	}
	w, err := c.Solo.Watch(patient(t), &solov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("Watch: %v", err)
	}
}

// junk encodes anything as bytes that are no protobuf message.
type junk struct{}

func (junk) Name() string { return "proto" }

func (junk) Marshal(any) ([]byte, error) { return []byte{0xff, 0xff, 0xff}, nil }

func (junk) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }

func TestMalformedBodies(t *testing.T) {
	g := gatewaytest.Start(t, func(_ *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
		t.Errorf("the kernel got %v", req)
	}, nil)
	cc := raw(t, g, grpc.WithDefaultCallOptions(grpc.ForceCodec(encoding.Codec(junk{}))))
	for method, call := range map[string]func() error{
		"Deploy": func() error {
			_, err := api.NewSoloServiceClient(cc).Deploy(patient(t), &solov1.DeployRequest{})
			return err
		},
		"Watch": func() error {
			w, err := api.NewSoloServiceClient(cc).Watch(patient(t), &solov1.WatchRequest{})
			if err == nil {
				_, err = w.Recv()
			}
			return err
		},
		"Run": func() error {
			r, err := api.NewLifecycleServiceClient(cc).Run(patient(t))
			if err == nil {
				if err = r.Send(&solov1.RunRequest{}); err == nil {
					_, err = r.Recv()
				}
			}
			return err
		},
	} {
		err := call()
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", method, err)
		}
		if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*errdetails.ErrorInfo).GetReason() != "MALFORMED_BODY" {
			t.Errorf("%s: details %v", method, d)
		}
	}
}
