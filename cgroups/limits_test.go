package cgroups_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/cgroups"
)

// raw reads a control file of the group, past the package: by controller on v1.
func raw(t *testing.T, g *cgroups.Group, h *cgroups.Hierarchy, v2, v1 string) string {
	t.Helper()
	file := filepath.Join(h.Unified(), g.Path(), v2)
	if h.Mode() == cgroups.V1Hybrid {
		controller, name, _ := strings.Cut(v1, ":")
		file = filepath.Join(v1Root(t, controller), g.Path(), name)
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && strings.Contains(file, "swap") {
		return "absent"
	}
	check(t, err)
	return strings.TrimSpace(string(content))
}

// v1Root finds a hierarchy in the mount table without the package's parser.
func v1Root(t *testing.T, controller string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] != "cgroup" {
			continue
		}
		for opt := range strings.SplitSeq(f[3], ",") {
			if opt == controller {
				return f[1]
			}
		}
	}
	t.Fatalf("no v1 hierarchy of %s", controller)
	return ""
}

func TestSet(t *testing.T) {
	g := group(t)
	h := mount(t)
	type state struct{ Memory, Swap, Pids, CPU, Quota, Period string }
	read := func() state {
		s := state{
			Memory: raw(t, g, h, "memory.max", "memory:memory.limit_in_bytes"),
			Swap:   raw(t, g, h, "memory.swap.max", "memory:memory.memsw.limit_in_bytes"),
			Pids:   raw(t, g, h, "pids.max", "pids:pids.max"),
			CPU:    raw(t, g, h, "cpu.weight", "cpu:cpu.shares"),
		}
		if h.Mode() == cgroups.V2 {
			s.Quota, s.Period, _ = strings.Cut(raw(t, g, h, "cpu.max", ""), " ")
		} else {
			s.Quota = raw(t, g, h, "", "cpu:cpu.cfs_quota_us")
			s.Period = raw(t, g, h, "", "cpu:cpu.cfs_period_us")
		}
		return s
	}
	first := read()
	hybrid := h.Mode() == cgroups.V1Hybrid
	// pick gives the value a file should have in this host's mode.
	pick := func(v2, v1 string) string {
		if hybrid {
			return v1
		}
		return v2
	}
	swap := func(v1 string) string {
		if first.Swap == "absent" {
			return "absent"
		}
		return pick("0", v1)
	}
	unlimited := first.Memory

	steps := []struct {
		name   string
		limits cgroups.Limits
		change func(*state)
	}{
		{"nothing", cgroups.Limits{}, func(*state) {}},
		{"memory", cgroups.Limits{MemoryMax: 64 << 20}, func(s *state) { s.Memory, s.Swap = "67108864", swap("67108864") }},
		{"more memory", cgroups.Limits{MemoryMax: 128 << 20}, func(s *state) { s.Memory, s.Swap = "134217728", swap("134217728") }},
		{"less memory", cgroups.Limits{MemoryMax: 32 << 20}, func(s *state) { s.Memory, s.Swap = "33554432", swap("33554432") }},
		{"pids", cgroups.Limits{PidsMax: 17}, func(s *state) { s.Pids = "17" }},
		{"shares", cgroups.Limits{CPUShares: 512}, func(s *state) { s.CPU = pick("59", "512") }},
		{"least shares", cgroups.Limits{CPUShares: 2}, func(s *state) { s.CPU = pick("1", "2") }},
		{"most shares", cgroups.Limits{CPUShares: 262144}, func(s *state) { s.CPU = pick("10000", "262144") }},
		{"default shares", cgroups.Limits{CPUShares: 1024}, func(s *state) { s.CPU = pick("100", "1024") }},
		{"quota", cgroups.Limits{CPUQuotaUsec: 50_000}, func(s *state) { s.Quota, s.Period = "50000", "100000" }},
		{"less quota", cgroups.Limits{CPUQuotaUsec: 20_000}, func(s *state) { s.Quota = "20000" }},
		{"no quota", cgroups.Limits{CPUQuotaUsec: cgroups.NoLimit}, func(s *state) { s.Quota, s.Period = pick("max", "-1"), "100000" }},
		{"no memory limit", cgroups.Limits{MemoryMax: cgroups.NoLimit}, func(s *state) { s.Memory, s.Swap = unlimited, swap(first.Swap) }},
		{"no pids limit", cgroups.Limits{PidsMax: cgroups.NoLimit}, func(s *state) { s.Pids = "max" }},
	}
	want := first
	for _, s := range steps {
		check(t, g.Set(s.limits))
		s.change(&want)
		if diff := cmp.Diff(want, read()); diff != "" {
			t.Fatalf("after %s (-want +got):\n%s", s.name, diff)
		}
	}
	if !hybrid {
		if got := raw(t, g, h, "memory.oom.group", ""); got != "1" {
			t.Errorf("memory.oom.group = %s", got)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	g := group(t)
	for _, l := range []cgroups.Limits{
		{CPUShares: 1},
		{CPUShares: 262145},
		{CPUQuotaUsec: 999},
		{CPUQuotaUsec: 1 << 50},
	} {
		if err := g.Set(l); err == nil {
			t.Errorf("Set(%+v) was taken", l)
		}
	}
	err := g.Set(cgroups.Limits{PidsMax: 1 << 40, CPUShares: 512})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "pids.max") || !strings.Contains(err.Error(), "1099511627776") {
		t.Errorf("an impossible pids.max: %v", err)
	}
	check(t, g.Remove())
	err = g.Set(cgroups.Limits{MemoryMax: 1 << 30})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Set of a group that is gone: %v", err)
	}
}

func TestWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Uint32Range(2, 262144).Draw(t, "a")
		b := rapid.Uint32Range(2, 262144).Draw(t, "b")
		if wa, wb := cgroups.Weight(min(a, b)), cgroups.Weight(max(a, b)); wa > wb || wa < 1 || wb > 10000 {
			t.Fatalf("weights %d, %d", wa, wb)
		}
	})
}

// TestQuotaThrottles: the Linux kernel says that it held the group back.
func TestQuotaThrottles(t *testing.T) {
	g := group(t)
	h := mount(t)
	check(t, g.Set(cgroups.Limits{CPUQuotaUsec: 10_000}))
	p := start(t, g)
	if got := p.ask("burn 250"); got != "burnt" {
		t.Fatalf("burn: %q", got)
	}
	for line := range strings.Lines(raw(t, g, h, "cpu.stat", "cpu:cpu.stat")) {
		if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
			if strings.TrimSpace(n) == "0" {
				t.Error("a group over its quota was not throttled")
			}
			return
		}
	}
	t.Error("cpu.stat has no nr_throttled")
}

// TestMemoryBelowUsage: v1 refuses a limit that does not fit, v2 makes it fit.
func TestMemoryBelowUsage(t *testing.T) {
	g := group(t)
	check(t, g.Set(cgroups.Limits{MemoryMax: 256 << 20}))
	p := start(t, g)
	if got := p.ask("hold %d", 64<<20); got != "held" {
		t.Fatalf("hold: %q", got)
	}
	err := g.Set(cgroups.Limits{MemoryMax: 16 << 20})
	if mount(t).Mode() == cgroups.V2 {
		check(t, err)
		p.waitDead()
		return
	}
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("a limit of 16 MiB with 64 held: %v", err)
	}
	if got := p.ask("hello"); got != "here" {
		t.Errorf("after the refusal: %q", got)
	}
}

// TestOOMEndsGroup: on v2 an OOM kill takes the whole group; on v1 the rest is left to
// whoever watches.
func TestOOMEndsGroup(t *testing.T) {
	g := group(t)
	check(t, g.Set(cgroups.Limits{MemoryMax: 128 << 20, PidsMax: 100}))
	p := start(t, g)
	if got := p.ask("fork 2"); got != "forked 2" {
		t.Fatalf("fork: %q", got)
	}
	if got := p.ask("hold %d", 512<<20); got != "" {
		t.Fatalf("held 512 MiB under a limit of 128: %q", got)
	}
	p.waitDead()
	if mount(t).Mode() == cgroups.V1Hybrid {
		check(t, g.Kill())
	}
	check(t, g.WaitEmpty(within(t)))
	if kills, err := g.OOMKills(); kills == 0 || err != nil {
		t.Errorf("OOMKills: %d, %v", kills, err)
	}
}
