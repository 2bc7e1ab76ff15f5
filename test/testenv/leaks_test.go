package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(CheckMain(m)) }

// seen reports whether extra has an entry with this beginning and this content.
func seen(extra []string, prefix, content string) bool {
	return slices.ContainsFunc(extra, func(x string) bool {
		return strings.HasPrefix(x, prefix) && strings.Contains(x, content)
	})
}

func TestObserveSeesDescriptors(t *testing.T) {
	startPoller(t.Fatal)
	before := Observe(Scope{})
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	extra := Observe(Scope{}).Since(before)
	_ = f.Close()
	if !seen(extra, "descriptor ", "/dev/zero") {
		t.Errorf("an open file is not among %q", extra)
	}
	if extra := Observe(Scope{}).Since(before); len(extra) != 0 {
		t.Errorf("after closing: %q", extra)
	}
}

func TestObserveSeesProcesses(t *testing.T) {
	startPoller(t.Fatal)
	before := Observe(Scope{})
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	extra := Observe(Scope{}).Since(before)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !seen(extra, "process ", fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("a child is not among %q", extra)
	}
	if extra := left(Scope{}, before); len(extra) != 0 {
		t.Errorf("after it ended: %q", extra)
	}
}

func TestObserveSeesGroups(t *testing.T) {
	Require(t, Root, Cgroup)
	scope := Scope{Cgroups: []string{"/solo-testenv"}}
	before := Observe(scope)
	dir := "/sys/fs/cgroup/solo-testenv"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		dir = "/sys/fs/cgroup/pids/solo-testenv"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	extra := Observe(scope).Since(before)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(extra, []string{"cgroup " + dir}) {
		t.Errorf("a new group shows as %q", extra)
	}
}

func TestObserveSeesMounts(t *testing.T) {
	Require(t, Root)
	dir := t.TempDir()
	scope := Scope{Paths: []string{dir}}
	before := Observe(scope)
	if out, err := exec.Command("mount", "-t", "tmpfs", "solo-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	extra := Observe(scope).Since(before)
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if !seen(extra, "mount ", dir) {
		t.Errorf("a mount is not among %q", extra)
	}
}

func TestRequired(t *testing.T) {
	for _, c := range []struct {
		env  string
		want []Need
		ok   bool
	}{
		{"", nil, true},
		{"root", []Need{Root}, true},
		{"root, cgroup,", []Need{Root, Cgroup}, true},
		{"rooot", nil, false},
	} {
		t.Setenv("SOLO_REQUIRE", c.env)
		got, err := required()
		if !slices.Equal(got, c.want) || (err == nil) != c.ok {
			t.Errorf("SOLO_REQUIRE=%q: %v, %v", c.env, got, err)
		}
	}
}

func TestEveryNeedHasAProbe(t *testing.T) {
	for _, n := range []Need{Root, Cgroup, Cgroup2, UserNS, Seccomp, Landlock, Python, Redis, Tools} {
		if probes[n] == nil {
			t.Errorf("%s has none", n)
		}
	}
}
