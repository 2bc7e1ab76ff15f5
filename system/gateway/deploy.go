package gateway

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Limits of what a manifest carries in itself, within MaxMessage; larger things are
// uploaded.
const (
	maxCodeBytes = 1 << 20
	maxFiles     = 64
)

// packDeploy moves code and contents out of the request into sealed memfds, in the
// order that DeployOp prescribes. It changes in, which the caller has decoded for
// itself; the caller owns the files. Only what cannot be passed on is refused here.
func packDeploy(in *solov1.DeployRequest) (*controlv1.DeployOp, ipc.Files, error) {
	if err := fits(in); err != nil {
		return nil, nil, err
	}
	op := &controlv1.DeployOp{Request: in}
	var files ipc.Files
	add := func(name string, content []byte) error {
		f, err := ipc.SealedFile(name, content)
		if err != nil {
			files.Close()
			return status.Errorf(codes.ResourceExhausted, "hold %s: %v", name, err)
		}
		files = append(files, f)
		return nil
	}
	if src := in.GetSource(); src.GetCode() != "" {
		if err := add("code", []byte(src.Code)); err != nil {
			return nil, nil, err
		}
		src.Code, op.HasCode = "", true
	}
	for i, f := range in.GetFiles() {
		if len(f.GetContent()) == 0 {
			continue
		}
		if err := add("file", f.Content); err != nil {
			return nil, nil, err
		}
		f.Content = nil
		op.FileContents = append(op.FileContents, uint32(i))
	}
	return op, files, nil
}

func fits(in *solov1.DeployRequest) error {
	violations := map[string]string{}
	if n := len(in.GetSource().GetCode()); n > maxCodeBytes {
		violations["source.code"] = fmt.Sprintf("%d bytes are over the limit of %d; upload it and name the artifact", n, maxCodeBytes)
	}
	if n := len(in.GetFiles()); n > maxFiles {
		violations["files"] = fmt.Sprintf("%d files are over the limit of %d", n, maxFiles)
	}
	if len(violations) > 0 {
		return invalid(violations)
	}
	return nil
}
