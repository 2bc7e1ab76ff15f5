package launcher_test

import (
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// shell is the kernel's view of one sandbox.
type shell struct {
	t      *testing.T
	victim string
	conn   *ipc.Conn
	pidfd  *os.File
	userNS *os.File
	pid    int
	idBase uint32
	cgroup string
	ended  bool
}

// end kills the shell and waits until it is gone.
func (s *shell) end() {
	if s.ended {
		return
	}
	s.ended = true
	_ = unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0)
	s.waitGone()
	_ = s.conn.Close()
	_ = s.pidfd.Close()
	_ = s.userNS.Close()
}

func (s *shell) waitGone() {
	s.t.Helper()
	p := []unix.PollFd{{Fd: int32(s.pidfd.Fd()), Events: unix.POLLIN}}
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Poll(p, 1000)
		if n > 0 {
			return
		}
		if (err != nil && err != unix.EINTR) || time.Now().After(deadline) {
			s.t.Errorf("solo-init %d does not end: %v", s.pid, err)
			return
		}
	}
}

func (s *shell) receive() (*controlv1.InitReport, ipc.Files, ipc.Cred) {
	s.t.Helper()
	m, files, cred, err := s.tryReceive()
	must(s.t, err)
	return m, files, cred
}

func (s *shell) tryReceive() (*controlv1.InitReport, ipc.Files, ipc.Cred, error) {
	s.t.Helper()
	must(s.t, s.conn.SetReadDeadline(time.Now().Add(patience)))
	m := &controlv1.InitReport{}
	files, cred, err := s.conn.Receive(m)
	return m, files, cred, err
}

func (s *shell) send(o *controlv1.InitOrder, files ...*os.File) {
	s.t.Helper()
	must(s.t, s.conn.Send(o, files...))
}

// service is a leased shell.
type service struct {
	*shell
	notify *os.File
	pid    int32 // of the main process, on the host
	output *os.File
}

// lease sends the lease with stdout and stderr on a pipe and waits until the program
// is armed.
func (s *shell) lease(l *lease) *service {
	s.t.Helper()
	return s.armed(s.sendLease(l))
}

// armed takes the answers to a lease.
func (s *shell) armed(out *os.File) *service {
	s.t.Helper()
	m, files, _ := s.receive()
	if m.GetLeased() == nil || len(files) != 1 {
		s.t.Fatalf("answer to the lease is %v with %d descriptors, want leased with one", m, len(files))
	}
	s.t.Cleanup(files.Close)
	m, _, cred := s.receive()
	if m.GetArmed() == nil {
		s.t.Fatalf("after leased comes %v, want armed", m)
	}
	if cred.PID <= 1 || int(cred.PID) == s.pid {
		s.t.Fatalf("armed has credentials of pid %d, solo-init is %d", cred.PID, s.pid)
	}
	return &service{shell: s, notify: files[0], pid: cred.PID, output: out}
}

// sendLease sends the lease and closes its descriptors; what comes back is the read
// end of the program's output.
func (s *shell) sendLease(l *lease) *os.File {
	s.t.Helper()
	r, w := pipe(s.t)
	s.t.Cleanup(func() { _ = r.Close() })
	null := l.stdio[1]
	l.stdio[1], l.stdio[2] = w, w
	s.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_Lease{Lease: l.Lease}}, l.all()...)
	_ = w.Close()
	_ = null.Close()
	_ = l.stdio[0].Close()
	ipc.Files(l.mounts).Close()
	ipc.Files(l.files).Close()
	ipc.Files(l.descriptors).Close()
	return r
}

// pipe is os.Pipe with a writing end that blocks: services expect that.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	must(t, unix.SetNonblock(p[0], true)) // for deadlines
	return os.NewFile(uintptr(p[0]), "read end"), os.NewFile(uintptr(p[1]), "write end")
}

// start leases and releases.
func (s *shell) start(l *lease) *service {
	s.t.Helper()
	v := s.lease(l)
	v.release()
	return v
}

func (v *service) release() {
	v.t.Helper()
	v.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_Release{Release: &controlv1.Release{}}})
	if m, _, _ := v.receive(); m.GetStarted() == nil {
		v.t.Fatalf("answer to the release is %v, want started", m)
	}
}

// finish reads all output and the report of the end.
func (v *service) finish() (string, *controlv1.Exit) {
	v.t.Helper()
	must(v.t, v.output.SetReadDeadline(time.Now().Add(patience)))
	out, err := io.ReadAll(v.output)
	must(v.t, err)
	m, _, _ := v.receive()
	if m.GetExit() == nil {
		v.t.Fatalf("the end is reported as %v, want exit; output:\n%s", m, out)
	}
	v.waitGone()
	return string(out), m.GetExit()
}

// line reads one line of output.
func (v *service) line() string {
	v.t.Helper()
	must(v.t, v.output.SetReadDeadline(time.Now().Add(patience)))
	var out []byte
	for b := make([]byte, 1); len(out) == 0 || out[len(out)-1] != '\n'; {
		if _, err := v.output.Read(b); err != nil {
			v.t.Fatalf("output ends after %q: %v", out, err)
		}
		out = append(out, b[0])
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (v *service) signal(sig syscall.Signal, all bool) {
	v.t.Helper()
	v.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: int32(sig), All: all}}})
}
