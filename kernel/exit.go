package kernel

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// si_code of a child that has ended (waitid(2)).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// reason says why the instance ended, from everything that is known of it: what the
// kernel did to it, what its group counted, what solo-init reported.
func (inst *instance) reason(a after) string {
	switch {
	case inst.cause != "":
		return inst.cause
	case inst.failure != "":
		return inst.failure
	case a.oom > 0:
		return reasonOOM
	case a.pids > 0:
		return reasonProcesses
	case inst.exit == nil:
		// Nothing but SIGKILL from outside ends solo-init without a word.
		return fmt.Sprintf("signal:%d", unix.SIGKILL)
	}
	status := inst.exit.GetSiStatus()
	switch inst.exit.GetSiCode() {
	case cldExited:
		return fmt.Sprintf("exit:%d", status)
	case cldKilled, cldDumped:
		// The floor lets no program send SIGSYS: it comes from a filter.
		if status == int32(unix.SIGSYS) {
			return reasonSeccomp
		}
		return fmt.Sprintf("signal:%d", status)
	}
	// A main process by MAINPID=, whose own parent took its status.
	return "exit"
}

// failed notes which step of making the sandbox did not work.
func (inst *instance) failed(step string, r *controlv1.InitReport) {
	errno := int32(0)
	switch {
	case r.GetFailed() != nil:
		step, errno = r.GetFailed().GetStep(), r.GetFailed().GetErrno()
	case r.GetRefused() != nil:
		step, errno = r.GetRefused().GetStep(), r.GetRefused().GetErrno()
	}
	text := strings.ToValidUTF8(step, "?")
	if errno != 0 {
		inst.failure = fmt.Sprintf("sandbox step %.160s: %s", text, unix.Errno(errno).Error())
		return
	}
	inst.failure = fmt.Sprintf("sandbox step %.160s", text)
}

// instanceGone is the end of an instance's shell: no process of it lives.
func (k *Kernel) instanceGone(inst *instance, a after) {
	k.finish(inst, a)
}

// finish takes an instance out of its slot and lets the service decide.
func (k *Kernel) finish(inst *instance, a after) {
	reason := inst.reason(a)
	if reason == reasonOOM || reason == reasonProcesses {
		k.limit(inst, reason) // the group's word of it may come too late
	}
	inst.gone = true
	inst.disarm()
	k.ports.withdraw(inst)
	inst.control.close()
	if inst.notify != nil {
		_ = inst.notify.Close()
	}
	ipc.Files{inst.logs[0], inst.logs[1]}.Close()
	ipc.Files(inst.sockets).Close()
	inst.logs, inst.sockets, inst.asked = [2]*os.File{}, nil, nil
	s := inst.svc
	if inst.slot.inst == inst {
		inst.slot.inst = nil
	}
	s.cpu += a.usage.CPUUsec
	if inst.id != "" {
		k.system.toMonitor(&controlv1.FromKernel{Item: &controlv1.FromKernel_InstanceGone{
			InstanceGone: &controlv1.InstanceGone{Service: s.name, Instance: inst.id},
		}})
	}
	k.event(s, inst, &solov1.Event{Type: "exited", Reason: reason})
	if s.role != nil && !k.ending.begun {
		say("%s ended: %s", s.name, reason)
	}
	if s.role != nil {
		k.system.left(s, inst)
	}
	s.after(inst.slot, inst, reason)
}
