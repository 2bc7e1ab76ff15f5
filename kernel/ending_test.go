package kernel

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/test/testenv"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// order is a stop's timeout, as solod sends it.
func (r *rig) order(timeout time.Duration) {
	r.t.Helper()
	must(r.t, r.solod.Send(&controlv1.RootOrder{Order: &controlv1.RootOrder_Stop{Stop: &controlv1.Stop{TimeoutMs: uint32(timeout.Milliseconds())}}}))
}

// stages are the ends of sandboxes from a moment on, by the stages of an ending.
func (r *rig) stages(from int) (got []string) {
	stage := map[string]string{
		"solo-gateway": "gateway", "solo-net": "drivers", "solo-fs": "drivers", "solo-monitor": "monitor", "solo-audit": "audit", "": "shells",
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.ends[from:] {
		if name == "backoff" {
			continue // it comes and goes
		}
		in, system := stage[name]
		if !system {
			in = "users"
		}
		if len(got) == 0 || got[len(got)-1] != in {
			got = append(got, in)
		}
	}
	return got
}

// pooled waits until the pool is full: a shell that comes later ends when it comes.
func (r *rig) pooled() {
	r.t.Helper()
	r.until("idle shells", func(k *Kernel) bool { return len(k.shells.idle) == k.shells.target && k.shells.orders == 0 })
}

func (r *rig) sofar() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ends)
}

var wholeEnding = []string{"gateway", "users", "drivers", "monitor", "audit", "shells"}

// TestEndingInOrder: every stage begins when the one before has ended, whatever the
// services are doing.
func TestEndingInOrder(t *testing.T) {
	r := newRig(t)
	r.boot()
	for _, name := range []string{"a", "b"} {
		r.deploy(deployment(name), stateReady)
	}
	again := deployment("backoff", "exit=1")
	again.Wait = false
	if resp := r.ask(deployOp(again)); resp.GetDeploy() == nil {
		t.Fatalf("%v", resp)
	}
	r.until("a restart that waits", func(k *Kernel) bool { return k.services["backoff"].state() == stateBackoff })
	r.pooled()
	// Somebody waits for a service that will not come.
	silent := r.request(deployOp(deployment("silent", "silent")))
	r.until("the silent one", func(k *Kernel) bool {
		s := k.services["silent"]
		return s != nil && len(s.slots) == 1 && s.slots[0].inst != nil && s.slots[0].inst.phase == phaseReleased
	})
	r.pooled()
	from := r.sofar()
	must(t, r.stop())
	if diff := cmp.Diff(wholeEnding, r.stages(from)); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if e := r.await(silent).GetError(); e.GetReason() != "SHUTTING_DOWN" {
		t.Errorf("who waited was told %v", e)
	}
	if stops := r.log.records("stop", "test"); len(stops) != 1 || stops[0].Number != r.log.total() {
		t.Errorf("the last record is not that of the stop: %+v of %d", stops, r.log.total())
	}
	r.sound()
	close(r.over)
	r.boot()
	for name, want := range map[string]string{"a": stateReady, "b": stateReady, "silent": stateStarting} {
		r.until(name, func(k *Kernel) bool { return k.services[name] != nil && k.services[name].state() == want })
	}
	must(t, r.stop())
}

// TestEndingCutsShort: what is being stopped already, with all the time in the world,
// gets no more of it than the others.
func TestEndingCutsShort(t *testing.T) {
	r := newRig(t)
	r.boot()
	for _, name := range []string{"stopping", "deleting", "stubborn"} {
		m := deployment(name, "stubborn")
		m.Resources.ShutdownTimeoutMs = 600_000
		r.deploy(m, stateReady)
	}
	kill, remove := r.request(killOp("stopping", false)), r.request(deleteOp("deleting"))
	stops := func(k *Kernel, name string) bool { return k.services[name].state() == stateStopping }
	r.until("the stops", func(k *Kernel) bool { return stops(k, "stopping") && stops(k, "deleting") })
	r.pooled()
	from := r.sofar()
	r.order(100 * time.Millisecond)
	must(t, r.finished())
	if diff := cmp.Diff(wholeEnding, r.stages(from)); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	for _, c := range []*call{kill, remove} {
		if e := r.await(c).GetError(); e.GetReason() != "SHUTTING_DOWN" {
			t.Errorf("%s: %v", c.op, c.final)
		}
	}
	close(r.over)
	r.boot()
	r.own(func(k *Kernel) {
		for name, want := range map[string]string{"stopping": desiredStopped, "deleting": desiredStopped, "stubborn": desiredRunning} {
			// What was asked for before the end holds after it.
			if s := k.services[name]; s != nil && s.rec.GetDesired() != want || s == nil && name != "deleting" {
				t.Errorf("%s: %+v, want %s", name, s, want)
			}
		}
	})
	r.order(100 * time.Millisecond)
	must(t, r.finished())
}

// TestEndingWhileShellsAreMade: a launcher that takes its time holds up the end, not the
// order; what it brings in the end is ended, also for who waited for it.
func TestEndingWhileShellsAreMade(t *testing.T) {
	for _, test := range []struct {
		name string
		// audit ends solo-audit before: its next instance waits for the launcher.
		audit bool
		want  []string
	}{
		{"services wait", false, wholeEnding},
		{"solo-audit waits", true, []string{"gateway", "users", "drivers", "monitor", "shells"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.boot()
			r.deploy(deployment("a"), stateReady)
			r.pooled()
			held := make(chan struct{})
			release := sync.OnceFunc(func() { close(held) })
			t.Cleanup(release)
			r.mu.Lock()
			r.held = held
			r.mu.Unlock()
			waiting := 0
			for _, name := range []string{"b", "c", "d", "e"} {
				m := deployment(name)
				m.Wait = false
				if resp := r.ask(deployOp(m)); resp.GetDeploy() == nil {
					t.Fatalf("%v", resp)
				}
			}
			r.until("the shells to be used up", func(k *Kernel) bool {
				waiting = len(k.shells.waiting)
				return waiting > 0 && len(k.shells.idle) == 0 && k.shells.orders == preparing
			})
			from := r.sofar()
			if test.audit {
				audit := r.of("solo-audit")[0]
				audit.die(nil)
				<-audit.done
				r.until("solo-audit to be missed", func(k *Kernel) bool {
					s := k.services["solo-audit"]
					return k.system.audit == nil && s.live() == 1 && s.slots[0].inst.sh == nil
				})
				from = r.sofar()
			}
			r.order(20 * time.Second)
			r.until("the last stage but the shells'", func(k *Kernel) bool {
				return test.audit && k.ending.stage == 5 || k.ending.stage == 6
			})
			release()
			must(t, r.finished())
			got := r.stages(from)
			if test.audit {
				// That of solo-audit never came to be more than a shell.
				got = slices.DeleteFunc(got, func(s string) bool { return s == "audit" })
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("stages (-want +got):\n%s", diff)
			}
			if r.sofar() == from {
				t.Error("nothing ended")
			}
			r.sound()
		})
	}
}

// TestEndingWithoutAudit: solo-audit that does not acknowledge anything cannot make
// the kernel forget: what it has not got is there after the next start.
func TestEndingWithoutAudit(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.until("an empty outbox", func(k *Kernel) bool { return k.record.clear() })
	hold := r.hold("solo-audit")
	r.commits(5, 10)
	r.deploy(deployment("a"), stateReady)
	r.pooled()
	from := r.sofar()
	r.order(20 * time.Second)
	r.until("the wait for solo-audit", func(k *Kernel) bool { return k.ending.stage == 4 })
	r.own(func(k *Kernel) { k.ending.check() })
	r.until("still the wait", func(k *Kernel) bool { return k.ending.stage == 4 && !k.ending.done })
	// It dies rather than answer.
	r.of("solo-audit")[0].die(nil)
	must(t, r.finished())
	if diff := cmp.Diff(wholeEnding, r.stages(from)); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if found := r.log.records("test", "0"); len(found) != 0 {
		t.Errorf("%d records came all the same", len(found))
	}
	close(r.over)
	hold()
	r.react("solo-audit", nil)
	r.boot()
	testenv.Eventually(t, hang, "the records", func() bool { return len(r.log.records("test", "4")) == 1 })
	must(t, r.stop())
	r.sound()
}
