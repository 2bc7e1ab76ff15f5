package cgroups

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Placement is where a process was in all hierarchies.
type Placement struct {
	h      *Hierarchy
	places []place
}

type place struct {
	root  string
	group string
}

// Current records the calling process's groups in all mounted hierarchies.
func (h *Hierarchy) Current() (*Placement, error) {
	const file = "/proc/self/cgroup"
	content, err := readFile(file)
	if err != nil {
		return nil, err
	}
	members, err := parseMembership(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	p := &Placement{h: h}
	for _, m := range members {
		if root := h.rootOf(m.controllers); root != "" {
			p.places = append(p.places, place{root: root, group: m.group})
		}
	}
	return p, nil
}

// rootOf is the mount point of the hierarchy with these controllers.
func (h *Hierarchy) rootOf(controllers []string) string {
	if len(controllers) == 0 {
		return h.unified
	}
	for _, m := range h.v1 {
		if slices.Contains(controllers, m.controllers[0]) {
			return m.dir
		}
	}
	return ""
}

// Group is the path of the process's group in the cgroup2 hierarchy.
func (p *Placement) Group() string {
	for _, at := range p.places {
		if at.root == p.h.unified {
			return at.group
		}
	}
	return "/"
}

// MoveSelf makes the group and moves the calling process with all its threads
// into it, and tells where it was before. Unlike Create with AddProc it works
// when the process sits in a group above, which must be left before controllers
// can be enabled in it.
func (g *Group) MoveSelf() (*Placement, error) {
	before, err := g.h.Current()
	if err != nil {
		return nil, err
	}
	if err := g.makeDirs(); err != nil {
		return nil, err
	}
	if err := g.join("0"); err != nil {
		return before, err
	}
	return before, g.enableAbove()
}

// Restore moves the calling process with all its threads back to where it was.
// On v2 a group that has controllers enabled for its children takes no process:
// there they are switched off first, which lifts the limits below it, so
// Restore comes after everything else has ended. It tries all hierarchies
// and returns the errors joined.
func (p *Placement) Restore() error {
	var errs []error
	for _, at := range p.places {
		dir := path.Join(at.root, at.group)
		err := writeFile(path.Join(dir, "cgroup.procs"), "0")
		if errors.Is(err, unix.EBUSY) && at.root == p.h.unified && at.group != "/" {
			if err = disable(dir); err == nil {
				err = writeFile(path.Join(dir, "cgroup.procs"), "0")
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("return to group %s: %w", at.group, err))
		}
	}
	return errors.Join(errs...)
}

// disable switches off all controllers for the children of a group.
func disable(dir string) error {
	control := path.Join(dir, "cgroup.subtree_control")
	on, err := readFile(control)
	if err != nil {
		return err
	}
	var off []string
	for _, c := range strings.Fields(on) {
		off = append(off, "-"+c)
	}
	if len(off) == 0 {
		return nil
	}
	return writeFile(control, strings.Join(off, " "))
}
