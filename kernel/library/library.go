// Package library keeps uploaded artifacts by their digest.
//
// Trust: runs as root. Uploads are hostile: they are copied and hashed, and never
// looked into, executed or mapped.
//
// Everything here reads or writes files and may block on the disk; the kernel calls it
// from workers. A Library may be used from any goroutine. It keeps no descriptor open.
package library

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Library is the artifacts of one Solo.
type Library struct {
	// artifacts is the directory of the store.
	artifacts string
}

// Open makes the directory of the artifacts if it is missing.
func Open(stateDir string) (*Library, error) {
	l := &Library{artifacts: filepath.Join(stateDir, "artifacts")}
	return l, makeStore(l.artifacts)
}

// OpenCode opens the artifact that the code of a manifest is, and answers nil if it is
// none; the caller owns it. It also looks for the artifacts of the manifest's files.
// Errors are *control.Error, with a violation for each field that names no artifact.
func (l *Library) OpenCode(m *solov1.DeployRequest) (*os.File, error) {
	if err := l.checkFiles(m.GetFiles()); err != nil {
		return nil, err
	}
	switch code := m.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		return l.openField("source.artifact", code.Source.GetArtifact())
	case *solov1.DeployRequest_Binary:
		if code.Binary.GetPath() == "" {
			return l.openField("binary.artifact", code.Binary.GetArtifact())
		}
	case *solov1.DeployRequest_Artifact:
		return l.openField("artifact.digest", code.Artifact.GetDigest())
	}
	return nil, nil
}

// checkFiles names every file whose artifact is missing.
func (l *Library) checkFiles(files []*solov1.File) error {
	var missing *control.Error
	for i, f := range files {
		if f.GetArtifact() == "" {
			continue
		}
		opened, err := l.openField(fmt.Sprintf("files[%d].artifact", i), f.GetArtifact())
		if err == nil {
			_ = opened.Close()
			continue
		}
		e := control.As(err)
		switch {
		case len(e.Violations) == 0:
			return e
		case missing == nil:
			missing = e
		default:
			missing.Violations = append(missing.Violations, e.Violations...)
		}
	}
	if missing == nil {
		return nil
	}
	return missing
}

// openField opens an artifact; that there is none is the fault of the field.
func (l *Library) openField(field, digest string) (*os.File, error) {
	f, err := l.OpenArtifact(digest)
	var refused *control.Error
	if errors.As(err, &refused) && refused.Code == control.NotFound {
		refused.Violations = []manifest.Violation{{Field: field, Description: refused.Message}}
	}
	return f, err
}

// step makes an error of the host one that names what was being done.
func step(name string, err error) *control.Error {
	return control.Errorf(control.Internal, "INTERNAL", "%s: %v", name, err).With("step", name)
}

// clip shortens hostile text for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
