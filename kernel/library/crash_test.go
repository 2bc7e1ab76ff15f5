package library

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/test/testenv"
)

// putForever puts one content after the other and prints the digest of each when Put
// has answered.
func putForever(dir string) error {
	l, err := Open(dir)
	if err != nil {
		return err
	}
	for i := os.Getpid() * 100_000; ; i++ {
		f, err := ipc.SealedFile("test", bytes.Repeat(fmt.Appendf(nil, "%016d", i), 20_000))
		if err != nil {
			return err
		}
		digest, _, err := l.Put(f, 1<<30)
		if err != nil {
			return err
		}
		_ = f.Close()
		fmt.Println(digest)
	}
}

// TestKilledWhilePutting: whenever the process dies, what has a name is whole, and
// what was answered is there.
func TestKilledWhilePutting(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	must(t, err)
	random := testenv.Rand(t)
	rounds := 10
	if testenv.Long() {
		rounds = 100
	}
	answered := 0
	for range rounds {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "SOLO_LIBRARY_CHILD=put", "SOLO_LIBRARY_DIR="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		var digests []string
		for range 1 + random.IntN(8) {
			if !lines.Scan() {
				break
			}
			digests = append(digests, lines.Text())
		}
		// At any moment of the next one: the time is the input here.
		<-time.After(time.Duration(random.IntN(2000)) * time.Microsecond)
		must(t, cmd.Process.Kill())
		for lines.Scan() {
			digests = append(digests, lines.Text())
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the child ended by itself: %v", err)
		}
		have := stored(t, l)
		for _, d := range digests {
			if _, ok := have[d]; !ok {
				t.Errorf("%s was answered and is not there", d)
			}
			answered++
		}
	}
	if answered < rounds {
		t.Fatalf("only %d answers in %d rounds", answered, rounds)
	}
}

// TestDiskFull: the refusal names the disk, and leaves no part of the content.
func TestDiskFull(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Leaks(t, testenv.Scope{})
	dir := filepath.Join(t.TempDir(), "solo-full")
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("solo-full", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	l, err := Open(dir)
	must(t, err)
	small := put(t, l, []byte("small"))
	f := sealed(t, make([]byte, 4<<20))
	for range 3 {
		_, _, err := l.Put(f, 1<<30)
		var e *control.Error
		if !errors.As(err, &e) || e.Code != control.ResourceExhausted || e.Meta["resource"] != "disk" {
			t.Fatalf("got %v", err)
		}
	}
	if have := stored(t, l); len(have) != 1 || have[small] != 5 {
		t.Errorf("store: %v", have)
	}
	// Nothing is held back either: the rest of the disk can still be used.
	put(t, l, make([]byte, 512<<10))
}
