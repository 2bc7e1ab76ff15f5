package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/test/testenv"
)

// TestOpenHostFollowsNothing: a link at any position, and one by which the system leads
// out of a path, opens nothing.
func TestOpenHostFollowsNothing(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Leaks(t, testenv.Scope{})
	dir := public(t)
	names := []string{"a", "b", "c", "file"}
	must(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a/b/c/file"), nil, 0o644))
	whole := filepath.Join(append([]string{dir}, names...)...)
	f, err := openHost(whole)
	must(t, err)
	_ = f.Close()
	for i := range names[:len(names)-1] {
		for _, absolute := range []bool{false, true} {
			at := filepath.Join(append([]string{dir}, names[:i+1]...)...)
			real, target := at+".real", names[i]+".real"
			if absolute {
				target = real
			}
			must(t, os.Rename(at, real))
			must(t, os.Symlink(target, at))
			if f, err := openHost(whole); !errors.Is(err, unix.ENOTDIR) || f != nil {
				t.Errorf("a link at %s: %v", names[i], err)
			}
			must(t, os.Remove(at))
			must(t, os.Rename(real, at))
		}
	}
	fd, err := os.Open("/")
	must(t, err)
	defer func() { _ = fd.Close() }()
	for _, p := range []string{
		"/proc/self/root/etc/passwd", fmt.Sprintf("/proc/%d/root/etc/passwd", os.Getpid()), fmt.Sprintf("/proc/%d/cwd/x", os.Getpid()),
		fmt.Sprintf("/proc/%d/fd/%d/etc/passwd", os.Getpid(), fd.Fd()), "/proc/thread-self/root",
		dir + "/a/../a/b", dir + "/../" + filepath.Base(dir), "/" + strings.Repeat("x", 256), "/a\x00b",
	} {
		if f, err := openHost(p); err == nil {
			_ = f.Close()
			t.Errorf("%q was opened", p)
		}
	}
	// What is neither file nor directory can be named; the mount refuses it (package
	// sandbox).
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	f, err = openHost(dir + "/fifo")
	must(t, err)
	_ = f.Close()
}

// TestOpenHostRace swaps a directory for a link to another while it is opened.
func TestOpenHostRace(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Leaks(t, testenv.Scope{})
	dir := public(t)
	must(t, os.MkdirAll(dir+"/real/d", 0o755))
	must(t, os.MkdirAll(dir+"/secret/d", 0o755))
	for _, where := range []string{"real", "secret"} {
		must(t, os.WriteFile(filepath.Join(dir, where, "d/file"), nil, 0o644))
	}
	must(t, os.Symlink("secret", dir+"/link"))
	real, err := os.Stat(dir + "/real/d/file")
	must(t, err)
	over, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-over:
				done <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, dir+"/real", unix.AT_FDCWD, dir+"/link", unix.RENAME_EXCHANGE); err != nil {
				done <- err
				return
			}
		}
	}()
	opened, refused := 0, 0
	for range 5000 {
		f, err := openHost(dir + "/real/d/file")
		if err != nil {
			if !errors.Is(err, unix.ENOTDIR) {
				t.Errorf("%v", err)
			}
			refused++
			continue
		}
		info, err := f.Stat()
		if err != nil || !os.SameFile(info, real) {
			t.Errorf("another file was opened: %v", err)
		}
		_ = f.Close()
		opened++
	}
	close(over)
	must(t, <-done)
	if opened == 0 || refused == 0 {
		t.Logf("%d opened, %d refused: the race was not met", opened, refused)
	}
}
