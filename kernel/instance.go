package kernel

import (
	"os"
	"time"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// phase is how far an instance has come. It only grows.
//
//	waiting ─shell─▶ preparing ─sockets─▶ leasing ─Armed─▶ armed ─durable─▶ released
//	        ─Started─▶ started ─ready─▶ ready
//
// From every phase the end of the shell leads to instanceGone.
type phase int

const (
	phaseWaiting phase = iota
	phasePreparing
	phaseLeasing
	phaseArmed
	phaseReleased
	phaseStarted
	phaseReady
)

// Reasons that an instance ended for, besides exit:N and signal:N.
const (
	reasonKilled    = "killed"
	reasonOOM       = "oom"
	reasonStartup   = "startup_timeout"
	reasonSeccomp   = "seccomp"
	reasonProtocol  = "protocol"
	reasonProcesses = "limit:processes"
	reasonShutdown  = "shutdown"
	reasonRestart   = "restart"
	reasonTimeout   = "timeout"
)

// leaseTimeout bounds the time from the lease to Armed: solo-init does not wait for
// anybody there.
const leaseTimeout = 30 * time.Second

// instance is one life of a replica. Only the owner touches it.
type instance struct {
	// id is the shell's; empty until there is one.
	id   string
	svc  *service
	slot *slot
	sh   *shell
	phase
	// cause is why the kernel ends it, empty while it does not: the first one counts.
	cause string
	// exit and failure are what solo-init said of the end.
	exit    *controlv1.Exit
	failure string
	// pid of the main process on the host; looking says that it is being searched for.
	pid     int32
	looking bool
	// created and released are uptimes; released is 0 before.
	created, released time.Duration
	startup           time.Duration
	// told says that the monitor knows of it, or will when it joins.
	told bool
	// early says that it was ready before Started came.
	early bool
	// greeted says that its role's greeting was sent.
	greeted   bool
	startedAt time.Time
	// timer is the lease's, the start's or the stop's limit; extendable is the uptime
	// until which the service may move it.
	timer      *time.Timer
	extendable time.Duration
	// gone says that it has ended: whatever still comes of it is too late.
	gone bool
	// announced says that it is behind its service's ports, limited that a limit was
	// reported.
	announced, limited bool
	control            *peer
	notify             *ipc.Notify
	// logs are the kernel's copies of the read ends: a monitor that comes back gets
	// them again.
	logs    [2]*os.File
	asked   map[uint64]func(*controlv1.InitReport, ipc.Files)
	nextAsk uint64
	sockets []*os.File // made for LISTEN_FDS
}

// begin starts an instance in an empty slot.
func (k *Kernel) begin(s *service, sl *slot) {
	inst := &instance{svc: s, slot: sl, created: k.uptime(), asked: map[uint64]func(*controlv1.InitReport, ipc.Files){}}
	sl.inst = inst
	k.event(s, inst, &solov1.Event{Type: "starting"})
	arrived := func(sh *shell, err error) {
		if err != nil {
			inst.failure = control.As(err).Message
			k.finish(inst, after{})
			return
		}
		inst.sh, inst.id, sh.inst = sh, sh.ID, inst
		if inst.cause != "" || k.ending.begun {
			k.end(inst, reasonShutdown)
			return
		}
		inst.phase = phasePreparing
		k.makeListeners(inst)
	}
	if s.role != nil {
		k.shells.prepare(s.tier, s.role.hostNetwork, arrived)
		return
	}
	k.shells.take(inst, arrived)
}

// makeListeners has solo-init open the sockets that the program gets by LISTEN_FDS,
// then leases.
func (k *Kernel) makeListeners(inst *instance) {
	want := len(inst.svc.plan.Listen)
	inst.sockets = make([]*os.File, want)
	if want == 0 {
		k.lease(inst)
		return
	}
	for i, p := range inst.svc.plan.Listen {
		id := inst.ask(func(r *controlv1.InitReport, files ipc.Files) {
			if r.GetListening() == nil || len(files) != 1 {
				files.Close()
				inst.failed("listen", r)
				k.end(inst, "")
				return
			}
			inst.sockets[i] = files[0]
			if want--; want == 0 && inst.cause == "" {
				k.lease(inst)
			}
		})
		k.order(inst, &controlv1.InitOrder{Order: &controlv1.InitOrder_Listen{Listen: &controlv1.Listen{
			Id: id, Address: 0x7f000001, Port: p.GetTo(),
		}}})
	}
}

// ask registers for the answer to an order with an id. Nothing answers for one that is
// gone.
func (inst *instance) ask(then func(*controlv1.InitReport, ipc.Files)) uint64 {
	inst.nextAsk++
	if !inst.gone {
		inst.asked[inst.nextAsk] = then
	}
	return inst.nextAsk
}

// order sends an order to solo-init. One that does not read has failed.
func (k *Kernel) order(inst *instance, o *controlv1.InitOrder, files ...*os.File) {
	if inst.sh == nil || inst.gone {
		return
	}
	if err := inst.sh.Order(o, files...); err != nil {
		// An init that is gone is about to be noticed by its pidfd.
		k.end(inst, "")
	}
}

// release lets the program execute: it is armed, and its deployment is on disk.
func (k *Kernel) release(inst *instance) {
	if inst.phase != phaseArmed || !inst.svc.durable || inst.cause != "" {
		return
	}
	inst.phase = phaseReleased
	inst.released, inst.startedAt = k.uptime(), time.Now()
	inst.extendable = inst.released + maxExtend
	inst.arm(k, time.Duration(inst.svc.resources().GetStartupTimeoutMs())*time.Millisecond, func() { k.end(inst, reasonStartup) })
	k.order(inst, &controlv1.InitOrder{Order: &controlv1.InitOrder_Release{Release: &controlv1.Release{}}})
}

// arm sets the instance's one timer; it does nothing once the instance has gone.
func (inst *instance) arm(k *Kernel, d time.Duration, then func()) {
	inst.disarm()
	var t *time.Timer
	t = k.later(d, func() {
		if inst.timer == t {
			then()
		}
	})
	inst.timer = t
}

func (inst *instance) disarm() {
	if inst.timer != nil {
		inst.timer.Stop()
		inst.timer = nil
	}
}

// started: execve has succeeded.
func (k *Kernel) started(inst *instance) {
	if inst.phase != phaseReleased {
		return
	}
	inst.phase = phaseStarted
	s := inst.svc
	switch {
	case s.role != nil:
		// Its Hello makes it ready.
	case s.rec.GetManifest().GetReady() == nil:
		k.ready(inst)
	default:
		k.probe(inst, s.rec.GetManifest().GetReady())
	}
	if s.oneshot != nil {
		s.oneshot.started()
	}
	if inst.early {
		k.ready(inst)
	}
	// Only now: somebody may be waiting for what is above.
	k.tellMonitor(inst)
}

// tellMonitor hands the monitor what an instance writes and uses, once it has both
// started and left its lease: solo-init's word of the start may come first.
func (k *Kernel) tellMonitor(inst *instance) {
	if inst.told || inst.control == nil || inst.phase < phaseStarted {
		return
	}
	inst.told = true
	k.system.announceLogs(inst)
	k.system.announceUsage(inst)
}

// ready: the service is what it promised to be. It may say so itself before
// solo-init's word of its start has come.
func (k *Kernel) ready(inst *instance) {
	if inst.phase == phaseReleased {
		inst.early = true
		return
	}
	if inst.phase != phaseStarted || inst.cause != "" {
		return
	}
	inst.phase = phaseReady
	inst.disarm()
	inst.startup = k.uptime() - inst.released
	if quota := inst.svc.resources().GetCpuQuotaMillis(); quota > 0 {
		group := inst.sh.group
		go func() {
			// Lifted until now, so that it does not slow the start.
			if err := group.Set(quotaOf(quota)); err != nil {
				say("%v", err)
			}
		}()
	}
	k.ports.announce(inst)
	k.event(inst.svc, inst, &solov1.Event{Type: "ready"})
	inst.svc.changed()
}

// stop ends an instance in order: SIGTERM, and after shutdown_timeout_ms its group.
func (k *Kernel) stop(inst *instance, cause string) {
	if inst.cause != "" {
		return
	}
	if inst.phase < phaseReleased || inst.sh == nil {
		k.end(inst, cause)
		return
	}
	inst.cause = cause
	inst.extendable = k.uptime() + maxExtend
	k.ports.withdraw(inst)
	grace := inst.svc.resources().GetShutdownTimeoutMs()
	if inst.svc.role != nil {
		_ = inst.control.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{GraceMs: grace}}})
	} else if err := inst.sh.Signal(sigterm); err != nil {
		k.end(inst, cause)
		return
	}
	inst.arm(k, min(time.Duration(grace)*time.Millisecond, k.ending.grace()), func() { k.end(inst, cause) })
}

// end kills an instance's whole group at once. With an empty cause the reason is what
// is known of the end itself.
func (k *Kernel) end(inst *instance, cause string) {
	if inst.cause == "" {
		inst.cause = cause
		k.ports.withdraw(inst)
	}
	inst.disarm()
	if inst.sh == nil {
		k.shells.cancel(inst, errShuttingDown())
		return
	}
	group := inst.sh.group
	go func() {
		if err := group.Kill(); err != nil {
			say("%v", err)
		}
	}()
}

// instanceLimit takes what the group reports.
func (k *Kernel) instanceLimit(inst *instance, e cgroups.Event) {
	reason := ""
	switch e.Kind {
	case cgroups.OOM:
		reason = reasonOOM
	case cgroups.PidsMax:
		reason = reasonProcesses
	}
	if inst.cause != "" {
		return
	}
	k.limit(inst, reason)
	k.end(inst, reason)
}

// limit tells once that an instance has come to a limit.
func (k *Kernel) limit(inst *instance, reason string) {
	if inst.limited {
		return
	}
	inst.limited = true
	k.event(inst.svc, inst, &solov1.Event{Type: "limit", Reason: reason})
	inst.svc.put("limit", reason, [2]string{"instance", inst.id})
}
