package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// readOnly detaches a read-only copy of a host file or directory. The caller owns the
// descriptor (open_tree(2), mount_setattr(2)).
func readOnly(m Mount) (*os.File, error) {
	source, err := m.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Close() }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if m.NoExec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	return detach(int(source.Fd()), source.Name(), "", m.Directory, attr)
}

// volume detaches a writable copy of a host directory whose owner 1000 is the
// service's user: the mount is id-mapped by the sandbox's user namespace.
func volume(path string, userns *os.File) (*os.File, error) {
	return detach(unix.AT_FDCWD, path, path, true, unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(userns.Fd()),
	})
}

// detach copies the mount at a path, or of the descriptor at itself if the path is
// empty; what is mounted below is left out.
func detach(at int, name, path string, directory bool, attr unix.MountAttr) (*os.File, error) {
	fd, err := unix.OpenTree(at, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("fstat %s: %w", name, err)
	}
	want := uint32(unix.S_IFREG)
	if directory {
		want = unix.S_IFDIR
	}
	if st.Mode&unix.S_IFMT != want {
		_ = f.Close()
		return nil, fmt.Errorf("mount %s: it is not what it was when the plan was made", name)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("mount_setattr %s: %w", name, err)
	}
	return f, nil
}

// scratch makes a detached tmpfs owned by uid and gid, noexec, limited in bytes and
// inodes (fsopen(2), tmpfs(5)). The caller owns the descriptor.
func scratch(bytes uint64, uid, gid uint32, mode string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	// An inode for every 4 KiB: files that small fill both limits together.
	inodes := max(bytes/4096, 64)
	for _, kv := range [][2]string{
		{"size", strconv.FormatUint(bytes, 10)}, {"nr_inodes", strconv.FormatUint(inodes, 10)},
		{"uid", strconv.FormatUint(uint64(uid), 10)}, {"gid", strconv.FormatUint(uint64(gid), 10)}, {"mode", mode},
	} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return nil, fmt.Errorf("fsconfig tmpfs %s=%s: %w", kv[0], kv[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}
