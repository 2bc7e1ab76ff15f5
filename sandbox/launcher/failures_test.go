package launcher_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// memfd is a sealed file with this content.
func memfd(t *testing.T, content []byte) *os.File {
	t.Helper()
	f, err := ipc.SealedFile("content", content)
	must(t, err)
	return f
}

// elfFor is a program's ELF header for another machine (elf(5)).
func elfFor(machine byte) []byte {
	h := make([]byte, 128)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[20], h[52], h[54] = 2, machine, 1, 64, 56
	return h
}

// TestLeaseFailuresNameTheStep: nothing of the service runs, the step and the errno
// are told, and the shell ends.
func TestLeaseFailuresNameTheStep(t *testing.T) {
	r := newRig(t)
	const kill = 0x80000000 // SECCOMP_RET_KILL_PROCESS
	for _, c := range []struct {
		name    string
		change  func(*testing.T, *shell, *lease)
		release bool // fails only when released
		step    string
		errno   unix.Errno
	}{
		{"program missing", func(_ *testing.T, _ *shell, l *lease) { l.Program = []byte("/app/none") }, false, "open /app/none", unix.ENOENT},
		{"program is a script", func(t *testing.T, _ *shell, l *lease) {
			l.Program = []byte("/app/script")
			l.file("/app/script", 0o555, memfd(t, []byte("#!/app/victim\n")))
		}, true, "execveat /app/script", unix.ENOENT},
		{"program for another machine", func(t *testing.T, _ *shell, l *lease) {
			l.Program = []byte("/app/arm")
			l.file("/app/arm", 0o555, memfd(t, elfFor(183)))
		}, true, "execveat /app/arm", unix.ENOEXEC},
		{"program not executable", func(t *testing.T, _ *shell, l *lease) {
			l.Program = []byte("/app/text")
			l.file("/app/text", 0o444, memfd(t, []byte("text")))
		}, true, "execveat /app/text", unix.EACCES},
		{"program is a directory", func(_ *testing.T, _ *shell, l *lease) { l.Program = []byte("/app") }, true, "execveat /app", unix.EACCES},
		{"relative mount target", func(_ *testing.T, s *shell, l *lease) { l.mount("usr/x", true, s.bind("testdata")) }, false, "mount point usr/x", unix.EINVAL},
		{"mount target with dots", func(_ *testing.T, s *shell, l *lease) { l.mount("/usr/../x", true, s.bind("testdata")) }, false, "mount point /usr/../x", unix.EINVAL},
		{"mount target below a file", func(_ *testing.T, s *shell, l *lease) { l.mount("/etc/passwd/x", true, s.bind("testdata")) }, false, "mount point /etc/passwd/x", unix.ENOTDIR},
		{"mount target is the root", func(_ *testing.T, s *shell, l *lease) { l.mount("/", true, s.bind("testdata")) }, false, "mount point /", unix.EINVAL},
		{"file on a directory", func(_ *testing.T, s *shell, l *lease) { l.mount("/usr/share", false, s.bind("testdata/victim.c")) }, false, "move_mount /usr/share", unix.EINVAL},
		{"mount target through a link of a service", func(t *testing.T, s *shell, l *lease) {
			dir := t.TempDir()
			must(t, os.Symlink("/usr", dir+"/link"))
			l.mount("/data", true, s.bind(dir))
			l.mount("/data/link/x", true, s.bind("testdata"))
		}, false, "mount point /data/link/x", unix.ELOOP},
		{"mount that is none", func(t *testing.T, _ *shell, l *lease) { l.mount("/usr/x", true, memfd(t, nil)) }, false, "move_mount /usr/x", unix.EINVAL},
		{"file too large", func(t *testing.T, _ *shell, l *lease) { l.file("/app/big", 0o444, memfd(t, make([]byte, 32<<20))) }, false, "file /app/big", unix.ENOSPC},
		{"file on a directory of its own", func(t *testing.T, _ *shell, l *lease) { l.file("/app", 0o444, memfd(t, nil)) }, false, "file /app", unix.EISDIR},
		{"file through a link", func(t *testing.T, _ *shell, l *lease) { l.file("/bin", 0o444, memfd(t, nil)) }, false, "file /bin", unix.ELOOP},
		{"file from a device", func(t *testing.T, _ *shell, l *lease) {
			f, err := os.Open("/dev/null")
			must(t, err)
			l.file("/app/x", 0o444, f)
		}, false, "file /app/x", unix.EINVAL},
		{"directory below a file", func(_ *testing.T, _ *shell, l *lease) { l.Directories = [][]byte{[]byte("/etc/passwd/x")} }, false, "directory /etc/passwd/x", unix.ENOTDIR},
		{"working directory missing", func(_ *testing.T, _ *shell, l *lease) { l.Cwd = []byte("/none") }, false, "chdir /none", unix.ENOENT},
		{"limit raised", func(_ *testing.T, _ *shell, l *lease) {
			l.Rlimits = []*controlv1.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 1 << 20, Hard: 1 << 20}}
		}, false, "setrlimit 7", unix.EPERM},
		{"Landlock rule for nothing", func(_ *testing.T, _ *shell, l *lease) { l.rule("/none", 1) }, false, "landlock /none", unix.ENOENT},
		{"Landlock rights unknown", func(_ *testing.T, _ *shell, l *lease) { l.LandlockFs = 1 << 60 }, false, "landlock", unix.EINVAL},
		{"floor is no program", func(_ *testing.T, _ *shell, l *lease) { l.Floor = make([]byte, 8) }, false, "floor filter", unix.EINVAL},
		{"filter is no program", func(_ *testing.T, _ *shell, l *lease) { l.Filter = make([]byte, 8) }, false, "service filter", unix.EINVAL},
		{"filter kills at once", func(_ *testing.T, _ *shell, l *lease) { l.Filter = encode(insn{unix.BPF_RET, 0, 0, kill}) }, false, "start: killed by its seccomp filter", unix.EPROTO},
		{"descriptors missing", func(_ *testing.T, _ *shell, l *lease) { l.Descriptors = 2 }, false, "lease descriptors", unix.EPROTO},
		{"uid 0", func(_ *testing.T, _ *shell, l *lease) { l.Uid = 0 }, false, "malformed order", unix.EPROTO},
		{"gid 0", func(_ *testing.T, _ *shell, l *lease) { l.Gid = 0 }, false, "malformed order", unix.EPROTO},
		{"no floor", func(_ *testing.T, _ *shell, l *lease) { l.Floor = nil }, false, "malformed order", unix.EPROTO},
		{"no filter", func(_ *testing.T, _ *shell, l *lease) { l.Filter = nil }, false, "malformed order", unix.EPROTO},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := r.prepare()
			s.t = t
			l := s.newLease("hello")
			c.change(t, s, l)
			out := s.sendLease(l)
			m := s.untilFailed(c.release)
			want := &controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: c.step, Errno: int32(c.errno)}}}
			if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			s.waitGone()
			if got, err := io.ReadAll(out); err != nil || len(got) > 0 {
				t.Errorf("the program ran: %q, %v", got, err)
			}
		})
	}
}

// untilFailed passes over what comes before a failure.
func (s *shell) untilFailed(release bool) *controlv1.InitReport {
	s.t.Helper()
	for {
		m, files, _ := s.receive()
		files.Close()
		switch m.GetReport().(type) {
		case *controlv1.InitReport_Leased:
		case *controlv1.InitReport_Armed:
			if !release {
				s.t.Fatal("the program is armed")
			}
			s.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_Release{Release: &controlv1.Release{}}})
		default:
			return m
		}
	}
}

// TestKernelGone: what never ran ends with the kernel's end of the connection.
func TestKernelGone(t *testing.T) {
	r := newRig(t)
	waiting := r.prepare()
	_ = waiting.conn.Close()
	waiting.waitGone()
	armed := r.prepare()
	v := armed.lease(armed.newLease("hello"))
	_ = armed.conn.Close()
	armed.waitGone()
	if out, err := io.ReadAll(v.output); err != nil || len(out) > 0 {
		t.Errorf("the program ran: %q, %v", out, err)
	}
}

// TestLongStepNamesAreCut: a step's text is bounded, and printable whatever the path.
func TestLongStepNamesAreCut(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("hello")
	l.Program = []byte("/" + strings.Repeat("x", 250) + "/\x01\xff")
	_ = s.sendLease(l)
	m := s.untilFailed(false)
	if f := m.GetFailed(); !strings.HasPrefix(f.GetStep(), "open /xxx") || f.GetErrno() != int32(unix.ENOENT) {
		t.Errorf("%v", m)
	}
	s.waitGone()
}
