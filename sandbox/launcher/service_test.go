package launcher_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
)

func TestHello(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("hello", "two words")
	l.Env = [][]byte{[]byte("A=1"), []byte("B=ü")}
	l.Cwd = []byte("/app")
	out, exit := s.start(l).finish()
	// The number of the main process depends on what libcontainer forked before.
	var pid int
	if _, err := fmt.Sscanf(out[strings.Index(out, "pid "):], "pid %d", &pid); err != nil || pid < 2 {
		t.Errorf("pid %d, %v", pid, err)
	}
	want := fmt.Sprintf("arg victim\narg hello\narg two words\nenv A=1\nenv B=ü\ncwd /app\npid %d ppid 1 sid %d uid 1000 gid 1000 groups 0\n", pid, pid)
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if exit.GetSiCode() != 1 || exit.GetSiStatus() != 0 {
		t.Errorf("exit is %v, want code 1 status 0", exit)
	}
}

func TestFilesAndMounts(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("cat", "/etc/app/hello.conf", "/usr/share/x/victim.c")
	content, err := ipc.SealedFile("content", []byte(strings.Repeat("line\n", 20000)))
	must(t, err)
	l.file("/etc/app/hello.conf", 0o444, content)
	l.mount("/usr/share/x", true, s.bind("testdata"))
	l.rule("/usr", unix.LANDLOCK_ACCESS_FS_READ_FILE)
	out, _ := s.start(l).finish()
	if !strings.HasPrefix(out, strings.Repeat("line\n", 20000)) || !strings.Contains(out, "victim MODE [ARG]") {
		t.Errorf("output of %d bytes lacks the file or the mount: %.200q", len(out), out)
	}
}
