//go:build seccomp

package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// host is what all shells of one launcher share.
type host struct {
	containers string // libcontainer's state
	roots      string // where a shell's root is mounted while it starts
	dev        string // the /dev of every sandbox
	init       *os.File
	null       *os.File
}

// newHost mounts the launcher's tmpfs over dir and fills it.
func newHost(dir string, init *os.File) (*host, error) {
	if err := checkNamespace(); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("solo-launcher", dir, "tmpfs", unix.MS_NOSUID, "mode=755,size=16m"); err != nil {
		return nil, fmt.Errorf("mount state on %s: %w", dir, err)
	}
	h := &host{
		containers: filepath.Join(dir, "containers"),
		roots:      filepath.Join(dir, "roots"),
		dev:        filepath.Join(dir, "dev"),
		init:       init,
	}
	proc := filepath.Join(dir, "proc")
	if err := errors.Join(os.Mkdir(h.containers, 0o700), os.Mkdir(h.roots, 0o755), os.Mkdir(proc, 0o555)); err != nil {
		return nil, err
	}
	// A sandbox may mount its own proc only if a proc without anything mounted over
	// its parts is visible here (mount_too_revealing in fs/namespace.c).
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount proc: %w", err)
	}
	if err := makeDev(h.dev); err != nil {
		return nil, err
	}
	null, err := os.OpenFile(filepath.Join(h.dev, "null"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	h.null = null
	return h, nil
}

// checkNamespace refuses to mount anything in the namespace of the process that
// started the launcher.
func checkNamespace() error {
	var own, parent unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &own); err != nil {
		return fmt.Errorf("own mount namespace: %w", err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()), &parent); err != nil {
		return fmt.Errorf("parent's mount namespace: %w", err)
	}
	if own.Ino == parent.Ino {
		return errors.New("solo-launcher must be started in a mount namespace of its own")
	}
	return nil
}

// makeDev mounts a tmpfs with the devices of every sandbox. It is shared and bound
// read-only, so that one shell costs no superblock of its own for it.
func makeDev(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("solo-dev", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k,nr_inodes=32"); err != nil {
		return fmt.Errorf("mount dev: %w", err)
	}
	for _, d := range devices {
		path := filepath.Join(dir, d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, d.minor))); err != nil {
			return fmt.Errorf("mknod %s: %w", path, err)
		}
		if err := os.Chmod(path, 0o666); err != nil { // the umask took bits away
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dir, "shm"), 0o755)
}
