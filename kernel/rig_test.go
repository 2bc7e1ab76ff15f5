package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/sandbox"
	"github.com/solo-os/solo/test/testenv"
)

// hang bounds every wait: it is for what never comes.
const hang = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a whole kernel: its own loop, store, library, connections and cgroups, with
// solod, solo-launcher, every solo-init and Solo's own services played by the test
// (stage). A sandbox is a real process in a real group; what would run in it is not.
type rig struct {
	t          *testing.T
	dir, group string
	config     *controlv1.Config
	idRanges   uint32
	userns     *os.File
	hier       *cgroups.Hierarchy
	*stage
	k     *Kernel
	solod *ipc.Conn
	ended chan struct{}
	over  chan struct{}
	// ran is how Run would have ended.
	ran error
}

var rigs atomic.Int32

// newRig prepares a kernel; boot starts it. At the end of the test nothing may be left.
func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.UserNS, testenv.Landlock)
	r := &rig{
		t: t, dir: t.TempDir(), group: fmt.Sprintf("/solo-kernel-%d-%d", os.Getpid(), rigs.Add(1)), idRanges: 64,
	}
	testenv.Leaks(t, testenv.Scope{Cgroups: []string{r.group}, Paths: []string{r.dir}})
	r.config = &controlv1.Config{PoolSize: 2, RuntimePaths: []string{filepath.Join(r.dir, "runtimes")}}
	for _, dir := range []string{"state", "runtimes", "programs"} {
		must(t, os.Mkdir(filepath.Join(r.dir, dir), 0o700))
	}
	for _, role := range roles() {
		must(t, os.WriteFile(filepath.Join(r.dir, "programs", role.name), nil, 0o755))
	}
	hier, err := cgroups.Mount()
	must(t, err)
	r.hier, err = hier.Below(r.group)
	must(t, err)
	r.userns = userNamespace(t)
	r.stage = newStage(r)
	t.Cleanup(r.destroy)
	return r
}

// userNamespace is one with ids of its own, for the id maps of volumes.
func userNamespace(t *testing.T) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 600_000_000, Size: sandbox.IDs}}
	rd, wr, err := os.Pipe()
	must(t, err)
	cmd := exec.Command("cat")
	cmd.Stdin = rd
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	must(t, cmd.Start())
	_ = rd.Close()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = wr.Close()
	_ = cmd.Wait()
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// boot does what solod, Start and Run do, but for the kernel's filter, which would hold
// the test itself. It returns when the API answers.
func (r *rig) boot() {
	r.t.Helper()
	conn, file, err := ipc.Pair()
	must(r.t, err)
	r.solod, err = ipc.FileConn(file)
	must(r.t, err)
	launcher, launcherEnd, err := ipc.Pair()
	must(r.t, err)
	boot := &controlv1.Boot{
		Names: []string{"launcher", "api.sock", "metrics.sock"}, StateDir: filepath.Join(r.dir, "state"), RunDir: filepath.Join(r.dir, "run"),
		CgroupRoot: r.group, IdBase: 600_000_000, IdRanges: r.idRanges, ProgramDir: filepath.Join(r.dir, "programs"), Config: r.config, Version: "test",
	}
	files := ipc.Files{launcherEnd}
	for range 2 {
		f, err := os.Open(os.DevNull)
		must(r.t, err)
		files = append(files, f)
	}
	r.k, err = Start(conn, boot, files)
	must(r.t, err)
	r.reset()
	go r.launch(launcher)
	k := r.k
	st, err := k.store.Load()
	must(r.t, err)
	k.record.generation = st.Generation
	k.shells.launcherFrom(k.inbox["launcher"])
	go k.receiveRoot()
	must(r.t, k.loadTokens(st))
	must(r.t, k.shells.compile())
	text, err := os.ReadFile(filepath.Join(boot.GetStateDir(), "root.token"))
	must(r.t, err)
	r.token = strings.TrimSpace(string(text))
	r.ended, r.over = make(chan struct{}), make(chan struct{})
	go r.run(k, st, r.ended, r.over)
	report := &controlv1.RootReport{}
	must(r.t, r.solod.SetReadDeadline(time.Now().Add(testenv.Scale(hang))))
	if _, _, err := r.solod.Receive(report); err != nil || report.GetRunning() == nil {
		r.t.Fatalf("the kernel did not come up: %v, %v", report, err)
	}
}

// run is the loop of Kernel.Run. When the kernel has ended it goes on for those who
// wait for the owner, until the test is over.
func (r *rig) run(k *Kernel, st store.State, ended, over chan struct{}) {
	k.recover(st)
	for !k.ending.done {
		select {
		case <-k.events.wake:
			for _, event := range k.events.take() {
				event()
			}
		case <-k.watch.Ready():
			for _, e := range k.watch.Take() {
				k.limitEvent(e)
			}
		}
	}
	r.ran = errors.Join(k.ending.err, k.store.Close(), k.watch.Close())
	close(ended)
	for {
		select {
		case <-k.events.wake:
			for _, event := range k.events.take() {
				event()
			}
		case <-over:
			return
		}
	}
}

// stop is solod's order to stop, and waits until the kernel has ended.
func (r *rig) stop() error {
	r.t.Helper()
	must(r.t, r.solod.Send(&controlv1.RootOrder{Order: &controlv1.RootOrder_Stop{Stop: &controlv1.Stop{TimeoutMs: 20_000}}}))
	return r.finished()
}

// finished waits for the end of the kernel's loop, and releases what only the end of
// its process would.
func (r *rig) finished() error {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(testenv.Scale(hang)):
		r.t.Fatalf("the kernel does not end: %s", r.dump())
	}
	r.release()
	return r.ran
}

func (r *rig) release() {
	k := r.k
	k.shells.launcher.Close()
	k.root.close()
	_ = k.root.conn.Close()
	_ = r.solod.Close()
	for _, f := range k.inbox {
		_ = f.Close()
	}
}

// crash ends the kernel as kill -9 does, as far as the processes can tell: they live
// on, and nobody listens to them. What the dead kernel holds is let go of by bury.
func (r *rig) crash() (bury func()) {
	r.t.Helper()
	k, over := r.k, r.over
	k.post(func() {
		k.ending.begun, k.ending.stage = true, -1 // nothing is started any more
		k.fail(errors.New("crash"))
	})
	_ = r.finished()
	return func() {
		r.t.Helper()
		testenv.Eventually(r.t, hang, "the end of the old sandboxes", func() bool {
			left := 0
			k.do(func() { left = len(k.shells.byID) + k.shells.orders })
			return left == 0
		})
		close(over)
	}
}

// destroy ends what a test that failed has left.
func (r *rig) destroy() {
	r.t.Helper()
	if r.k != nil {
		select {
		case <-r.ended:
		default:
			if err := r.stop(); err != nil && !r.t.Failed() {
				r.t.Errorf("the kernel ended with: %v", err)
			}
		}
		k := r.k
		left := 0
		k.do(func() { left = len(k.shells.byID) })
		if left != 0 {
			r.t.Errorf("%d sandboxes have outlived the kernel", left)
		}
		close(r.over)
	}
	r.closeAll()
	group, err := r.hier.Open(r.group)
	must(r.t, err)
	removeGroup(group)
}

// own has the owner do something, and waits for it.
func (r *rig) own(what func(k *Kernel)) { r.k.do(func() { what(r.k) }) }

// until waits for something that the owner knows.
func (r *rig) until(what string, ready func(k *Kernel) bool) {
	r.t.Helper()
	deadline := time.Now().Add(testenv.Scale(hang))
	for {
		ok := false
		r.own(func(k *Kernel) { ok = ready(k) })
		if ok {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %v for %s: %s", hang, what, r.dump())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// dump is what there is, for a test that hangs.
func (r *rig) dump() string {
	var b strings.Builder
	done := make(chan struct{})
	r.k.post(func() {
		defer close(done)
		fmt.Fprintf(&b, "ending %+v\n", *r.k.ending)
		for _, s := range r.k.services {
			fmt.Fprintf(&b, "%s %s desired=%s busy=%v again=%v deleting=%v durable=%v waiters=%d\n", s.name, s.state(), s.rec.GetDesired(), s.busy, s.again, s.deleting, s.durable, len(s.waiters))
			for i, sl := range s.slots {
				if sl.inst != nil {
					fmt.Fprintf(&b, "  %d: %s phase=%d cause=%q failure=%q gone=%v\n", i, sl.inst.id, sl.inst.phase, sl.inst.cause, sl.inst.failure, sl.inst.gone)
				} else {
					fmt.Fprintf(&b, "  %d: timer=%v\n", i, sl.timer != nil)
				}
			}
		}
		fmt.Fprintf(&b, "shells=%d idle=%d waiting=%d orders=%d requests=%d following=%d reserved=%d pending=%d flying=%v\n", len(r.k.shells.byID), len(r.k.shells.idle),
			len(r.k.shells.waiting), r.k.shells.orders, len(r.k.api.open), len(r.k.api.following), len(r.k.reserved), r.k.record.pending, r.k.record.flying)
	})
	select {
	case <-done:
		return b.String()
	case <-time.After(10 * time.Second):
		return "the owner does not answer"
	}
}
