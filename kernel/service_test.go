package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// quiet is a kernel without effects, for what only looks at state.
func quiet() *Kernel {
	k := &Kernel{begun: time.Now()}
	k.ending = &ending{k: k}
	return k
}

func TestState(t *testing.T) {
	at := func(p phase) *slot { return &slot{inst: &instance{phase: p}} }
	empty, waiting := &slot{}, &slot{timer: time.NewTimer(time.Hour)}
	defer waiting.timer.Stop()
	for _, test := range []struct {
		name    string
		desired string
		slots   []*slot
		busy    bool
		again   bool
		ending  bool
		want    string
	}{
		{"plan is being made", desiredRunning, nil, true, false, false, stateStarting},
		{"leased", desiredRunning, []*slot{at(phaseLeasing)}, false, false, false, stateStarting},
		{"started, not ready", desiredRunning, []*slot{at(phaseStarted)}, false, false, false, stateStarting},
		{"ready", desiredRunning, []*slot{at(phaseReady)}, false, false, false, stateReady},
		{"one of two ready", desiredRunning, []*slot{at(phaseReady), at(phaseStarted)}, false, false, false, stateStarting},
		{"one of two waits for its restart", desiredRunning, []*slot{at(phaseReady), waiting}, false, false, false, stateBackoff},
		{"waits for its restart", desiredRunning, []*slot{waiting}, false, false, false, stateBackoff},
		{"between end and decision", desiredRunning, []*slot{empty}, false, false, false, stateStarting},
		{"being stopped", desiredStopped, []*slot{at(phaseReady)}, false, false, false, stateStopping},
		{"stopped", desiredStopped, []*slot{empty}, false, false, false, stateStopped},
		{"never started", desiredStopped, nil, false, false, false, stateStopped},
		{"failed, a replica still ends", desiredFailed, []*slot{empty, at(phaseReady)}, false, false, false, stateStopping},
		{"failed", desiredFailed, []*slot{empty}, false, false, false, stateFailed},
		{"finished", desiredFinished, []*slot{empty}, false, false, false, stateFinished},
		{"being restarted", desiredRunning, []*slot{at(phaseReady)}, false, true, false, stateStopping},
		{"Solo ends", desiredRunning, []*slot{at(phaseReady)}, false, false, true, stateStopping},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := quiet()
			k.ending.begun = test.ending
			s := &service{k: k, rec: &controlv1.ServiceRecord{Desired: test.desired}, slots: test.slots, busy: test.busy, again: test.again}
			if got := s.state(); got != test.want {
				t.Errorf("state %s, want %s", got, test.want)
			}
		})
	}
}

// TestWaiters: each is told once, in the first state that it waits for, and may ask
// anew while it is told.
func TestWaiters(t *testing.T) {
	s := &service{k: quiet(), rec: &controlv1.ServiceRecord{Desired: desiredRunning}, slots: []*slot{{inst: &instance{phase: phaseStarted}}}}
	var told []string
	s.wait(settled, func() {
		told = append(told, "settled "+s.state())
		s.wait(ended, func() { told = append(told, "ended "+s.state()) })
	})
	s.changed()
	if len(told) != 0 {
		t.Fatalf("told %q of a service that starts", told)
	}
	s.slots[0].inst.phase = phaseReady
	s.changed()
	s.changed()
	s.rec.Desired = desiredStopped
	s.changed() // stopping
	s.slots[0].inst = nil
	s.changed()
	s.changed()
	if diff := cmp.Diff([]string{"settled ready", "ended stopped"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestEnvironment(t *testing.T) {
	plan := []string{"A=1", "LISTEN_FDNAMES=old", "LISTEN_FDS=1", "NOTIFY_SOCKET=/run/notify"}
	for _, test := range []struct {
		names []string
		want  []string
	}{
		{nil, []string{"A=1", "NOTIFY_SOCKET=/run/notify", "SOLO_CONTROL=3"}},
		{[]string{"web", "kept"}, []string{"A=1", "NOTIFY_SOCKET=/run/notify", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:kept", "SOLO_CONTROL=5"}},
	} {
		if diff := cmp.Diff(test.want, environment(plan, test.names)); diff != "" {
			t.Errorf("environment for %q (-want +got):\n%s", test.names, diff)
		}
	}
}

// TestToldOnce: whichever of Started and the end of the lease comes first, the monitor
// is told when both have come, and once.
func TestToldOnce(t *testing.T) {
	for _, order := range []string{"started, leased", "leased, started"} {
		k := quiet()
		k.events, k.ports, k.shells = newQueue(), newPorts(k), &shells{k: k}
		k.system = &systemServices{k: k}
		inst := &instance{svc: &service{k: k, rec: &controlv1.ServiceRecord{Desired: desiredRunning}}, phase: phaseReleased}
		inst.svc.slots = []*slot{{inst: inst}}
		for i, step := range strings.Split(order, ", ") {
			if step == "started" {
				k.started(inst)
			} else {
				inst.control = &peer{closed: true}
				k.tellMonitor(inst)
			}
			if want := i == 1; inst.told != want {
				t.Errorf("%s: told %v after step %d", order, inst.told, i+1)
			}
		}
	}
}
