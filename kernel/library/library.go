// Package library is what the kernel knows about code: it keeps uploaded artifacts by
// their digest, and finds out about programs of the host and about runtimes.
//
// Trust: runs as root. Uploads and the programs of services are hostile: they are
// read within bounds and never executed or mapped. A path of the host that a client
// names is seen as an unprivileged user of the host sees it, so that an answer tells
// no more than such a user could find out. The configuration and the runtime
// descriptors are the operator's and are trusted.
//
// Everything here reads or writes files and may block on the disk; the kernel calls it
// from workers. A Library may be used from any goroutine. It keeps no descriptor open.
package library

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// maxMounts bounds what is mounted for the code of one service.
	maxMounts = 200
	// profile is the seccomp profile of binaries, and of runtimes that name none.
	profile = "default"
	// appDir is where code lies inside that has no place of its own.
	appDir = "/app"
)

// Library is the artifacts and runtimes of one Solo.
type Library struct {
	// artifacts is the directory of the store.
	artifacts   string
	binaryPaths []string
	runtimes    *runtimes
	digests     digests
}

// Open makes the directory of the artifacts if it is missing and reads the runtime
// descriptors. A descriptor or a path that is not valid is an error that names file
// and field; a default directory may be missing.
func Open(stateDir string, cfg *controlv1.Config, programDir string) (*Library, error) {
	l := &Library{artifacts: filepath.Join(stateDir, "artifacts"), binaryPaths: cfg.GetBinaryPaths()}
	if len(l.binaryPaths) == 0 {
		l.binaryPaths = []string{"/usr", "/bin", "/opt"}
	}
	for _, p := range l.binaryPaths {
		if why := checkPath(p); why != "" {
			return nil, fmt.Errorf("configuration: binary_paths: %q %s", p, why)
		}
	}
	if err := makeStore(l.artifacts); err != nil {
		return nil, err
	}
	dirs, optional := cfg.GetRuntimePaths(), false
	if len(dirs) == 0 {
		dirs, optional = []string{filepath.Join(programDir, "runtimes"), "/etc/solo/runtimes"}, true
	}
	var err error
	l.runtimes, err = loadRuntimes(dirs, optional)
	return l, err
}

// Runtimes are the names of the runtimes, sorted.
func (l *Library) Runtimes() []string { return l.runtimes.names }

// Resolve finds out about the code of a manifest in normal form in which every content
// is the digest of an artifact. Errors are *control.Error: with violations for what
// the client can change, with the step for what the host lacks.
func (l *Library) Resolve(m *solov1.DeployRequest) (manifest.Code, error) {
	if err := l.checkFiles(m.GetFiles()); err != nil {
		return manifest.Code{}, err
	}
	code, err := l.resolve(m)
	if err != nil {
		return manifest.Code{}, control.As(err)
	}
	code.Mounts = unique(code.Mounts)
	if n := len(code.Mounts); n > maxMounts {
		return manifest.Code{}, control.Errorf(control.FailedPrecondition, "TOO_MANY_MOUNTS",
			"the code needs %d mounts, at most %d are allowed", n, maxMounts).With("step", "mounts").With("limit", fmt.Sprint(maxMounts))
	}
	return code, nil
}

func (l *Library) resolve(m *solov1.DeployRequest) (manifest.Code, error) {
	switch code := m.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		s := code.Source
		return l.source(upload{field: "source.artifact", kind: "source.language", content: "source", digest: s.GetArtifact(), file: s.GetFile()}, s.GetLanguage())
	case *solov1.DeployRequest_Binary:
		if p := code.Binary.GetPath(); p != "" {
			return l.hostBinary(p)
		}
		return l.uploadedBinary(upload{field: "binary.artifact", digest: code.Binary.GetArtifact(), file: code.Binary.GetFile()})
	case *solov1.DeployRequest_Artifact:
		u := upload{field: "artifact.digest", kind: "artifact.file", content: "artifact.digest", digest: code.Artifact.GetDigest(), file: code.Artifact.GetFile()}
		head, err := l.head(u)
		if err != nil {
			return manifest.Code{}, err
		}
		if isELF(head) {
			return l.uploadedBinary(u)
		}
		return l.source(u, "")
	}
	return manifest.Code{}, control.Invalid([]manifest.Violation{{Field: "code", Description: "is of a kind that this version of Solo does not run"}})
}

// checkFiles looks for the artifacts of the manifest's files.
func (l *Library) checkFiles(files []*solov1.File) error {
	var missing *control.Error
	for i, f := range files {
		if f.GetArtifact() == "" {
			continue
		}
		opened, err := l.openUpload(upload{field: fmt.Sprintf("files[%d].artifact", i), digest: f.GetArtifact()})
		if err == nil {
			_ = opened.Close()
			continue
		}
		e := control.As(err)
		if missing == nil {
			missing = e
		}
		if missing.Reason != e.Reason || len(e.Violations) == 0 {
			return e
		}
		if missing != e {
			missing.Violations = append(missing.Violations, e.Violations...)
		}
	}
	if missing == nil {
		return nil
	}
	return missing
}

// upload is an artifact and the fields of the manifest that are at fault when it does
// not exist, when its kind cannot be told, and when its content is wrong: a source
// text may have come with the request itself.
type upload struct {
	field, kind, content string
	digest               string
	// file is its name below /app; empty for "program".
	file string
}

func (u upload) target() string {
	if u.file == "" {
		return path.Join(appDir, "program")
	}
	return path.Join(appDir, path.Base(u.file))
}

// openUpload opens an artifact; that there is none is the fault of the field.
func (l *Library) openUpload(u upload) (*os.File, error) {
	f, err := l.OpenArtifact(u.digest)
	var refused *control.Error
	if errors.As(err, &refused) && refused.Code == control.NotFound {
		refused.Violations = []manifest.Violation{{Field: u.field, Description: refused.Message}}
	}
	return f, err
}

// problem is why code cannot be used: a word for programs and a text that follows
// the name of the field.
type problem struct{ word, text string }

func (p *problem) Error() string { return p.text }

func problemf(word, format string, args ...any) *problem {
	return &problem{word, fmt.Sprintf(format, args...)}
}

// refuse makes the refusal of a field of a problem; other errors are left alone.
func refuse(field string, err error) error {
	var p *problem
	if !errors.As(err, &p) {
		return err
	}
	return control.Invalid([]manifest.Violation{{Field: field, Description: p.text}}).With("problem", p.word)
}

// step makes an error of the host one that names what was being done.
func step(name string, err error) *control.Error {
	return control.Errorf(control.Internal, "INTERNAL", "%s: %v", name, err).With("step", name)
}

// checkPath says what is wrong with a path that an operator wrote, or "".
func checkPath(p string) string {
	switch {
	case !path.IsAbs(p):
		return "is not absolute"
	case len(p) > manifest.MaxPath:
		return fmt.Sprintf("is longer than %d bytes", manifest.MaxPath)
	case strings.ContainsRune(p, 0):
		return "contains a NUL byte"
	case path.Clean(p) != p:
		return "is not a clean path"
	}
	return ""
}

// below tells whether p is dir or lies in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// clip shortens hostile text for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
