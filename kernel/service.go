package kernel

import (
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	"github.com/solo-os/solo/kernel/store"
	"github.com/solo-os/solo/kernel/supervision"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// What a service should be, as the store keeps it.
const (
	desiredRunning  = "running"
	desiredStopped  = "stopped"
	desiredFailed   = "failed"
	desiredFinished = "finished"
)

// What a service is, as the API says it.
const (
	stateStarting = "starting"
	stateReady    = "ready"
	stateStopping = "stopping"
	stateStopped  = "stopped"
	stateBackoff  = "backoff"
	stateFailed   = "failed"
	stateFinished = "finished"
)

// reviveAgain is how soon a plan is asked for again that could not be made.
const reviveAgain = 50 * time.Millisecond

// service is one name: what was deployed under it, and what lives of it.
//
//	           deploy, start            all ready
//	(stopped) ──────────────▶ starting ───────────▶ ready
//	    ▲                      ▲    │                │ │
//	    │ kill      after delay│    │ exit           │ │ exit
//	 stopping ◀─────────┐  backoff ◀┴────────────────┘ │
//	                    └──────────────────────────────┘
//	intensity spent, quarantine: failed; temporary, or transient and normal: finished
//
// Only the owner touches it.
type service struct {
	k    *Kernel
	name string
	rec  *controlv1.ServiceRecord
	tier tier
	// role is what a system service or driver is; nil for user services.
	role *role
	// oneshot is set for a run: it is not in the store, and gone when it has ended.
	oneshot *oneshot

	plan manifest.Plan
	// durable says that the deployment is on disk: before, no program is released.
	durable bool
	// busy says that a plan is being made: nothing lives, and something will.
	busy bool
	// attempt counts plans: one that is overtaken is dropped.
	attempt int
	slots   []*slot
	sup     supervision.State
	// again asks for a new start when everything has ended (restart).
	again bool
	// storing counts the wishes for a new start that are not on disk: what ends meanwhile
	// is not restarted, and fails nothing.
	storing int
	// deleting says that the name goes when everything has ended.
	deleting bool
	waiters  []waiter
	ports    []*port
	// cpu is what instances that ended have used, microseconds.
	cpu  uint64
	text string
	// kept are descriptors that the service stored (FDSTORE=1, sd_notify(3)).
	kept []keptFile
}

// slot is one replica's place: an instance, or the wait for the next.
type slot struct {
	inst  *instance
	timer *time.Timer
	// finished says that its replica has ended for good: nothing is wrong.
	finished bool
}

// waiter is somebody who wants to know when the service has come to a state.
type waiter struct {
	until func(state string) bool
	tell  func()
}

func (s *service) spec() supervision.Spec {
	if s.role != nil {
		return s.role.spec
	}
	// Validated when it was deployed.
	r, _ := supervision.ParseRestart(s.rec.GetManifest().GetRestart())
	return supervision.UserSpec(r)
}

func (s *service) resources() *solov1.Resources { return s.rec.GetManifest().GetResources() }

// state is computed, never kept: it cannot disagree with what lives.
func (s *service) state() string {
	live, ready, waiting, replicas := 0, 0, 0, len(s.slots)
	for _, sl := range s.slots {
		switch {
		case sl.finished:
			replicas--
		case sl.inst != nil:
			live++
			if sl.inst.phase == phaseReady {
				ready++
			}
		case sl.timer != nil:
			waiting++
		}
	}
	switch desired := s.rec.GetDesired(); {
	case live > 0 && (desired != desiredRunning || s.k.ending.begun):
		return stateStopping
	case desired == desiredStopped:
		return stateStopped
	case desired == desiredFailed:
		return stateFailed
	case desired == desiredFinished && live+waiting == 0:
		return stateFinished
	case s.again:
		return stateStopping
	case live > 0 && ready == replicas:
		return stateReady
	case waiting > 0 && ready+waiting == replicas:
		return stateBackoff
	}
	return stateStarting
}

func settled(state string) bool {
	return state == stateReady || state == stateFailed || state == stateFinished || state == stateStopped
}

func ended(state string) bool {
	return state == stateStopped || state == stateFailed || state == stateFinished
}

// wait calls tell as soon as the service is in a state that until accepts.
func (s *service) wait(until func(string) bool, tell func()) {
	s.waiters = append(s.waiters, waiter{until, tell})
	s.changed()
}

// changed tells the waiters. It is called after everything that may change the state.
func (s *service) changed() {
	state := s.state()
	var rest, due []waiter
	for _, w := range s.waiters {
		if w.until(state) {
			due = append(due, w)
		} else {
			rest = append(rest, w)
		}
	}
	s.waiters = rest
	for _, w := range due {
		w.tell()
	}
	if ended(state) {
		s.discardKept() // as systemd does when a unit stops (FileDescriptorStoreMax=)
	}
}

// live counts instances whose processes may exist.
func (s *service) live() int {
	n := 0
	for _, sl := range s.slots {
		if sl.inst != nil {
			n++
		}
	}
	return n
}

// launch starts every replica anew. When something of the service still lives, it waits
// for the end of that.
func (s *service) launch() {
	s.again, s.busy = false, false
	if s.live() > 0 {
		s.again = true
		s.stop(reasonRestart)
		return
	}
	s.slots = make([]*slot, max(1, s.rec.GetManifest().GetReplicas()))
	for i := range s.slots {
		s.slots[i] = &slot{}
	}
	for _, sl := range s.slots {
		s.k.begin(s, sl)
	}
	s.changed()
}

// revive makes the plan of a stored service anew, since the host may have changed,
// opens its ports and launches it.
func (k *Kernel) revive(s *service) {
	if s.role != nil {
		s.launch()
		return
	}
	s.again, s.busy = false, true
	s.attempt++
	attempt := s.attempt
	m := proto.CloneOf(s.rec.GetManifest())
	go func() {
		plan, err := k.makePlan(m)
		k.post(func() {
			if s.attempt != attempt || k.ending.begun {
				return
			}
			if err != nil && control.As(err).Code == control.Unavailable {
				// solo-fs is on its way.
				k.later(reviveAgain, func() {
					if s.attempt == attempt {
						k.revive(s)
					}
				})
				return
			}
			if err != nil {
				s.busy = false
				s.fail(err.Error())
				return
			}
			s.plan = plan
			k.ports.open(s, func(err error) {
				switch {
				case s.attempt != attempt:
				case err != nil:
					s.busy = false
					s.fail(control.As(err).Message)
				default:
					s.launch()
				}
			})
		})
	}()
}

// after decides what follows the end of an instance.
func (s *service) after(sl *slot, inst *instance, reason string) {
	k := s.k
	if s.rec.GetDesired() != desiredFailed {
		s.rec.Reason = reason
	}
	switch {
	case s.oneshot != nil:
		s.oneshot.ended(inst, reason)
		k.ending.check()
		return
	case k.ending.begun:
		k.ending.check()
	case s.rec.GetDesired() == desiredStopped || s.rec.GetDesired() == desiredFailed:
		if s.live() == 0 && s.rec.GetDesired() == desiredStopped {
			k.ports.close(s)
			k.event(s, nil, &solov1.Event{Type: "stopped", Reason: reason})
		}
	case s.again:
		if s.live() == 0 {
			k.revive(s)
		}
	case s.storing > 0:
	default:
		s.supervise(sl, inst, reason)
		return
	}
	s.changed()
}

// supervise applies the restart rules to one replica.
func (s *service) supervise(sl *slot, inst *instance, reason string) {
	k := s.k
	var up time.Duration
	if inst.released != 0 {
		up = k.uptime() - inst.released
	}
	exit := supervision.Exit{
		Normal:     reason == "exit:0",
		Quarantine: reason == "exit:125" || reason == reasonSeccomp,
		Up:         up,
	}
	next, d := supervision.Step(s.sup, s.spec(), k.uptime(), exit, chance())
	s.sup = next
	switch d.Action {
	case supervision.Again:
		s.rec.Restarts++
		k.event(s, inst, &solov1.Event{Type: "restarting", Reason: reason, Detail: d.Delay.Round(time.Millisecond).String()})
		s.put("exit", reason, [2]string{"instance", inst.id}, [2]string{"decision", "restart"})
		begin := func() {
			sl.timer = nil
			k.begin(s, sl)
			s.changed()
		}
		if d.Delay == 0 {
			begin()
			return
		}
		sl.timer = k.later(d.Delay, func() {
			if sl.timer != nil {
				begin()
			}
		})
	case supervision.Finished:
		sl.finished = true
		if s.live() == 0 && !s.waiting() {
			s.rec.Desired = desiredFinished
			k.ports.close(s)
		}
		s.put("exit", reason, [2]string{"instance", inst.id}, [2]string{"decision", "finished"})
	case supervision.Failed:
		if d.Reason == "quarantine" {
			// The reason of the end says more than that it is final.
			s.fail(reason)
		} else {
			s.fail(d.Reason)
		}
		return
	}
	s.changed()
}

func (s *service) waiting() bool {
	for _, sl := range s.slots {
		if sl.timer != nil {
			return true
		}
	}
	return false
}

// fail ends the service for good, until somebody starts it.
func (s *service) fail(reason string) {
	if s.role != nil {
		s.k.fail(&systemError{s.name, reason})
		return
	}
	last := s.rec.GetReason()
	s.rec.Desired, s.rec.Reason = desiredFailed, reason
	s.attempt++
	s.busy = false
	s.k.ports.close(s)
	s.stop(reasonShutdown)
	s.put("fail", reason, [2]string{"last", last})
	s.k.event(s, nil, &solov1.Event{Type: "failed", Reason: reason, Detail: last})
	s.changed()
}

// put stores the record with the audit record of why; it is for changes that nobody
// asked for.
func (s *service) put(operation, result string, detail ...[2]string) {
	if s.role != nil || s.oneshot != nil {
		s.k.record.commit(store.Change{Audit: []store.Entry{{Operation: operation, Actor: "kernel", Object: s.name, Result: result, Detail: detail}}}, nil)
		return
	}
	s.k.record.commit(store.Change{
		PutService: s.change(),
		Audit:      []store.Entry{{Operation: operation, Actor: "kernel", Object: s.name, Result: result, Detail: detail}},
	}, nil)
}

// change is the record as it is now, for the store, which works beside the owner.
func (s *service) change() *store.ServiceChange {
	return &store.ServiceChange{Name: s.name, Record: proto.CloneOf(s.rec)}
}

// stop ends every instance in order and cancels restarts. cause is the reason that
// the ends will have.
func (s *service) stop(cause string) {
	for _, sl := range s.slots {
		if sl.timer != nil {
			sl.timer.Stop()
			sl.timer = nil
		}
		if sl.inst != nil {
			s.k.stop(sl.inst, cause)
		}
	}
}

// kill is stop without grace.
func (s *service) kill(cause string) {
	s.stop(cause)
	for _, sl := range s.slots {
		if sl.inst != nil {
			s.k.end(sl.inst, cause)
		}
	}
}

// event tells the monitor what happened to a service.
func (k *Kernel) event(s *service, inst *instance, e *solov1.Event) {
	e.State = s.state()
	e.Version = s.rec.GetVersion()
	m := &controlv1.ServiceEvent{TimeUnixNano: uint64(time.Now().UnixNano()), Service: s.name, Event: e, Tier: s.tier.String()}
	if inst != nil {
		m.Instance = inst.id
		if e.GetType() == "ready" {
			m.StartupMs = milliseconds(inst.startup)
			m.Runtime = s.rec.GetRuntime()
		}
	}
	k.system.toMonitor(&controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: m}})
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// forget drops everything of a service that nothing lives of.
func (s *service) forget() {
	s.k.ports.close(s)
	s.discardKept()
	delete(s.k.services, s.name)
	s.k.system.toMonitor(&controlv1.FromKernel{Item: &controlv1.FromKernel_ServiceGone{ServiceGone: &controlv1.ServiceGone{Service: s.name}}})
}

type systemError struct{ name, reason string }

func (e *systemError) Error() string { return e.name + " does not stay up: " + e.reason }

// sigterm is how a service is asked to end.
const sigterm = unix.SIGTERM
