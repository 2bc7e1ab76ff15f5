package e2e

import (
	"strconv"
	"strings"
	"testing"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// limited deploys a victim with limits and without restarts, and returns its name.
func (x *tester) limited(acts string, r *solov1.Resources) string {
	x.Helper()
	req := x.victim(acts)
	req.Resources, req.Restart = r, "temporary"
	if _, err := x.try(req); err != nil {
		x.Fatalf("deploy %s: %v", req.GetName(), err)
	}
	return req.GetName()
}

// TestLimitsAreSet reads them back from the group of a running service.
func TestLimitsAreSet(t *testing.T) {
	x := shared(t)
	name := x.limited("sleep 1h", &solov1.Resources{
		MaxMemoryBytes: 96 << 20, MaxProcesses: 40, CpuShares: 512, CpuQuotaMillis: 500,
	})
	pid := x.pid(name)
	type file struct{ controller, name, want string }
	files := []file{
		{"memory", "memory.limit_in_bytes", strconv.Itoa(96 << 20)},
		{"pids", "pids.max", "41"}, // and solo-init
		{"cpu", "cpu.shares", "512"},
		{"cpu", "cpu.cfs_quota_us", "50000"},
		{"cpu", "cpu.cfs_period_us", "100000"},
	}
	if cgroup2() {
		files = []file{
			{"memory", "memory.max", strconv.Itoa(96 << 20)},
			{"pids", "pids.max", "41"},
			{"cpu", "cpu.weight", "59"}, // as the OCI runtimes convert it; 1024 is 100
			{"cpu", "cpu.max", "50000 100000"},
		}
	}
	for _, f := range files {
		// The quota is lifted until the service is ready, and set then.
		testenv.Eventually(t, patience, f.name+" "+f.want, func() bool {
			return groupFile(t, groupOf(t, pid, f.controller), f.name) == f.want
		})
	}
}

// TestMemoryLimit: what takes more than its limit ends with reason oom, and nothing
// else does.
func TestMemoryLimit(t *testing.T) {
	x := shared(t)
	below := x.limited("memory 33554432 , sleep 1h", &solov1.Resources{MaxMemoryBytes: 96 << 20})
	above := x.limited("memory 134217728 , sleep 1h", &solov1.Resources{MaxMemoryBytes: 96 << 20})
	x.awaitState(above, "finished", "oom")
	var got struct{ Memory int }
	if x.said(below, &got); got.Memory != 32<<20 {
		t.Errorf("below the limit it took %d bytes", got.Memory)
	}
	if s := x.status(below); s.GetState() != "ready" {
		t.Errorf("the neighbour is %v", s)
	}
	x.hasEvent(above, "limit", "oom")
}

// TestMemoryOfAChild: the limit is of the whole tree.
func TestMemoryOfAChild(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	req := source("eat.sh", "head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null; exec sleep 1000")
	req.Resources = &solov1.Resources{MaxMemoryBytes: 64 << 20}
	req.Restart = "temporary"
	if _, err := x.try(req); err != nil {
		t.Fatal(err)
	}
	x.awaitState(req.GetName(), "finished", "oom")
}

// hasEvent waits for an event of a type that names a reason.
func (x *tester) hasEvent(name, kind, reason string) {
	x.Helper()
	x.awaitEvents(name, kind+" "+reason, func(events []*solov1.Event) bool {
		for _, e := range events {
			if e.GetType() == kind && (strings.Contains(e.GetReason(), reason) || strings.Contains(e.GetDetail(), reason)) {
				return true
			}
		}
		return false
	})
}

// TestProcessLimit: kill is the action.
func TestProcessLimit(t *testing.T) {
	x := shared(t)
	name := x.limited("fork 60 , sleep 1h", &solov1.Resources{MaxProcesses: 30})
	x.awaitState(name, "finished", "limit:processes")
	x.hasEvent(name, "limit", "processes")
	within := x.limited("fork 2 , sleep 1h", &solov1.Resources{MaxProcesses: 60})
	var got struct {
		Forked int
		Error  string
	}
	if x.said(within, &got); got.Forked != 2 || got.Error != "" {
		t.Errorf("within the limit: %+v", got)
	}
	s := x.await(within, "three processes", func(s *solov1.ServiceStatus) bool {
		return len(s.GetInstances()) == 1 && s.GetInstances()[0].GetProcesses() >= 3
	})
	if s.GetState() != "ready" {
		t.Errorf("within the limit it is %v", s)
	}
}

// TestTmpLimit: /tmp and /dev/shm hold as much as they may, in bytes and in files.
func TestTmpLimit(t *testing.T) {
	x := shared(t)
	const size = 1 << 20
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		name := x.limited("fill "+dir+"/x , sleep 1h", &solov1.Resources{MaxTmpBytes: size})
		var got struct {
			Written int
			Error   string
		}
		x.said(name, &got)
		if got.Written != size || !strings.Contains(got.Error, "no space left") {
			t.Errorf("%s took %d bytes of %d: %q", dir, got.Written, size, got.Error)
		}
	}
}

func TestOpenFilesLimit(t *testing.T) {
	x := shared(t)
	name := x.limited("open 100 , sleep 1h", &solov1.Resources{MaxOpenFiles: 32})
	var got struct {
		Opened int
		Error  string
	}
	x.said(name, &got)
	if got.Opened >= 32 || got.Opened < 20 || !strings.Contains(got.Error, "too many open files") {
		t.Errorf("it opened %d files of 32: %q", got.Opened, got.Error)
	}
}

// TestLiveUsage: Status says what is used now.
func TestLiveUsage(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("memory 50000000 , spin 3s , sleep 1h"))
	s := x.await(name, "50 MB and 0.2 s", func(s *solov1.ServiceStatus) bool {
		return s.GetMemoryBytes() >= 50_000_000 && s.GetCpuUsec() >= 200_000
	})
	i := s.GetInstances()[0]
	if i.GetMemoryBytes() < 50_000_000 || i.GetCpuUsec() < 200_000 || i.GetProcesses() < 1 {
		t.Errorf("the instance uses %v", i)
	}
	if s.GetMemoryBytes() > 200_000_000 {
		t.Errorf("memory is said to be %d bytes", s.GetMemoryBytes())
	}
}
