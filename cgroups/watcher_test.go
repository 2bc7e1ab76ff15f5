package cgroups_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/test/testenv"
)

func watcher(t *testing.T) *cgroups.Watcher {
	t.Helper()
	w, err := cgroups.NewWatcher(mount(t))
	check(t, err)
	t.Cleanup(func() { check(t, w.Close()) })
	return w
}

// await takes events until one of a kind comes for a key.
func await(t *testing.T, w *cgroups.Watcher, key string, kind cgroups.EventKind) cgroups.Event {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case <-w.Ready():
			for _, e := range w.Take() {
				if e.Key == key && e.Kind == kind {
					return e
				}
			}
		case <-late:
			t.Fatalf("no event %d for %s", kind, key)
		}
	}
}

// TestWatchOOM has a memory bomb go off in a group whose limit is seen to be set, with
// another group beside it that must not be blamed.
func TestWatchOOM(t *testing.T) {
	g, bystander := group(t), group(t)
	h := mount(t)
	w := watcher(t)
	check(t, g.Set(cgroups.Limits{MemoryMax: 48 << 20, PidsMax: 50}))
	if got := raw(t, g, h, "memory.max", "memory:memory.limit_in_bytes"); got != "50331648" {
		t.Fatalf("the limit is not set: %s", got)
	}
	check(t, w.Add(bystander, "bystander"))
	check(t, w.Add(g, "bomb"))
	p := start(t, g)
	if got := p.ask("hold %d", 256<<20); got != "" {
		t.Fatalf("held 256 MiB under a limit of 48: %q", got)
	}
	e := await(t, w, "bomb", cgroups.OOM)
	p.waitDead()
	kills, err := g.OOMKills()
	check(t, err)
	if e.Count == 0 || kills < e.Count {
		t.Errorf("event %+v, OOMKills %d", e, kills)
	}
	if kills, err := bystander.OOMKills(); kills != 0 || err != nil {
		t.Errorf("bystander: %d kills, %v", kills, err)
	}
	for _, e := range w.Take() {
		if e.Key == "bystander" {
			t.Errorf("bystander: %+v", e)
		}
	}
}

func TestWatchPids(t *testing.T) {
	g := group(t)
	w := watcher(t)
	check(t, g.Set(cgroups.Limits{PidsMax: 20, MemoryMax: 512 << 20}))
	if n, err := limitOf(t, g); err != nil || n != "20" {
		t.Fatalf("the limit is not set: %s, %v", n, err)
	}
	check(t, w.Add(g, "forks"))
	p := start(t, g)
	p.order("fork 100")
	e := await(t, w, "forks", cgroups.PidsMax)
	if n, err := g.PidsMaxEvents(); err != nil || e.Count == 0 || n < e.Count {
		t.Errorf("event %+v, PidsMaxEvents %d, %v", e, n, err)
	}
}

// TestWatchMany: the descriptors do not grow with the groups, and every group is told
// apart.
func TestWatchMany(t *testing.T) {
	g := group(t)
	w := watcher(t)
	const n = 20
	var groups []*cgroups.Group
	for i := range n {
		c := child(t, g, fmt.Sprint(i))
		check(t, c.Create())
		check(t, c.Set(cgroups.Limits{PidsMax: 20}))
		groups = append(groups, c)
	}
	before := descriptors(t)
	for i, c := range groups {
		check(t, w.Add(c, fmt.Sprint(i)))
	}
	// The watcher's own looks open a file for a moment.
	testenv.Eventually(t, patience, fmt.Sprintf("%d descriptors as before watching %d groups", before, n),
		func() bool { return descriptors(t) == before })
	missing := map[string]bool{}
	for i := 0; i < n; i += 4 {
		start(t, groups[i]).order("fork 30")
		missing[fmt.Sprint(i)] = true
	}
	for late := time.After(patience); len(missing) > 0; {
		select {
		case <-w.Ready():
			for _, e := range w.Take() {
				if i, err := strconv.Atoi(e.Key); err != nil || i%4 != 0 {
					t.Errorf("event of another group: %+v", e)
				}
				delete(missing, e.Key)
			}
		case <-late:
			t.Fatalf("no event for %v", missing)
		}
	}
	check(t, g.Kill())
	check(t, g.WaitEmpty(within(t)))
	for i, c := range groups {
		w.Remove(fmt.Sprint(i))
		check(t, c.Remove())
	}
}

// TestWatchHammer adds and removes watches while the groups' forks are refused and
// their processes die, and the events are taken: for the race detector, and for an end.
func TestWatchHammer(t *testing.T) {
	g := group(t)
	w := watcher(t)
	const workers, rounds = 4, 5
	victims := make([][]*process, workers)
	groups := make([]*cgroups.Group, workers)
	for i := range workers {
		groups[i] = child(t, g, fmt.Sprint(i))
		check(t, groups[i].Create())
		for range rounds {
			victims[i] = append(victims[i], start(t, groups[i]))
		}
		u, err := groups[i].Usage()
		check(t, err)
		check(t, groups[i].Set(cgroups.Limits{PidsMax: u.Processes}))
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			key := fmt.Sprint(i)
			for round := range rounds {
				victim := victims[i][round]
				err := w.Add(groups[i], key)
				_, order := fmt.Fprintln(victim.in, "fork 3")
				err = errors.Join(err, order, victim.cmd.Process.Kill())
				<-victim.done
				w.Take()
				w.Remove(key)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := w.Take(); len(left) > 0 {
		t.Errorf("events of groups that are not watched: %v", left)
	}
}

func TestWatchRefuses(t *testing.T) {
	g := group(t)
	w, err := cgroups.NewWatcher(mount(t))
	check(t, err)
	defer func() { check(t, w.Close()) }()
	check(t, w.Add(g, "a"))
	if err := w.Add(g, "a"); err == nil {
		t.Error("a key was taken twice")
	}
	w.Remove("a")
	w.Remove("a")
	check(t, w.Add(g, "a"))
	if err := w.Add(child(t, g, "absent"), "b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Add of an absent group: %v", err)
	}
	check(t, w.Close())
	check(t, w.Close())
	if err := w.Add(g, "c"); !errors.Is(err, cgroups.ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
	w.Remove("a")
}

func TestWatcherLeavesNoDescriptor(t *testing.T) {
	g := group(t)
	check(t, g.Create())
	before := descriptors(t)
	for range 10 {
		w, err := cgroups.NewWatcher(mount(t))
		check(t, err)
		check(t, w.Add(g, "a"))
		check(t, w.Close())
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(entries)
}
