package filesystem

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the Linux kernel's bound on links in one path.
const maxLinks = 40

// realDir follows the links of a directory's path, once: the answer has none. It
// stops at the first directory that others may not search, and does not follow the
// links of a proc file system, which show what is root's to see.
func (t tree) realDir(dir string) (string, error) {
	fd, err := t.open()
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	at, links := "/", 0
	for rest := strings.Split(dir, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." || name == ".." && at == "/" {
			continue
		}
		next, err := openPath(fd, name)
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG):
			return "", problemf("not_found", "directory %s does not exist", path.Join(at, clip(name)))
		case err != nil:
			return "", step("open "+path.Join(at, name), err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(next, &st); err != nil {
			_ = unix.Close(next)
			return "", step("stat "+path.Join(at, name), err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			_ = unix.Close(fd)
			fd, at = next, path.Join(at, name)
			if st.Mode&0o001 == 0 {
				return "", problemf("not_readable", "directory %s is not searchable by others (mode %04o)", at, st.Mode&0o7777)
			}
		case unix.S_IFLNK:
			target, err := readLink(next)
			_ = unix.Close(next)
			if err != nil {
				return "", err
			}
			if links++; links > maxLinks {
				return "", problemf("symlink", "its path has more than %d symbolic links", maxLinks)
			}
			if path.IsAbs(target) {
				root, err := t.open()
				if err != nil {
					return "", err
				}
				_ = unix.Close(fd)
				fd, at = root, "/"
			}
			rest = slices.Concat(strings.Split(target, "/"), rest)
		default:
			_ = unix.Close(next)
			return "", problemf("not_found", "%s is not a directory", path.Join(at, name))
		}
	}
	return at, nil
}

// openPath opens a directory entry itself, not what it links to.
func openPath(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// readLink reads a link that was opened by openPath.
func readLink(fd int) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", step("statfs link", err)
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return "", problemf("symlink", "its path leads through a link of /proc")
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return "", step("read link", err)
	}
	return string(b[:n]), nil
}

// openProgram opens a file of the host that a client asked to run, by a path that
// realDir has made free of links. It opens nothing but regular files, so that no
// device or pipe sees an open(2). The caller owns the file.
func (t tree) openProgram(p string) (*os.File, error) {
	found, err := unix.Openat2(unix.AT_FDCWD, t.at(p), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG):
		return nil, problemf("not_found", "%s does not exist", p)
	case errors.Is(err, unix.ELOOP):
		return nil, problemf("symlink", "a directory of %s has just become a symbolic link", p)
	case err != nil:
		return nil, step("open "+p, err)
	}
	entry := os.NewFile(uintptr(found), p)
	defer func() { _ = entry.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return nil, step("stat "+p, err)
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		target, err := readLink(found)
		if err != nil {
			return nil, err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(p), target)
		}
		return nil, problemf("symlink", "%s is a symbolic link to %s; deploy that, or upload the program if it goes by the name it is called by", p, clip(target))
	case kind != unix.S_IFREG:
		return nil, problemf("not_regular", "%s is not a regular file but a %s", p, kindName(kind))
	case st.Mode&0o001 == 0:
		return nil, problemf("not_executable", "%s is not executable by others (mode %04o)", p, st.Mode&0o7777)
	case st.Mode&0o004 == 0:
		return nil, problemf("not_readable", "%s is not readable by others (mode %04o)", p, st.Mode&0o7777)
	}
	if t.noexec(p) {
		return nil, errNoexec
	}
	f, err := os.Open(descriptorPath(entry))
	if errors.Is(err, os.ErrPermission) {
		return nil, problemf("not_readable", "%s is not readable by others", p)
	}
	if err != nil {
		return nil, step("open "+p, err)
	}
	return f, nil
}

var errNoexec = problemf("not_executable", "lies on a file system that is mounted noexec")

// mayExecute looks at the mount of a file that the kernel opened.
func mayExecute(f *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return errNoexec
	}
	return nil
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return fmt.Sprintf("file of type %#o", kind)
}

// allowed tells whether a path without links lies below one of the binary paths,
// whose links are followed too.
func (h *host) allowed(p string) bool {
	return slices.ContainsFunc(h.binaryPaths, func(dir string) bool {
		real, _, err := h.tree.real(dir)
		return err == nil && below(p, real)
	})
}
