package cgroups

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is one path in all hierarchies. It holds no descriptors and no state
// but its name; all methods are safe for concurrent use and work also on a
// group that an earlier process made.
type Group struct {
	h    *Hierarchy
	path string
}

// Path is the group's absolute path within every hierarchy.
func (g *Group) Path() string { return g.path }

// homes are the directories that Create makes: the cgroup2 one first.
func (g *Group) homes() []string {
	dirs := []string{path.Join(g.h.unified, g.path)}
	if g.h.mode == V2 {
		return dirs
	}
	for _, c := range limited {
		// cpu and cpuacct are often one hierarchy.
		if dir := path.Join(g.h.controller(c), g.path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// everywhere are the directories the group may have in all hierarchies.
func (g *Group) everywhere() []string {
	dirs := g.h.roots()
	for i := range dirs {
		dirs[i] = path.Join(dirs[i], g.path)
	}
	return dirs
}

// file is the path of a file of the cgroup2 hierarchy.
func (g *Group) file(name string) string { return path.Join(g.h.unified, g.path, name) }

// v1File is the path of a file of a v1 controller.
func (g *Group) v1File(controller, name string) string {
	return path.Join(g.h.controller(controller), g.path, name)
}

// Create makes the group, and the groups above it that are missing, in all
// hierarchies that limit. On v2 it enables cpu, memory, pids and io for it in
// the groups above: from the root of the hierarchy on, or from the prefix of
// Below on if that is not /solo* and so somebody else's. Creating a group that
// exists is no error. After an error, what was made stays; Remove takes it away.
func (g *Group) Create() error {
	if err := g.makeDirs(); err != nil {
		return err
	}
	return g.enableAbove()
}

func (g *Group) makeDirs() error {
	for _, dir := range g.homes() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create group %s: %w", g.path, err)
		}
	}
	return nil
}

// enableAbove gives the group its controllers. It fails with EBUSY if a group
// above holds processes itself (cgroup-v2.rst, "No Internal Process Constraint").
func (g *Group) enableAbove() error {
	if g.h.mode != V2 {
		return nil
	}
	for above := g.h.delegatedAt(); above != g.path; {
		if err := g.h.enable(path.Join(g.h.unified, above)); err != nil {
			return fmt.Errorf("enable controllers for group %s: %w", g.path, err)
		}
		rest := strings.TrimPrefix(g.path, above+"/")
		name, _, _ := strings.Cut(rest, "/")
		above += "/" + name
	}
	return nil
}

// delegatedAt is the topmost group whose children get controllers from us: one that
// was delegated to us, or the root of the hierarchy for groups of our own.
func (h *Hierarchy) delegatedAt() string {
	if strings.HasPrefix(h.prefix, "/solo") {
		return ""
	}
	return h.prefix
}

func (h *Hierarchy) enable(dir string) error {
	have, err := readFile(path.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := path.Join(dir, "cgroup.subtree_control")
	now, err := readFile(control)
	if err != nil {
		return err
	}
	available, on := strings.Fields(have), strings.Fields(now)
	var add []string
	for i, c := range delegated {
		switch {
		case slices.Contains(on, c):
		case slices.Contains(available, c):
			add = append(add, "+"+c)
		case i < 3:
			return fmt.Errorf("%s: no controller %s: %w", dir, c, errors.ErrUnsupported)
		}
	}
	if len(add) == 0 {
		return nil
	}
	return writeFile(control, strings.Join(add, " "))
}

// Children are the groups directly below g in any hierarchy, by name. A group
// that does not exist has none.
func (g *Group) Children() ([]*Group, error) {
	names := map[string]bool{}
	for _, dir := range g.everywhere() {
		entries, err := os.ReadDir(dir)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list groups below %s: %w", g.path, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names[e.Name()] = true
			}
		}
	}
	var children []*Group
	for _, name := range slices.Sorted(maps.Keys(names)) {
		children = append(children, &Group{h: g.h, path: g.path + "/" + name})
	}
	return children, nil
}

// Procs are the processes directly in the group, by the cgroup2 hierarchy.
func (g *Group) Procs() ([]int, error) {
	return readProcs(g.file("cgroup.procs"))
}

func readProcs(file string) ([]int, error) {
	content, err := readFile(file)
	if err != nil {
		return nil, err
	}
	pids, err := parsePids(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pids, nil
}

// AddProc moves a process with all its threads into the group in every
// hierarchy where the group exists; it must exist where Create makes it. It may
// block for some milliseconds (an RCU grace period per hierarchy).
func (g *Group) AddProc(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("add process %d to group %s: %w", pid, g.path, unix.EINVAL)
	}
	return g.join(strconv.Itoa(pid))
}

func (g *Group) join(pid string) error {
	homes := g.homes()
	for _, dir := range g.everywhere() {
		err := writeFile(path.Join(dir, "cgroup.procs"), pid)
		if err != nil && (slices.Contains(homes, dir) || !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("add process to group %s: %w", g.path, err)
		}
	}
	return nil
}
