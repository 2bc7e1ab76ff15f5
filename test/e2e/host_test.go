package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const cgroupTop = "/sys/fs/cgroup"

// cgroup2 reports whether the host's controllers are those of cgroup v2.
func cgroup2() bool {
	_, err := os.Stat(filepath.Join(cgroupTop, "cgroup.controllers"))
	return err == nil
}

// hierarchies are the mount points of all cgroup hierarchies.
func hierarchies() []string {
	if cgroup2() {
		return []string{cgroupTop}
	}
	entries, err := os.ReadDir(cgroupTop)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		dir := filepath.Join(cgroupTop, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			list = append(list, dir)
		}
	}
	return list
}

// groupPIDs are the processes in a group and in those below it, in any hierarchy.
func groupPIDs(group string) []int {
	var pids []int
	for _, root := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(root, group), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil //nolint:nilerr // a group that goes away meanwhile has no processes
			}
			data, _ := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return pids
}

// groupOf is a process's group of a v1 controller, or on v2 its only one, as a
// directory.
func groupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		// cgroups(7): hierarchy:controllers:path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3:
		case cgroup2() && f[0] == "0":
			return filepath.Join(cgroupTop, f[2])
		case !cgroup2() && slices.Contains(strings.Split(f[1], ","), controller):
			return filepath.Join(cgroupTop, controller, f[2])
		}
	}
	t.Fatalf("process %d is in no group of %s:\n%s", pid, controller, data)
	return ""
}

// groupFile reads one file of a group.
func groupFile(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// descriptorsOf are the open files of a process, sorted, without what changes its
// number with every opening.
func descriptorsOf(t *testing.T, pid int) []string {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil {
			list = append(list, plain(target))
		}
	}
	slices.Sort(list)
	return list
}

// plain replaces inode numbers: "pipe:[123]" becomes "pipe:[]".
func plain(target string) string {
	name, rest, ok := strings.Cut(target, ":[")
	if ok && strings.HasSuffix(rest, "]") {
		return name + ":[]"
	}
	return target
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	return ok && rest[0] != 'Z' && rest[0] != 'X'
}

// entries are all paths below a directory, sorted.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// groupPath is a process's group in the hierarchy of memory, or on v2 the only one,
// as in proc_pid_cgroup(5).
func groupPath(t *testing.T, pid int) string {
	t.Helper()
	root := cgroupTop
	if !cgroup2() {
		root = filepath.Join(cgroupTop, "memory")
	}
	return strings.TrimPrefix(groupOf(t, pid, "memory"), root)
}

// ignores reports whether a process ignores a signal (proc_pid_status(5), SigIgn).
func ignores(t *testing.T, pid, signal int) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if mask, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return bits&(1<<(signal-1)) != 0
		}
	}
	return false
}
