package filesystem

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
)

// binaryRuntime is the runtime's name in a plan for a program of its own.
const binaryRuntime = "binary"

// hostBinary is a program of the host. It is seen inside at its own path, unless the
// sandbox has a file system of its own there.
func (h *host) hostBinary(asked string) (Code, error) {
	const field = "binary.path"
	p, f, err := h.openHost(asked)
	if err != nil {
		return Code{}, refuse(field, err)
	}
	defer func() { _ = f.Close() }()
	target := inside(p)
	if isClosed(target) {
		target = path.Join(appDir, path.Base(p))
	}
	code, err := h.elf(f, Mount{Source: p, Target: target})
	if err != nil {
		return Code{}, refuse(field, err)
	}
	if code.Digest, err = h.digests.of(f); err != nil {
		return Code{}, refuse(field, err)
	}
	return code, nil
}

func (h *host) openHost(asked string) (string, *os.File, error) {
	if why := checkPath(asked); why != "" {
		return "", nil, problemf("not_found", "%q %s", clip(asked), why)
	}
	dir, err := h.tree.realDir(path.Dir(asked))
	if err != nil {
		return "", nil, err
	}
	p := path.Join(dir, path.Base(asked))
	if !h.allowed(p) {
		return "", nil, problemf("outside_binary_paths", "%s lies outside binary_paths (%s); upload the program instead", p, list(h.binaryPaths))
	}
	f, err := h.tree.openProgram(p)
	return p, f, err
}

// uploadedBinary is a program that a client uploaded.
func (h *host) uploadedBinary(u upload) (Code, error) {
	if err := mayExecute(u.content); err != nil {
		return Code{}, step("state directory", err)
	}
	code, err := h.elf(u.content, Mount{Target: u.target(), Artifact: true})
	return code, refuse(u.field, err)
}

// elf is the code of an ELF program but for its digest.
func (h *host) elf(f *os.File, m Mount) (Code, error) {
	closure, err := elfdeps.Resolve(f, m.Target, h.tree.libraries())
	if err != nil {
		return Code{}, h.elfProblem(f, err)
	}
	return Code{
		Runtime: binaryRuntime, Program: m.Target, Argv: []string{path.Base(m.Target), "$ARGS"}, Profile: profile,
		Mounts: append([]Mount{m}, libraries(closure)...),
	}, nil
}

// elfProblem says in words what makes a program unusable.
func (h *host) elfProblem(f *os.File, err error) error {
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
		return h.scriptProblem(f)
	case errors.Is(err, elfdeps.ErrNotELF):
		return notELF(f)
	case errors.Is(err, elfdeps.ErrMalformed):
		return problemf("malformed", "is a %s", err)
	}
	return step("read program", err)
}

// scriptProblem tells how the script can be run.
func (h *host) scriptProblem(f *os.File) error {
	head, err := readHead(f)
	if err != nil {
		return step("read program", err)
	}
	name := interpreterName(head)
	if r := h.runtimes.byInterpreter(name); r != nil {
		return problemf("script", "is a script for %s, not an ELF program: deploy it as source of the runtime %q", clip(name), r.GetName())
	}
	return problemf("script", "is a script for %q, not an ELF program: deploy it as source and name its runtime (%s)", clip(name), list(h.runtimes.names))
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

func isELF(head []byte) bool { return bytes.HasPrefix(head, []byte("\x7fELF")) }
