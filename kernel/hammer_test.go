package kernel

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestHammer has clients ask for everything at once while instances, and Solo's own
// services, end as they like. At any time what lives is where it belongs, every call is
// answered once and as its client must expect, and at the end the store, the audit log
// and the host agree with the answers.
func TestHammer(t *testing.T) {
	clients, steps := 5, 60
	if testenv.Long() {
		clients, steps = 8, 1000
	}
	r := newRig(t)
	r.idRanges = 256
	r.boot()
	seed := testenv.Seed(t)
	told := &tally{ops: map[string]*answers{}}
	var asking, rest sync.WaitGroup
	for i := range clients {
		c := &client{r: r, tally: told, number: i, name: fmt.Sprint("client-", i), rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		asking.Go(func() {
			for range steps {
				c.step()
			}
		})
	}
	over := make(chan struct{})
	rest.Go(func() { r.fate(rand.New(rand.NewPCG(seed, 1000)), over) })
	rest.Go(func() {
		for {
			r.own(func(k *Kernel) { told.faults(invariants(k)) })
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	asking.Wait()
	close(over)
	rest.Wait()
	r.quiet()
	r.own(func(k *Kernel) { told.faults(invariants(k)) })
	before := r.states()
	must(t, r.stop())
	close(r.over)
	r.compare(before)
	r.agrees(told)
	r.sound()
	// The next kernel brings back what should run, and nothing else.
	r.boot()
	r.quiet()
	r.own(func(k *Kernel) { told.faults(invariants(k)) })
	for name, s := range r.states() {
		if was := before[name]; was.desired != s.desired && was.desired != desiredRunning {
			t.Errorf("%s is wanted %s, was %s", name, s.desired, was.desired)
		}
	}
	must(t, r.stop())
	for _, w := range told.wrong {
		t.Error(w)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d kinds of calls, %d refused, %d left before their answer, %d sandboxes, %d audit records", len(told.ops), told.refused, told.unknown, r.made, r.log.total())
}

func (t *tally) faults(faults []string) {
	for _, f := range faults {
		t.fault("%s", f)
	}
}

// fate ends instances, and now and then one of Solo's own services, though less often
// than their supervisor would bear.
func (r *rig) fate(rng *rand.Rand, over <-chan struct{}) {
	spared := map[string]int{"solo-fs": 2, "solo-net": 2, "solo-monitor": 2, "solo-audit": 2}
	names := slices.Sorted(maps.Keys(spared))
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Duration(rng.IntN(20)) * time.Millisecond):
		}
		r.mu.Lock()
		all := slices.SortedFunc(maps.Values(r.actors), func(a, b *actor) int { return cmp.Compare(a.serial, b.serial) })
		r.mu.Unlock()
		a := all[rng.IntN(len(all))]
		name := a.service()
		if rng.IntN(20) == 0 {
			name = names[rng.IntN(len(names))]
			if some := r.of(name); len(some) > 0 {
				a = some[0]
			}
		}
		switch {
		case a.service() != name:
		case !strings.HasPrefix(a.id, "u-") && name == "":
			// Solo's own that is on its way.
		case strings.HasPrefix(name, "solo-"):
			if spared[name]--; spared[name] >= 0 {
				a.die(nil)
			}
		default:
			a.die([]*controlv1.Exit{nil, exited(cldExited, 0), exited(cldExited, 1), exited(cldKilled, 9)}[rng.IntN(4)])
		}
	}
}

// quiet waits until nothing is under way any more.
func (r *rig) quiet() {
	r.t.Helper()
	r.until("quiet", func(k *Kernel) bool {
		for _, s := range k.services {
			if s.busy || s.deleting || s.oneshot != nil || len(s.waiters) > 0 || !settled(s.state()) {
				return false
			}
		}
		return len(k.api.open)+len(k.api.following)+len(k.reserved)+k.api.working == 0 && k.record.clear() && !k.record.ticking && k.system.audit != nil &&
			len(k.shells.waiting)+k.shells.orders == 0 && len(k.shells.idle) >= k.shells.target && len(k.files.asked)+len(k.ports.probes) == 0
	})
	r.own(func(k *Kernel) {
		seen := map[uint32]bool{}
		for _, n := range k.shells.ranges {
			seen[n] = true
		}
		for _, sh := range k.shells.byID {
			seen[sh.rng] = true
		}
		if len(seen) != int(r.idRanges) || len(k.shells.ranges)+len(k.shells.byID) != int(r.idRanges) {
			r.t.Errorf("%d ranges are free, %d sandboxes live, %d ranges are known of %d", len(k.shells.ranges), len(k.shells.byID), len(seen), r.idRanges)
		}
	})
}

// invariants says what is not as it always is.
func invariants(k *Kernel) (faults []string) {
	wrong := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for id, sh := range k.shells.byID {
		inst := sh.inst
		if inst == nil {
			if !slices.Contains(k.shells.idle, sh) && !k.ending.begun {
				wrong("sandbox %s is nobody's", id)
			}
			continue
		}
		switch s := inst.svc; {
		case inst.id != id || inst.sh != sh || inst.gone:
			wrong("sandbox %s has instance %s (gone: %v)", id, inst.id, inst.gone)
		case k.services[s.name] != s:
			wrong("%s of %s lives, and the service does not exist", id, s.name)
		case inst.slot.inst != inst || !slices.Contains(s.slots, inst.slot):
			wrong("%s of %s lives outside its slot", id, s.name)
		}
	}
	listens := map[string]bool{}
	for id, p := range k.ports.byID {
		if p.id != id || k.services[p.svc.name] != p.svc || !slices.Contains(p.svc.ports, p) || listens[p.use.GetListen()] {
			wrong("port %d of %s at %s", id, p.svc.name, p.use.GetListen())
		}
		listens[p.use.GetListen()] = true
	}
	for name, s := range k.services {
		desired := s.rec.GetDesired()
		for _, p := range s.ports {
			if k.ports.byID[p.id] != p || p.svc != s {
				wrong("%s has port %d, which is closed", name, p.id)
			}
		}
		if s.name != name || k.reserved[name] {
			wrong("%s is %s, reserved: %v", name, s.name, k.reserved[name])
		}
		for i, sl := range s.slots {
			inst := sl.inst
			switch {
			case inst == nil:
				if sl.timer != nil && desired != desiredRunning {
					wrong("%s/%d is to be restarted, wanted %s", name, i, desired)
				}
			case sl.timer != nil || sl.finished:
				wrong("%s/%d lives, and waits: %v, is finished: %v", name, i, sl.timer != nil, sl.finished)
			case inst.svc != s || inst.slot != sl || inst.gone:
				wrong("%s/%d holds an instance of %s, gone: %v", name, i, inst.svc.name, inst.gone)
			case inst.sh != nil && k.shells.byID[inst.id] != inst.sh:
				wrong("%s/%d has sandbox %s, which is not there", name, i, inst.id)
			case desired != desiredRunning && inst.cause == "" && inst.sh != nil:
				wrong("%s/%d runs on, wanted %s", name, i, desired)
			case s.again && desired == desiredRunning && inst.cause == "" && inst.sh != nil && inst.failure == "":
				wrong("%s/%d runs on, and a new start waits for its end", name, i)
			case !s.durable && inst.phase >= phaseReleased:
				wrong("%s/%d runs before it is stored", name, i)
			}
		}
		if s.again && desired == desiredRunning && s.live() == 0 {
			wrong("%s waits for an end that has been", name)
		}
	}
	for id, req := range k.api.open {
		if req.id != id || req.over {
			wrong("request %d is %d, over: %v", id, req.id, req.over)
		}
	}
	return faults
}

// known is what survives of a service.
type known struct{ id, desired, digest string }

func (r *rig) states() map[string]known {
	all := map[string]known{}
	r.own(func(k *Kernel) {
		for name, s := range k.services {
			if s.tier == tierUser {
				all[name] = knownOf(s.rec)
			}
		}
	})
	return all
}

func knownOf(rec *controlv1.ServiceRecord) known {
	return known{rec.GetServiceId(), rec.GetDesired(), fmt.Sprintf("%x", digestOf(rec.GetManifest()))}
}

// compare opens the store of a kernel that has ended.
func (r *rig) compare(want map[string]known) {
	r.t.Helper()
	db, err := store.Open(filepath.Join(r.dir, "state", "state.db"), time.Now)
	must(r.t, err)
	st, err := db.Load()
	must(r.t, err)
	must(r.t, db.Close())
	got := map[string]known{}
	for name, rec := range st.Services {
		got[name] = knownOf(rec)
	}
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(known{})); diff != "" {
		r.t.Errorf("the store has other services (-kernel +store):\n%s", diff)
	}
}

// agrees compares the audit log with what the clients were told.
func (r *rig) agrees(told *tally) {
	r.t.Helper()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	done, refused := map[string]int{}, 0
	for _, line := range r.log.lines {
		switch line.Op {
		case "deploy", "kill", "start", "restart", "delete", "run":
			switch line.Result {
			case "ok":
				done[line.Op+" "+line.Object]++
			case "begun":
			default:
				refused++
			}
		case "denied":
			n, err := strconv.Atoi(line.Detail["count"])
			if err != nil || line.Result != "MORE_REFUSALS" {
				r.t.Errorf("%+v", line)
			}
			refused += n
		}
	}
	for what, a := range told.ops {
		// One that was overtaken, or that nobody waited for, may have happened.
		if n := done[what]; n < a.ok || n > a.ok+a.overtaken+a.unknown {
			r.t.Errorf("%s: %d records, and it was answered %d times, overtaken %d and left %d times", what, n, a.ok, a.overtaken, a.unknown)
		}
		delete(done, what)
	}
	for what, n := range done {
		r.t.Errorf("%d records of %s, which nobody asked for", n, what)
	}
	if refused < told.refused || refused > told.refused+told.unknown {
		r.t.Errorf("%d refusals are recorded, %d were answered, %d left", refused, told.refused, told.unknown)
	}
}
