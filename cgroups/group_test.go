package cgroups_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/cgroups"
)

func TestOpenValidates(t *testing.T) {
	h := mount(t)
	below, err := h.Below("/system.slice/solo.service")
	check(t, err)
	long := "/solo/" + strings.Repeat("x", 256)
	cases := []struct {
		h    *cgroups.Hierarchy
		path string
		ok   bool
	}{
		{h, "/solo-0a1b2c3d/user/x", true},
		{h, "/solo", true},
		{h, "", false},
		{h, "/", false},
		{h, "solo/x", false},
		{h, "/solo/", false},
		{h, "/solo/../etc", false},
		{h, "/solo//x", false},
		{h, "/system.slice", false},
		{h, "/solo/\x00", false},
		{h, "/solo/a\nb", false},
		{h, long, false},
		{below, "/system.slice/solo.service", true},
		{below, "/system.slice/solo.service/user", true},
		{below, "/system.slice/solo.service2", false},
		{below, "/solo-0a1b2c3d", false},
	}
	for _, c := range cases {
		g, err := c.h.Open(c.path)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, cgroups.ErrPath)) {
			t.Errorf("Open(%.60q) = %v", c.path, err)
		}
		if err == nil && g.Path() != c.path {
			t.Errorf("Path of %q is %q", c.path, g.Path())
		}
	}
	for _, bad := range []string{"", "/", "x", "/a/../b"} {
		if _, err := h.Below(bad); !errors.Is(err, cgroups.ErrPath) {
			t.Errorf("Below(%q) = %v", bad, err)
		}
	}
}

func TestLifecycle(t *testing.T) {
	g := group(t)
	if !exists(t, g) {
		t.Fatal("not there after Create")
	}
	check(t, g.Create())
	p := start(t, g)
	pids, err := g.Procs()
	check(t, err)
	if !slices.Equal(pids, []int{p.cmd.Process.Pid}) {
		t.Fatalf("Procs = %v, not %d", pids, p.cmd.Process.Pid)
	}
	if got := events(t, g); !strings.Contains(got, "populated 1") {
		t.Fatalf("with a process: %q", got)
	}
	if err := g.Remove(); err == nil {
		t.Fatal("Remove took away a populated group")
	}
	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := g.WaitEmpty(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("WaitEmpty with a process: %v", err)
	}
	check(t, g.Kill())
	check(t, g.WaitEmpty(within(t)))
	p.waitDead()
	check(t, g.Remove())
	if exists(t, g) {
		t.Fatal("there after Remove")
	}
	// What does not exist is empty, dead and removed.
	check(t, g.Remove())
	check(t, g.Kill())
	check(t, g.WaitEmpty(within(t)))
	if _, err := g.Usage(); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("Usage after Remove: %v", err)
	}
}
