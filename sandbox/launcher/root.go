//go:build seccomp

package launcher

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	defaultRootBytes = 24 << 20
	rootInodes       = 8192
)

type device struct {
	name  string
	minor uint32
}

// devices are of major 1, "memory devices" (Documentation/admin-guide/devices.txt).
var devices = []device{{"null", 3}, {"zero", 5}, {"full", 7}, {"random", 8}, {"urandom", 9}}

// rootDirs are made in every root. The usr-merge links below lead into them.
var rootDirs = []string{
	"app", "data", "dev", "etc", "proc", "run", "tmp", "usr", "var",
	"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "run/grants", "var/tmp",
}

var rootLinks = []struct{ name, target string }{
	{"bin", "usr/bin"}, {"sbin", "usr/sbin"}, {"lib", "usr/lib"}, {"lib64", "usr/lib64"},
}

var rootFiles = []struct{ name, content string }{
	{"etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nsolo:x:1000:1000:solo:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"},
	{"etc/group", "root:x:0:\nsolo:x:1000:\nnogroup:x:65534:\n"},
	{"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"},
	{"etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
}

// mountRoot makes the root of a shell, a tmpfs owned by the sandbox's uid 0, and
// attaches it to the directory at. It is made detached and filled before it can be
// seen.
func mountRoot(at string, owner uint32, size uint64) error {
	if size == 0 {
		size = defaultRootBytes
	}
	id := strconv.FormatUint(uint64(owner), 10)
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for _, o := range [][2]string{
		{"size", strconv.FormatUint(size, 10)},
		{"nr_inodes", strconv.Itoa(rootInodes)},
		{"uid", id},
		{"gid", id},
		{"mode", "755"},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("fsconfig %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("fsconfig create: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer func() { _ = unix.Close(mount) }()
	if err := fillRoot(mount, int(owner)); err != nil {
		return err
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

func fillRoot(root, owner int) error {
	own := func(name string, flags int) error {
		if err := unix.Fchownat(root, name, owner, owner, flags); err != nil {
			return fmt.Errorf("chown %s: %w", name, err)
		}
		return nil
	}
	for _, d := range rootDirs {
		if err := unix.Mkdirat(root, d, 0o755); err != nil {
			return fmt.Errorf("mkdir %s: %w", d, err)
		}
		if err := own(d, 0); err != nil {
			return err
		}
	}
	for _, l := range rootLinks {
		if err := unix.Symlinkat(l.target, root, l.name); err != nil {
			return fmt.Errorf("symlink %s: %w", l.name, err)
		}
		if err := own(l.name, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	for _, f := range rootFiles {
		fd, err := unix.Openat(root, f.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return fmt.Errorf("create %s: %w", f.name, err)
		}
		_, err = unix.Write(fd, []byte(f.content))
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if err := own(f.name, 0); err != nil {
			return err
		}
	}
	return nil
}
