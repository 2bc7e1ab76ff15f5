package cgroups

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hybridMounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory,clone_children
35 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids,release_agent=/x
36 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
37 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
38 31 0:38 /docker/x /elsewhere rw,relatime - cgroup2 cgroup2 rw
39 31 0:36 / /again/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:39 / /not\040ours rw,relatime - cgroup cgroup rw,name=other
`

func TestProbe(t *testing.T) {
	const v2Mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	cases := []struct {
		name, mounts, controllers string
		mode                      Mode
		unified                   string
		roots                     []string
	}{
		{"v2", v2Mount, "cpuset cpu io memory pids\n", V2, "/sys/fs/cgroup", []string{"/sys/fs/cgroup"}},
		{"hybrid", hybridMounts, "\n", V1Hybrid, "/sys/fs/cgroup/unified", []string{
			"/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory",
			"/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd",
		}},
		{"v2 without memory", v2Mount, "cpu pids", 0, "", nil},
		{"v1 only", strings.ReplaceAll(hybridMounts, "cgroup2", "ext4"), "", 0, "", nil},
		{"nothing", "", "", 0, "", nil},
		{"a subtree only", "38 31 0:38 /docker/x /elsewhere rw,relatime - cgroup2 cgroup2 rw\n", "cpu memory pids", 0, "", nil},
	}
	for _, c := range cases {
		h, err := probe(parseMountinfo(c.mounts), func(string) (string, error) { return c.controllers, nil })
		if c.mode == 0 {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if h.Mode() != c.mode || h.Unified() != c.unified {
			t.Errorf("%s: %s at %s", c.name, h.Mode(), h.Unified())
		}
		if diff := cmp.Diff(c.roots, h.roots()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestHomes: hierarchies that hold two controllers are named once.
func TestHomes(t *testing.T) {
	h, err := probe(parseMountinfo(hybridMounts), func(string) (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Open("/solo-1/user/x")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/sys/fs/cgroup/unified/solo-1/user/x", "/sys/fs/cgroup/cpu,cpuacct/solo-1/user/x",
		"/sys/fs/cgroup/memory/solo-1/user/x", "/sys/fs/cgroup/pids/solo-1/user/x",
	}
	if diff := cmp.Diff(want, g.homes()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(g.everywhere()); n != 5 {
		t.Errorf("everywhere is %d directories", n)
	}
}

func TestParseKeyed(t *testing.T) {
	cases := []struct {
		content, key string
		want         uint64
		ok           bool
	}{
		{"low 0\nhigh 3\nmax 7\noom 1\noom_kill 1\n", "oom_kill", 1, true},
		{"oom_kill_disable 0\nunder_oom 0\noom_kill 18446744073709551615\n", "oom_kill", NoLimit, true},
		{"max 4", "max", 4, true},
		{"x max\n", "x", NoLimit, true},
		{"oom_kill -2\n", "oom_kill", 0, false},
		{"oom_kill 99999999999999999999\n", "oom_kill", 0, false},
		{"oom_kill\n", "oom_kill", 0, false},
		{"", "oom_kill", 0, false},
	}
	for _, c := range cases {
		got, err := parseKeyed(c.content, c.key)
		if (err == nil) != c.ok || got != c.want {
			t.Errorf("parseKeyed(%q, %q) = %d, %v", c.content, c.key, got, err)
		}
	}
}

func TestParseMembership(t *testing.T) {
	got, err := parseMembership("4:memory:/a/b\n3:cpu,cpuacct:/\n2:name=systemd:/s\n0::/x:y (deleted)\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []membership{
		{[]string{"memory"}, "/a/b"}, {[]string{"cpu", "cpuacct"}, "/"}, {[]string{"name=systemd"}, "/s"}, {nil, "/x:y"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(membership{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"4\n", "4:memory\n", "4:memory:relative\n"} {
		if got, err := parseMembership(bad); err == nil {
			t.Errorf("parseMembership(%q) = %v", bad, got)
		}
	}
}

func TestParsePids(t *testing.T) {
	got, err := parsePids("1\n0\n32768\n")
	if err != nil || !cmp.Equal(got, []int{1, 32768}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"-1\n", "x\n", "\n", "99999999999\n"} {
		if got, err := parsePids(bad); err == nil {
			t.Errorf("parsePids(%q) = %v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(hybridMounts)
	f.Add("0::/\n1:cpu:/x\n")
	f.Add("low 0\nhigh 3\nmax max\n")
	f.Add("populated 1\nfrozen 0\n")
	f.Add("1\n2\n")
	f.Fuzz(func(t *testing.T, content string) {
		for _, m := range parseMountinfo(content) {
			for _, c := range m.controllers {
				if c == "" {
					t.Error("a controller without a name")
				}
			}
			if m.v2 && len(m.controllers) > 0 {
				t.Error("a cgroup2 mount with controllers")
			}
		}
		h, err := probe(parseMountinfo(content), func(string) (string, error) { return content, nil })
		if (err == nil) != (h != nil) {
			t.Errorf("%v, %v", h, err)
		}
		if pids, err := parsePids(content); err == nil {
			for _, pid := range pids {
				if pid <= 0 {
					t.Errorf("pid %d", pid)
				}
			}
		}
		if all, err := parseMembership(content); err == nil {
			for _, m := range all {
				if !strings.HasPrefix(m.group, "/") {
					t.Errorf("group %q", m.group)
				}
			}
		}
		if n, err := parseKeyed(content, "max"); err != nil && n != 0 {
			t.Errorf("%d with %v", n, err)
		}
		if n, err := parseValue(content); err != nil && n != 0 {
			t.Errorf("%d with %v", n, err)
		}
	})
}
