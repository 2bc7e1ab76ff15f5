package testenv

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Scope says what of the host belongs to a test, beside its own process and the
// children of that. Tests of several packages run at once, so a test looks only at
// what it could have made.
type Scope struct {
	// Cgroups are absolute cgroup paths such as "/solo-1a2b3c4d": groups that begin
	// with one, and the processes in them, are the test's.
	Cgroups []string
	// Paths are absolute paths: mounts on or from them are the test's.
	Paths []string
}

// EverySolo is the scope of everything that any Solo on this host makes. It fits
// tests that run alone.
func EverySolo() Scope {
	return Scope{Cgroups: []string{"/solo"}, Paths: []string{"/run/solo", "/var/lib/solo", "/tmp/solo"}}
}

// Traces are what a test may leave behind, each as sorted words for people.
type Traces struct {
	Descriptors []string // of this process
	Processes   []string // descendants of this process, and those in the scope's groups
	Cgroups     []string
	Mounts      []string
	Namespaces  []string // network namespaces of those processes
}

// Observe reads what there is now.
func Observe(s Scope) Traces {
	var tr Traces
	tr.Descriptors = descriptors()
	for _, p := range processes(s) {
		tr.Processes = append(tr.Processes, p.name)
		if p.net != "" && !slices.Contains(tr.Namespaces, p.net) {
			tr.Namespaces = append(tr.Namespaces, p.net)
		}
	}
	tr.Cgroups = groups(s)
	tr.Mounts = mounts(s)
	slices.Sort(tr.Processes)
	slices.Sort(tr.Namespaces)
	return tr
}

// Since lists what tr has and before had not.
func (tr Traces) Since(before Traces) []string {
	var extra []string
	for _, c := range []struct {
		kind       string
		now, there []string
	}{
		{"descriptor", tr.Descriptors, before.Descriptors},
		{"process", tr.Processes, before.Processes},
		{"cgroup", tr.Cgroups, before.Cgroups},
		{"mount", tr.Mounts, before.Mounts},
		{"network namespace", tr.Namespaces, before.Namespaces},
	} {
		rest := slices.Clone(c.there)
		for _, x := range c.now {
			if i := slices.Index(rest, x); i >= 0 {
				rest = slices.Delete(rest, i, i+1)
				continue
			}
			extra = append(extra, c.kind+" "+x)
		}
	}
	return extra
}

// settle is how long endings may take: the last reap, a removal that is retried.
const settle = 10 * time.Second

// left waits for what came since before to go, and lists what did not.
func left(s Scope, before Traces) []string {
	deadline := time.Now().Add(Scale(settle))
	for {
		extra := Observe(s).Since(before)
		if len(extra) == 0 || time.Now().After(deadline) {
			return extra
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Leaks fails the test if, at its end and after all clean-ups registered later, more
// is there than now. Call it first.
func Leaks(t testing.TB, s Scope) {
	t.Helper()
	startPoller(t.Fatal)
	before := Observe(s)
	t.Cleanup(func() {
		if t.Skipped() {
			return
		}
		for _, x := range left(s, before) {
			t.Errorf("left behind: %s", x)
		}
	})
}

// CheckMain runs a package's tests and answers the exit status: that of the tests,
// or 1 if they left descriptors of this process or children of it. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }
func CheckMain(m *testing.M) int {
	startPoller(func(args ...any) { panic(fmt.Sprint(args...)) })
	before := Observe(Scope{})
	code := m.Run()
	if code != 0 {
		return code
	}
	extra := left(Scope{}, before)
	for _, x := range extra {
		fmt.Fprintf(os.Stderr, "the tests of this package left behind: %s\n", x)
	}
	if len(extra) > 0 {
		return 1
	}
	return 0
}

// startPoller makes the runtime open its epoll descriptors, which stay.
func startPoller(fatal func(...any)) {
	r, w, err := os.Pipe()
	if err != nil {
		fatal(err)
		return
	}
	_ = r.Close()
	_ = w.Close()
}

func descriptors() []string {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		// The directory that was just read is closed by now.
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasSuffix(target, "/fd") && strings.HasPrefix(target, "/proc/") {
			continue
		}
		list = append(list, e.Name()+" "+target)
	}
	slices.Sort(list)
	return list
}

type process struct {
	pid, parent int
	name        string // with its pid, command and group
	groups      []string
	net         string
}

// processes are this process's descendants and those in the scope's groups.
func processes(s Scope) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make(map[int]process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all[pid] = p
		}
	}
	self := os.Getpid()
	var list []process
	for pid, p := range all {
		if pid == self {
			continue
		}
		ours := slices.ContainsFunc(p.groups, s.hasGroup)
		for up := p.parent; up > 1 && !ours; up = all[up].parent {
			ours = up == self
		}
		if ours {
			list = append(list, p)
		}
	}
	return list
}

func readProcess(pid int) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// proc_pid_stat(5): pid (command) state ppid …; the command may hold anything.
	text := string(stat)
	end := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	if end < 0 || len(fields) < 2 {
		return process{}, false
	}
	p := process{pid: pid, name: text[:end+1] + " " + fields[0]}
	p.parent, _ = strconv.Atoi(fields[1])
	p.net, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	for line := range strings.Lines(string(cgroup)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			p.groups = append(p.groups, parts[2])
		}
	}
	return p, true
}

func (s Scope) hasGroup(path string) bool {
	return slices.ContainsFunc(s.Cgroups, func(root string) bool { return strings.HasPrefix(path, root) })
}

// groups are the scope's groups in every hierarchy, as paths below /sys/fs/cgroup.
func groups(s Scope) []string {
	const top = "/sys/fs/cgroup"
	roots := []string{top}
	if entries, err := os.ReadDir(top); err == nil {
		for _, e := range entries {
			if _, err := os.Stat(filepath.Join(top, e.Name(), "cgroup.procs")); err == nil {
				roots = append(roots, filepath.Join(top, e.Name()))
			}
		}
	}
	var list []string
	for _, root := range roots {
		for _, want := range s.Cgroups {
			found, _ := filepath.Glob(filepath.Join(root, want) + "*")
			for _, dir := range found {
				_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if err == nil && d.IsDir() && !slices.Contains(list, path) {
						list = append(list, path)
					}
					return nil // a group that goes away meanwhile is no trace
				})
			}
		}
	}
	slices.Sort(list)
	return list
}

func mounts(s Scope) []string {
	if len(s.Paths) == 0 {
		return nil
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		// proc_pid_mountinfo(5): the fourth field is the root, the fifth the target.
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		for _, p := range s.Paths {
			if strings.HasPrefix(fields[3], p) || strings.HasPrefix(fields[4], p) {
				list = append(list, fields[4]+" from "+fields[3])
				break
			}
		}
	}
	slices.Sort(list)
	return list
}
