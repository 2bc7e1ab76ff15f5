package gateway_test

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestDeployContents moves code and contents into sealed descriptors.
func TestDeployContents(t *testing.T) {
	type got struct {
		op       *controlv1.DeployOp
		contents []string
	}
	seen := make(chan got, 1)
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		defer files.Close()
		one := got{op: proto.CloneOf(req.GetDeploy())}
		for _, f := range files {
			if _, err := ipc.CheckSealed(f, 16<<20); err != nil {
				t.Errorf("descriptor: %v", err)
			}
			b, err := io.ReadAll(f)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			one.contents = append(one.contents, string(b))
		}
		seen <- one
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: &solov1.DeployResponse{}}})
	}, nil)
	big := strings.Repeat("y", 2<<20)
	_, err := open(t, g).Solo.Deploy(patient(t), &solov1.DeployRequest{
		Name:  "a",
		Code:  &solov1.DeployRequest_Source{Source: &solov1.Source{File: "a.py", Code: "print(1)"}},
		Files: []*solov1.File{{Path: "/a", Content: []byte("one")}, {Path: "/b"}, {Path: "/c", Content: []byte(big)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	one := <-seen
	if diff := cmp.Diff([]string{"print(1)", "one", big}, one.contents); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}
	want := &controlv1.DeployOp{HasCode: true, FileContents: []uint32{0, 2}, Request: &solov1.DeployRequest{
		Name:  "a",
		Code:  &solov1.DeployRequest_Source{Source: &solov1.Source{File: "a.py"}},
		Files: []*solov1.File{{Path: "/a"}, {Path: "/b"}, {Path: "/c"}},
	}}
	if diff := cmp.Diff(want, one.op, protocmp.Transform()); diff != "" {
		t.Errorf("operation (-want +got):\n%s", diff)
	}
}
