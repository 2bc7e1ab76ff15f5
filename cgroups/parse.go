package cgroups

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// cgroupMount is one line of mountinfo that is a cgroup mount.
type cgroupMount struct {
	dir         string
	root        string
	v2          bool
	controllers []string
}

// notControllers are super options of a v1 mount that name no controller.
var notControllers = []string{"rw", "ro", "clone_children", "noprefix", "xattr", "none",
	"cpuset_v2_mode", "favordynmods", "nofavordynmods"}

// parseMountinfo picks the cgroup mounts out of /proc/self/mountinfo (proc(5)).
// Lines that it does not understand are skipped, and so are mounts at a place that
// mountinfo writes with escapes (a blank, a newline).
func parseMountinfo(info string) []cgroupMount {
	var mounts []cgroupMount
	for line := range strings.Lines(info) {
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, super := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(super) < 3 || strings.Contains(f[4], `\`) {
			continue
		}
		m := cgroupMount{root: f[3], dir: f[4]}
		switch super[0] {
		case "cgroup2":
			m.v2 = true
		case "cgroup":
			for opt := range strings.SplitSeq(super[2], ",") {
				agent := strings.HasPrefix(opt, "release_agent=")
				if opt != "" && !agent && !slices.Contains(notControllers, opt) {
					m.controllers = append(m.controllers, opt)
				}
			}
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// parseKeyed looks a key up in a flat keyed file: lines of "key value".
func parseKeyed(content, key string) (uint64, error) {
	for line := range strings.Lines(content) {
		k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if ok && k == key {
			return parseValue(v)
		}
	}
	return 0, fmt.Errorf("no line %q", key)
}

// parseValue reads a single number; "max" and v1's -1 are NoLimit.
func parseValue(content string) (uint64, error) {
	s := strings.TrimSuffix(content, "\n")
	if s == "max" || s == "-1" {
		return NoLimit, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("value %.40q is not a number", s)
	}
	return n, nil
}

// parsePids reads cgroup.procs. A process of another pid namespace is 0 there
// and left out.
func parsePids(content string) ([]int, error) {
	var pids []int
	for line := range strings.Lines(content) {
		n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 64)
		if err != nil || n > math.MaxInt32 {
			return nil, fmt.Errorf("pid %.40q is not a number", line)
		}
		if n > 0 {
			pids = append(pids, int(n))
		}
	}
	return pids, nil
}

// membership is one line of /proc/PID/cgroup.
type membership struct {
	// controllers is empty for the cgroup2 hierarchy.
	controllers []string
	group       string
}

// parseMembership reads /proc/PID/cgroup (cgroups(7)): "id:controllers:path".
func parseMembership(content string) ([]membership, error) {
	var all []membership
	for line := range strings.Lines(content) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		list, group, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 || !strings.HasPrefix(group, "/") {
			return nil, fmt.Errorf("line %.80q is not id:controllers:path", line)
		}
		m := membership{group: strings.TrimSuffix(group, " (deleted)")}
		if list != "" {
			m.controllers = strings.Split(list, ",")
		}
		all = append(all, m)
	}
	return all, nil
}
