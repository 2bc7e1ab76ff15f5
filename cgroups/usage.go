package cgroups

import (
	"fmt"
	"os"
)

// Usage is what the group with all groups below it uses.
type Usage struct {
	// MemoryBytes includes the page cache charged to the group.
	MemoryBytes uint64
	// CPUUsec is the CPU time since the group was made, microseconds.
	CPUUsec uint64
	// Processes counts tasks, that is threads too.
	Processes uint64
}

// Usage reads the present usage.
func (g *Group) Usage() (Usage, error) {
	files := g.usageFiles()
	var u Usage
	var err error
	if u.MemoryBytes, err = readValue(files[0]); err != nil {
		return Usage{}, fmt.Errorf("usage of group %s: %w", g.path, err)
	}
	if g.h.mode == V2 {
		u.CPUUsec, err = readKeyed(files[1], "usage_usec")
	} else {
		u.CPUUsec, err = readValue(files[1])
		u.CPUUsec /= 1000
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of group %s: %w", g.path, err)
	}
	if u.Processes, err = readValue(files[2]); err != nil {
		return Usage{}, fmt.Errorf("usage of group %s: %w", g.path, err)
	}
	return u, nil
}

// usageFiles are memory, CPU and tasks, in this order.
func (g *Group) usageFiles() [3]string {
	if g.h.mode == V2 {
		return [3]string{g.file("memory.current"), g.file("cpu.stat"), g.file("pids.current")}
	}
	return [3]string{
		g.v1File("memory", "memory.usage_in_bytes"),
		g.v1File("cpuacct", "cpuacct.usage"),
		g.v1File("pids", "pids.current"),
	}
}

// UsageFiles opens the files that tell the usage, read-only and close-on-exec,
// for a process that has no way to the hierarchies. v2: memory.current,
// cpu.stat, pids.current; v1: memory.usage_in_bytes, cpuacct.usage
// (nanoseconds), pids.current. They are to be read with pread from offset 0.
// The caller owns and closes them.
func (g *Group) UsageFiles() ([]*os.File, error) {
	var files []*os.File
	for _, name := range g.usageFiles() {
		f, err := os.Open(name)
		if err != nil {
			for _, opened := range files {
				_ = opened.Close()
			}
			return nil, fmt.Errorf("usage files of group %s: %w", g.path, err)
		}
		files = append(files, f)
	}
	return files, nil
}

// OOMKills counts the processes of the group, and on v2 of the groups below,
// that the kernel killed for lack of memory.
func (g *Group) OOMKills() (uint64, error) {
	if g.h.mode == V2 {
		return readKeyed(g.file("memory.events"), "oom_kill")
	}
	return readKeyed(g.v1File("memory", "memory.oom_control"), "oom_kill")
}

// PidsMaxEvents counts the forks refused by the group's task limit.
func (g *Group) PidsMaxEvents() (uint64, error) {
	return readKeyed(g.pidsEvents(), "max")
}

func (g *Group) pidsEvents() string {
	if g.h.mode == V2 {
		return g.file("pids.events")
	}
	return g.v1File("pids", "pids.events")
}

func readValue(file string) (uint64, error) {
	content, err := readFile(file)
	if err != nil {
		return 0, err
	}
	n, err := parseValue(content)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

func readKeyed(file, key string) (uint64, error) {
	content, err := readFile(file)
	if err != nil {
		return 0, err
	}
	n, err := parseKeyed(content, key)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
