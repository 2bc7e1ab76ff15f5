package library

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
)

const digestPrefix = "sha256:"

// makeStore makes the directory of the artifacts, which only root may enter: services
// get single files of it.
func makeStore(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the artifact store: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the artifact store: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("artifact store %s is not a directory", dir)
	}
	return nil
}

// ArtifactPath is where an artifact lies on the host, or would lie; empty for what is
// not a digest.
func (l *Library) ArtifactPath(digest string) string {
	if manifest.CheckDigest(digest) != "" {
		return ""
	}
	return filepath.Join(l.artifacts, strings.TrimPrefix(digest, digestPrefix))
}

// OpenArtifact opens an artifact for reading; the caller owns it. That there is none
// is a *control.Error of the reason ARTIFACT_NOT_FOUND.
func (l *Library) OpenArtifact(digest string) (*os.File, error) {
	missing := control.Errorf(control.NotFound, "ARTIFACT_NOT_FOUND", "artifact %q does not exist; upload it first", clip(digest)).With("digest", clip(digest))
	p := l.ArtifactPath(digest)
	if p == "" {
		return nil, missing
	}
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, step("open artifact", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", p)
	}
	if err != nil {
		_ = f.Close()
		return nil, step("open artifact", err)
	}
	return f, nil
}

// Put keeps the content of a sealed memfd of at most limit bytes and answers its
// digest. After it the artifact is on the disk, whole, or there is nothing: the file
// gets its name when it is complete and flushed. Content that is there already is not
// written again. Put blocks on the disk and does not take ownership of f.
//
// A descriptor that is no sealed memfd, or is too large, is an *ipc.ProtocolError: the
// gateway seals and limits what it passes.
func (l *Library) Put(f *os.File, limit int64) (digest string, size int64, err error) {
	if f == nil {
		return "", 0, &ipc.ProtocolError{What: "descriptor is missing"}
	}
	if size, err = ipc.CheckSealed(f, limit); err != nil {
		return "", 0, fmt.Errorf("artifact: %w", err)
	}
	// The seals keep the content from changing between the two passes.
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, size))
	if errors.Is(err, unix.EBADF) {
		return "", 0, fmt.Errorf("artifact: %w", &ipc.ProtocolError{What: "memfd is not readable"})
	}
	if err != nil {
		return "", 0, step("read artifact", err)
	}
	if n != size {
		return "", 0, step("read artifact", io.ErrUnexpectedEOF)
	}
	name := hex.EncodeToString(h.Sum(nil))
	if err := l.store(name, io.NewSectionReader(f, 0, size), size); err != nil {
		return "", 0, err
	}
	return digestPrefix + name, size, nil
}

// store writes a file that has no name (O_TMPFILE in open(2)) and links it in. The
// directory is flushed also when the file was there: another Put may have linked it
// a moment ago.
func (l *Library) store(name string, content io.Reader, size int64) error {
	dir, err := os.OpenFile(l.artifacts, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return step("open artifact store", err)
	}
	defer func() { _ = dir.Close() }()
	there, err := present(dir, name, size)
	if err != nil {
		return err
	}
	if !there {
		if err := link(dir, name, content, size); err != nil {
			return err
		}
	}
	if err := dir.Sync(); err != nil {
		return step("flush artifact store", err)
	}
	return nil
}

func present(dir *os.File, name string, size int64) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != size) {
		err = fmt.Errorf("%s is damaged: it is not a file of %d bytes; remove it and upload it again", filepath.Join(dir.Name(), name), size)
	}
	if err != nil {
		return false, step("look at artifact", err)
	}
	return true, nil
}

func link(dir *os.File, name string, content io.Reader, size int64) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return writing("make artifact", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	n, err := io.Copy(f, content)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return writing("write artifact", err)
	}
	// A service executes it as a user of its own.
	if err := f.Chmod(0o555); err != nil {
		return step("chmod artifact", err)
	}
	if err := f.Sync(); err != nil {
		return writing("flush artifact", err)
	}
	// By /proc, because AT_EMPTY_PATH takes CAP_DAC_READ_SEARCH (linkat(2)).
	err = unix.Linkat(unix.AT_FDCWD, descriptorPath(f), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EEXIST) {
		_, err := present(dir, name, size)
		return err
	}
	if err != nil {
		return writing("link artifact", err)
	}
	return nil
}

// writing names a full disk as such.
func writing(what string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return control.Errorf(control.ResourceExhausted, "DISK_FULL", "%s: %v", what, err).With("resource", "disk").With("step", what)
	}
	return step(what, err)
}

// descriptorPath names the open file itself, whatever its path is by now.
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
