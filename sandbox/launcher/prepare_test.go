package launcher_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// traces are what a launcher holds, beside what it always does: to compare before and
// after.
func (r *rig) traces() []string {
	r.t.Helper()
	proc := fmt.Sprintf("/proc/%d", r.command.Process.Pid)
	var out []string
	mounts, err := os.ReadFile(proc + "/mountinfo")
	must(r.t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		out = append(out, "mount "+f[4])
	}
	tasks, err := filepath.Glob(proc + "/task/*")
	must(r.t, err)
	for _, task := range tasks {
		// A thread in another namespace than the rest keeps that alive.
		if ns, err := os.Readlink(task + "/ns/mnt"); err == nil && !slices.Contains(out, ns) {
			out = append(out, ns)
		}
	}
	children, err := filepath.Glob(proc + "/task/*/children")
	must(r.t, err)
	for _, c := range children {
		pids, _ := os.ReadFile(c) // a thread that has ended has none
		for _, pid := range strings.Fields(string(pids)) {
			out = append(out, "child "+pid)
		}
	}
	for _, dir := range []string{"containers", "roots"} {
		names, err := filepath.Glob(proc + "/root/run/" + dir + "/*")
		must(r.t, err)
		for _, n := range names {
			out = append(out, dir+" "+filepath.Base(n))
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	must(r.t, err)
	for _, fd := range fds {
		target, err := os.Readlink(proc + "/fd/" + fd.Name())
		// libcontainer keeps what it opened once: the cgroup root, a copy of the launcher.
		if err == nil && !strings.HasPrefix(target, "/sys/fs/cgroup") && !strings.Contains(target, "runc") {
			out = append(out, "fd "+strings.TrimRight(target, "0123456789[]"))
		}
	}
	slices.Sort(out)
	return out
}

// baseline waits until the launcher has started, has so many shells and has handed
// their descriptors over, and answers its traces.
func (r *rig) baseline(shells int) []string {
	r.t.Helper()
	r.order(&controlv1.LauncherOrder{}) // refused, once all is mounted
	var now []string
	testenv.Eventually(r.t, patience, "the launcher to be idle", func() bool {
		now = r.traces()
		count := map[string]int{}
		for _, s := range now {
			kind, _, _ := strings.Cut(s, " ")
			count[kind]++
		}
		return count["child"] == shells && count["containers"] == shells && !slices.Contains(now, "fd user:")
	})
	return now
}

// settle waits until the launcher holds what it held before.
func (r *rig) settle(before []string) {
	r.t.Helper()
	var diff string
	defer func() {
		if diff != "" {
			r.t.Errorf("the launcher holds (-before +after):\n%s", diff)
		}
	}()
	testenv.Eventually(r.t, patience/6, "the launcher to forget", func() bool {
		diff = cmp.Diff(before, r.traces())
		return diff == ""
	})
}

func prepareOrder(p *controlv1.Prepare) *controlv1.LauncherOrder {
	return &controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Prepare{Prepare: p}}
}

// TestShellsLeaveNothing: neither one that ends at once nor one that became a service.
func TestShellsLeaveNothing(t *testing.T) {
	r := newRig(t)
	r.prepare().end() // opens what stays open
	before := r.baseline(0)
	for range 10 {
		r.prepare().end()
	}
	s := r.prepare()
	s.start(s.newLease("hello")).finish()
	r.settle(before)
}

func TestPrepareFailuresLeaveNothing(t *testing.T) {
	r := newRig(t)
	r.prepare().end()
	before := r.baseline(0)
	for _, c := range []struct {
		name   string
		change func(*controlv1.Prepare)
		want   refusal
	}{
		{"no id", func(p *controlv1.Prepare) { p.ShellId = "" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"id with a slash", func(p *controlv1.Prepare) { p.ShellId = "../x" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"id too long", func(p *controlv1.Prepare) { p.ShellId = strings.Repeat("x", 33) }, refusal{"prepare", int32(unix.EINVAL)}},
		{"no group", func(p *controlv1.Prepare) { p.Cgroup = "" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"relative group", func(p *controlv1.Prepare) { p.Cgroup = "solo/x" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"group with dots", func(p *controlv1.Prepare) { p.Cgroup = "/solo/../x" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"root group", func(p *controlv1.Prepare) { p.Cgroup = "/" }, refusal{"prepare", int32(unix.EINVAL)}},
		{"host ids", func(p *controlv1.Prepare) { p.IdBase = 0 }, refusal{"prepare", int32(unix.EINVAL)}},
		{"ids past the end", func(p *controlv1.Prepare) { p.IdBase = 1<<32 - 65536 }, refusal{"prepare", int32(unix.EINVAL)}},
		{"root too small", func(p *controlv1.Prepare) { p.RootBytes = 4096 }, refusal{"root", int32(unix.ENOSPC)}},
	} {
		p := r.prepareOrder()
		c.change(p)
		report, files := r.order(prepareOrder(p))
		f := report.GetFailed()
		if diff := cmp.Diff(c.want, refusal{f.GetStep(), f.GetErrno()}); diff != "" || len(files) > 0 {
			t.Errorf("%s: %v with %d descriptors (-want +got):\n%s", c.name, report, len(files), diff)
		}
		files.Close()
	}
	r.settle(before)
}

// TestSameShellTwice: an id in use is refused and the shell that has it lives.
func TestSameShellTwice(t *testing.T) {
	r := newRig(t)
	p := r.prepareOrder()
	s := r.prepareAs(p)
	before := r.baseline(1)
	report, files := r.order(prepareOrder(p))
	files.Close()
	if f := report.GetFailed(); f.GetStep() != "create" {
		t.Errorf("%v, want a failure of create", report)
	}
	r.settle(before)
	if out, _ := s.start(s.newLease("echo")).finish(); out != "" {
		t.Errorf("output %q", out)
	}
}

// TestInitThatCannotRun: libcontainer is done before execve, so a failure of that may
// show only as the end of the control connection.
func TestInitThatCannotRun(t *testing.T) {
	r := newRigWith(t, memfd(t, []byte("no program")))
	attempt := func() {
		report, files := r.order(prepareOrder(r.prepareOrder()))
		if report.GetPrepared() == nil {
			files.Close()
			return
		}
		conn, err := ipc.FileConn(files[0])
		must(t, err)
		files[1:].Close()
		if m, _, _, err := (&shell{t: t, conn: conn}).tryReceive(); err == nil {
			t.Errorf("received %v", m)
		}
		_ = conn.Close()
	}
	attempt() // opens what stays open
	before := r.baseline(0)
	attempt()
	attempt()
	r.settle(before)
}

// TestManyAtOnce: orders are answered by id, in any order.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	orders := map[uint64]*controlv1.Prepare{}
	for range 8 {
		r.orders++
		p := r.prepareOrder()
		orders[r.orders] = p
		o := prepareOrder(p)
		o.Id = r.orders
		must(t, r.conn.Send(o))
	}
	for range 8 {
		report := &controlv1.LauncherReport{}
		files, _, err := r.conn.Receive(report)
		must(t, err)
		p := orders[report.GetId()]
		if p == nil || report.GetPrepared() == nil {
			files.Close()
			t.Fatalf("answer %v", report)
		}
		delete(orders, report.GetId())
		s := r.adopt(p, report, files)
		out, _ := s.start(s.newLease("hello")).finish()
		if !strings.Contains(out, "arg hello") {
			t.Errorf("output %q", out)
		}
	}
}

// TestHostNetwork: solo-net's shell has the host's network namespace and no other of
// the host's.
func TestHostNetwork(t *testing.T) {
	r := newRig(t)
	p := r.prepareOrder()
	p.HostNetwork = true
	s := r.prepareAs(p)
	v := s.start(s.newLease("wait"))
	v.line()
	got := readPosture(t, int(v.pid), v.cgroup)
	if diff := cmp.Diff([]string{"net", "time"}, got.Shared); diff != "" {
		t.Errorf("shared namespaces (-want +got):\n%s", diff)
	}
}

// TestLyingOrders: an unknown order is refused; one that breaks the protocol ends the
// launcher, which is replaced.
func TestLyingOrders(t *testing.T) {
	r := newRig(t)
	report, _ := r.order(&controlv1.LauncherOrder{})
	if diff := cmp.Diff(refusal{"order", int32(unix.EINVAL)}, refusal{report.GetFailed().GetStep(), report.GetFailed().GetErrno()}); diff != "" {
		t.Errorf("empty order (-want +got):\n%s", diff)
	}
	garbage := &controlv1.LauncherOrder{}
	garbage.ProtoReflect().SetUnknown([]byte{0x0b})
	for name, send := range map[string]func(*rig) error{
		"descriptors": func(r *rig) error {
			f := memfd(t, nil)
			defer func() { _ = f.Close() }()
			return r.conn.Send(prepareOrder(r.prepareOrder()), f)
		},
		"no protobuf": func(r *rig) error { return r.conn.Send(garbage) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			must(t, send(r))
			if _, _, err := r.conn.Receive(&controlv1.LauncherReport{}); !errors.Is(err, io.EOF) {
				t.Errorf("received %v, want the end of the connection", err)
			}
			_ = r.command.Wait()
			if code := r.command.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
		})
	}
}

// TestOwnMountNamespace: started in its parent's, the launcher would mount over the
// host.
func TestOwnMountNamespace(t *testing.T) {
	testenv.RequireSandbox(t)
	built, err := build()
	must(t, err)
	conn, peer, err := ipc.Pair()
	must(t, err)
	defer func() { _ = conn.Close() }()
	out := launcherCommand(built, peer, peer)
	out.Stderr, out.SysProcAttr = nil, nil
	text, err := out.CombinedOutput()
	_ = peer.Close()
	if err == nil || !strings.Contains(string(text), "mount namespace of its own") {
		t.Errorf("%v: %q", err, text)
	}
}
