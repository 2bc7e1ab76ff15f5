package root

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/test/testenv"
)

// sleeper runs a process in a group below the rig's, as an earlier run may leave it.
func sleeper(t *testing.T, r *rig, name string) (pid int) {
	t.Helper()
	h, err := cgroups.Mount()
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Open(r.group + name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	if err := g.AddProc(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// dead reports whether a child of the test's has ended; it stays to be waited for.
func dead(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0
}

// TestOldTree: what an earlier run left is dead and gone when the kernel gets its first
// message, and also what sits in the groups of solod's own names.
func TestOldTree(t *testing.T) {
	r := newRig(t, "")
	old := []int{sleeper(t, r, "/user/abc"), sleeper(t, r, "/kernel"), sleeper(t, r, "/solod")}
	r.start()
	r.ready()
	for _, pid := range old {
		if !dead(pid) {
			t.Errorf("process %d of the old run lives", pid)
		}
	}
	h, err := cgroups.Mount()
	if err != nil {
		t.Fatal(err)
	}
	if at := filepath.Join(h.Unified(), r.group, "user"); exists(at) {
		t.Errorf("%s is still there", at)
	}
	r.stop()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestCrash: after a kill -9 of solod its children end by themselves, and the next
// solod takes everything over.
func TestCrash(t *testing.T) {
	r := newRig(t, "orphan")
	r.start()
	r.ready()
	all := slices.Concat(r.pids("kernel", 1), r.pids("launcher", 1))
	orphan := r.pids("orphan", 1)[0]
	r.signal(unix.SIGKILL)
	r.ended()
	for _, pid := range all {
		testenv.Eventually(t, patience, "the children to end", func() bool { return ended(pid) })
	}
	if ended(orphan) {
		t.Fatal("the orphan, a service, ended with solod")
	}
	r.start()
	r.ready()
	testenv.Eventually(t, patience, "the orphan to end", func() bool { return ended(orphan) })
	r.stop()
}

// ended reports whether a process is gone or a zombie of whoever adopted it.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// TestSecond: what a running solod has, no other gets.
func TestSecond(t *testing.T) {
	first, second := newRig(t, ""), newRig(t, "")
	first.start()
	first.ready()
	base := first.boot().GetIdBase()

	second.refused(1, []string{first.state + " is in use by another solod", "--state-dir"}, "--state-dir", first.state)
	second.refused(1, []string{first.run + " is in use by another solod", "--run-dir"}, "--run-dir", first.run)
	second.refused(1, []string{"another solod runs below " + first.group, "--cgroup-root"}, "--cgroup-root", first.group)
	second.refused(1, []string{"host ids", "--id-base"}, "--id-base", fmt.Sprint(base))
	second.refused(1, []string{"host ids", "--id-base"}, "--id-base", fmt.Sprint(base-1<<16))

	// The refusals have not touched the first one, which still ends in order.
	if !exists(first.run+"/api.sock") || !exists(first.run+"/metrics.sock") {
		t.Error("the first solod's sockets are gone")
	}
	second.start()
	second.ready()
	if other := second.boot().GetIdBase(); other == base {
		t.Errorf("both have the ids from %d on", base)
	}
	first.stop()
	second.stop()
	if got := first.journal("kernel "); len(got) != 1 {
		t.Errorf("the first had %d kernels", len(got))
	}
}

// TestIDBase: few ranges are left at the end of all ids.
func TestIDBase(t *testing.T) {
	r := newRig(t, "")
	r.start("--id-base", fmt.Sprint(lastBase-idsPerRange))
	r.ready()
	if b := r.boot(); b.GetIdBase() != lastBase-idsPerRange || b.GetIdRanges() != 2 {
		t.Errorf("%d ranges from %d on", b.GetIdRanges(), b.GetIdBase())
	}
	r.stop()
}

// TestSameIDs: a solod that is alone gets the same ids and the same group each time.
func TestSameIDs(t *testing.T) {
	r := newRig(t, "")
	var seen []string
	for range 2 {
		r.command(exec.Command(filepath.Join(programs, "solod"), "--state-dir", r.state, "--run-dir", r.run))
		r.ready()
		b := r.boot()
		seen = append(seen, fmt.Sprint(b.GetIdBase(), b.GetCgroupRoot()))
		if !strings.HasPrefix(b.GetCgroupRoot(), "/solo-") || len(b.GetCgroupRoot()) != len("/solo-01234567") {
			t.Errorf("cgroup root %s", b.GetCgroupRoot())
		}
		r.stop()
	}
	if seen[0] != seen[1] {
		t.Errorf("first %s, then %s", seen[0], seen[1])
	}
}

// TestRefusals: every one is a line that says what to do, and leaves nothing.
func TestRefusals(t *testing.T) {
	r := newRig(t, "")
	file := filepath.Join(r.state, "file")
	write := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	r.refused(1, []string{"ca.pem", "solo-ctl certs init --state-dir " + r.state}, "--listen", "127.0.0.1:0")
	r.refused(1, []string{"config " + file, "unknown field: pool"}, "--config", write("pool: 3"))
	r.refused(1, []string{"config " + file, "pool_size: 257 is not between -1 and 256"}, "--config", write("pool_size: 257"))
	r.refused(1, []string{"no such file", "--config"}, "--config", r.state+"/none")
	r.refused(2, []string{"--listen"}, "--listen", "example.org:1")

	open := filepath.Join(r.state, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	r.refused(1, []string{"writable for others than root", "--state-dir"}, "--state-dir", open)
	r.refused(1, []string{"file: not a directory", "--run-dir"}, "--run-dir", file+"/x")

	// A file that is no socket is in the way, and stays.
	if err := os.WriteFile(r.run+"/api.sock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.refused(1, []string{r.run + "/api.sock: address already in use"})
	if !exists(r.run + "/api.sock") {
		t.Error("the file in the way was removed")
	}
	if err := os.Remove(r.run + "/api.sock"); err != nil {
		t.Fatal(err)
	}

	// A port in use.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := os.Mkdir(r.state+"/certs", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "server.pem", "server.key"} {
		if err := os.WriteFile(filepath.Join(r.state, "certs", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.refused(1, []string{"listen on " + l.Addr().String() + ": address already in use"}, "--listen", l.Addr().String())
}

// TestProgramMissing: solod alone is of no use.
func TestProgramMissing(t *testing.T) {
	r := newRig(t, "")
	dir := t.TempDir()
	for _, name := range []string{"solod", "solo-kernel", "solo-init"} {
		if err := os.Link(filepath.Join(programs, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.command(exec.Command(filepath.Join(dir, "solod"), "--state-dir", r.state, "--run-dir", r.run, "--cgroup-root", r.group))
	if code := r.ended(); code != 1 || !strings.Contains(r.stderr.String(), "open "+dir+"/solo-launcher: no such file") {
		t.Errorf("exits %d and says %q", code, r.stderr)
	}
}

// TestNotify: systemd hears of readiness and of the end.
func TestNotify(t *testing.T) {
	r := newRig(t, "")
	socket := filepath.Join(r.state, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(testenv.Scale(patience))); err != nil {
		t.Fatal(err)
	}
	next := func() string {
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	r.env = []string{"NOTIFY_SOCKET=" + socket}
	r.start()
	if got := next(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	r.ready()
	r.signal(unix.SIGTERM)
	if got := next(); got != "STOPPING=1" {
		t.Errorf("then %q", got)
	}
	r.ended()
}

// TestUnit: under systemd the unit's own group is the root, and stays.
func TestUnit(t *testing.T) {
	r := newRig(t, "")
	h, err := cgroups.Mount()
	if err != nil {
		t.Fatal(err)
	}
	unit, err := h.Open(r.group)
	if err != nil {
		t.Fatal(err)
	}
	if err := unit.Create(); err != nil {
		t.Fatal(err)
	}
	r.env = []string{"INVOCATION_ID=1"}
	into := filepath.Join(h.Unified(), r.group, "cgroup.procs")
	r.command(exec.Command("/bin/sh", "-c", `echo $$ >"$1" && shift && exec "$@"`, "sh", into,
		filepath.Join(programs, "solod"), "--state-dir", r.state, "--run-dir", r.run))
	r.ready()
	if got := r.boot().GetCgroupRoot(); got != r.group {
		t.Errorf("cgroup root %s, want %s", got, r.group)
	}
	r.stop()
	children, err := unit.Children()
	if err != nil || len(children) != 0 || !exists(filepath.Dir(into)) {
		t.Errorf("the unit's group is there: %v; below it: %v, %v", exists(filepath.Dir(into)), children, err)
	}
	if err := unit.RemoveTree(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestReapSparesKnown: a child that is waited for by pid keeps its exit status, and an
// orphan that it hid is reaped after that.
func TestReapSparesKnown(t *testing.T) {
	start := func() *os.Process {
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 7"}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	known, stranger, second := start(), start(), start()
	for _, p := range []*os.Process{known, stranger, second} {
		testenv.Eventually(t, patience, "the children to end", func() bool { return dead(p.Pid) })
	}
	reap(&child{proc: known}, &child{})
	state, err := known.Wait()
	if err != nil || state.ExitCode() != 7 {
		t.Fatalf("the known child was reaped: %v, %v", state, err)
	}
	reap(&child{}, &child{})
	if !gone(stranger.Pid) || !gone(second.Pid) {
		t.Errorf("strangers are gone: %v, %v", gone(stranger.Pid), gone(second.Pid))
	}
	_ = stranger.Release()
	_ = second.Release()
}
