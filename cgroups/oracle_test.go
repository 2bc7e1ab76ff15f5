package cgroups_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"

	"github.com/solo-os/solo/cgroups"
)

// reading is what containerd/cgroups says of a group: an independent reader.
type reading struct {
	memory, memoryLimit, cpuUsec, tasks, tasksLimit uint64
}

// oracle reads with containerd's library, with the package's hierarchies left out.
func oracle(t *testing.T, g *cgroups.Group, h *cgroups.Hierarchy) reading {
	t.Helper()
	if h.Mode() == cgroups.V2 {
		m, err := cgroup2.Load(g.Path(), cgroup2.WithMountpoint(h.Unified()))
		check(t, err)
		s, err := m.Stat()
		check(t, err)
		return reading{memory: s.GetMemory().GetUsage(), memoryLimit: s.GetMemory().GetUsageLimit(),
			cpuUsec: s.GetCPU().GetUsageUsec(), tasks: s.GetPids().GetCurrent(), tasksLimit: s.GetPids().GetLimit()}
	}
	root := filepath.Dir(v1Root(t, "memory"))
	c, err := cgroup1.Load(cgroup1.StaticPath(g.Path()), cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) {
		return []cgroup1.Subsystem{cgroup1.NewMemory(root), cgroup1.NewCpuacct(root), cgroup1.NewPids(root)}, nil
	}))
	check(t, err)
	s, err := c.Stat(cgroup1.IgnoreNotExist)
	check(t, err)
	return reading{memory: s.GetMemory().GetUsage().GetUsage(), memoryLimit: s.GetMemory().GetUsage().GetLimit(),
		cpuUsec: s.GetCPU().GetUsage().GetTotal() / 1000, tasks: s.GetPids().GetCurrent(), tasksLimit: s.GetPids().GetLimit()}
}

func TestAgainstContainerd(t *testing.T) {
	g := group(t)
	h := mount(t)
	check(t, g.Set(cgroups.Limits{MemoryMax: 256 << 20, PidsMax: 50}))
	p := start(t, g)
	if got := p.ask("hold %d", 24<<20); got != "held" {
		t.Fatalf("hold: %q", got)
	}
	if got := p.ask("burn 50"); got != "burnt" {
		t.Fatalf("burn: %q", got)
	}
	// Stopped, it uses nothing more between the readings.
	check(t, g.Freeze(within(t)))
	before, err := g.Usage()
	check(t, err)
	want := oracle(t, g, h)
	after, err := g.Usage()
	check(t, err)
	// Frees of the Linux kernel's own may still trickle in.
	const slack = 1 << 20
	if want.memory+slack < min(before.MemoryBytes, after.MemoryBytes) || want.memory > max(before.MemoryBytes, after.MemoryBytes)+slack {
		t.Errorf("memory: %d and %d, containerd %d", before.MemoryBytes, after.MemoryBytes, want.memory)
	}
	if before.MemoryBytes < 24<<20 {
		t.Errorf("memory is %d bytes with 24 MiB held", before.MemoryBytes)
	}
	if want.cpuUsec < before.CPUUsec || want.cpuUsec > after.CPUUsec || before.CPUUsec < 20_000 {
		t.Errorf("CPU time: %d and %d, containerd %d", before.CPUUsec, after.CPUUsec, want.cpuUsec)
	}
	if before.Processes != want.tasks || want.tasks == 0 {
		t.Errorf("tasks: %d, containerd %d", before.Processes, want.tasks)
	}
	if want.memoryLimit != 256<<20 || want.tasksLimit != 50 {
		t.Errorf("limits by containerd: %d bytes, %d tasks", want.memoryLimit, want.tasksLimit)
	}
	check(t, g.Thaw())
}

func TestUsageFiles(t *testing.T) {
	g := group(t)
	h := mount(t)
	files, err := g.UsageFiles()
	check(t, err)
	want := "memory.current cpu.stat pids.current"
	if h.Mode() == cgroups.V1Hybrid {
		want = "memory.usage_in_bytes cpuacct.usage pids.current"
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.Name()))
		buf := make([]byte, 4096)
		for range 2 {
			if n, _ := f.ReadAt(buf, 0); n == 0 {
				t.Errorf("%s is empty", f.Name())
			}
		}
		if _, err := f.Write([]byte("1")); err == nil {
			t.Errorf("%s can be written", f.Name())
		}
		check(t, f.Close())
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("usage files %q, not %q", got, want)
	}
}
