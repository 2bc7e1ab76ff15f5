package filesystem

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// source is a text that a runtime runs. The runtime is the named one, or else the one
// that knows the file's suffix or the interpreter of its first line.
func (h *host) source(u upload, language string) (Code, error) {
	head, err := readHead(u.content)
	if err != nil {
		return Code{}, step("read artifact", err)
	}
	r := h.runtimes.byName[language]
	if language != "" && r == nil {
		return Code{}, refuse("source.language", problemf("runtime", "%q is no runtime of this Solo (%s)", clip(language), list(h.runtimes.names)))
	}
	if isELF(head) {
		return Code{}, refuse(u.text, problemf("not_source", "is an ELF program: deploy it as a binary"))
	}
	if r == nil {
		if r, err = h.recognise(u.file, head); err != nil {
			return Code{}, refuse(u.kind, err)
		}
	}
	if err := checkText(io.NewSectionReader(u.content, 0, 1<<62)); err != nil {
		return Code{}, refuse(u.text, err)
	}
	code, err := h.tree.runtimeCode(r)
	if err != nil {
		return Code{}, err
	}
	code.File = u.target()
	code.Mounts = append(code.Mounts, Mount{Target: code.File, Artifact: true})
	return code, nil
}

func (h *host) recognise(file string, head []byte) (*controlv1.Runtime, error) {
	if r := h.runtimes.bySuffix(file); r != nil {
		return r, nil
	}
	name := interpreterName(head)
	if r := h.runtimes.byInterpreter(name); r != nil {
		return r, nil
	}
	first := "it does not begin with #!"
	if name != "" {
		first = "no runtime is for the interpreter " + clip(name)
	}
	return nil, problemf("runtime", "the runtime of %q cannot be told: no runtime is for its suffix, and %s; name one of %s", clip(file), first, list(h.runtimes.names))
}

// checkText wants UTF-8 without NUL, which is what every runtime reads.
func checkText(r io.Reader) error {
	buffer := make([]byte, 64<<10)
	kept := 0
	for {
		n, err := r.Read(buffer[kept:])
		b := buffer[:kept+n]
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return step("read artifact", err)
		}
		if bytes.IndexByte(b[kept:], 0) >= 0 {
			return problemf("not_text", "is not a source text: it contains a NUL byte")
		}
		whole := b
		if !ended {
			whole = b[:len(b)-partial(b)]
		}
		if !utf8.Valid(whole) {
			return problemf("not_text", "is not a source text: it is not valid UTF-8")
		}
		if ended {
			return nil
		}
		kept = copy(buffer, b[len(whole):])
	}
}

// partial is the number of bytes at the end that begin a character and do not end it.
func partial(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if utf8.FullRune(b[len(b)-n:]) {
				return 0
			}
			return n
		}
	}
	return 0
}

// runtimeCode is what a runtime needs of the host. The descriptor is the operator's:
// its paths are followed wherever they lead.
func (t tree) runtimeCode(r *controlv1.Runtime) (Code, error) {
	name := r.GetName()
	program, err := t.firstProgram(r)
	if err != nil {
		return Code{}, err
	}
	code := Code{
		Runtime: name, Program: inside(program), Argv: slices.Clone(r.GetArgv()), Env: slices.Clone(r.GetEnv()),
		Profile: r.GetSeccompProfile(), StartupTimeoutMs: r.GetStartupTimeoutMs(),
	}
	code.Mounts = []Mount{{Source: program, Target: code.Program}}
	for _, pattern := range r.GetMounts() {
		found, err := t.expand(pattern)
		if err != nil {
			return Code{}, unavailable(name, "%v", err)
		}
		for _, m := range found {
			// A link may lead to where the sandbox has a file system of its own.
			if !isClosed(m.Target) {
				code.Mounts = append(code.Mounts, m)
			}
		}
	}
	if r.GetLibraries() {
		f, err := os.Open(t.at(program))
		if err != nil {
			return Code{}, unavailable(name, "%v", err)
		}
		defer func() { _ = f.Close() }()
		closure, err := elfdeps.Resolve(f, code.Program, t.libraries())
		if err != nil {
			return Code{}, unavailable(name, "%s: %v", program, err)
		}
		code.Mounts = append(code.Mounts, libraries(closure)...)
	}
	return code, nil
}

// firstProgram is the first program of the descriptor that the host has, without
// links.
func (t tree) firstProgram(r *controlv1.Runtime) (string, error) {
	for _, p := range r.GetProgram() {
		real, info, err := t.real(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", unavailable(r.GetName(), "%v", err)
		}
		if !info.Mode().IsRegular() || info.Mode().Perm()&0o005 != 0o005 {
			return "", unavailable(r.GetName(), "%s is not a file that others may read and execute (%v)", real, info.Mode())
		}
		if isClosed(inside(real)) {
			return "", unavailable(r.GetName(), "%s lies in a directory of the sandbox's own", real)
		}
		return real, nil
	}
	return "", unavailable(r.GetName(), "none of its programs exists on this host (%s)", list(r.GetProgram()))
}
