package filesystem

import (
	"fmt"
	"os"
	"path"
	"strings"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// maxMounts bounds what is mounted for the code of one service.
	maxMounts = 200
	// maxPath bounds a path that a client or an operator writes.
	maxPath = 1024
	// profile is the seccomp profile of binaries, and of runtimes that name none.
	profile = "default"
	// appDir is where code lies inside that has no place of its own.
	appDir = "/app"
)

// Mount is a file or directory of the host, or the artifact, seen read-only inside.
type Mount struct {
	// Source has no links; it is empty for the artifact.
	Source, Target string
	Directory      bool
	Artifact       bool
}

// Code is what was found out about the code of a manifest; see controlv1.Code.
type Code struct {
	Runtime          string
	Digest           string // of a binary of the host
	Program          string
	Argv             []string
	File             string
	Env              []string
	Mounts           []Mount
	Profile          string
	StartupTimeoutMs uint32
}

func (c Code) proto() *controlv1.Code {
	out := &controlv1.Code{
		Runtime: c.Runtime, Digest: c.Digest, Program: c.Program, Argv: c.Argv, File: c.File, Env: c.Env,
		SeccompProfile: c.Profile, StartupTimeoutMs: c.StartupTimeoutMs,
	}
	for _, m := range c.Mounts {
		out.Mounts = append(out.Mounts, &controlv1.CodeMount{Source: m.Source, Target: m.Target, Directory: m.Directory, Artifact: m.Artifact})
	}
	return out
}

// host is what the driver knows of the host. It may be used from any goroutine, and
// keeps no descriptor open.
type host struct {
	tree        tree
	binaryPaths []string
	runtimes    *runtimes
	digests     digests
}

// newHost takes the operator's configuration. A descriptor or a path that is not
// valid is an error that names file and field.
func newHost(root string, cfg *controlv1.FilesystemConfig, files []*controlv1.RuntimeFile) (*host, error) {
	h := &host{tree: tree{root: root, mounts: cfg.GetMounts()}, binaryPaths: cfg.GetBinaryPaths()}
	for _, p := range h.binaryPaths {
		if why := checkPath(p); why != "" {
			return nil, fmt.Errorf("configuration: binary_paths: %q %s", p, why)
		}
	}
	var err error
	h.runtimes, err = loadRuntimes(files)
	return h, err
}

// Resolve finds out about the code of a manifest in normal form. artifact is the
// code's content if it is one, and stays the caller's. Errors are *Error: with
// violations for what the client can change, with the step for what the host lacks.
func (h *host) Resolve(m *solov1.DeployRequest, artifact *os.File) (Code, error) {
	code, err := h.resolve(m, artifact)
	if err != nil {
		return Code{}, asError(err)
	}
	code.Mounts = unique(code.Mounts)
	if n := len(code.Mounts); n > maxMounts {
		return Code{}, errorf(failedPrecondition, "TOO_MANY_MOUNTS",
			"the code needs %d mounts, at most %d are allowed", n, maxMounts).with("step", "mounts").with("limit", fmt.Sprint(maxMounts))
	}
	return code, nil
}

func (h *host) resolve(m *solov1.DeployRequest, artifact *os.File) (Code, error) {
	u := upload{content: artifact}
	code := m.GetCode()
	if b, ok := code.(*solov1.DeployRequest_Binary); ok && b.Binary.GetPath() != "" {
		return h.hostBinary(b.Binary.GetPath())
	}
	if artifact == nil {
		code = nil
	}
	switch code := code.(type) {
	case *solov1.DeployRequest_Source:
		u.kind, u.text, u.file = "source.language", "source", code.Source.GetFile()
		return h.source(u, code.Source.GetLanguage())
	case *solov1.DeployRequest_Binary:
		u.field, u.file = "binary.artifact", code.Binary.GetFile()
		return h.uploadedBinary(u)
	case *solov1.DeployRequest_Artifact:
		u.field, u.kind, u.text, u.file = "artifact.digest", "artifact.file", "artifact.digest", code.Artifact.GetFile()
		head, err := readHead(artifact)
		if err != nil {
			return Code{}, step("read artifact", err)
		}
		if isELF(head) {
			return h.uploadedBinary(u)
		}
		return h.source(u, "")
	}
	return Code{}, invalid("code", "is of a kind that this version of Solo does not run")
}

// upload is an artifact and the fields of the manifest that are at fault when it is no
// program, when its kind cannot be told, and when its text is wrong.
type upload struct {
	field, kind, text string
	content           *os.File
	// file is its name below /app; empty for "program".
	file string
}

func (u upload) target() string {
	if u.file == "" {
		return path.Join(appDir, "program")
	}
	return path.Join(appDir, path.Base(u.file))
}

// checkPath says what is wrong with a path that an operator or a client wrote, or "".
func checkPath(p string) string {
	switch {
	case !path.IsAbs(p):
		return "is not absolute"
	case len(p) > maxPath:
		return fmt.Sprintf("is longer than %d bytes", maxPath)
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
