package library

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	"github.com/solo-os/solo/sandbox/elfdeps"
)

// binaryRuntime is the runtime's name in a plan for a program of its own.
const binaryRuntime = "binary"

// hostBinary is a program of the host. It is seen inside at its own path, unless the
// sandbox has a file system of its own there.
func (l *Library) hostBinary(asked string) (manifest.Code, error) {
	const field = "binary.path"
	p, f, err := l.openHost(asked)
	if err != nil {
		return manifest.Code{}, refuse(field, err)
	}
	defer func() { _ = f.Close() }()
	target := inside(p)
	if isClosed(target) {
		target = path.Join(appDir, path.Base(p))
	}
	code, err := l.elf(f, p, target)
	if err != nil {
		return manifest.Code{}, refuse(field, err)
	}
	if code.Digest, err = l.digests.of(f); err != nil {
		return manifest.Code{}, refuse(field, err)
	}
	return code, nil
}

func (l *Library) openHost(asked string) (string, *os.File, error) {
	if why := checkPath(asked); why != "" {
		return "", nil, problemf("not_found", "%q %s", clip(asked), why)
	}
	dir, err := realDir(path.Dir(asked))
	if err != nil {
		return "", nil, err
	}
	p := path.Join(dir, path.Base(asked))
	if !l.allowed(p) {
		return "", nil, problemf("outside_binary_paths", "%s lies outside binary_paths (%s); upload the program instead", p, list(l.binaryPaths))
	}
	f, err := openProgram(p)
	return p, f, err
}

// uploadedBinary is a program that a client uploaded.
func (l *Library) uploadedBinary(u upload) (manifest.Code, error) {
	f, err := l.openUpload(u)
	if err != nil {
		return manifest.Code{}, err
	}
	defer func() { _ = f.Close() }()
	if err := mayExecute(int(f.Fd())); err != nil {
		return manifest.Code{}, step("state directory", err)
	}
	code, err := l.elf(f, l.ArtifactPath(u.digest), u.target())
	if err != nil {
		return manifest.Code{}, refuse(u.field, err)
	}
	code.Digest = u.digest
	return code, nil
}

// elf is the code of an ELF program but for its digest.
func (l *Library) elf(f *os.File, source, target string) (manifest.Code, error) {
	closure, err := elfdeps.Resolve(f, target, elfdeps.Host{})
	if err != nil {
		return manifest.Code{}, l.elfProblem(f, err)
	}
	return manifest.Code{
		Runtime: binaryRuntime, Program: target, Argv: []string{path.Base(target), "$ARGS"}, Profile: profile,
		Mounts: append([]manifest.Mount{{Source: source, Target: target}}, libraries(closure)...),
	}, nil
}

// elfProblem says in words what makes a program unusable.
func (l *Library) elfProblem(f *os.File, err error) error {
	var (
		architecture *elfdeps.ArchitectureError
		kind         *elfdeps.NotExecutableError
		interpreter  *elfdeps.InterpreterError
		missing      *elfdeps.MissingLibraryError
		library      *elfdeps.LibraryError
	)
	switch {
	case errors.As(err, &missing), errors.As(err, &library), errors.Is(err, elfdeps.ErrTooMany), errors.Is(err, elfdeps.ErrTooLong):
		return problemf("library", "%s", clip(err.Error()))
	case errors.As(err, &interpreter):
		return problemf("interpreter", "%s", clip(err.Error()))
	case errors.As(err, &architecture):
		return problemf("architecture", "is %s", err)
	case errors.As(err, &kind):
		return problemf("not_executable", "is %s", err)
	case errors.Is(err, elfdeps.ErrScript):
		return l.scriptProblem(f)
	case errors.Is(err, elfdeps.ErrNotELF):
		return notELF(f)
	case errors.Is(err, elfdeps.ErrMalformed):
		return problemf("malformed", "is a %s", err)
	}
	return step("read program", err)
}

// scriptProblem tells how the script can be run.
func (l *Library) scriptProblem(f *os.File) error {
	head, err := readHead(f)
	if err != nil {
		return step("read program", err)
	}
	name := interpreterName(head)
	if r := l.runtimes.byInterpreter(name); r != nil {
		return problemf("script", "is a script for %s, not an ELF program: deploy it as source of the runtime %q", clip(name), r.GetName())
	}
	return problemf("script", "is a script for %q, not an ELF program: deploy it as source and name its runtime (%s)", clip(name), list(l.runtimes.names))
}

func notELF(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return step("stat program", err)
	}
	if info.Size() == 0 {
		return problemf("not_elf", "is empty, not an ELF program")
	}
	return problemf("not_elf", "is not an ELF program")
}

// headSize is what is read to recognise a file; the Linux kernel looks for the name
// of an interpreter in as much (BINPRM_BUF_SIZE).
const headSize = 256

func readHead(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, headSize)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

func (l *Library) head(u upload) ([]byte, error) {
	f, err := l.openUpload(u)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head, err := readHead(f)
	if err != nil {
		return nil, step("read artifact", err)
	}
	return head, nil
}

func isELF(head []byte) bool { return bytes.HasPrefix(head, []byte("\x7fELF")) }

// unavailable is a runtime that the host lacks a part of.
func unavailable(runtime, format string, args ...any) *control.Error {
	return control.Errorf(control.FailedPrecondition, "RUNTIME_UNAVAILABLE",
		"runtime %s: %s", runtime, fmt.Sprintf(format, args...)).With("step", "runtime").With("runtime", runtime)
}
