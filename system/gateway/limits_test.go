package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

func source(n int) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Code: strings.Repeat("x", n)}}}
}

// named is a request whose size in the control protocol is n bytes: with the
// token, the transport and an id below 128.
func named(n int) *solov1.DeployRequest {
	size := func(name string) int {
		return proto.Size(&controlv1.Request{Id: 1, Token: token, Transport: "unix",
			Op: &controlv1.Request_Deploy{Deploy: &controlv1.DeployOp{Request: &solov1.DeployRequest{Name: name}}}})
	}
	name := strings.Repeat("x", n)
	return &solov1.DeployRequest{Name: name[:2*n-size(name)]}
}

// TestMessageLimits goes to the edge of each limit, and over it.
func TestMessageLimits(t *testing.T) {
	const control = ipc.MaxMessage - 64
	for _, test := range []struct {
		name  string
		req   *solov1.DeployRequest
		code  codes.Code
		field []string
	}{
		{"message over", &solov1.DeployRequest{Name: strings.Repeat("x", gateway.MaxMessage)}, codes.ResourceExhausted, nil},
		{"control message at", named(control), codes.OK, nil},
		{"control message over", named(control + 1), codes.InvalidArgument, nil},
		{"code at", source(1 << 20), codes.OK, nil},
		{"code over", source(1<<20 + 1), codes.InvalidArgument, []string{"source.code"}},
		{"files at", &solov1.DeployRequest{Files: make([]*solov1.File, 64)}, codes.OK, nil},
		{"files over", &solov1.DeployRequest{Files: make([]*solov1.File, 65)}, codes.InvalidArgument, []string{"files"}},
		{"contents at", withContents(64, 60<<10), codes.OK, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(chan *controlv1.Request, 1)
			g := gatewaytest.Start(t, answer(t, seen, &controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: &solov1.DeployResponse{}}}), nil)
			_, err := open(t, g).Solo.Deploy(patient(t), test.req)
			if status.Code(err) != test.code {
				t.Fatalf("got %v, want %v", err, test.code)
			}
			if diff := cmp.Diff(test.field, violations(err)); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if arrived := len(seen); arrived != map[bool]int{true: 1}[test.code == codes.OK] {
				t.Errorf("%d requests reached the kernel", arrived)
			}
		})
	}
}

func withContents(files, size int) *solov1.DeployRequest {
	req := &solov1.DeployRequest{}
	for i := range files {
		req.Files = append(req.Files, &solov1.File{Path: fmt.Sprint("/", i), Content: make([]byte, size)})
	}
	return req
}

// store plays the kernel's part in uploads of at most limit bytes each.
func store(t *testing.T, limit uint64) gatewaytest.Handler {
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		defer files.Close()
		switch op := req.GetOp().(type) {
		case *controlv1.Request_AuthorizeUpload:
			if req.GetToken() != token {
				_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.Unauthenticated), Message: "no", Reason: "UNAUTHENTICATED"})
				return
			}
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_UploadAuthorized{UploadAuthorized: &controlv1.UploadAuthorized{MaxBytes: limit}}})
		case *controlv1.Request_StoreArtifact:
			if len(files) != 1 {
				t.Errorf("an artifact came with %d descriptors", len(files))
				return
			}
			if n, err := ipc.CheckSealed(files[0], 1<<30); err != nil || uint64(n) != op.StoreArtifact.GetSize() {
				t.Errorf("an artifact of %d bytes came in a file of %d: %v", op.StoreArtifact.GetSize(), n, err)
			}
			h := sha256.New()
			n, err := io.Copy(h, files[0])
			if err != nil {
				t.Errorf("read: %v", err)
			}
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Stored{Stored: &solov1.UploadResponse{
				Digest: fmt.Sprintf("sha256:%x", h.Sum(nil)), Size: uint64(n)}}})
		default:
			t.Errorf("the kernel got %T", op)
		}
	}
}

func TestUploadLimits(t *testing.T) {
	const limit = 100_000
	for _, test := range []struct {
		name           string
		config, kernel uint64 // what GatewayConfig and the authorisation say; 0: nothing
		size           int
		code           codes.Code
	}{
		{"empty", 0, 0, 0, codes.OK},
		{"several messages", 0, 0, 3<<20 + 7, codes.OK},
		{"at the kernel's limit", 0, limit, limit, codes.OK},
		{"over the kernel's limit", 0, limit, limit + 1, codes.ResourceExhausted},
		{"at the configured limit", limit, 0, limit, codes.OK},
		{"over the configured limit", limit, 0, limit + 1, codes.ResourceExhausted},
		{"the smaller one counts", limit, 2 * limit, limit + 1, codes.ResourceExhausted},
		{"at the default limit", 0, 0, gateway.DefaultUploadBytes, codes.OK},
		{"over the default limit", 0, 0, gateway.DefaultUploadBytes + 1, codes.ResourceExhausted},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gatewaytest.Start(t, store(t, test.kernel), nil)
			if test.config > 0 {
				if err := g.Kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_GatewayConfig{
					GatewayConfig: &controlv1.GatewayConfig{MaxUploadBytes: test.config}}}); err != nil {
					t.Fatal(err)
				}
			}
			content := bytes.Repeat([]byte("solo"), test.size/4+1)[:test.size]
			r, err := open(t, g).Upload(patient(t), bytes.NewReader(content))
			if test.code != codes.OK {
				refused(t, err, test.code, "UPLOAD_TOO_LARGE")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); r.GetDigest() != want || r.GetSize() != uint64(test.size) {
				t.Errorf("stored %v, want %d bytes of %s", r, test.size, want)
			}
		})
	}
}

func TestUploadChunk(t *testing.T) {
	g := gatewaytest.Start(t, store(t, 0), nil)
	stream, err := open(t, g).Artifacts.Upload(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&solov1.UploadRequest{Data: make([]byte, 1<<20+1)}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.CloseAndRecv()
	if diff := cmp.Diff([]string{"data"}, violations(err)); diff != "" || status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, violations (-want +got):\n%s", err, diff)
	}
}

// TestUploadRefused: a client without the right is refused before it sends.
func TestUploadRefused(t *testing.T) {
	g := gatewaytest.Start(t, store(t, 0), nil)
	stream, err := api.NewArtifactServiceClient(raw(t, g)).Upload(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, stream.RecvMsg(&solov1.UploadResponse{}), codes.Unauthenticated, "UNAUTHENTICATED")
}

// TestIdleUpload: who begins an upload and says nothing, or nothing but empty
// messages, loses his place.
func TestIdleUpload(t *testing.T) {
	g := gatewaytest.StartConfig(t, store(t, 0), gateway.Config{UploadIdle: 300 * time.Millisecond})
	c := open(t, g)
	silent, err := c.Artifacts.Upload(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := silent.Send(&solov1.UploadRequest{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	refused(t, silent.RecvMsg(&solov1.UploadResponse{}), codes.DeadlineExceeded, "UPLOAD_IDLE")

	empty, err := c.Artifacts.Upload(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // until the gateway ends it
		err = empty.Send(&solov1.UploadRequest{})
	}
	refused(t, empty.RecvMsg(&solov1.UploadResponse{}), codes.DeadlineExceeded, "UPLOAD_IDLE")
}

// TestManyUploads fills the slots: one more is refused, and each that ends makes
// room, whether the client finishes it or goes away.
func TestManyUploads(t *testing.T) {
	for name, finish := range map[string]func(t *testing.T, streams []api.ArtifactService_UploadClient, leave func()){
		"finished": func(t *testing.T, streams []api.ArtifactService_UploadClient, _ func()) {
			for _, s := range streams {
				if err := s.CloseSend(); err != nil {
					t.Error(err)
				}
			}
		},
		"abandoned": func(_ *testing.T, _ []api.ArtifactService_UploadClient, leave func()) { leave() },
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, store(t, 0), nil)
			c := open(t, g)
			ctx, leave := context.WithCancel(patient(t))
			defer leave()
			results := make(chan error, gateway.MaxUploads+1)
			var streams []api.ArtifactService_UploadClient
			for range gateway.MaxUploads + 1 {
				stream, err := c.Artifacts.Upload(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.Send(&solov1.UploadRequest{Data: []byte("x")}); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				streams = append(streams, stream)
				go func() { results <- stream.RecvMsg(&solov1.UploadResponse{}) }()
			}
			// None of them ends by itself, so the one that ends is over the limit.
			refused(t, take(t, results, "an upload to be refused"), codes.ResourceExhausted, "TOO_MANY_UPLOADS")
			if len(results) > 0 {
				t.Error("more than one upload was refused")
			}
			finish(t, streams, leave)
			for range gateway.MaxUploads {
				if err := take(t, results, "the uploads to end"); name == "finished" && err != nil {
					t.Errorf("an upload within the limit: %v", err)
				}
			}
			testenv.Eventually(t, gatewaytest.Patience, "room for an upload", func() bool {
				_, err := c.Upload(patient(t), strings.NewReader("x"))
				return err == nil
			})
		})
	}
}
