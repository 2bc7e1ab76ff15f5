package launcher_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// ending is an Exit without its times, codes as in waitid(2).
type ending struct{ Code, Status int32 }

const (
	exited = 1 // CLD_EXITED
	killed = 2 // CLD_KILLED
)

func (v *service) ending() ending {
	v.t.Helper()
	_, exit := v.finish()
	return ending{exit.GetSiCode(), exit.GetSiStatus()}
}

func TestHello(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("hello", "two words")
	l.Env = [][]byte{[]byte("A=1"), []byte("B=ü")}
	l.Cwd = []byte("/app")
	out, _ := s.start(l).finish()
	// The number of the main process depends on what libcontainer forked before.
	var pid int
	if _, err := fmt.Sscanf(out[max(strings.Index(out, "pid "), 0):], "pid %d", &pid); err != nil || pid < 2 {
		t.Errorf("pid %d, %v", pid, err)
	}
	want := fmt.Sprintf("arg victim\narg hello\narg two words\nenv A=1\nenv B=ü\ncwd /app\npid %d ppid 1 sid %d uid 1000 gid 1000 groups 0\n", pid, pid)
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
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

// TestDescriptors: three of its own and those granted, in their places; /proc has the
// sandbox's processes alone.
func TestDescriptors(t *testing.T) {
	k := newKernelSide(t)
	a, b := pipe(t)
	defer ipc.Files{a, b}.Close()
	l := k.leaseVictim("descriptors")
	l.Descriptors, l.ListenFDs = []*os.File{a, b}, 1
	v := k.start(l)
	out, _ := v.finish()
	got := lines(out)
	slices.Sort(got)
	want := []string{"fd 0", "fd 1", "fd 2", "fd 3", "fd 4", "entry self", "entry thread-self", "process 1"}
	for _, dir := range []string{"app", "bin", "data", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "tmp", "usr", "var"} {
		want = append(want, "root "+dir)
	}
	for _, line := range got {
		if strings.HasPrefix(line, "process ") && line != "process 1" {
			want = append(want, line) // its own, whatever the number
			break
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestListenPid: solo-init adds the one variable that only it can know.
func TestListenPid(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("hello")
	a, b := pipe(t)
	l.give(a, b)
	l.ListenFds = 1
	l.Env = [][]byte{[]byte("LISTEN_FDS=1")}
	out, _ := s.start(l).finish()
	var pid int
	_, err := fmt.Sscanf(out[strings.Index(out, "pid "):], "pid %d", &pid)
	must(t, err)
	if want := fmt.Sprintf("env LISTEN_FDS=1\nenv LISTEN_PID=%d\n", pid); !strings.Contains(out, want) {
		t.Errorf("output lacks %q:\n%s", want, out)
	}
}

func TestStdin(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("echo")
	w := l.input(t)
	v := s.start(l)
	_, err := io.WriteString(w, "hello")
	must(t, err)
	if out, _ := v.finish(); out != "hello" {
		t.Errorf("output %q", out)
	}
}

func TestEndingsAreExact(t *testing.T) {
	k := newKernelSide(t)
	for _, c := range []struct {
		args string
		want ending
	}{
		{"exit 0", ending{exited, 0}},
		{"exit 1", ending{exited, 1}},
		{"exit 125", ending{exited, 125}},
		{"exit 255", ending{exited, 255}},
		{"signal 1", ending{killed, 1}},
		{"signal 6", ending{killed, 6}},
		{"signal 9", ending{killed, 9}},
		{"signal 11", ending{killed, 11}},
		{"signal 15", ending{killed, 15}},
		{"signal 31", ending{exited, 0}}, // the floor keeps SIGSYS for filters
		{"signal 64", ending{killed, 64}},
		{"deadly", ending{killed, 31}},
	} {
		t.Run(c.args, func(t *testing.T) {
			if diff := cmp.Diff(c.want, k.start(k.leaseVictim(strings.Fields(c.args)...)).ending()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCPUTimeIsReported(t *testing.T) {
	s := newRig(t).prepare()
	_, exit := s.start(s.newLease("burn", "50")).finish()
	if used := exit.GetCpuUsec(); used < 50_000 || used > uint64(patience.Microseconds()) {
		t.Errorf("%d µs of CPU, want 50 ms or a little more", used)
	}
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		mode string
		sig  syscall.Signal
		all  bool
		want ending
	}{
		{"wait", unix.SIGTERM, false, ending{killed, 15}},
		{"wait", unix.SIGKILL, true, ending{killed, 9}},
		{"family", unix.SIGINT, false, ending{killed, 2}}, // the children end with the namespace
		{"family", unix.SIGKILL, true, ending{killed, 9}},
	} {
		t.Run(fmt.Sprint(c.mode, " ", c.sig, " ", c.all), func(t *testing.T) {
			s := newRig(t).prepare()
			v := s.start(s.newLease(c.mode))
			v.line()
			v.signal(c.sig, c.all)
			if diff := cmp.Diff(c.want, v.ending()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHostile: thousands of orphans, stopped and deaf processes do not keep pid 1 from
// its work, nor do they outlive it.
func TestHostile(t *testing.T) {
	s := newRig(t).prepare()
	v := s.start(s.newLease("hostile"))
	if diff := cmp.Diff(ending{exited, 7}, v.ending()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left := s.processes(); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

func TestNotify(t *testing.T) {
	k := newKernelSide(t)
	v := k.lease(k.leaseVictim("notify", "READY=1\nSTATUS=ü"))
	n, err := ipc.NotifyConn(v.notify)
	must(t, err)
	defer func() { _ = n.Close() }()
	v.release()
	got, err := n.Receive()
	must(t, err)
	want := ipc.Notification{Text: "READY=1\nSTATUS=ü", Cred: ipc.Cred{PID: v.pid, UID: v.idBase + 1000}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out, _ := v.finish(); out != "notify=0\n" {
		t.Errorf("output %q", out)
	}
}

// settled waits until solo-init has obeyed everything sent so far.
func (s *shell) settled() {
	s.t.Helper()
	s.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_MakeSockets{MakeSockets: &controlv1.MakeSockets{Id: 99, Family: unix.AF_INET, Type: unix.SOCK_STREAM, N: 1}}})
	m, files, _ := s.receive()
	files.Close()
	if m.GetSockets().GetId() != 99 {
		s.t.Fatalf("answer is %v", m)
	}
}

func (s *shell) mainPid(pid int) {
	s.t.Helper()
	s.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_MainPid{MainPid: &controlv1.MainPid{Pid: int32(pid)}}})
	s.settled()
}

// TestMainPid: the role moves to a child, the first process ends without ending the
// instance, and the child's end is the one reported.
func TestMainPid(t *testing.T) {
	s := newRig(t).prepare()
	v := s.start(s.newLease("daemon"))
	child, err := strconv.Atoi(v.line())
	must(t, err)
	v.mainPid(30000) // nobody
	v.mainPid(child)
	must(t, unix.Kill(int(v.pid), unix.SIGKILL))
	testenv.Eventually(t, patience, "the first process to be reaped", func() bool {
		return unix.Kill(int(v.pid), 0) == unix.ESRCH
	})
	v.settled()
	v.signal(unix.SIGUSR1, false)
	if diff := cmp.Diff(ending{exited, 9}, v.ending()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMainPidOfAnothersChild: its parent lives and alone learns the status.
func TestMainPidOfAnothersChild(t *testing.T) {
	s := newRig(t).prepare()
	v := s.start(s.newLease("daemon"))
	child, err := strconv.Atoi(v.line())
	must(t, err)
	v.mainPid(child)
	v.signal(unix.SIGUSR1, false)
	if diff := cmp.Diff(ending{0, 0}, v.ending()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestServiceOutlivesKernelAndLauncher: nothing ends a running service but itself and
// who holds its pidfd.
func TestServiceOutlivesKernelAndLauncher(t *testing.T) {
	r := newRig(t)
	s := r.prepare()
	must(t, r.command.Process.Kill())
	// The shell outlives the launcher, and is leased without it.
	testenv.Eventually(t, patience, "the launcher's end", func() bool {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, r.command.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		return err == nil && info.Signo != 0
	})
	l := s.newLease("echo")
	w := l.input(t)
	v := s.start(l)
	_ = s.conn.Close()
	_, err := io.WriteString(w, "still here")
	must(t, err)
	must(t, v.output.SetReadDeadline(time.Now().Add(patience)))
	if out, err := io.ReadAll(v.output); err != nil || string(out) != "still here" {
		t.Errorf("output %q, %v", out, err)
	}
	s.waitGone()
}
