package kernel

import (
	"time"

	"github.com/solo-os/solo/kernel/store"
)

// defaultGrace is what services have to end when nobody says otherwise.
const defaultGrace = 30 * time.Second

// ending is the orderly stop, in the reverse order of the start:
//
//	gateway ▶ user services ▶ solo-net, solo-fs ▶ solo-monitor ▶ last record ▶ solo-audit ▶ shells
//
// Each stage begins when the one before has ended.
type ending struct {
	k        *Kernel
	begun    bool
	done     bool
	err      error
	deadline time.Duration
	stage    int
	entered  bool
}

// begin starts it; services have until the timeout to end by themselves.
func (e *ending) begin(timeout time.Duration) {
	if e.begun {
		return
	}
	if timeout <= 0 {
		timeout = defaultGrace
	}
	e.begun, e.deadline = true, e.k.uptime()+timeout
	e.k.api.shutdown()
	e.k.shells.order() // refuses those that wait
	e.check()
}

// grace is how long a service that is stopped now may take.
func (e *ending) grace() time.Duration {
	if !e.begun {
		return time.Hour
	}
	return max(e.deadline-e.k.uptime(), time.Millisecond)
}

// check goes on with the next stages as far as possible.
func (e *ending) check() {
	for e.begun && !e.done && e.step() {
		e.stage++
		e.entered = false
	}
}

// step works on the present stage and says whether it has ended.
func (e *ending) step() bool {
	k := e.k
	first := !e.entered
	e.entered = true
	switch e.stage {
	case 0:
		return e.stop(first, "solo-gateway")
	case 1:
		var names []string
		for name, s := range k.services {
			if s.tier == tierUser {
				names = append(names, name)
			}
		}
		return e.stop(first, names...)
	case 2:
		return e.stop(first, "solo-net", "solo-fs")
	case 3:
		return e.stop(first, "solo-monitor")
	case 4:
		if first {
			k.record.counts()
			k.record.commit(store.Change{Reserve: true, Audit: []store.Entry{{Operation: "stop", Actor: "kernel", Object: k.boot.GetVersion(), Result: "ok"}}}, nil)
		}
		return k.record.pending == 0 && (k.record.clear() || k.system.audit == nil)
	case 5:
		return e.stop(first, "solo-audit")
	case 6:
		k.shells.drain()
		if first {
			k.shells.strays()
		}
		return len(k.shells.byID) == 0 && k.shells.orders == 0
	}
	e.done = true
	return false
}

// hurry shortens the grace of instances that were being stopped already.
func (s *service) hurry() {
	for _, sl := range s.slots {
		if inst := sl.inst; inst != nil && inst.timer != nil && inst.cause != "" {
			cause := inst.cause
			inst.arm(s.k, min(time.Duration(s.resources().GetShutdownTimeoutMs())*time.Millisecond, s.k.ending.grace()), func() { s.k.end(inst, cause) })
		}
	}
}

// stop has services end and says whether all have.
func (e *ending) stop(first bool, names ...string) bool {
	left := 0
	for _, name := range names {
		s := e.k.services[name]
		if s == nil {
			continue
		}
		if first {
			s.attempt++
			s.busy = false
			s.stop(reasonShutdown)
			s.hurry()
		}
		left += s.live()
	}
	return left == 0
}
