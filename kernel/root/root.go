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
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/supervision"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// stopTimeout is what services get to stop when a signal asks for it.
	stopTimeout = 30 * time.Second
	// stopGrace is what the kernel gets beyond that.
	stopGrace = 15 * time.Second
	// launcherGrace is what the launcher gets to end after its connection has.
	launcherGrace = 5 * time.Second
)

// spec is the root supervisor's: more than 3 restarts of a child within 60 s end it.
var spec = supervision.Spec{Restart: supervision.Permanent, Intensity: 3, Period: 60 * time.Second}

// root is the state of a running solod.
type root struct {
	options Options
	boot    *controlv1.Boot
	tcp     string
	// kept are the descriptors that every kernel gets after "launcher".
	kept ipc.Files
	init *os.File
	oom  []byte

	groups           *groups
	launcher, kernel *child
	conn             *ipc.Conn // to the kernel
	begun            time.Time

	signals, deaths chan os.Signal
	exits           chan exit
	reports         chan report
	// again fires when a child may be restarted; deadline when a stopping kernel
	// has had its time.
	again    *time.Timer
	due      time.Time
	deadline <-chan time.Time
	// running says that the run directory is ours.
	running  bool
	ready    bool
	stopping bool
	signaled bool
	// done ends the loop; status is then the exit status.
	done   bool
	status int
}

// report is what the kernel on conn says; err is the end of the connection.
type report struct {
	conn *ipc.Conn
	m    *controlv1.RootReport
	err  error
}

// Run is solod's life; it answers the exit status. Options must be valid.
func Run(o Options) int {
	r := &root{
		options: o, begun: time.Now(), again: time.NewTimer(0),
		signals: make(chan os.Signal, 4), deaths: make(chan os.Signal, 1),
		exits: make(chan exit, 4), reports: make(chan report),
	}
	r.again.Stop()
	// A handled SIGPIPE makes a lost terminal an error of write, and is not inherited.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	signal.Notify(r.signals, unix.SIGTERM, unix.SIGINT)
	signal.Notify(r.deaths, unix.SIGCHLD)
	if err := r.prepare(); err != nil {
		r.fail(err)
	} else if err := r.start(); err != nil {
		r.fail(err)
	}
	for !r.done {
		r.step()
	}
	r.finish()
	return r.status
}

// prepare takes what this run needs of the host. What it took when it fails, finish
// gives back.
func (r *root) prepare() error {
	o := r.options
	if os.Geteuid() != 0 {
		return errors.New("not root: start it as root, or with sudo")
	}
	_ = unix.Umask(0o022)
	config, err := readConfig(o.Config)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the directory of the programs: %w", err)
	}
	if err := openDir(o.StateDir, 0o700, "--state-dir"); err != nil {
		return err
	}
	if err := openDir(o.RunDir, 0o755, "--run-dir"); err != nil {
		return err
	}
	r.running = true
	if o.Listen != "" {
		if err := checkCertificates(o.StateDir); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	// The last to be killed for want of memory, where that is permitted; not its children.
	const score = "/proc/self/oom_score_adj"
	r.oom, _ = os.ReadFile(score)
	_ = os.WriteFile(score, []byte("-900"), 0)

	seed := sha256.Sum256([]byte(o.StateDir))
	if r.groups, err = openGroups(o.CgroupRoot, seed); err != nil {
		return err
	}
	if err := r.groups.enter(); err != nil {
		return err
	}
	r.boot = &controlv1.Boot{
		Names: []string{"launcher"}, StateDir: o.StateDir, RunDir: o.RunDir, CgroupRoot: r.groups.root.Path(),
		ProgramDir: filepath.Dir(exe), Config: config, Version: o.Version,
	}
	if r.boot.IdBase, r.boot.IdRanges, err = claimIDs(o.IDBase, seed); err != nil {
		return err
	}
	if err := r.listen(); err != nil {
		return err
	}
	return r.load(r.boot.GetProgramDir())
}

// listen opens the listeners, once for all kernels.
func (r *root) listen() error {
	keep := func(name string, f *os.File, err error) error {
		if err == nil {
			r.boot.Names = append(r.boot.Names, name)
			r.kept = append(r.kept, f)
		}
		return err
	}
	api, err := listenUnix(filepath.Join(r.options.RunDir, "api.sock"), 0o666)
	if err := keep("api.sock", api, err); err != nil {
		return err
	}
	r.tcp = "none"
	if r.options.Listen != "" {
		at, err := parseListen(r.options.Listen)
		if err != nil {
			return err
		}
		tcp, at, err := listenTCP(at)
		if err := keep("tcp", tcp, err); err != nil {
			return err
		}
		r.tcp = at.String()
	}
	metrics, err := listenUnix(filepath.Join(r.options.RunDir, "metrics.sock"), 0o600)
	return keep("metrics.sock", metrics, err)
}

// load takes the programs that lie beside solod.
func (r *root) load(dir string) error {
	r.launcher = &child{name: "solo-launcher", unshare: unix.CLONE_NEWNS, group: r.groups.launcher}
	r.kernel = &child{name: "solo-kernel", unshare: unix.CLONE_NEWNET, group: r.groups.kernel}
	for _, c := range []*child{r.launcher, r.kernel} {
		var err error
		if c.program, err = loadProgram(dir, c.name); err != nil {
			return err
		}
	}
	var err error
	if r.init, err = os.Open(filepath.Join(dir, "solo-init")); err != nil {
		return fmt.Errorf("%w: solo-init belongs beside solod", err)
	}
	return nil
}

// start brings up a launcher and a kernel.
func (r *root) start() error {
	link, err := r.startLauncher()
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	conn, far, err := ipc.Pair()
	if err != nil {
		return err
	}
	err = r.kernel.start(r.exits, r.oom, far)
	_ = far.Close()
	if err != nil {
		_ = conn.Close()
		return err
	}
	r.conn = conn
	go func() {
		for {
			m := &controlv1.RootReport{}
			files, _, err := conn.Receive(m)
			files.Close()
			r.reports <- report{conn, m, err}
			if err != nil {
				return
			}
		}
	}()
	r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_Boot{Boot: r.boot}}, append(ipc.Files{link}, r.kept...)...)
	return nil
}

// startLauncher brings up a launcher and answers the kernel's end of its connection.
func (r *root) startLauncher() (*os.File, error) {
	far, link, err := ipc.RawPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = far.Close() }()
	if err := r.launcher.start(r.exits, r.oom, far, r.init); err != nil {
		_ = link.Close()
		return nil, err
	}
	return link, nil
}

// order sends to the kernel, which is ended if it does not read.
func (r *root) order(m *controlv1.RootOrder, files ...*os.File) {
	if err := r.conn.TrySend(m, files...); err != nil {
		r.say("order to solo-kernel: %v", err)
		_ = r.kernel.kill()
	}
}

// step takes one event.
func (r *root) step() {
	select {
	case s := <-r.signals:
		if r.signaled {
			r.say("second signal (%v): ending everything at once", s)
			r.end(1)
			return
		}
		r.signaled = true
		r.stop(stopTimeout)
	case <-r.deaths:
	case x := <-r.exits:
		r.exited(x)
	case m := <-r.reports:
		if m.conn == r.conn {
			r.reported(m)
		}
	case <-r.again.C:
		r.restart()
	case <-r.deadline:
		r.say("solo-kernel did not stop in time: ending everything")
		r.end(1)
	}
	reap(r.launcher, r.kernel)
}

func (r *root) reported(m report) {
	if m.err != nil {
		if !r.stopping && r.kernel.proc != nil {
			r.say("connection to solo-kernel: %v", m.err)
			_ = r.kernel.kill()
		}
		return
	}
	switch rep := m.m.GetReport().(type) {
	case *controlv1.RootReport_Running:
		if !r.ready {
			r.ready = true
			fmt.Printf("solod: ready: api unix://%s/api.sock, tcp %s, state %s, cgroup %s\n",
				r.options.RunDir, r.tcp, r.options.StateDir, r.groups.root.Path())
			notify("READY=1")
		}
	case *controlv1.RootReport_ShutdownWanted:
		r.stop(time.Duration(rep.ShutdownWanted.GetTimeoutMs()) * time.Millisecond)
	case *controlv1.RootReport_BootFailed:
		r.fail(errors.New(rep.BootFailed.GetMessage()))
	case nil:
	}
}

// stop asks the kernel to stop everything within the timeout. Asked again, it only
// shortens what the kernel gets.
func (r *root) stop(timeout time.Duration) {
	r.deadline = time.After(timeout + stopGrace)
	if r.stopping {
		return
	}
	r.stopping = true
	notify("STOPPING=1")
	if r.kernel.proc == nil {
		r.end(0)
		return
	}
	r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_Stop{Stop: &controlv1.Stop{TimeoutMs: uint32(timeout.Milliseconds())}}})
}

// exited takes the end of a child.
func (r *root) exited(x exit) {
	c := x.child
	up := time.Since(c.since)
	c.proc = nil
	normal := x.err == nil && x.state.Success()
	switch {
	case r.stopping && c == r.kernel:
		if !normal {
			r.say("solo-kernel: %s while it stopped", describe(x))
			r.end(1)
			return
		}
		r.end(0)
	case r.stopping:
	case c == r.launcher && r.kernel.proc == nil:
		// It went with its kernel, whose restart waits for this.
		r.restart()
	default:
		r.say("%s: %s", c.name, describe(x))
		r.schedule(c, supervision.Exit{Normal: normal, Up: up})
	}
}

// schedule decides when a child that has ended is started again. The kernel's end is
// the launcher's too.
func (r *root) schedule(c *child, x supervision.Exit) {
	// What the child had forked and not yet put into a group of its own.
	_ = c.group.Kill()
	if c == r.kernel {
		if r.conn != nil {
			_ = r.conn.Close()
			r.conn = nil
		}
		_ = r.launcher.kill()
	}
	var d supervision.Decision
	c.history, d = supervision.Step(c.history, spec, time.Since(r.begun), x, rand.Float64())
	if d.Action != supervision.Again {
		r.fail(fmt.Errorf("%s ended more than %d times within %v: see its messages above", c.name, spec.Intensity, spec.Period))
		return
	}
	r.due = time.Now().Add(d.Delay)
	r.again.Reset(d.Delay)
}

// restart starts what does not run and is due. A launcher that belongs to a kernel
// that is gone must be gone too: the next kernel sweeps the groups it works in.
func (r *root) restart() {
	var err error
	switch {
	case time.Until(r.due) > 0:
		r.again.Reset(time.Until(r.due))
	case r.kernel.proc == nil && r.launcher.proc == nil:
		err = r.start()
	case r.launcher.proc == nil:
		var link *os.File
		if link, err = r.startLauncher(); err == nil {
			r.order(&controlv1.RootOrder{Order: &controlv1.RootOrder_NewLauncher{NewLauncher: &controlv1.NewLauncher{}}}, link)
			_ = link.Close()
		}
	}
	if err != nil {
		r.say("%v", err)
		failed := r.kernel
		if r.launcher.proc == nil {
			failed = r.launcher
		}
		r.schedule(failed, supervision.Exit{})
	}
}

// finish ends what still runs and gives back what prepare took.
func (r *root) finish() {
	if r.kernel != nil {
		r.gone(r.kernel, 0)
		r.gone(r.launcher, launcherGrace)
		reap()
	}
	var errs []error
	if r.groups != nil {
		errs = append(errs, r.groups.leave())
		reap()
	}
	if r.running {
		for _, name := range []string{"api.sock", "metrics.sock", "lock"} {
			if err := os.Remove(filepath.Join(r.options.RunDir, name)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.say("cleaning up: %v", err)
		r.status = 1
	}
}

// gone waits until a child has ended, and ends it after the grace.
func (r *root) gone(c *child, grace time.Duration) {
	late := time.After(grace)
	for c.proc != nil {
		select {
		case x := <-r.exits:
			x.child.proc = nil
		case <-late:
			_ = c.kill()
		}
	}
	_ = c.group.Kill()
}

// end ends the loop.
func (r *root) end(status int) { r.done, r.status = true, status }

// fail ends the loop for a reason.
func (r *root) fail(err error) {
	r.say("%v", err)
	r.end(1)
}

// say writes one line to the operator.
func (r *root) say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, "solod: "+strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; "))
}

// describe tells how a child ended.
func describe(x exit) string {
	if x.err != nil {
		return x.err.Error()
	}
	return "ended: " + x.state.String()
}
