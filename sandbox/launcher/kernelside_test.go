package launcher_test

import (
	"os"
	"testing"

	"github.com/solo-os/solo/sandbox"
)

// kernelSide drives the launcher with the kernel's own code, package sandbox, and the
// profiles that Solo ships: what runs in it is confined as in production.
type kernelSide struct {
	*rig
	launcher *sandbox.Launcher
	floor    []byte
	filters  map[string][]byte
}

func newKernelSide(t *testing.T) *kernelSide {
	t.Helper()
	r := newRig(t)
	k := &kernelSide{rig: r, filters: map[string][]byte{"default": r.compile("default")}, floor: r.compile("floor")}
	ended := make(chan struct{})
	k.launcher = sandbox.NewLauncher(r.conn, func() { close(ended) })
	t.Cleanup(func() {
		k.launcher.Close()
		<-ended
	})
	return k
}

// prepare makes a shell and answers it twice: as the kernel has it, and for receiving.
func (k *kernelSide) prepare() (*sandbox.Shell, *shell) {
	k.t.Helper()
	made, err := k.launcher.Prepare(k.t.Context(), k.prepareOrder())
	must(k.t, err)
	s := &shell{t: k.t, victim: k.victim, conn: made.Control, pidfd: made.PidFD, userNS: made.UserNS, pid: made.PID, idBase: made.IDBase, cgroup: made.Cgroup}
	k.t.Cleanup(s.end)
	if m, _, _ := s.receive(); m.GetWaiting() == nil {
		k.t.Fatalf("first message is %v, want waiting", m)
	}
	return made, s
}

// lease leases a shell and waits until the program is armed.
func (k *kernelSide) lease(l sandbox.Lease) *service {
	k.t.Helper()
	made, s := k.prepare()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(k.t, err)
	defer func() { _ = null.Close() }()
	r, w := pipe(k.t)
	k.t.Cleanup(func() { _ = r.Close() })
	defer func() { _ = w.Close() }()
	l.Stdio = [3]*os.File{null, w, w}
	if l.Floor == nil {
		l.Floor = k.floor
	}
	if l.Filter == nil {
		l.Filter = k.filters["default"]
	}
	if l.TmpBytes == 0 {
		l.TmpBytes = 1 << 20
	}
	if l.OpenFiles == 0 {
		l.OpenFiles = 256
	}
	must(k.t, made.Lease(l))
	return s.armed(r)
}

func (k *kernelSide) start(l sandbox.Lease) *service {
	k.t.Helper()
	v := k.lease(l)
	v.release()
	return v
}

// leaseVictim is a lease of the victim as an uploaded binary.
func (k *kernelSide) leaseVictim(args ...string) sandbox.Lease {
	k.t.Helper()
	f, err := os.Open(k.victim)
	must(k.t, err)
	k.t.Cleanup(func() { _ = f.Close() })
	return sandbox.Lease{
		Program: "/app/victim",
		Argv:    append([]string{"victim"}, args...),
		Files:   []sandbox.File{{Path: "/app/victim", Mode: 0o555, Content: f}},
	}
}
