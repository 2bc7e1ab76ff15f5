package launcher_test

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
)

// try is one line of the victim: what it tried and the errno.
func try(what string, errno unix.Errno) string { return what + "=" + strconv.Itoa(int(errno)) }

// forbidden is what each attempt of `victim forbidden` ends in.
var forbidden = []string{
	// Another uid, not dumpable, in another Landlock domain, and denied calls.
	try("open /proc/1/mem", unix.EACCES),
	try("open /proc/1/root/", unix.EACCES),
	try("open /proc/1/fd", unix.EACCES),
	try("open /proc/1/environ", unix.EACCES),
	try("open /proc/1/ns/mnt", unix.EACCES),
	try("ptrace 1", unix.EPERM),
	try("process_vm_readv 1", unix.EPERM),
	try("kill 1", unix.EPERM),
	try("prlimit 1", unix.EPERM),
	// A read-only root, its files not the service's, and what is not there at all.
	try("write /", unix.EROFS),
	try("write /etc/passwd", unix.EACCES),
	try("write /app/victim", unix.EACCES),
	try("write /dev", unix.EROFS),
	try("unlink /run/notify", unix.EROFS),
	try("open /proc/sys", unix.ENOENT),
	try("open /proc/meminfo", unix.ENOENT),
	try("open /sys", unix.ENOENT),
	try("open /dev/kmsg", unix.ENOENT),
	try("mknod", unix.EACCES),
	try("chroot", unix.EPERM),
	try("pivot_root", unix.EPERM),
	try("open_by_handle_at", unix.EPERM),
	try("mount", unix.EPERM),
	try("remount /", unix.EPERM),
	try("umount /proc", unix.EPERM),
	try("fsopen", unix.EPERM),
	try("open_tree", unix.EPERM),
	try("clone user", unix.EPERM),
	try("unshare user", unix.EPERM),
	try("unshare net", unix.EPERM),
	try("clone3", unix.ENOSYS),
	try("setns", unix.EPERM),
	try("setuid 0", unix.EPERM),
	try("setgid 0", unix.EPERM),
	try("setgroups", unix.EPERM),
	try("sethostname", unix.EPERM),
	try("raise nofile", unix.EPERM),
	try("raise priority", unix.EACCES),
	try("bpf", unix.EPERM),
	try("io_uring_setup", unix.EPERM),
	try("userfaultfd", unix.EPERM),
	try("perf_event_open", unix.EPERM),
	try("keyctl", unix.EPERM),
	try("personality", unix.EPERM),
	try("mmap writable and executable", unix.EPERM),
	try("netlink socket", unix.EAFNOSUPPORT),
	try("packet socket", unix.EAFNOSUPPORT),
	try("raw socket", unix.EPERM),
	try("TIOCSTI", unix.EPERM),
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func TestForbidden(t *testing.T) {
	k := newKernelSide(t)
	out, _ := k.start(k.leaseVictim("forbidden")).finish()
	if diff := cmp.Diff(forbidden, lines(out)); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

// allowAll is a filter that denies nothing.
func allowAll() []byte { return deny() }

// TestEachLayerHolds takes protections out and looks for the attempts that then
// succeed, or are stopped by the next layer: so each is seen to be what stopped them.
func TestEachLayerHolds(t *testing.T) {
	k := newKernelSide(t)
	for _, c := range []struct {
		name          string
		floor, filter []byte
		want          []string
	}{
		{"neither filter", allowAll(), allowAll(), []string{
			try("unshare user", 0), try("clone user", 0), try("clone3", unix.EINVAL), try("netlink socket", 0),
			try("keyctl", unix.EINVAL), try("io_uring_setup", unix.EFAULT), try("mmap writable and executable", 0),
		}},
		{"floor alone", k.floor, allowAll(), []string{
			try("unshare user", unix.EPERM), try("clone user", unix.EPERM), try("clone3", unix.ENOSYS), try("netlink socket", unix.EAFNOSUPPORT),
			try("keyctl", unix.EPERM), try("io_uring_setup", unix.EPERM), try("mmap writable and executable", 0),
		}},
		{"default alone", allowAll(), k.filters["default"], []string{
			try("unshare user", unix.EPERM), try("clone user", unix.EPERM), try("clone3", unix.ENOSYS), try("netlink socket", unix.EAFNOSUPPORT),
			try("keyctl", unix.EPERM), try("io_uring_setup", unix.EPERM), try("mmap writable and executable", unix.EPERM),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := k.leaseVictim("forbidden")
			l.Floor, l.Filter = c.floor, c.filter
			out, _ := k.start(l).finish()
			got := lines(out)
			for _, want := range c.want {
				if !slices.Contains(got, want) {
					t.Errorf("lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

// TestInitIsNotDumpable opens solo-init's memory with all that solo-init itself has:
// only PR_SET_DUMPABLE stands in the way, and a shell that waits does not have it yet.
func TestInitIsNotDumpable(t *testing.T) {
	k := newKernelSide(t)
	peek := func(pid int) []string {
		out, err := exec.Command(k.victim, "peek", strconv.Itoa(pid)).Output()
		must(t, err)
		return lines(string(out))
	}
	entered := []string{try("setns", 0), try("setgid", 0), try("setuid", 0), try("capset", 0)}
	_, waiting := k.prepare()
	if diff := cmp.Diff(append(entered, try("open mem", 0)), peek(waiting.pid)); diff != "" {
		t.Errorf("before the lease (-want +got):\n%s", diff)
	}
	v := k.start(k.leaseVictim("wait"))
	v.line()
	if diff := cmp.Diff(append(entered, try("open mem", unix.EACCES)), peek(v.shell.pid)); diff != "" {
		t.Errorf("after the lease (-want +got):\n%s", diff)
	}
}

// TestLandlockHolds runs the victim as uid 1000 with everything else as it is, and
// Landlock off: making a device node then fails for want of a capability only.
func TestLandlockHolds(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name     string
		landlock bool
		want     []string
	}{
		{"on", true, []string{try("read /etc/passwd", 0), try("read /usr/share/x/victim.c", unix.EACCES)}},
		{"off", false, []string{try("read /etc/passwd", 0), try("read /usr/share/x/victim.c", 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := r.prepare()
			l := s.newLease("read", "/etc/passwd", "/usr/share/x/victim.c")
			l.mount("/usr/share/x", true, s.bind("testdata"))
			if !c.landlock {
				l.LandlockFs, l.LandlockRules = 0, nil
			}
			out, _ := s.start(l).finish()
			if diff := cmp.Diff(c.want, lines(out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLandlockHoldsProbes: they have what the service has.
func TestLandlockHoldsProbes(t *testing.T) {
	s := newRig(t).prepare()
	l := s.newLease("wait")
	l.mount("/usr/share/x", true, s.bind("testdata"))
	v := s.start(l)
	for i, c := range []struct {
		path string
		want unix.Errno
	}{{"/etc/passwd", 0}, {"/usr/share/x/victim.c", unix.EACCES}} {
		v.send(execOrder(uint64(i), patience, "/app/victim", "readable", c.path))
		m, _, _ := v.receive()
		if p := m.GetProbeResult(); p.GetSiCode() != exited || p.GetSiStatus() != int32(c.want) {
			t.Errorf("%s: %v, want %d", c.path, m, c.want)
		}
	}
}

// TestTmpIsNoexec: a program written to /tmp does not run, and would without the flag.
// (Landlock, which forbids it too, is off.)
func TestTmpIsNoexec(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		attr int
		want unix.Errno
	}{
		{unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, unix.EACCES},
		{unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, unix.ENOEXEC}, // it is empty
	} {
		s := r.prepare()
		l := s.newLease("tmp")
		_ = l.mounts[0].Close()
		l.mounts[0] = s.tmpfs(c.attr)
		l.LandlockFs, l.LandlockRules = 0, nil
		out, _ := s.start(l).finish()
		if diff := cmp.Diff([]string{try("write /tmp", 0), try("exec /tmp", c.want)}, lines(out)); diff != "" {
			t.Errorf("flags %#x (-want +got):\n%s", c.attr, diff)
		}
	}
	k := newKernelSide(t)
	out, _ := k.start(k.leaseVictim("tmp")).finish()
	if diff := cmp.Diff([]string{try("write /tmp", 0), try("exec /tmp", unix.EACCES)}, lines(out)); diff != "" {
		t.Errorf("a service's (-want +got):\n%s", diff)
	}
}
