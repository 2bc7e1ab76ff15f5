package filesystem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// tree is the host's files, below a directory that stands for "/".
type tree struct {
	root string
	// mounts are the file systems that are seen.
	mounts []*controlv1.HostMount
}

func (t tree) open() (int, error) {
	fd, err := unix.Open(t.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, step("open /", err)
	}
	return fd, nil
}

// real follows the links of a path within the tree and answers with the path that has
// none. The links of a proc file system are not followed.
func (t tree) real(p string) (string, fs.FileInfo, error) {
	root, err := t.open()
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openInRoot(root, p)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", nil, err
	}
	real, err := os.Readlink(descriptorPath(f))
	if err != nil {
		return "", nil, err
	}
	if t.root != "/" {
		real = path.Join("/", strings.TrimPrefix(real, t.root))
	}
	return real, info, nil
}

// openInRoot is openat2(2) with a root of its own. EAGAIN says that something was
// renamed meanwhile.
func openInRoot(root int, p string) (fd int, err error) {
	for range 32 {
		fd, err = unix.Openat2(root, p, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// at is where a path without links lies for this process.
func (t tree) at(p string) string { return path.Join(t.root, p) }

// noexec tells whether the host's file system at a path without links executes
// nothing. Where it is seen says nothing about that.
func (t tree) noexec(p string) bool {
	longest, answer := -1, false
	for _, m := range t.mounts {
		if below(p, m.GetPath()) && len(m.GetPath()) > longest {
			longest, answer = len(m.GetPath()), m.GetNoexec()
		}
	}
	return answer
}

// descriptorPath names the open file itself, whatever its path is by now.
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// libraries is where elfdeps looks.
func (t tree) libraries() elfdeps.Host { return elfdeps.Host{Root: t.root} }
