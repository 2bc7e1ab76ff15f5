package kernel

import (
	"testing"
	"time"

	"github.com/solo-os/solo/kernel/control"
)

// TestLife is one service from its deployment to its deletion.
func TestLife(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.deploy(deployment("a"), stateReady)
	if got := r.ask(killOp("a", false)).GetKill(); got.GetState() != stateStopped || got.GetReason() != reasonKilled {
		t.Errorf("killed: %v", got)
	}
	if got := r.ask(startOp("a")).GetStart(); got.GetState() != stateReady {
		t.Errorf("started: %v", got)
	}
	if got := r.ask(restartOp("a")).GetRestart(); got.GetState() != stateReady {
		t.Errorf("restarted: %v", got)
	}
	if got := r.ask(deleteOp("a")); got.GetDelete() == nil {
		t.Errorf("deleted: %v", got)
	}
	must(t, r.stop())
	r.sound()
}

// TestKernelDies: the next kernel ends what lives, and brings back what should run.
func TestKernelDies(t *testing.T) {
	r := newRig(t)
	r.boot()
	first := r.deploy(deployment("a"), stateReady)
	r.deploy(deployment("stopped"), stateReady)
	r.deploy(deployment("failed", "exit=125"), stateReady)
	r.until("the failure", func(k *Kernel) bool { return k.services["failed"].state() == stateFailed })
	if resp := r.ask(killOp("stopped", true)); resp.GetKill() == nil {
		t.Fatalf("%v", resp)
	}
	old := r.of("a")[0]
	bury := r.crash()
	r.boot()
	<-old.done
	bury()
	r.until("the service", func(k *Kernel) bool { return k.services["a"].state() == stateReady })
	got := r.ask(statusOp("a")).GetStatus().GetService()
	if got.GetServiceId() != first.GetServiceId() || len(got.GetInstances()) != 1 || got.GetInstances()[0].GetId() == old.id {
		t.Errorf("%v", got)
	}
	for name, want := range map[string]string{"stopped": stateStopped, "failed": stateFailed} {
		if got := r.ask(statusOp(name)).GetStatus().GetService(); got.GetState() != want || len(got.GetInstances()) != 0 {
			t.Errorf("%v, want %s", got, want)
		}
	}
	must(t, r.stop())
	r.sound()
}

// TestStartWhileStopping: the new start waits for the end of what is being stopped, which
// then is no end of its own.
func TestStartWhileStopping(t *testing.T) {
	r := newRig(t)
	r.boot()
	m := deployment("a", "stubborn")
	m.Restart, m.Replicas = "temporary", 2
	r.deploy(m, stateReady)
	kill := r.request(killOp("a", false))
	r.until("the stop", func(k *Kernel) bool { return k.services["a"].state() == stateStopping })
	start := r.request(startOp("a"))
	r.until("the wish", func(k *Kernel) bool { return k.services["a"].again })
	for i, a := range r.of("a") {
		select {
		case <-start.done:
			t.Errorf("answered while %d old ones lived: %v", 2-i, start.final)
		default:
		}
		a.die(exited(cldExited, 0))
		<-a.done
	}
	if got := r.await(start).GetStart(); got.GetState() != stateReady {
		t.Errorf("%v", start.final)
	}
	if resp := r.await(kill); resp.GetKill() == nil && resp.GetError() == nil {
		t.Errorf("%v", resp)
	}
	if n := len(r.of("a")); n != 2 {
		t.Errorf("%d instances", n)
	}
	r.order(50 * time.Millisecond)
	must(t, r.finished())
	r.sound()
}

// TestStartWhileEnding: what ends while the wish for a new start is being stored is
// neither restarted nor counted against the service.
func TestStartWhileEnding(t *testing.T) {
	for name, wish := range map[string]func(k *Kernel, r *request){
		"start":   func(k *Kernel, r *request) { k.startService(r, startOp("a").GetStart()) },
		"restart": func(k *Kernel, r *request) { k.restartService(r, restartOp("a").GetRestart()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.boot()
			m := deployment("a", "stubborn")
			m.Restart = "temporary" // an end by itself would be the last
			r.deploy(m, stateReady)
			a := r.of("a")[0]
			if name == "start" {
				r.request(killOp("a", false))
				r.until("the stop", func(k *Kernel) bool { return k.services["a"].state() == stateStopping })
			}
			r.own(func(k *Kernel) {
				a.die(nil)
				<-a.done
				// The owner is here, so the end is an event that waits; it comes before the
				// word of the store.
				group := k.services["a"].slots[0].inst.sh.group
				for {
					if _, err := group.Procs(); err != nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Millisecond)
				wish(k, &request{k: k, id: 1 << 40, op: control.Operation{Name: name, Changes: true}, actor: "test"})
			})
			r.until("the new start", func(k *Kernel) bool { return k.services["a"].state() == stateReady })
			r.own(func(k *Kernel) {
				s := k.services["a"]
				if s.live() != 1 || s.slots[0].inst.id == a.id || s.again || s.storing != 0 || s.rec.GetRestarts() != 0 || s.rec.GetDesired() != desiredRunning {
					t.Errorf("%+v", s)
				}
			})
			r.order(50 * time.Millisecond)
			must(t, r.finished())
			if found := r.log.records("exit", "a"); len(found) != 0 {
				t.Errorf("%+v", found)
			}
		})
	}
}
