package kernel

import (
	"time"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/store"
	"github.com/solo-os/solo/kernel/supervision"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// both calls done once, when commit and end have both been told of, with the
// commit's error.
func both(done func(error)) (committed func(error), finished func()) {
	left := 2
	var failed error
	step := func() {
		if left--; left == 0 {
			done(failed)
		}
	}
	return func(err error) { failed = err; step() }, step
}

// intend stores what a service should be from now on, with who asked for it.
func (k *Kernel) intend(r *request, s *service, desired string, reserve bool, done func(error)) {
	s.rec.Desired = desired
	k.record.commit(store.Change{
		PutService: s.change(), Reserve: reserve,
		Audit: []store.Entry{{Operation: r.op.Name, Actor: r.actor, Object: s.name, Result: "ok"}},
	}, done)
}

// killService is OTP's terminate_child: the service stays known, and stopped.
func (k *Kernel) killService(r *request, req *solov1.KillRequest) {
	s := r.own(req.GetService())
	if s == nil {
		return
	}
	if s.oneshot != nil {
		s.oneshot.cancel()
		r.answer(&controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: stateStopping, Reason: reasonKilled}}})
		return
	}
	committed, stopped := both(func(err error) {
		if err != nil {
			r.refuse(err)
			return
		}
		r.answer(&controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: s.state(), Reason: s.rec.GetReason()}}})
	})
	k.takeDown(s, req.GetForce())
	k.intend(r, s, desiredStopped, true, committed)
	s.wait(func(state string) bool { return state != stateStopping }, stopped)
}

// takeDown ends what lives of a service and what is about to.
func (k *Kernel) takeDown(s *service, force bool) {
	s.attempt++
	s.busy, s.again = false, false
	if s.live() > 0 || s.rec.GetDesired() == desiredRunning {
		s.rec.Reason = reasonKilled
	}
	s.rec.Desired = desiredStopped
	if force {
		s.kill(reasonKilled)
	} else {
		s.stop(reasonKilled)
	}
	if s.live() == 0 {
		k.ports.close(s)
		k.event(s, nil, &solov1.Event{Type: "stopped", Reason: s.rec.GetReason()})
	}
}

// startService sets the desired state to running. One that runs already is left alone.
// Nothing runs before it is stored.
func (k *Kernel) startService(r *request, req *solov1.StartRequest) {
	s := r.own(req.GetService())
	if s == nil {
		return
	}
	before := s.rec.GetDesired()
	if before != desiredRunning {
		s.storing++
	}
	k.intend(r, s, desiredRunning, false, func(err error) {
		if before != desiredRunning {
			s.storing--
		}
		if !s.intended(r, before, err) {
			return
		}
		if before != desiredRunning {
			k.renew(s)
			s.again = s.live() > 0 // as soon as the old instances have ended
		}
		// One that ran, and has failed since, is left alone too.
		if s.rec.GetDesired() == desiredRunning && s.live() == 0 && !s.busy && !s.waiting() {
			k.revive(s)
		}
		s.answered(req.GetWait(), func(state, reason string) {
			r.answer(&controlv1.Response{Result: &controlv1.Response_Start{Start: &solov1.StartResponse{State: state, Reason: reason}}})
		})
	})
}

// intended says whether a service is to go on as it was asked for: it was stored, and
// nobody has wanted anything else since.
func (s *service) intended(r *request, before string, err error) bool {
	if err != nil {
		if s.rec.GetDesired() == desiredRunning {
			s.rec.Desired = before
			s.reconsider()
			s.changed()
		}
		r.refuse(err)
		return false
	}
	if s.rec.GetDesired() == desiredStopped || s.deleting {
		r.refuse(control.Errorf(control.Aborted, "OVERTAKEN", "%s was stopped meanwhile", s.name))
		return false
	}
	return true
}

// reconsider goes on with what has ended while a wish was being stored that then was not.
func (s *service) reconsider() {
	switch {
	case s.rec.GetDesired() == desiredRunning:
		for _, sl := range s.slots {
			if sl.inst == nil && sl.timer == nil && !sl.finished && !s.busy && !s.again {
				s.k.begin(s, sl)
			}
		}
	case s.live() == 0:
		s.k.ports.close(s)
	}
}

// answered tells the state, when the service has settled if that is asked for.
func (s *service) answered(wait bool, tell func(state, reason string)) {
	now := func() { tell(s.state(), s.rec.GetReason()) }
	if wait {
		s.wait(settled, now)
		return
	}
	now()
}

// renew forgets the history that decides about restarts.
func (k *Kernel) renew(s *service) {
	s.sup = supervision.State{}
	s.rec.Reason = ""
}

// restartService stops the service and starts it anew, whatever state it is in.
func (k *Kernel) restartService(r *request, req *solov1.RestartRequest) {
	s := r.find(req.GetService())
	if s != nil && s.role == nil {
		s = r.own(req.GetService())
	}
	if s == nil {
		return
	}
	answer := func(state, reason string) {
		r.answer(&controlv1.Response{Result: &controlv1.Response_Restart{Restart: &solov1.RestartResponse{State: state, Reason: reason}}})
	}
	before := s.rec.GetDesired()
	done := func(err error) {
		if !s.intended(r, before, err) {
			return
		}
		if s.role != nil && s.role.name == "solo-gateway" {
			// The answer could not be passed on later.
			answer(stateStopping, "")
			k.later(50*time.Millisecond, func() { k.restart(s) })
			return
		}
		k.restart(s)
		s.answered(req.GetWait(), answer)
	}
	if s.role != nil {
		k.record.commit(store.Change{Audit: []store.Entry{{Operation: r.op.Name, Actor: r.actor, Object: s.name, Result: "ok"}}}, done)
		return
	}
	s.storing++
	k.intend(r, s, desiredRunning, false, func(err error) {
		s.storing--
		done(err)
	})
}

func (k *Kernel) restart(s *service) {
	k.renew(s)
	if s.rec.GetDesired() != desiredRunning {
		s.rec.Desired = desiredRunning // its plan failed while the wish was being stored
		s.put("revive", "ok")
	}
	if s.live() > 0 {
		s.again = true
		s.stop(reasonRestart)
		return
	}
	s.stop(reasonRestart) // restarts that wait
	k.revive(s)
}

// deleteService stops the service and frees its name.
func (k *Kernel) deleteService(r *request, req *solov1.DeleteRequest) {
	s := r.own(req.GetService())
	if s == nil {
		return
	}
	s.deleting = true
	k.takeDown(s, false)
	// If the kernel dies before everything has ended, the next must not start it again.
	k.record.commit(store.Change{PutService: s.change(), Reserve: true, Audit: []store.Entry{{
		Operation: r.op.Name, Actor: r.actor, Object: s.name, Result: "begun",
	}}}, nil)
	s.wait(func(state string) bool { return state != stateStopping }, func() {
		k.record.commit(store.Change{
			DeleteService: s.name, Reserve: true,
			Audit: []store.Entry{{Operation: r.op.Name, Actor: r.actor, Object: s.name, Result: "ok", Detail: [][2]string{{"service_id", s.rec.GetServiceId()}}}},
		}, func(err error) {
			if err != nil {
				s.deleting = false
				r.refuse(err)
				return
			}
			k.event(s, nil, &solov1.Event{Type: "deleted"})
			s.forget()
			r.answer(&controlv1.Response{Result: &controlv1.Response_Delete{Delete: &solov1.DeleteResponse{}}})
		})
	})
}

// shutdown asks solod to stop, as SIGTERM does.
func (k *Kernel) shutdown(r *request, req *solov1.ShutdownRequest) {
	const most = 10 * time.Minute
	ms := req.GetTimeoutMs()
	if ms == 0 {
		ms = uint32(defaultGrace.Milliseconds())
	}
	if time.Duration(ms)*time.Millisecond > most {
		r.refuse(control.Errorf(control.InvalidArgument, "INVALID_ARGUMENT", "timeout_ms: %d is over the limit of %d", ms, most.Milliseconds()))
		return
	}
	k.record.commit(store.Change{Reserve: true, Audit: []store.Entry{{Operation: r.op.Name, Actor: r.actor, Result: "ok"}}}, func(err error) {
		if err != nil {
			r.refuse(err)
			return
		}
		r.answer(&controlv1.Response{Result: &controlv1.Response_Shutdown{Shutdown: &solov1.ShutdownResponse{}}})
		if err := k.root.send(&controlv1.RootReport{Report: &controlv1.RootReport_ShutdownWanted{ShutdownWanted: &controlv1.ShutdownWanted{TimeoutMs: ms}}}); err != nil {
			k.fail(err)
		}
	})
}
