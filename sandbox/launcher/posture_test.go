package launcher_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// posture is how confined a process is, as the host sees it.
type posture struct {
	UIDs, GIDs, Groups     string // of status: real, effective, saved, file system
	UIDMap, GIDMap         string
	Inheritable, Permitted string // capability sets, hexadecimal
	Effective, Bounding    string
	Ambient                string
	NoNewPrivs, Seccomp    string
	Filters                string
	Shared                 []string // namespaces it shares with the test
	Blocked, Ignored       string   // signals, hexadecimal
	OOMScoreAdj            string
	OpenFiles, Core        string // limits, soft and hard
	Root, WorkDir          string
	Foreign                bool // in a cgroup that is neither its own nor the root
}

var namespaces = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

func readPosture(t *testing.T, pid int, cgroup string) posture {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		must(t, err)
		return string(data)
	}
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	status := map[string]string{}
	for line := range strings.Lines(read("status")) {
		k, v, _ := strings.Cut(line, ":")
		status[k] = words(v)
	}
	limits := map[string]string{}
	for line := range strings.Lines(read("limits")) {
		for _, name := range []string{"Max open files", "Max core file size"} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				f := strings.Fields(rest)
				limits[name] = f[0] + " " + f[1]
			}
		}
	}
	link := func(name string) string {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		must(t, err)
		return target
	}
	p := posture{
		UIDs: status["Uid"], GIDs: status["Gid"], Groups: status["Groups"],
		UIDMap: words(read("uid_map")), GIDMap: words(read("gid_map")),
		Inheritable: status["CapInh"], Permitted: status["CapPrm"], Effective: status["CapEff"], Bounding: status["CapBnd"], Ambient: status["CapAmb"],
		NoNewPrivs: status["NoNewPrivs"], Seccomp: status["Seccomp"], Filters: status["Seccomp_filters"],
		Blocked: status["SigBlk"], Ignored: status["SigIgn"],
		OOMScoreAdj: words(read("oom_score_adj")),
		OpenFiles:   limits["Max open files"], Core: limits["Max core file size"],
		Root: link("root"), WorkDir: link("cwd"),
	}
	for _, ns := range namespaces {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		if link("ns/"+ns) == own {
			p.Shared = append(p.Shared, ns)
		}
	}
	for line := range strings.Lines(read("cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[2] != cgroup && f[2] != "/" {
			p.Foreign = true
		}
	}
	return p
}

// confined is the posture of everything in a sandbox whose ids start at base, as the
// id inside that it runs as.
func confined(base, id uint32) posture {
	four := strings.TrimSpace(strings.Repeat(fmt.Sprint(base+id)+" ", 4))
	return posture{
		UIDs: four, GIDs: four,
		UIDMap: fmt.Sprintf("0 %d 65536", base), GIDMap: fmt.Sprintf("0 %d 65536", base),
		Inheritable: none, Permitted: none, Effective: none, Bounding: none, Ambient: none,
		NoNewPrivs: "1", Seccomp: "2", Filters: "2",
		Shared:  []string{"time"}, // has nothing to hide
		Blocked: none, Ignored: none,
		OOMScoreAdj: "0",
		OpenFiles:   "256 256", Core: "0 0",
		Root: "/", WorkDir: "/tmp",
	}
}

// none is a set of capabilities or signals.
const none = "0000000000000000"

func TestPosture(t *testing.T) {
	k := newKernelSide(t)
	v := k.start(k.leaseVictim("wait"))
	v.line()
	want := confined(v.idBase, 1000)
	if diff := cmp.Diff(want, readPosture(t, int(v.pid), v.cgroup)); diff != "" {
		t.Errorf("program (-want +got):\n%s", diff)
	}
	got := readPosture(t, v.shell.pid, v.cgroup)
	want = confined(v.idBase, 0)
	want.Permitted, want.Effective = "00000000000000e0", "00000000000000e0" // KILL, SETGID, SETUID
	want.Filters = "1"
	want.Blocked = "0000000000011000" // SIGPIPE, SIGCHLD: it polls for them
	want.WorkDir = "/"
	want.OpenFiles, want.Core = got.OpenFiles, got.Core // the launcher's
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("solo-init (-want +got):\n%s", diff)
	}
}

// TestProbesAreConfinedToo looks at a probe while it runs.
func TestProbesAreConfinedToo(t *testing.T) {
	k := newKernelSide(t)
	v := k.start(k.leaseVictim("wait"))
	v.line()
	v.send(&controlv1.InitOrder{Order: &controlv1.InitOrder_Exec{Exec: &controlv1.ExecOrder{
		Id: 1, Argv: [][]byte{[]byte("/app/victim"), []byte("wait")}, TimeoutMs: 600_000,
	}}})
	probe := 0
	testenv.Eventually(t, patience, "the probe's process", func() bool {
		for _, pid := range v.processes() {
			if pid != v.shell.pid && pid != int(v.pid) {
				exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
				if exe == "/app/victim" {
					probe = pid
				}
			}
		}
		return probe != 0
	})
	if diff := cmp.Diff(confined(v.idBase, 1000), readPosture(t, probe, v.cgroup)); diff != "" {
		t.Errorf("probe (-want +got):\n%s", diff)
	}
}

// processes are those in the shell's group.
func (s *shell) processes() []int {
	s.t.Helper()
	data, err := os.ReadFile(groupDirs(s.cgroup)[0] + "/cgroup.procs")
	must(s.t, err)
	var pids []int
	for _, f := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(f)
		must(s.t, err)
		pids = append(pids, pid)
	}
	return pids
}

func TestMounts(t *testing.T) {
	k := newKernelSide(t)
	v := k.start(k.leaseVictim("wait"))
	v.line()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", v.pid))
	must(t, err)
	var got []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line) // proc_pid_mountinfo(5)
		i := slices.Index(f, "-")
		got = append(got, strings.Join([]string{f[4], f[3], f[5], f[i+1], f[i+3]}, " "))
	}
	owner := func(id uint32) string { return fmt.Sprintf("uid=%d,gid=%d", v.idBase+id, v.idBase+id) }
	want := []string{
		"/ / ro,nosuid,nodev,relatime tmpfs rw,size=24576k,nr_inodes=8192,mode=755," + owner(0),
		"/proc / rw,nosuid,nodev,noexec,relatime proc rw",
		"/dev / ro,nosuid,noexec,relatime tmpfs rw,size=64k,nr_inodes=32,mode=755",
		"/tmp / rw,nosuid,nodev,noexec,relatime tmpfs rw,size=1024k,nr_inodes=256," + owner(1000),
		"/dev/shm / rw,nosuid,nodev,noexec,relatime tmpfs rw,size=1024k,nr_inodes=256," + owner(1000),
		"/proc / rw,nosuid,nodev,noexec,relatime proc rw,subset=pid",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}
