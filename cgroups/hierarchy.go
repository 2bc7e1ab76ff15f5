package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Mode says where the controllers of a host are.
type Mode uint8

const (
	// V2 is a host whose cgroup2 hierarchy has cpu, memory and pids.
	V2 Mode = iota + 1
	// V1Hybrid is a host with these controllers in v1 hierarchies and a cgroup2
	// mount without them.
	V1Hybrid
)

func (m Mode) String() string {
	switch m {
	case V2:
		return "v2"
	case V1Hybrid:
		return "v1-hybrid"
	}
	return "unknown"
}

// limited are the controllers a group must have; on v1 these are the hierarchies
// in which Create makes it.
var limited = []string{"cpu", "cpuacct", "memory", "pids"}

// delegated are the controllers that Create enables for children on v2. The
// first three must be there.
var delegated = []string{"cpu", "memory", "pids", "io"}

// Hierarchy is the set of mounted cgroup hierarchies. It is immutable and safe
// for concurrent use; it holds no descriptors.
type Hierarchy struct {
	mode    Mode
	unified string
	// v1 has one entry for each mounted v1 hierarchy, in mountinfo's order.
	v1 []v1Mount
	// prefix bounds the groups that Open accepts: "" for /solo*, else a group.
	prefix string
}

type v1Mount struct {
	dir string
	// controllers are names such as "memory", or "name=systemd".
	controllers []string
}

// Mount finds the hierarchies that are mounted and readable in this process's
// mount namespace. It mounts nothing. The error wraps errors.ErrUnsupported if
// the host has neither of the two layouts.
func Mount() (*Hierarchy, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	return probe(parseMountinfo(string(info)), readFile)
}

// probe decides the mode from the mounts; read returns the content of a file.
func probe(mounts []cgroupMount, read func(string) (string, error)) (*Hierarchy, error) {
	h := &Hierarchy{}
	for _, m := range mounts {
		// A mount of a subtree would need paths translated; in a cgroup
		// namespace the visible root is "/" as well.
		if m.root != "/" {
			continue
		}
		if m.v2 {
			if h.unified == "" {
				h.unified = m.dir
			}
			continue
		}
		known := slices.ContainsFunc(h.v1, func(o v1Mount) bool {
			return slices.Equal(o.controllers, m.controllers)
		})
		if !known && len(m.controllers) > 0 {
			h.v1 = append(h.v1, v1Mount{dir: m.dir, controllers: m.controllers})
		}
	}
	if h.unified == "" {
		return nil, fmt.Errorf("no cgroup2 mount: %w", errors.ErrUnsupported)
	}
	file := path.Join(h.unified, "cgroup.controllers")
	list, err := read(file)
	if err != nil {
		return nil, err
	}
	have := strings.Fields(list)
	var absent, missing []string
	for _, c := range delegated[:3] {
		if !slices.Contains(have, c) {
			absent = append(absent, c)
		}
	}
	if len(absent) == 0 {
		h.mode = V2
		return h, nil
	}
	for _, c := range limited {
		if h.controller(c) == "" {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("no cgroup controller %s (cgroup2 at %s lacks %s): %w",
			strings.Join(missing, ", "), h.unified, strings.Join(absent, ", "), errors.ErrUnsupported)
	}
	h.mode = V1Hybrid
	return h, nil
}

// Mode says where the controllers are.
func (h *Hierarchy) Mode() Mode { return h.mode }

// Unified is the mount point of the cgroup2 hierarchy.
func (h *Hierarchy) Unified() string { return h.unified }

// controller is the mount point of a v1 controller's hierarchy, or "".
func (h *Hierarchy) controller(name string) string {
	for _, m := range h.v1 {
		if slices.Contains(m.controllers, name) {
			return m.dir
		}
	}
	return ""
}

// roots are the mount points of all hierarchies, the cgroup2 one first.
func (h *Hierarchy) roots() []string {
	dirs := []string{h.unified}
	for _, m := range h.v1 {
		dirs = append(dirs, m.dir)
	}
	return dirs
}

// ErrPath is wrapped by the errors for a group path that is not clean, not
// absolute, or not under the prefix.
var ErrPath = errors.New("not a group of this hierarchy")

// Below returns a view of h that opens only root and groups below it. Root may be
// one that somebody else made and delegated (systemd's Delegate=yes): no controller
// is enabled above it then. Without Below, all groups under /solo* are ours.
func (h *Hierarchy) Below(root string) (*Hierarchy, error) {
	if err := cleanPath(root); err != nil {
		return nil, err
	}
	b := *h
	b.prefix = root
	return &b, nil
}

// Open names a group by its absolute path in every hierarchy, such as
// /solo-0a1b2c3d/user/x. It does no I/O and the group need not exist.
func (h *Hierarchy) Open(group string) (*Group, error) {
	if err := cleanPath(group); err != nil {
		return nil, err
	}
	switch {
	case h.prefix == "":
		if !strings.HasPrefix(group, "/solo") {
			return nil, fmt.Errorf("group %q is not under /solo*: %w", group, ErrPath)
		}
	case group != h.prefix && !strings.HasPrefix(group, h.prefix+"/"):
		return nil, fmt.Errorf("group %q is not under %s: %w", group, h.prefix, ErrPath)
	}
	return &Group{h: h, path: group}, nil
}

func cleanPath(group string) error {
	switch {
	case len(group) > 3072:
		return fmt.Errorf("group path of %d bytes: %w", len(group), ErrPath)
	case !strings.HasPrefix(group, "/") || group == "/" || path.Clean(group) != group:
		return fmt.Errorf("group %q is not a clean absolute path: %w", group, ErrPath)
	case strings.ContainsAny(group, "\x00\n"):
		return fmt.Errorf("group %q has a control character: %w", group, ErrPath)
	}
	for name := range strings.SplitSeq(group[1:], "/") {
		if len(name) > 255 {
			return fmt.Errorf("group %q has a name over 255 bytes: %w", group, ErrPath)
		}
	}
	return nil
}
