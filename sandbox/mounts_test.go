package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/test/testenv"
)

// create makes a file on a detached mount.
func create(mount *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(mount.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func mustCreate(t *testing.T, mount *os.File, name string) *os.File {
	t.Helper()
	f, err := create(mount, name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// flags are a mount's, as statfs(2) tells them.
func flags(t *testing.T, mount *os.File) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(mount.Fd()), &st))
	return st.Flags & (unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC)
}

func TestReadOnly(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	m, err := readOnly(Mount{Open: source(dir), Directory: true})
	must(t, err)
	defer func() { _ = m.Close() }()
	if got := flags(t, m); got != unix.ST_RDONLY|unix.ST_NOSUID|unix.ST_NODEV {
		t.Errorf("flags %#x", got)
	}
	for _, name := range []string{"new", "f"} {
		if f, err := create(m, name); !errors.Is(err, unix.EROFS) {
			_ = f.Close()
			t.Errorf("writing %s: %v", name, err)
		}
	}
	// The original is as it was.
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("changed"), 0o644))

	file, err := readOnly(Mount{Open: source(filepath.Join(dir, "f"))})
	must(t, err)
	defer func() { _ = file.Close() }()
	content, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil || string(content) != "changed" {
		t.Errorf("content %q, %v", content, err)
	}
}

func TestReadOnlyRefuses(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "f"), filepath.Join(dir, "fifo")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, unix.Mkfifo(fifo, 0o644))
	for _, c := range []struct {
		path      string
		directory bool
		want      string
	}{
		{dir, false, "not what it was"},
		{file, true, "not what it was"},
		{fifo, false, "not what it was"},
		{"/dev/null", false, "not what it was"},
		{filepath.Join(dir, "none"), true, "open " + filepath.Join(dir, "none") + ": no such file"},
		{filepath.Join(file, "x"), false, "not a directory"},
	} {
		m, err := readOnly(Mount{Open: source(c.path), Directory: c.directory})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			_ = m.Close()
			t.Errorf("%s as a directory %v: %v", c.path, c.directory, err)
		}
	}
}

// TestScratchIsLimited fills a tmpfs in bytes and in inodes.
func TestScratchIsLimited(t *testing.T) {
	testenv.RequireRoot(t)
	const size = 1 << 20
	m, err := scratch(size, 300_001_000, 300_002_000, "1777")
	must(t, err)
	defer func() { _ = m.Close() }()
	if got := flags(t, m); got != unix.ST_NOSUID|unix.ST_NODEV|unix.ST_NOEXEC {
		t.Errorf("flags %#x", got)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(m.Fd()), &st))
	if st.Uid != 300_001_000 || st.Gid != 300_002_000 || st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}

	f := mustCreate(t, m, "big")
	wrote, err := f.Write(make([]byte, 2*size))
	if !errors.Is(err, unix.ENOSPC) || wrote > size || wrote < size*9/10 {
		t.Errorf("wrote %d of %d bytes: %v", wrote, 2*size, err)
	}
	must(t, f.Truncate(0))

	files := 0
	for {
		f, err := create(m, fmt.Sprint("f", files))
		if err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("file %d: %v", files, err)
			}
			break
		}
		_ = f.Close()
		if files++; files > size/4096 {
			t.Fatalf("%d files in %d bytes", files, size)
		}
	}
	if files < size/4096-8 {
		t.Errorf("only %d files", files)
	}
}

func TestScratchRefuses(t *testing.T) {
	testenv.RequireRoot(t)
	m, err := scratch(1<<20, 0, 0, "rwx")
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "mode=rwx") {
		_ = m.Close()
		t.Errorf("%v", err)
	}
}

// userNamespace is the user namespace of a process that maps 65,536 ids from base.
func userNamespace(t *testing.T, base int) *os.File {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.UserNS)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: IDs}}
	r, w, err := os.Pipe()
	must(t, err)
	c := exec.Command("cat")
	c.Stdin = r
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	must(t, c.Start())
	_ = r.Close()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid))
	_ = w.Close()
	_ = c.Wait()
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestVolumeIsIDMapped: what the service's host uid writes is uid 1000's on disk.
func TestVolumeIsIDMapped(t *testing.T) {
	const base = 400_000_000
	ns := userNamespace(t, base)
	dir := t.TempDir()
	must(t, os.Chown(dir, UID, GID))
	m, err := volume(dir, ns)
	must(t, err)
	defer func() { _ = m.Close() }()
	if got := flags(t, m); got != unix.ST_NOSUID|unix.ST_NODEV|unix.ST_NOEXEC {
		t.Errorf("flags %#x", got)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(m.Fd()), &st))
	if st.Uid != base+UID || st.Gid != base+GID {
		t.Errorf("through the mount the owner is %d:%d", st.Uid, st.Gid)
	}
	must(t, as(base+UID, base+GID, func() error { return unix.Mkdirat(int(m.Fd()), "d", 0o755) }))
	must(t, unix.Stat(filepath.Join(dir, "d"), &st))
	if st.Uid != UID || st.Gid != GID {
		t.Errorf("on the host the owner is %d:%d", st.Uid, st.Gid)
	}
	// An id that the sandbox does not have cannot come to the disk.
	if err := unix.Mkdirat(int(m.Fd()), "x", 0o755); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("mkdir as the host's root: %v", err)
	}
	if err := unix.Fchownat(int(m.Fd()), "d", 5, 5, 0); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("chown to a host id: %v", err)
	}
}

// as does something with another user's ids for file access, on a thread that ends
// with it.
func as(uid, gid uintptr, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSGID, gid, 0, 0)
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSUID, uid, 0, 0)
		done <- do()
	}()
	return <-done
}
