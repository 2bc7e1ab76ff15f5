package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/solo-os/solo/test/testenv"
)

// mostServices is how many services memory is measured of.
const mostServices = 32

const top = "/sys/fs/cgroup"

// memoryTop is where the groups of the memory controller are.
func memoryTop() string {
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); err == nil {
		return top
	}
	return filepath.Join(top, "memory")
}

// held is what a group is charged with, kernel memory included, and the kernel memory
// alone.
func held(tb testing.TB, dir string) (all, kernel float64) {
	tb.Helper()
	if memoryTop() != top {
		// v1's usage includes kernel memory (cgroup-v1/memory.rst, 2.7).
		return number(tb, filepath.Join(dir, "memory.usage_in_bytes")), number(tb, filepath.Join(dir, "memory.kmem.usage_in_bytes"))
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(stat)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "kernel "); ok {
			kernel, _ = strconv.ParseFloat(v, 64)
		}
	}
	return number(tb, filepath.Join(dir, "memory.current")), kernel
}

func number(tb testing.TB, path string) float64 {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return v
}

// memoryGroup is the directory of a process's group.
func memoryGroup(tb testing.TB, pid int) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// cgroups(7): hierarchy:controllers:path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[1] == "memory" || f[1] == "" && memoryTop() == top) {
			return filepath.Join(memoryTop(), f[2])
		}
	}
	tb.Fatalf("process %d is in no group with memory:\n%s", pid, text)
	return ""
}

// memory: what a waiting shell and a deployed static service are charged with. What
// Linux charges to nobody, such as the network namespace's own tables, is not seen.
func memory(tb testing.TB, n int) []row {
	s := sharing.get(tb)
	shells := waitingShells(tb, s)
	var idle, idleKernel, deployed, deployedKernel series
	for _, dir := range shells {
		all, kernel := held(tb, dir)
		idle, idleKernel = append(idle, all), append(idleKernel, kernel)
	}
	var names []string
	for range min(n, mostServices) {
		req := host(s.first)
		s.deploy(tb, req)
		names = append(names, req.GetName())
	}
	s.filled(tb)
	for _, name := range names {
		all, kernel := held(tb, memoryGroup(tb, s.pid(tb, name)))
		deployed, deployedKernel = append(deployed, all), append(deployedKernel, kernel)
	}
	for _, name := range names {
		s.forget(tb, name)
	}
	const kib = 1024
	return []row{
		{name: "memory, waiting shell", unit: bytesHeld, own: idle, targets: []target{{median, 500 * kib}}},
		{name: "memory, waiting shell, kernel's alone", unit: bytesHeld, own: idleKernel},
		{name: "memory, static service", unit: bytesHeld, own: deployed, targets: []target{{median, 500 * kib}}},
		{name: "memory, static service, kernel's alone", unit: bytesHeld, own: deployedKernel},
	}
}

// waitingShells are the groups of the pool, once no service has one.
func waitingShells(tb testing.TB, s *solo) []string {
	tb.Helper()
	s.filled(tb)
	var dirs []string
	testenv.Eventually(tb, patience, fmt.Sprintf("%d groups of waiting shells alone", s.waiting), func() bool {
		dirs = nil
		entries, err := os.ReadDir(filepath.Join(memoryTop(), s.group(), "user"))
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(memoryTop(), s.group(), "user", e.Name()))
			}
		}
		return len(dirs) == int(s.waiting)
	})
	return dirs
}
