//go:build seccomp

package launcher

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStartTime(t *testing.T) {
	rest := strings.Repeat(" 1", 18) + " 4711 5"
	for _, c := range []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"7 (init) S" + rest, 4711, true},
		{"7 (a) b) S 1 (x) S" + rest, 4711, true}, // the command ends at the last parenthesis
		{"7 (a) S 1 2 3", 0, false},
		{"7 init S" + rest, 0, false},
		{"7 (init) S" + strings.Repeat(" 1", 18) + " x 5", 0, false},
		{"", 0, false},
	} {
		got, err := parseStartTime(c.stat)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %d, %v", c.stat, got, err)
		}
	}
	own, err := startTime(os.Getpid())
	if err != nil || own == 0 {
		t.Errorf("of this process: %d, %v", own, err)
	}
}

func TestCheckCgroupFile(t *testing.T) {
	const group = "/solo-x/user/a"
	hybrid := func(change ...string) string {
		return strings.NewReplacer(change...).Replace("9:freezer:" + group + "\n8:cpuset:/\n4:cpu,cpuacct:" + group +
			"\n3:memory:" + group + "\n2:pids:" + group + "\n1:name=systemd:/elsewhere\n0::" + group + "\n")
	}
	for _, c := range []struct {
		name, content string
		ok            bool
	}{
		{"hybrid", hybrid(), true},
		{"unified", "0::" + group + "\n", true},
		{"elsewhere in memory", hybrid("memory:"+group, "memory:/"), false},
		{"elsewhere in one of two that share a hierarchy", hybrid("cpuacct:"+group, "cpuacct:/other"), false},
		{"elsewhere in the unified tree", hybrid("0::"+group, "0::/"), false},
		{"below it", hybrid("pids:"+group, "pids:"+group+"/b"), false},
		{"unreadable", "nonsense\n", false},
		{"nothing", "", false},
	} {
		if err := checkCgroupFile(c.content, group); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestStepError(t *testing.T) {
	err := step("root", os.ErrNotExist)
	if diff := cmp.Diff("root: file does not exist", err.Error()); diff != "" || !errors.Is(err, os.ErrNotExist) {
		t.Error(diff)
	}
	if step("root", nil) != nil {
		t.Error("no error has a step")
	}
}
