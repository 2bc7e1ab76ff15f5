package cgroups_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
)

func TestFreeze(t *testing.T) {
	g := group(t)
	p := start(t, g)
	check(t, g.Freeze(within(t)))
	if got := events(t, g); !strings.Contains(got, "frozen 1") {
		t.Fatalf("after Freeze: %q", got)
	}
	p.order("hello")
	answered := make(chan string, 1)
	go func() {
		line, _ := p.out.ReadString('\n')
		answered <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answered:
		t.Fatalf("a frozen process answered %q", line)
	case <-time.After(100 * time.Millisecond):
	}
	check(t, g.Thaw())
	select {
	case line := <-answered:
		if line != "here" {
			t.Errorf("after Thaw: %q", line)
		}
	case <-time.After(patience):
		t.Error("no answer after Thaw")
	}
}

func TestKillFrozen(t *testing.T) {
	g := group(t)
	p := start(t, g)
	check(t, g.Freeze(within(t)))
	check(t, g.Kill())
	check(t, g.WaitEmpty(within(t)))
	p.waitDead()
}

// TestKillTree: a kill reaches the groups below and the children of processes.
func TestKillTree(t *testing.T) {
	g := group(t)
	below := child(t, g, "below")
	check(t, below.Create())
	p := start(t, below)
	if got := p.ask("fork 5"); got != "forked 5" {
		t.Fatalf("fork: %q", got)
	}
	check(t, g.Kill())
	check(t, g.WaitEmpty(within(t)))
	p.waitDead()
	if pids, err := below.Procs(); len(pids) > 0 || err != nil {
		t.Errorf("Procs after Kill: %v, %v", pids, err)
	}
	children, err := g.Children()
	check(t, err)
	if len(children) != 1 || children[0].Path() != below.Path() {
		t.Errorf("Children: %v", children)
	}
	check(t, g.Remove())
}

// TestRemoveTree sweeps what a container library leaves that died half way: groups
// in hierarchies that Create leaves alone, processes that are in one of them only,
// and a group frozen by the v1 freezer.
func TestRemoveTree(t *testing.T) {
	g := group(t)
	h := mount(t)
	below := child(t, g, "below")
	check(t, below.Create())
	p := start(t, below)
	var strays []*process
	if h.Mode() == cgroups.V1Hybrid {
		for _, controller := range []string{"pids", "freezer", "devices", "name=systemd"} {
			dir := filepath.Join(v1Root(t, controller), below.Path(), "stray")
			check(t, os.MkdirAll(dir, 0o755))
			other := startOutside(t)
			check(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(other.cmd.Process.Pid)), 0))
			if controller == "freezer" {
				check(t, os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("FROZEN"), 0))
			}
			strays = append(strays, other)
		}
		if err := below.Remove(); err == nil {
			t.Fatal("Remove took away groups with strays")
		}
	}
	check(t, g.RemoveTree(within(t)))
	for _, dead := range append(strays, p) {
		dead.waitDead()
	}
	if exists(t, g) {
		t.Error("there after RemoveTree")
	}
	if h.Mode() == cgroups.V1Hybrid {
		for _, controller := range []string{"pids", "freezer", "devices", "name=systemd"} {
			if _, err := os.Stat(filepath.Join(v1Root(t, controller), g.Path())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("group left in %s: %v", controller, err)
			}
		}
	}
	check(t, g.RemoveTree(within(t)))
}

// TestRemoveTreeAgainstForks removes a group while its processes fork.
func TestRemoveTreeAgainstForks(t *testing.T) {
	g := group(t)
	check(t, g.Set(cgroups.Limits{PidsMax: 150, MemoryMax: 512 << 20}))
	if n, err := limitOf(t, g); err != nil || n != "150" {
		t.Fatalf("the limit is not set: %s, %v", n, err)
	}
	var victims []*process
	for range 3 {
		p := start(t, g)
		p.order("fork 1000000")
		victims = append(victims, p)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		u, err := g.Usage()
		check(t, err)
		if u.Processes > 40 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the victims do not fork: %+v", u)
		}
	}
	check(t, g.RemoveTree(within(t)))
	for _, p := range victims {
		p.waitDead()
	}
}

// limitOf reads pids.max past the package.
func limitOf(t *testing.T, g *cgroups.Group) (string, error) {
	h := mount(t)
	dir := h.Unified()
	if h.Mode() == cgroups.V1Hybrid {
		dir = v1Root(t, "pids")
	}
	content, err := os.ReadFile(filepath.Join(dir, g.Path(), "pids.max"))
	return strings.TrimSpace(string(content)), err
}

func TestRemoveTreeEndsWithItsContext(t *testing.T) {
	g := group(t)
	start(t, g)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	err := g.RemoveTree(ended)
	// The kill may have been quick enough; then nothing is left.
	if err == nil && exists(t, g) {
		t.Error("no error, and the group is there")
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, unix.EBUSY) {
		t.Errorf("with its context ended: %v", err)
	}
}

func TestAddProcRefuses(t *testing.T) {
	g := group(t)
	p := start(t, g)
	check(t, p.in.Close())
	p.waitDead()
	for _, pid := range []int{0, -1, p.cmd.Process.Pid} {
		if err := g.AddProc(pid); err == nil {
			t.Errorf("AddProc(%d) was taken", pid)
		}
	}
	check(t, g.WaitEmpty(within(t)))
}
