package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// readOnly detaches a read-only copy of a host path, which must be a directory or a
// regular file as told. Links in the path are followed: it was resolved when the plan
// was made, and comes from the host, not from a service. The caller owns the
// descriptor (open_tree(2), mount_setattr(2)).
func readOnly(path string, directory bool) (*os.File, error) {
	return detach(path, directory, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV})
}

// volume detaches a writable copy of a host directory whose owner 1000 is the
// service's user: the mount is id-mapped by the sandbox's user namespace.
func volume(path string, userns *os.File) (*os.File, error) {
	return detach(path, true, unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(userns.Fd()),
	})
}

func detach(path string, directory bool, attr unix.MountAttr) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("fstat %s: %w", path, err)
	}
	want := uint32(unix.S_IFREG)
	if directory {
		want = unix.S_IFDIR
	}
	if st.Mode&unix.S_IFMT != want {
		_ = f.Close()
		return nil, fmt.Errorf("mount %s: it is not what it was when the plan was made", path)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("mount_setattr %s: %w", path, err)
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
