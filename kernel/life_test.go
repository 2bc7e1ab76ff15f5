package kernel

import (
	"testing"
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
