package launcher_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// patience is far longer than anything here takes on a loaded machine.
const patience = 60 * time.Second

// built are the programs under test, made once by TestMain.
var built struct{ launcher, init, victim string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getuid() != 0 {
			if os.Getenv("SOLO_REQUIRE") != "" {
				fmt.Fprintln(os.Stderr, "SOLO_REQUIRE is set, but these tests do not run as root")
				return 1
			}
			fmt.Fprintln(os.Stderr, "skipped: needs root")
			return 0
		}
		dir, err := os.MkdirTemp("", "solo-launcher-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		before := openDescriptors()
		code := m.Run()
		if after := openDescriptors(); code == 0 && len(after) > len(before)+2 {
			fmt.Fprintf(os.Stderr, "descriptors leaked: %d before, %d after: %v\n", len(before), len(after), after)
			return 1
		}
		return code
	}())
}

func build(dir string) error {
	built.launcher, built.init, built.victim = filepath.Join(dir, "solo-launcher"), filepath.Join(dir, "solo-init"), filepath.Join(dir, "victim")
	sources, err := filepath.Glob("../initproc/*.c")
	if err != nil {
		return err
	}
	musl := func(out string, sources ...string) *exec.Cmd {
		return exec.Command("musl-gcc", append([]string{"-static", "-Os", "-s", "-std=gnu11", "-Wall", "-Werror", "-o", out}, sources...)...)
	}
	for _, c := range []*exec.Cmd{
		exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-ldflags", "-linkmode external -extldflags -static", "-o", built.launcher, "../../cmd/solo-launcher"),
		musl(built.init, sources...),
		musl(built.victim, "testdata/victim.c"),
	} {
		c.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", c, err, out)
		}
	}
	return nil
}

func openDescriptors() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var out []string
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		out = append(out, target)
	}
	return out
}

// rig is a running launcher and the kernel's end of its connection.
type rig struct {
	t       *testing.T
	conn    *ipc.Conn
	command *exec.Cmd
	group   string
	orders  uint64
}

var rigs, idRanges atomic.Uint32

func newRig(t *testing.T) *rig {
	t.Helper()
	conn, peer, err := ipc.Pair()
	must(t, err)
	initProgram, err := os.Open(built.init)
	must(t, err)
	r := &rig{t: t, conn: conn, group: fmt.Sprintf("/solo-test-%d-%d", os.Getpid(), rigs.Add(1))}
	r.command = exec.Command(built.launcher)
	r.command.Env = []string{}
	r.command.Stderr = os.Stderr
	r.command.ExtraFiles = []*os.File{peer, initProgram}
	r.command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	must(t, r.command.Start())
	_ = peer.Close()
	_ = initProgram.Close()
	t.Cleanup(func() {
		_ = conn.Close()
		_ = r.command.Wait()
		r.removeGroups()
	})
	return r
}

func hierarchies(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*")
	must(t, err)
	return dirs
}

// removeGroups does what the kernel does with groups whose shells have ended.
func (r *rig) removeGroups() {
	r.t.Helper()
	for _, h := range hierarchies(r.t) {
		top := filepath.Join(h, r.group)
		groups := []string{top}
		entries, _ := os.ReadDir(top)
		for _, e := range entries {
			if e.IsDir() {
				groups = append([]string{filepath.Join(top, e.Name())}, groups...)
			}
		}
		for _, dir := range groups {
			deadline := time.Now().Add(patience)
			for {
				err := unix.Rmdir(dir)
				if err == nil || errors.Is(err, unix.ENOENT) {
					break
				}
				if time.Now().After(deadline) {
					r.t.Errorf("remove %s: %v", dir, err)
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

// order sends one order to the launcher and returns the answer.
func (r *rig) order(o *controlv1.LauncherOrder) (*controlv1.LauncherReport, ipc.Files) {
	r.t.Helper()
	r.orders++
	o.Id = r.orders
	must(r.t, r.conn.Send(o))
	report := &controlv1.LauncherReport{}
	must(r.t, r.conn.SetReadDeadline(time.Now().Add(patience)))
	files, _, err := r.conn.Receive(report)
	must(r.t, err)
	if report.GetId() != o.Id {
		r.t.Fatalf("answer to order %d, want %d", report.GetId(), o.Id)
	}
	return report, files
}

// shell is the kernel's view of one sandbox.
type shell struct {
	t      *testing.T
	conn   *ipc.Conn
	pidfd  *os.File
	userNS *os.File
	pid    int
	idBase uint32
	cgroup string
}

func (r *rig) prepareOrder() *controlv1.Prepare {
	n := idRanges.Add(1)
	id := fmt.Sprintf("t%d", n)
	return &controlv1.Prepare{ShellId: id, Cgroup: r.group + "/" + id, IdBase: 300_000_000 + n*65536}
}

// prepare makes a shell and receives its first message.
func (r *rig) prepare() *shell {
	r.t.Helper()
	return r.prepareAs(r.prepareOrder())
}

func (r *rig) prepareAs(p *controlv1.Prepare) *shell {
	r.t.Helper()
	report, files := r.order(&controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Prepare{Prepare: p}})
	if f := report.GetFailed(); f != nil {
		r.t.Fatalf("prepare: %v", f)
	}
	return r.adopt(p, report, files)
}

func (r *rig) adopt(p *controlv1.Prepare, report *controlv1.LauncherReport, files ipc.Files) *shell {
	r.t.Helper()
	if len(files) != 3 {
		r.t.Fatalf("prepared with %d descriptors, want 3", len(files))
	}
	conn, err := ipc.FileConn(files[0])
	must(r.t, err)
	must(r.t, conn.PassCred())
	s := &shell{t: r.t, conn: conn, pidfd: files[1], userNS: files[2], pid: int(report.GetPrepared().GetPid()), idBase: p.GetIdBase(), cgroup: p.GetCgroup()}
	r.t.Cleanup(s.end)
	if m, _, _ := s.receive(); m.GetWaiting() == nil {
		r.t.Fatalf("first message is %v, want waiting", m)
	}
	return s
}

// end kills the shell and waits until it is gone.
func (s *shell) end() {
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

// insn is struct sock_filter (linux/filter.h).
type insn struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// deny makes a filter that answers the given calls with EPERM and allows the rest.
func deny(calls ...uint32) []byte {
	prog := []insn{{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, 0}}
	for i, nr := range calls {
		prog = append(prog, insn{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, uint8(len(calls) - i), 0, nr})
	}
	prog = append(prog, insn{unix.BPF_RET | unix.BPF_K, 0, 0, 0x7fff0000}, insn{unix.BPF_RET | unix.BPF_K, 0, 0, 0x00050000 | uint32(unix.EPERM)})
	var out bytes.Buffer
	for _, i := range prog {
		_ = binary.Write(&out, binary.NativeEndian, i.code)
		out.Write([]byte{i.jt, i.jf})
		_ = binary.Write(&out, binary.NativeEndian, i.k)
	}
	return out.Bytes()
}

// lease is a Lease with its descriptors, as a test puts it together.
type lease struct {
	*controlv1.Lease
	mounts, files, descriptors []*os.File
	stdio                      [3]*os.File
}

// newLease runs the victim in a mode, from /app/victim, under a floor, a filter and
// Landlock, with /tmp.
func (s *shell) newLease(args ...string) *lease {
	s.t.Helper()
	l := &lease{Lease: &controlv1.Lease{
		Program: []byte("/app/victim"),
		Argv:    [][]byte{[]byte("victim")},
		Cwd:     []byte("/"),
		Uid:     1000, Gid: 1000,
		Floor: deny(unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_PTRACE, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_IO_URING_SETUP,
			unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT),
		Filter:     deny(unix.SYS_CHROOT),
		LandlockFs: unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE,
	}}
	for _, a := range args {
		l.Argv = append(l.Argv, []byte(a))
	}
	for _, rule := range []string{"/app", "/etc", "/proc", "/run", "/dev"} {
		l.rule(rule, unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_EXECUTE)
	}
	l.rule("/tmp", l.LandlockFs)
	l.rule("/dev/null", l.LandlockFs)
	victim, err := os.Open(built.victim)
	must(s.t, err)
	l.file("/app/victim", 0o555, victim)
	l.mount("/tmp", true, s.tmpfs())
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(s.t, err)
	l.stdio = [3]*os.File{null, null, null}
	return l
}

func (l *lease) rule(path string, access uint64) {
	l.LandlockRules = append(l.LandlockRules, &controlv1.LandlockRule{Path: []byte(path), Access: access})
}

func (l *lease) file(path string, mode uint32, content *os.File) {
	l.Files = append(l.Files, &controlv1.LeaseFile{Path: []byte(path), Mode: mode})
	l.files = append(l.files, content)
}

func (l *lease) mount(target string, directory bool, mount *os.File) {
	l.Mounts = append(l.Mounts, &controlv1.LeaseMount{Target: []byte(target), Directory: directory})
	l.mounts = append(l.mounts, mount)
}

func (l *lease) give(fs ...*os.File) {
	l.descriptors = append(l.descriptors, fs...)
	l.Descriptors += uint32(len(fs))
}

// all are the descriptors in the order of the protocol.
func (l *lease) all() []*os.File {
	out := append([]*os.File{}, l.stdio[:]...)
	out = append(append(out, l.mounts...), l.files...)
	return append(out, l.descriptors...)
}

// tmpfs makes the detached mount that becomes a service's /tmp.
func (s *shell) tmpfs() *os.File {
	s.t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	must(s.t, err)
	defer func() { _ = unix.Close(fs) }()
	owner := fmt.Sprint(s.idBase + 1000)
	for k, v := range map[string]string{"size": "1048576", "nr_inodes": "128", "mode": "1777", "uid": owner, "gid": owner} {
		must(s.t, unix.FsconfigSetString(fs, k, v))
	}
	must(s.t, unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	must(s.t, err)
	return os.NewFile(uintptr(mount), "tmpfs")
}

// bind clones a directory or file of the host as a read-only detached mount.
func (s *shell) bind(path string) *os.File {
	s.t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(s.t, err)
	must(s.t, unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}))
	return os.NewFile(uintptr(fd), path)
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
	out := s.sendLease(l)
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

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
