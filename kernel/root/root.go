// Package root is solod: the first process. It is the one_for_one supervisor of
// solo-launcher and solo-kernel, the subreaper of everything below them, and the
// keeper of the listeners; nothing else.
//
//	solod ── control connection (RootOrder, RootReport) ── solo-kernel
//	  └─ makes a socket pair ── solo-launcher's end, solo-kernel's end
//
// Trust: runs as root and parses nothing that a service can influence: its flags, the
// operator's config, and the kernel's handful of messages. One goroutine owns all
// state; those that wait for a child or read the kernel's connection send to it.
//
// When the kernel ends, the launcher is ended too and both are started anew: a new
// kernel recovers as after any crash. When the launcher ends, only it is.
package root

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/supervision"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	stopTimeout   = 30 * time.Second // for services, when a signal ends solod
	stopGrace     = 15 * time.Second // for the kernel beyond that
	launcherGrace = 5 * time.Second  // for the launcher after its connection
	clearTimeout  = 30 * time.Second // for the end of all that is in the groups
)

// spec is the root supervisor's: more than 3 restarts of a child within 60 s end it.
var spec = supervision.Spec{Restart: supervision.Permanent, Intensity: 3, Period: 60 * time.Second}

// child is one of the two programs that solod supervises.
type child struct {
	name    string
	program *os.File
	unshare uintptr
	group   *cgroups.Group

	proc    *os.Process   // nil while it does not run
	joined  chan struct{} // closed when it sits in its group, or was killed
	since   time.Time
	history supervision.State
}

// root is the state of a running solod.
type root struct {
	Options
	seed             [sha256.Size]byte // of the state directory
	boot             *controlv1.Boot
	files            ipc.Files // of boot, after the launcher's connection
	init, null       *os.File
	oom              []byte // what was in oom_score_adj
	launcher, kernel child
	conn             *ipc.Conn      // to the kernel; nil when that is gone or going
	top, self, made  *cgroups.Group // made is the topmost that is no unit's
	before           *cgroups.Placement
	begun, due       time.Time   // due is when what does not run is started
	events           chan func() // from whoever waits for something, for the owner

	owned, ready, stopping, signaled, done bool
	status                                 int
}

// Run is solod's life; it answers the exit status. The options must be valid.
func Run(o Options) int {
	r := &root{
		Options: o, seed: sha256.Sum256([]byte(o.StateDir)), begun: time.Now(), events: make(chan func()),
		boot: &controlv1.Boot{Names: []string{"launcher"}, StateDir: o.StateDir, RunDir: o.RunDir, Version: o.Version},
	}
	signals, deaths := make(chan os.Signal, 4), make(chan os.Signal, 1)
	// A handled SIGPIPE makes a lost terminal an error of write, and is not inherited.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Notify(deaths, unix.SIGCHLD)
	for _, step := range []func() error{r.prepare, r.readConfig, r.openDirs, r.openGroups, r.enterGroup, r.claimIDs, r.openListeners, r.load, r.start} {
		if err := step(); err != nil {
			r.fail(err)
			break
		}
	}
	for !r.done {
		select {
		case s := <-signals:
			if r.signaled {
				r.fail(fmt.Errorf("second signal (%v): everything is ended at once", s))
			}
			r.signaled = true
			r.stop(stopTimeout)
		case <-deaths:
		case event := <-r.events:
			event()
		}
		reap(&r.launcher, &r.kernel)
	}
	r.finish()
	return r.status
}

// prepare sets up this process.
func (r *root) prepare() error {
	_ = unix.Umask(0o022)
	exe, err := os.Executable()
	r.boot.ProgramDir = filepath.Dir(exe)
	// The last to be killed for want of memory, where that is permitted; not its children.
	r.oom, _ = os.ReadFile("/proc/self/oom_score_adj")
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0)
	// What was inherited goes no further (close_range(2)).
	err2 := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	return cmp.Or(err, err2, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

func (r *root) openListeners() error {
	return cmp.Or(r.listenUnix("api.sock", 0o111), r.listenTCP(), r.listenUnix("metrics.sock", 0o177))
}

// start brings up a launcher, and a kernel if there is none.
func (r *root) start() error {
	far, link, err := ipc.RawPair()
	if err != nil {
		return err
	}
	defer ipc.Files{far, link}.Close()
	if err := r.run(&r.launcher, far, r.init); err != nil {
		return err
	}
	if r.kernel.proc != nil {
		<-r.launcher.joined
		r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_NewLauncher{NewLauncher: &controlv1.NewLauncher{}}}, link)
		return nil
	}
	conn, end, err := ipc.Pair()
	if err != nil {
		return err
	}
	defer func() { _ = end.Close() }()
	if err := r.run(&r.kernel, end); err != nil {
		_ = conn.Close()
		return err
	}
	r.conn = conn
	go r.receive(conn)
	<-r.launcher.joined // both at once: a move waits for all processors of the host
	<-r.kernel.joined
	r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_Boot{Boot: r.boot}}, append(ipc.Files{link}, r.files...)...)
	return nil
}

// run starts a child in its group, with files from descriptor 3 on. No Pdeathsig: it
// follows the thread that forks, not the process. A session of its own keeps the
// terminal's signals from it.
func (r *root) run(c *child, files ...*os.File) error {
	// By our own table of descriptors: in the child's the numbers change before exec.
	program := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.program.Fd())
	proc, err := os.StartProcess(program, []string{c.name}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: append([]*os.File{r.null, os.Stderr, os.Stderr}, files...),
		Sys: &syscall.SysProcAttr{Setsid: true, Unshareflags: c.unshare},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", proc.Pid), r.oom, 0)
	c.proc, c.since, c.joined = proc, time.Now(), make(chan struct{})
	go func() {
		// Until it is waited for, its pid is its own.
		if err := cmp.Or(c.group.Create(), c.group.AddProc(proc.Pid)); err != nil {
			r.say("%s: %v", c.name, err)
			_ = proc.Kill()
		}
		close(c.joined)
		state, _ := proc.Wait()
		r.events <- func() { r.exited(c, state) }
	}()
	return nil
}

// kill ends the child and what it has forked.
func (c *child) kill() { _ = c.group.Kill() }

// reap collects orphans of sandboxes, which become children of the subreaper, but no
// child in known: those are waited for by pid. When one of known is the first that
// has ended, it hides the others: reap again after its exit was received.
func reap(known ...*child) {
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo == 0 {
			return
		}
		// si_pid comes first in the union, which is aligned to 8 bytes (sigaction(2)).
		pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		for _, c := range known {
			if c.proc != nil && c.proc.Pid == pid {
				return
			}
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// order sends to the kernel, which is ended if it does not read.
func (r *root) order(m *controlv1.RootOrder, files ...*os.File) {
	if err := r.conn.TrySend(m, files...); err != nil {
		r.say("order to solo-kernel: %v", err)
		r.kernel.kill()
	}
}

// receive reads a kernel's reports until its connection ends.
func (r *root) receive(conn *ipc.Conn) {
	for err := error(nil); err == nil; {
		var files ipc.Files
		m := &controlv1.RootReport{}
		files, _, err = conn.Receive(m)
		files.Close()
		r.events <- func() { r.reported(conn, m, err) }
	}
	_ = conn.Close()
}

func (r *root) reported(conn *ipc.Conn, m *controlv1.RootReport, err error) {
	if r.done || conn != r.conn { // of an earlier kernel
		return
	}
	switch rep := m.GetReport().(type) {
	case *controlv1.RootReport_Running:
		if !r.ready {
			r.ready = true
			fmt.Printf("solod: ready: api unix://%s/api.sock, tcp %s, state %s, cgroup %s\n",
				r.RunDir, cmp.Or(r.Listen, "none"), r.StateDir, r.boot.GetCgroupRoot())
			notify("READY=1")
		}
	case *controlv1.RootReport_ShutdownWanted:
		r.stop(time.Duration(rep.ShutdownWanted.GetTimeoutMs()) * time.Millisecond)
	case *controlv1.RootReport_BootFailed:
		r.fail(errors.New(rep.BootFailed.GetMessage()))
	case nil:
		if !r.stopping {
			r.say("connection to solo-kernel: %v", err)
			r.conn = nil
			r.kernel.kill()
		}
	}
}

// stop asks the kernel to stop everything. Asked again, it only limits the time anew.
func (r *root) stop(timeout time.Duration) {
	time.AfterFunc(timeout+cmp.Or(r.grace, stopGrace), func() {
		r.events <- func() { r.fail(errors.New("solo-kernel did not stop in time: everything is ended")) }
	})
	if r.stopping {
		return
	}
	r.stopping = true
	notify("STOPPING=1")
	if r.conn == nil {
		r.done = true
		return
	}
	r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_Stop{Stop: &controlv1.Stop{TimeoutMs: uint32(timeout.Milliseconds())}}})
}

// exited takes the end of a child.
func (r *root) exited(c *child, state *os.ProcessState) {
	c.proc = nil
	normal := state != nil && state.Success()
	switch {
	case r.done:
	case r.stopping && c == &r.kernel && !normal:
		r.fail(fmt.Errorf("solo-kernel, while it stopped: %v", state))
	case r.stopping:
		r.done = c == &r.kernel
	case c == &r.launcher && r.conn == nil:
		// It went with its kernel, whose restart waits for this.
		r.restart()
	default:
		r.say("%s: %v", c.name, state)
		r.schedule(c, supervision.Exit{Normal: normal, Up: time.Since(c.since)})
	}
}

// schedule decides when a child that has ended is started again, and ends what it had
// forked. The kernel's end is the launcher's too.
func (r *root) schedule(c *child, x supervision.Exit) {
	c.kill()
	if c == &r.kernel {
		r.conn = nil
		r.launcher.kill()
	}
	var d supervision.Decision
	c.history, d = supervision.Step(c.history, spec, time.Since(r.begun), x, rand.Float64())
	if d.Action != supervision.Again {
		r.fail(fmt.Errorf("%s ended more than %d times within %v: see the lines above", c.name, spec.Intensity, spec.Period))
		return
	}
	r.due = time.Now().Add(d.Delay)
	time.AfterFunc(d.Delay, func() { r.events <- r.restart })
}

// restart starts what does not run and is due. A launcher whose kernel is gone must be
// gone too: the next kernel sweeps the groups that it works in.
func (r *root) restart() {
	going := r.launcher.proc != nil || r.kernel.proc != nil && r.conn == nil
	if r.done || r.stopping || going || time.Now().Before(r.due) {
		return
	}
	if err := r.start(); err != nil {
		r.say("%v", err)
		r.schedule(&r.launcher, supervision.Exit{})
	}
}

// finish ends what still runs and gives back what prepare took.
func (r *root) finish() {
	r.await(&r.kernel, 0)
	r.await(&r.launcher, launcherGrace)
	if r.before != nil {
		if err := errors.Join(r.clearGroups(), r.before.Restore(), r.made.Remove()); err != nil {
			r.fail(fmt.Errorf("cleaning up: %w", err))
		}
	}
	reap()
	if r.owned {
		r.removeSocket("api.sock")
		r.removeSocket("metrics.sock")
		_ = os.Remove(filepath.Join(r.RunDir, "lock"))
	}
}

// await waits until a child has ended, and ends it after the grace.
func (r *root) await(c *child, grace time.Duration) {
	late := time.After(grace)
	for c.proc != nil {
		select {
		case event := <-r.events:
			event()
		case <-late:
			c.kill()
		}
	}
}

// fail ends solod for a reason.
func (r *root) fail(err error) {
	r.say("%v", err)
	r.done, r.status = true, 1
}

// say writes one line to the operator; any goroutine may call it.
func (r *root) say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, "solod: "+strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; "))
}
