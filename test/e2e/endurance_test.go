package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// holdings are what deployments could use up, of Solo and of the host.
type holdings struct {
	Descriptors map[string][]string // of each long-lived process, by its name
	Processes   int
	Groups      int
	Mounts      int
	Networks    int
	Temporary   []string
}

// programOf is the name by which a process was called.
func programOf(pid int) string {
	line, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(string(line), "\x00")
	return filepath.Base(name)
}

// parentOf is the fourth field of /proc/PID/stat (proc_pid_stat(5)).
func parentOf(pid int) int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	var state byte
	var parent int
	if end := strings.LastIndexByte(string(stat), ')'); end >= 0 {
		_, _ = fmt.Sscanf(string(stat[end+1:]), " %c %d", &state, &parent)
	}
	return parent
}

func (x *tester) holdings() holdings {
	x.Helper()
	h := holdings{Descriptors: make(map[string][]string)}
	networks := make(map[string]bool)
	for _, pid := range groupPIDs(x.group()) {
		h.Processes++
		if ns, err := os.Readlink(filepath.Join("/proc", fmt.Sprint(pid), "ns", "net")); err == nil {
			networks[ns] = true
		}
		if name := programOf(pid); strings.HasPrefix(name, "solo") && name != "solo-init" && alive(pid) {
			h.Descriptors[name] = descriptorsOf(x.T, pid)
		}
	}
	h.Networks = len(networks)
	for _, root := range hierarchies() {
		if _, err := os.Stat(filepath.Join(root, x.group())); err == nil {
			h.Groups += len(directories(x.T, filepath.Join(root, x.group())))
		}
	}
	h.Mounts = len(testenv.Observe(x.scope()).Mounts)
	for _, dir := range []string{x.tmp, x.run} {
		for _, path := range entries(x.T, dir) {
			h.Temporary = append(h.Temporary, strings.TrimPrefix(path, x.dir))
		}
	}
	return h
}

// directories are those below dir, and dir.
func directories(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	for _, path := range entries(t, dir) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			list = append(list, path)
		}
	}
	return list
}

// TestNothingIsUsedUp: a hundred deployments and kills leave everything as it was.
func TestNothingIsUsedUp(t *testing.T) {
	x := own(t, options{})
	x.boot()
	cycle := func(i int) {
		t.Helper()
		req := x.victim("print hello , sleep 1h")
		if i%5 == 1 {
			req = source("app.sh", shellGreets)
		}
		if i%5 == 2 {
			req = x.victim("listen 80 , sleep 1h")
			req.Uses, req.Ready = []*solov1.Use{port(x.address(), 80)}, tcpReady(80)
		}
		req.Name, req.Wait = fmt.Sprintf("cycle-%d", i), true
		x.generous(req)
		if i%5 == 3 { // a refusal on the way
			bad := x.victim("sleep 1h")
			bad.Name, bad.Uses = req.GetName(), []*solov1.Use{port("10.1.1.1:80", 80)}
			if _, err := x.client.Solo.Deploy(x.ctx(), bad); status.Code(err) != codes.InvalidArgument {
				t.Fatalf("deploy %d: %v", i, err)
			}
		}
		r, err := x.client.Solo.Deploy(x.ctx(), req)
		if err != nil || r.GetState() != "ready" {
			t.Fatalf("deploy %d: %v, %v", i, r, err)
		}
		if i%5 == 4 {
			x.killPID(x.pid(req.GetName()))
		}
		if _, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: req.GetName(), Force: i%2 == 0}); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if _, err := x.client.Lifecycle.Delete(x.ctx(), &solov1.DeleteRequest{Service: req.GetName()}); err != nil {
			t.Fatalf("delete %d: %v", i, err)
		}
		if _, err := x.once(x.ctx(), x.unnamed(x.victim("print once")), ""); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
	}
	// What is opened once and kept is open after these.
	for i := range 5 {
		cycle(i)
	}
	before := x.rest(nil)
	for i := range times(100) {
		cycle(5 + i)
	}
	after := x.rest(&before)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("holdings (-before +after):\n%s", diff)
	}
}

// rest waits until the pool is full and the holdings do not change any more, or, when
// want is given, until they are that; and returns them.
func (x *tester) rest(want *holdings) holdings {
	x.Helper()
	deadline := time.Now().Add(testenv.Scale(settle))
	last := x.holdings()
	for same := 0; same < 20 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		now := x.holdings()
		switch {
		case want != nil && cmp.Equal(*want, now):
			return now
		case want == nil && cmp.Equal(last, now):
			same++
		default:
			same = 0
		}
		last = now
	}
	return last
}

// systemPIDs are the processes of system services and drivers by name.
func (x *tester) systemPIDs() map[string]int {
	x.Helper()
	r, err := x.client.Solo.List(x.ctx(), &solov1.ListRequest{System: true})
	if err != nil {
		return nil // the gateway may be on its way back
	}
	m := make(map[string]int)
	for _, s := range r.GetServices() {
		if s.GetTier() == "user" || s.GetState() != "ready" || len(s.GetInstances()) != 1 {
			continue
		}
		m[s.GetName()] = int(s.GetInstances()[0].GetPid())
	}
	return m
}

// TestSystemServicesComeBack: each is killed, comes back, and works; services live on.
func TestSystemServicesComeBack(t *testing.T) {
	x := own(t, options{})
	x.boot()
	listen := x.address()
	req := x.victim("listen 80 , print hello , sleep 1h")
	req.Uses, req.Ready = []*solov1.Use{port(listen, 80)}, tcpReady(80)
	name := x.deploy(req)
	pid := x.pid(name)
	names := []string{"solo-audit", "solo-fs", "solo-gateway", "solo-monitor", "solo-net"}
	pids := x.systemPIDs()
	for _, want := range names {
		if !alive(pids[want]) {
			t.Fatalf("the list has no %s: %v", want, pids)
		}
	}
	for _, victim := range names {
		old := x.systemPIDs()[victim]
		x.killPID(old)
		testenv.Eventually(t, patience, victim+" to come back", func() bool {
			now := x.systemPIDs()[victim]
			return now != 0 && now != old
		})
		// Each does its work again.
		x.deploy(x.victim("print hello , sleep 1h"))
		x.awaitLog(x.deploy(x.victim("print again , sleep 1h")), "again")
		x.answers("http://"+listen+"/", "victim\n")
		x.metrics()
		records := len(x.auditLog())
		x.upload([]byte(x.name()))
		x.awaitRecord(records, "an upload after the end of "+victim, func(r record) bool { return r.Op == "upload" })
	}
	if now := x.pid(name); now != pid || x.status(name).GetRestarts() != 0 {
		t.Errorf("the service's process was %d, is %d", pid, now)
	}
	// The log of what ran all the time is still followed.
	x.awaitLog(name, "hello")
}

// TestLauncherComesBack: with the launcher no service ends, and the next one works.
func TestLauncherComesBack(t *testing.T) {
	hostOnly(t)
	x := own(t, options{})
	x.boot()
	name := x.deploy(x.victim("sleep 1h"))
	pid := x.pid(name)
	var old int
	for _, p := range groupPIDs(x.group() + "/launcher") {
		// Not one of its own children, which are about to become sandboxes.
		if parentOf(p) == x.cmd.Process.Pid {
			old = p
		}
	}
	if old == 0 {
		t.Fatalf("no launcher in %s/launcher", x.group())
	}
	x.killPID(old)
	testenv.Eventually(t, patience, "another launcher", func() bool {
		return slices.ContainsFunc(groupPIDs(x.group()+"/launcher"), func(p int) bool { return p != old && alive(p) })
	})
	for range 4 { // more than the pool holds
		x.deploy(x.victim("sleep 1h"))
	}
	if now := x.pid(name); now != pid || x.status(name).GetRestarts() != 0 {
		t.Errorf("the service's process was %d, is %d", pid, now)
	}
}

// TestManyAtOnce: deployments in parallel, more than the pool holds.
func TestManyAtOnce(t *testing.T) {
	x := shared(t)
	n := times(20)
	if testenv.VM() {
		n = 5
	}
	prefix := x.name()
	var reqs []*solov1.DeployRequest
	for i := range n {
		req := x.victim("sleep 1h")
		req.Name = fmt.Sprintf("%s/s%02d", prefix, i)
		reqs = append(reqs, req)
	}
	// One of them twice: one wins.
	twice := x.victim("sleep 1h")
	twice.Name = reqs[0].GetName()
	errs := make([]error, n+1)
	var all sync.WaitGroup
	for i, req := range append(reqs, twice) {
		all.Go(func() {
			req.Wait = true
			r, err := x.client.Solo.Deploy(x.ctx(), x.generous(req))
			if err == nil && r.GetState() != "ready" {
				err = fmt.Errorf("state %s, reason %s", r.GetState(), r.GetReason())
			}
			errs[i] = err
		})
	}
	all.Wait()
	x.Cleanup(func() {
		for _, req := range reqs {
			x.forget(req.GetName())
		}
	})
	first, second := errs[0], errs[n]
	if first != nil {
		first, second = second, first
	}
	if first != nil || status.Code(second) != codes.AlreadyExists {
		t.Errorf("of two with one name: %v and %v", errs[0], errs[n])
	}
	for i, err := range errs[1:n] {
		if err != nil {
			t.Errorf("deploy %s: %v", reqs[i+1].GetName(), err)
		}
	}
	pids := make(map[int32]bool)
	for _, s := range x.list(prefix + "/") {
		for _, i := range s.GetInstances() {
			pids[i.GetPid()] = true
		}
	}
	if len(pids) != n {
		t.Errorf("%d processes run, not %d", len(pids), n)
	}
}
