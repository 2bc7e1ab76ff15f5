package elfdeps

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is where libraries are looked for.
type Host struct {
	// Root is the directory that stands for "/"; empty for the host's own. Links
	// are followed inside it.
	Root string
	// Architecture as Go names it; empty for the one this program was built for.
	Architecture string
}

const (
	// maxLinks is the Linux kernel's bound on links in one path.
	maxLinks = 40
	// maxLooks bounds the directory entries looked at for one program, whatever
	// search directories it names.
	maxLooks = 50_000
)

var errAbsent = errors.New("not found")

// view is the host as an unprivileged user sees it, for the time of one Resolve.
type view struct {
	root  string
	looks int
	dirs  map[string]found
}

type found struct {
	real string
	err  error
}

func (h Host) view() *view {
	root := h.Root
	if root == "" {
		root = "/"
	}
	return &view{root: root, dirs: map[string]found{}}
}

func (h Host) machine() (machine, error) {
	if h.Architecture == "" {
		return machineFor(runtime.GOARCH)
	}
	return machineFor(h.Architecture)
}

// reserved are the directories that a sandbox has of its own.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/run", "/var/tmp"}

func isReserved(p string) bool {
	for _, r := range reserved {
		if p == r || strings.HasPrefix(p, r+"/") {
			return true
		}
	}
	return false
}

// file resolves an absolute path to a regular file readable by others. errAbsent
// says there is none.
func (v *view) file(p string) (string, error) {
	if len(p) > maxName || !path.IsAbs(p) || strings.Contains(p, "\x00") {
		return "", errAbsent
	}
	dir, name := path.Split(p)
	known, ok := v.dirs[dir]
	if !ok {
		known.real, known.err = v.walk("/", dir, new(int))
		v.dirs[dir] = known
	}
	if known.err != nil {
		return "", known.err
	}
	if name == "" || name == "." || name == ".." {
		return "", errAbsent
	}
	real, err := v.walk(known.real, name, new(int))
	if err != nil {
		return "", err
	}
	mode, err := v.look(real)
	if err != nil {
		return "", err
	}
	if !mode.IsRegular() || mode.Perm()&0o004 == 0 || isReserved(real) {
		return "", errAbsent
	}
	return real, nil
}

// walk follows a path from a resolved directory, link by link. Directories on the
// way must be searchable by others.
func (v *view) walk(at, rest string, links *int) (string, error) {
	if path.IsAbs(rest) {
		at = "/"
	}
	for name := range strings.SplitSeq(rest, "/") {
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		dir, err := v.look(at)
		if err != nil {
			return "", err
		}
		if !dir.IsDir() || dir.Perm()&0o001 == 0 {
			return "", errAbsent
		}
		next := path.Join(at, name)
		mode, err := v.look(next)
		if err != nil {
			return "", err
		}
		if mode&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if *links++; *links > maxLinks {
			return "", errAbsent
		}
		target, err := os.Readlink(path.Join(v.root, next))
		if err != nil || len(target) > maxName {
			return "", errAbsent
		}
		if at, err = v.walk(at, target, links); err != nil {
			return "", err
		}
	}
	return at, nil
}

func (v *view) look(p string) (fs.FileMode, error) {
	if v.looks++; v.looks > maxLooks {
		return 0, ErrTooLong
	}
	info, err := os.Lstat(path.Join(v.root, p))
	if err != nil {
		return 0, errAbsent
	}
	return info.Mode(), nil
}

// inside is a path as it is inside the sandbox: links of the root directory (/lib,
// /lib64, /bin and /sbin where /usr is merged) are followed, and no others.
func (v *view) inside(p string) string {
	p = path.Clean(p)
	for range maxLinks {
		if p == "/" {
			return p
		}
		first, rest, _ := strings.Cut(p[1:], "/")
		target, err := os.Readlink(path.Join(v.root, first))
		if err != nil {
			return p
		}
		if !path.IsAbs(target) {
			target = "/" + target
		}
		p = path.Join(target, rest)
	}
	return p
}

// open opens a file that was resolved by file. The caller closes it.
func (v *view) open(real string) (*os.File, error) {
	f, err := os.OpenFile(path.Join(v.root, real), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// object parses the file at a resolved path.
func (v *view) object(real string, m machine) (*object, error) {
	f, err := v.open(real)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return parse(f, m)
}

// content reads a small file; errAbsent if there is none.
func (v *view) content(p string, limit int64) ([]byte, error) {
	real, err := v.file(p)
	if err != nil {
		return nil, err
	}
	f, err := v.open(real)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", p, limit)
	}
	return b, nil
}
