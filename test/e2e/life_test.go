package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// condition is what must survive a stop or a crash of Solo.
type condition struct{ State, Reason string }

func (x *tester) conditions() map[string]condition {
	x.Helper()
	m := make(map[string]condition)
	for _, s := range x.list("") {
		m[s.GetName()] = condition{s.GetState(), s.GetReason()}
	}
	return m
}

// population deploys a service in each condition that a service can rest in, and
// returns where one of them answers.
func (x *tester) population() string {
	x.Helper()
	name := func(req *solov1.DeployRequest, name string) *solov1.DeployRequest {
		req.Name = name
		return req
	}
	listen := x.address()
	web := name(x.victim("listen 80 , ready , sleep 1h"), "team/web")
	web.Uses, web.Ready = []*solov1.Use{port(listen, 80)}, notifyReady()
	web.Env = map[string]string{"KEPT": "yes"}
	web.Files = []*solov1.File{{Path: "/etc/kept", Content: []byte("kept")}}
	x.deploy(web)
	x.deploy(name(source("app.sh", shellGreets), "script"))
	x.deploy(name(host("/usr/bin/sleep", "10000"), "on-host"))
	killed := x.deploy(name(x.victim("sleep 1h"), "killed"))
	if _, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: killed}); err != nil {
		x.Fatal(err)
	}
	for _, req := range []*solov1.DeployRequest{name(x.victim("exit 125"), "failed"), name(x.victim("exit 0"), "finished")} {
		req.Restart = map[string]string{"failed": "permanent", "finished": "transient"}[req.GetName()]
		if _, err := x.try(req); err != nil {
			x.Fatal(err)
		}
	}
	x.awaitState("failed", "failed", "exit:125")
	x.awaitState("finished", "finished", "exit:0")
	return listen
}

var populated = map[string]condition{
	"team/web": {"ready", ""}, "script": {"ready", ""}, "on-host": {"ready", ""},
	"killed": {"stopped", "killed"}, "failed": {"failed", "exit:125"}, "finished": {"finished", "exit:0"},
}

// restored waits until everything is in its condition again.
func (x *tester) restored(listen string) {
	x.Helper()
	var got map[string]condition
	deadline := time.Now().Add(testenv.Scale(patience))
	for {
		got = x.conditions()
		// Why its last life ended may be said of what runs.
		for name, c := range got {
			if c.State == "ready" {
				got[name] = condition{"ready", ""}
			}
		}
		if cmp.Equal(populated, got) {
			break
		}
		if time.Now().After(deadline) {
			x.Fatalf("services (-want +got):\n%s", cmp.Diff(populated, got))
		}
		time.Sleep(20 * time.Millisecond)
	}
	x.answers("http://"+listen+"/", "victim\n")
}

func (x *tester) generation() uint64 {
	x.Helper()
	info, err := x.client.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
	if err != nil {
		x.Fatal(err)
	}
	return info.GetGeneration()
}

// TestStopAndStart: a clean stop leaves nothing running, and a start brings back what
// was deployed.
func TestStopAndStart(t *testing.T) {
	x := own(t, options{})
	x.boot()
	listen := x.population()
	first, token := x.generation(), x.secret()
	before := x.auditLog()
	x.halt()
	if pids := groupPIDs(x.group()); len(pids) > 0 {
		t.Fatalf("after the stop there are processes %v", pids)
	}
	x.boot()
	x.restored(listen)
	if now := x.generation(); now != first+1 {
		t.Errorf("generation %d follows %d", now, first)
	}
	if x.secret() != token {
		t.Error("root's token has changed")
	}
	// The chain goes on where it ended.
	if after := x.auditLog(); len(after) <= len(before) {
		t.Errorf("the audit log had %d records, has %d", len(before), len(after))
	}
	// The artifacts are there: a service that was stopped starts again.
	if r, err := x.client.Lifecycle.Start(x.ctx(), &solov1.StartRequest{Service: "killed", Wait: true}); err != nil || r.GetState() != "ready" {
		t.Errorf("start after the boot: %v, %v", r, err)
	}
}

// TestCrash: every process of Solo's and of its services is killed at once.
func TestCrash(t *testing.T) {
	x := own(t, options{})
	x.boot()
	listen := x.population()
	x.awaitLog("script", "hello")
	old := groupPIDs(x.group())
	if len(old) < 10 {
		t.Fatalf("only the processes %v are in %s", old, x.group())
	}
	before := x.auditLog()
	if err := x.killAll(); err != nil {
		t.Fatal(err)
	}
	x.boot()
	x.restored(listen)
	now := groupPIDs(x.group())
	if slices.ContainsFunc(old, func(pid int) bool { return slices.Contains(now, pid) }) {
		t.Errorf("processes of the old run live on: %v, now %v", old, now)
	}
	x.onlyLiving()
	after := x.auditLog()
	if len(after) <= len(before) || !cmp.Equal(before, after[:len(before)]) {
		t.Error("the audit log does not go on where it was")
	}
}

// onlyLiving waits until every group of a service has a process: none is left of
// instances that ended.
func (x *tester) onlyLiving() {
	x.Helper()
	var empty []string
	testenv.Eventually(x.T, patience, "the groups of what ended to go", func() bool {
		empty = nil
		for _, root := range hierarchies() {
			groups, _ := filepath.Glob(filepath.Join(root, x.group(), "user", "*", "cgroup.procs"))
			for _, file := range groups {
				if data, err := os.ReadFile(file); err == nil && len(data) == 0 {
					empty = append(empty, file)
				}
			}
		}
		return len(empty) == 0
	})
}

// TestCrashOfSolod: with solod its whole tree ends, and the next one starts clean.
func TestCrashOfSolod(t *testing.T) {
	hostOnly(t)
	x := own(t, options{})
	x.boot()
	listen := x.population()
	if err := x.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = x.wait(patience) // it was killed: its status says nothing
	x.boot()
	x.restored(listen)
	x.onlyLiving()
}

// TestKernelComesBack: after the end of the kernel alone the next one brings back what
// was deployed, and the API with it.
func TestKernelComesBack(t *testing.T) {
	hostOnly(t)
	x := own(t, options{})
	x.boot()
	listen := x.population()
	first := x.generation()
	info, err := x.client.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	x.killPID(int(info.GetPid()))
	testenv.Eventually(t, patience, "the next kernel", func() bool {
		now, err := x.client.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
		return err == nil && now.GetGeneration() == first+1 && now.GetPid() != info.GetPid()
	})
	x.restored(listen)
	x.onlyLiving()
}

// TestShutdownCall ends Solo as SIGTERM does.
func TestShutdownCall(t *testing.T) {
	x := own(t, options{})
	x.boot()
	x.deploy(x.victim("sleep 1h"))
	if out := x.ctl("shutdown", "--grace", "5s"); out.status != 0 {
		t.Fatalf("shutdown: %+v", out)
	}
	for _, p := range x.ended() {
		t.Error(p)
	}
}

// TestStopIsBounded: a service that ignores SIGTERM does not hold the stop beyond its
// own grace.
func TestStopIsBounded(t *testing.T) {
	hostOnly(t)
	x := own(t, options{})
	x.boot()
	req := x.victim("stubborn , fork 3 , sleep 1h")
	req.Resources = &solov1.Resources{ShutdownTimeoutMs: 200}
	name := x.deploy(req)
	x.deployDeaf(name)
	x.halt()
}

// TestTwoSideBySide: two solods share a host and nothing else.
func TestTwoSideBySide(t *testing.T) {
	hostOnly(t)
	one := own(t, options{})
	one.boot()
	two := own(t, options{tcp: true})
	two.boot()
	for _, x := range []*tester{one, two} {
		req := x.victim("print hello , sleep 1h")
		req.Name = "same"
		x.deploy(req)
	}
	a, b := one.pid("same"), two.pid("same")
	if a == b {
		t.Fatalf("both run process %d", a)
	}
	if _, err := one.as(two.secret(), false).Kernel.Info(one.ctx(), &solov1.InfoRequest{}); err == nil {
		t.Error("the token of one opens the other")
	}
	// The end of one is not felt by the other.
	one.halt()
	if alive(a) || !alive(b) {
		t.Errorf("after the end of the first: %v, %v", alive(a), alive(b))
	}
	if s := two.status("same"); s.GetState() != "ready" || s.GetRestarts() != 0 {
		t.Errorf("the second's service is %v", s)
	}
	two.deploy(two.victim("sleep 1h"))
}

// TestStateIsLocked: a second solod on the same state says so and harms nothing.
func TestStateIsLocked(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	name := x.deploy(x.victim("sleep 1h"))
	out := x.program(nil, "", filepath.Join(x.bin, "solod"), "--state-dir", x.state, "--run-dir", filepath.Join(x.dir, "other"), "--listen", "")
	_ = os.RemoveAll(filepath.Join(x.dir, "other"))
	if out.status == 0 || !strings.Contains(out.stdout+out.stderr, x.state) {
		t.Errorf("the second solod: %+v", out)
	}
	if s := x.status(name); s.GetState() != "ready" || s.GetRestarts() != 0 {
		t.Errorf("the first's service is %v", s)
	}
}

// TestWrongUsage: what solod does not understand stops it before it makes anything.
func TestWrongUsage(t *testing.T) {
	hostOnly(t)
	x := own(t, options{config: "no_such_field: 1\n"})
	cmd := exec.Command(filepath.Join(x.bin, "solod"), "--state-dir", x.state, "--run-dir", x.run, "--config", x.config())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no_such_field") {
		t.Errorf("an unknown field of the configuration: %v\n%s", err, out)
	}
	cmd = exec.Command(filepath.Join(x.bin, "solod"), "--frobnicate")
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("an unknown flag: %v\n%s", err, out)
	}
	if entries, err := os.ReadDir(x.run); err == nil && len(entries) > 0 {
		t.Errorf("it left %s", fmt.Sprint(entries))
	}
}
