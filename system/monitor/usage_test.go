package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

const cpuStat = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\ncore_sched.force_idle_usec 0\nnr_periods 0\n"

// group is a directory with the files that tell a group's usage.
type group struct {
	t     *testing.T
	names []string
	dir   string
}

func newGroup(t *testing.T, v2 bool) *group {
	g := &group{t: t, dir: t.TempDir(), names: []string{"memory.usage_in_bytes", "cpuacct.usage", "pids.current"}}
	if v2 {
		g.names = []string{"memory.current", "cpu.stat", "pids.current"}
	}
	return g
}

// set writes the files in place, as a cgroup's content changes.
func (g *group) set(content ...string) {
	g.t.Helper()
	for i, c := range content {
		if err := os.WriteFile(filepath.Join(g.dir, g.names[i]), []byte(c), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *group) open() (files ipc.Files) {
	g.t.Helper()
	for _, name := range g.names {
		f, err := os.Open(filepath.Join(g.dir, name))
		if err != nil {
			g.t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func TestReadSample(t *testing.T) {
	for _, c := range []struct {
		name    string
		v2      bool
		content []string
		want    sample
		err     error
	}{
		{"v2", true, []string{"4096\n", cpuStat, "7\n"}, sample{4096, 1234567, 7}, nil},
		{"v1", false, []string{"8192\n", "1234567890\n", "1\n"}, sample{8192, 1234567, 1}, nil},
		{"most", false, []string{"18446744073709551615\n", "0\n", "0\n"}, sample{memory: 1<<64 - 1}, nil},
		{"v2 without the key", true, []string{"1\n", "user_usec 5\nxusage_usec 4\n", "1\n"}, sample{}, errUsage},
		{"v2 with an empty value", true, []string{"1\n", "usage_usec \n", "1\n"}, sample{}, errUsage},
		{"max is no usage", false, []string{"max\n", "1\n", "1\n"}, sample{}, errUsage},
		{"empty", false, []string{"", "1\n", "1\n"}, sample{}, errUsage},
		{"negative", false, []string{"-1\n", "1\n", "1\n"}, sample{}, errUsage},
		{"long", false, []string{"1\n", "1\n", string(make([]byte, 10000))}, sample{}, errUsage},
	} {
		g := newGroup(t, c.v2)
		g.set(c.content...)
		files := g.open()
		got, err := readSample(files, c.v2, make([]byte, 4096))
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		files.Close()
		if _, err := readSample(files, c.v2, make([]byte, 4096)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: of closed files: %v", c.name, err)
		}
	}
}

func (k *kernel) usage(service, instance string, v2 bool, files ipc.Files) {
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_UsageSource{UsageSource: &controlv1.UsageSource{
		Service: service, Instance: instance, V2: v2, Tier: "user"}}}, files...)
}

func (k *kernel) instanceGone(service, instance string) {
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_InstanceGone{InstanceGone: &controlv1.InstanceGone{
		Service: service, Instance: instance}}})
}

func (k *kernel) sampleEvery(ms uint32) {
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{UsageIntervalMs: ms}}})
}

// TestMetricsStream: samples come live, of those instances that the watcher may see,
// the last one first.
func TestMetricsStream(t *testing.T) {
	k := boot(t, t.TempDir())
	g := newGroup(t, true)
	g.set("4096\n", cpuStat, "7\n")
	k.event("a", "deployed")
	k.usage("a", "i1", true, g.open())
	k.usage("b", "i2", true, g.open())
	k.sampleEvery(20)
	s := k.watch(&solov1.WatchRequest{Service: "a", Kinds: []string{"metric"}}, "")
	first := s.next()
	want := &solov1.WatchResponse{Sequence: 1, Service: "a", Instance: "i1",
		Item: &solov1.WatchResponse_Metric{Metric: &solov1.Metric{MemoryBytes: 4096, CpuUsec: 1234567, Processes: 7}}}
	if diff := cmp.Diff(want, first, protocmp.Transform(), protocmp.IgnoreFields(&solov1.WatchResponse{}, "time")); diff != "" || first.Time == nil {
		t.Error(diff)
	}
	g.set("8192\n")
	testenv.Eventually(t, limit, "the next sample", func() bool { return s.next().GetMetric().GetMemoryBytes() == 8192 })
	// A client that comes later sees the last sample of all at once, and no more if it
	// wants none.
	all := k.watch(&solov1.WatchRequest{Kinds: []string{"metric"}, NoFollow: true}, "").rest()
	var names []string
	for _, m := range all {
		names = append(names, m.Service+" "+m.Instance)
	}
	if diff := cmp.Diff([]string{"a i1", "b i2"}, names); diff != "" {
		t.Error(diff)
	}
	k.instanceGone("a", "i1")
	testenv.Eventually(t, limit, "the instance to go", func() bool {
		return len(k.watch(&solov1.WatchRequest{Service: "a", Kinds: []string{"metric"}, NoFollow: true}, "").rest()) == 0
	})
}

// TestUsageRounds: no sample is given twice, and none is missed.
func TestUsageRounds(t *testing.T) {
	u := newUsage(t.Logf, func(string, uint64) {})
	defer u.close()
	g := newGroup(t, false)
	g.set("1\n", "1000\n", "1\n")
	for _, name := range []string{"i1", "i2"} {
		u.add(&controlv1.UsageSource{Service: "a", Instance: name}, g.open())
	}
	f := filter{kinds: wantMetrics}
	if list, seen := u.samples(f, 0); len(list) != 0 || seen != 0 {
		t.Errorf("before the first round: %d, %d", len(list), seen)
	}
	u.sampleAll(time.Unix(1, 0))
	list, seen := u.samples(f, 0)
	if len(list) != 2 || seen != 1 {
		t.Errorf("after a round: %d, %d", len(list), seen)
	}
	if list, seen := u.samples(f, seen); len(list) != 0 || seen != 1 {
		t.Errorf("once more: %d, %d", len(list), seen)
	}
	u.add(&controlv1.UsageSource{Service: "a", Instance: "i3"}, g.open())
	if list, _ := u.samples(f, 0); len(list) != 2 {
		t.Errorf("with one that was not sampled: %d", len(list))
	}
	u.sampleAll(time.Unix(2, 0))
	if list, seen := u.samples(f, seen); len(list) != 3 || seen != 2 {
		t.Errorf("after another round: %d, %d", len(list), seen)
	}
}

// TestUsageOwnsFiles: whatever becomes of a source, its descriptors are closed.
func TestUsageOwnsFiles(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	var total uint64
	u := newUsage(t.Logf, func(_ string, n uint64) { total += n })
	g := newGroup(t, false)
	g.set("1\n", "1000\n", "1\n")
	add := func(service, name string) {
		u.add(&controlv1.UsageSource{Service: service, Instance: name}, g.open())
	}
	add("a", "i1")
	u.sampleAll(time.Unix(1, 0))
	add("a", "i1") // once more
	add("a", "i2")
	add("b", "i1")
	add("b", "i2")
	u.sampleAll(time.Unix(1, 0))
	u.gone("a", "i2")
	u.gone("a", "never")
	u.serviceGone("b")
	u.close()
	if total != 5 {
		t.Errorf("instances that are gone used %d µs in all, want 5", total)
	}
}
