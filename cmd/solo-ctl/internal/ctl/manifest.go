package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/manifest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
)

const (
	// maxCode is the longest source text that travels in a manifest.
	maxCode = 1 << 20
	// maxInline bounds all that travels in one manifest, well below the gateway's
	// message limit. What is over it is uploaded.
	maxInline = 2 << 20
)

// hostDirs are where a server takes programs by path, unless configured otherwise.
var hostDirs = [...]string{"/usr/", "/bin/", "/sbin/", "/lib/", "/opt/"}

// sender turns files of the client into what the API takes: text and content
// inline, larger things as uploaded artifacts.
type sender struct {
	ctx    context.Context
	client *client.Client
	inline int
}

// upload sends a whole file.
func (s *sender) upload(path string) (string, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	r, err := s.client.Upload(s.ctx, f)
	if err != nil {
		return "", err
	}
	return r.GetDigest(), nil
}

// take returns the file's content, or the digest after an upload when the content
// is longer than limit or than what is left in the message.
func (s *sender) take(path string, limit int, text bool) (content []byte, digest string, err error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }()
	limit = min(limit, maxInline-s.inline)
	content, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", path, err)
	}
	if len(content) <= limit && (!text || utf8.Valid(content)) {
		s.inline += len(content)
		return content, "", nil
	}
	r, err := s.client.Upload(s.ctx, io.MultiReader(bytes.NewReader(content), f))
	if err != nil {
		return nil, "", err
	}
	return nil, r.GetDigest(), nil
}

// openRegular opens a file to be sent. It does not wait for a writer of a FIFO.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path)
}

// load makes the request for FILE: a manifest, a program on the host, an ELF file to
// be uploaded, source text, or "-" for source text from standard input.
func (a *app) load(s *sender, path string) (*solov1.DeployRequest, error) {
	switch ext := strings.ToLower(filepath.Ext(path)); {
	case path == "-":
		return a.loadStdin()
	case ext == ".yaml" || ext == ".yml":
		return s.manifest(path)
	}
	if filepath.IsAbs(path) {
		if host, ok := hostProgram(path); ok {
			return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: onHost(path, host)}}, nil
		}
	}
	elf, err := isELF(path)
	if err != nil {
		return nil, err
	}
	if elf {
		digest, err := s.upload(path)
		if err != nil {
			return nil, err
		}
		return &solov1.DeployRequest{Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: digest, File: filepath.Base(path)}}}, nil
	}
	src := &solov1.Source{File: path}
	if err := s.source(src, ""); err != nil {
		return nil, err
	}
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: src}}, nil
}

func (a *app) loadStdin() (*solov1.DeployRequest, error) {
	text, err := io.ReadAll(io.LimitReader(a.Stdin, maxCode+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read source from standard input: %w", err)
	case len(text) > maxCode:
		return nil, fmt.Errorf("source from standard input is over the limit of %d bytes", maxCode)
	case len(text) == 0:
		return nil, errors.New("source from standard input is empty")
	case !utf8.Valid(text):
		return nil, errors.New("source from standard input is not UTF-8 text")
	}
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Code: string(text)}}}, nil
}

// hostProgram says whether an absolute path names a program that the server can take
// from the host, and its path without links, which the server does not follow. A
// path that is not there is left to the server too: it may run elsewhere, and its
// refusal names what is wrong.
func hostProgram(path string) (string, bool) {
	path = filepath.Clean(path)
	within := func(p string) bool {
		for _, dir := range hostDirs {
			if strings.HasPrefix(p, dir) {
				return true
			}
		}
		return false
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return path, within(path)
	}
	if err != nil || !within(real) {
		return "", false
	}
	elf, err := isELF(real)
	return real, err == nil && elf || errors.Is(err, os.ErrPermission)
}

// onHost names a program by its path without links, and keeps the name by which it
// was called: /usr/bin/redis-server is a link to a program that goes by it.
func onHost(path, real string) *solov1.Binary {
	b := &solov1.Binary{Path: real}
	if name := filepath.Base(path); name != filepath.Base(real) {
		b.Argv0 = name
	}
	return b
}

func isELF(path string) (bool, error) {
	f, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return string(magic[:]) == "\x7fELF", nil
}

// manifest reads a YAML manifest and everything that it says to send.
func (s *sender) manifest(path string) (*solov1.DeployRequest, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, manifest.MaxBytes+1))
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	req, err := manifest.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.resolve(req, filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return req, nil
}

// resolve replaces every reference to a client's file, relative to dir.
func (s *sender) resolve(req *solov1.DeployRequest, dir string) error {
	var err error
	switch code := req.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		if code.Source.GetCode() == "" && code.Source.GetArtifact() == "" && code.Source.GetFile() != "" {
			err = s.source(code.Source, dir)
		}
		if err != nil {
			return fmt.Errorf("source.file: %w", err)
		}
	case *solov1.DeployRequest_Bytecode:
		if code.Bytecode.GetArtifact() == "" && code.Bytecode.GetFile() != "" {
			code.Bytecode.Artifact, err = s.upload(within(dir, code.Bytecode.GetFile()))
			code.Bytecode.File = filepath.Base(code.Bytecode.GetFile())
		}
		if err != nil {
			return fmt.Errorf("bytecode.file: %w", err)
		}
	case *solov1.DeployRequest_Binary:
		if file := code.Binary.GetFile(); file != "" {
			if code.Binary.GetPath() != "" || code.Binary.GetArtifact() != "" {
				return &manifest.Error{Field: "binary", What: "has file and path or artifact: only one of them may be given"}
			}
			if code.Binary.Artifact, err = s.upload(within(dir, file)); err != nil {
				return fmt.Errorf("binary.file: %w", err)
			}
			code.Binary.File = ""
			if code.Binary.GetArgv0() == "" {
				code.Binary.Argv0 = filepath.Base(file)
			}
		} else if path := code.Binary.GetPath(); filepath.IsAbs(path) {
			if host, ok := hostProgram(path); ok {
				real := onHost(path, host)
				code.Binary.Path = real.GetPath()
				if code.Binary.GetArgv0() == "" {
					code.Binary.Argv0 = real.GetArgv0()
				}
			}
		}
	}
	for i, f := range req.GetFiles() {
		if f.GetFrom() == "" {
			continue
		}
		if len(f.GetContent()) > 0 || f.GetArtifact() != "" {
			return &manifest.Error{Field: fmt.Sprintf("files[%d]", i), What: "has from and content or artifact: only one of them may be given"}
		}
		if f.Content, f.Artifact, err = s.take(within(dir, f.GetFrom()), maxInline, false); err != nil {
			return fmt.Errorf("files[%d].from: %w", i, err)
		}
		f.From = ""
	}
	return nil
}

// source reads src.File, relative to dir, and leaves its base name there: it tells
// the server the runtime.
func (s *sender) source(src *solov1.Source, dir string) error {
	path := within(dir, src.GetFile())
	content, digest, err := s.take(path, maxCode, true)
	if err != nil {
		return err
	}
	if digest == "" && len(content) == 0 {
		return fmt.Errorf("%s is empty", path)
	}
	src.Code, src.Artifact, src.File = string(content), digest, filepath.Base(path)
	return nil
}

func within(dir, path string) string {
	if dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf makes a service's name of a file's.
func nameOf(path string) string {
	base := filepath.Base(path)
	base = strings.TrimSuffix(base, filepath.Ext(base))
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(base), "-"), "-")
	if len(name) > 63 {
		name = strings.Trim(name[:63], "-")
	}
	return name
}
