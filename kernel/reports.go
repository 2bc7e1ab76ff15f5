package kernel

import (
	"errors"
	"fmt"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// initReport takes one message of solo-init. After the program has started, its
// content is to be trusted no further than the sandbox itself.
func (k *Kernel) initReport(sh *shell, m *controlv1.InitReport, files ipc.Files, cred ipc.Cred) {
	inst := sh.inst
	if m.GetWaiting() != nil && len(files) == 0 {
		return
	}
	if inst == nil || inst.sh != sh {
		files.Close()
		return
	}
	switch r := m.GetReport().(type) {
	case *controlv1.InitReport_Leased:
		k.leaseTaken(inst, files)
		return
	case *controlv1.InitReport_Sockets:
		k.answer(inst, r.Sockets.GetId(), m, files)
		return
	case *controlv1.InitReport_Listening:
		k.answer(inst, r.Listening.GetId(), m, files)
		return
	case *controlv1.InitReport_Refused:
		k.answer(inst, r.Refused.GetId(), m, files)
		return
	case *controlv1.InitReport_ProbeResult:
		k.answer(inst, r.ProbeResult.GetId(), m, files)
		return
	}
	if len(files) > 0 {
		files.Close()
		k.shellLied(sh, &ipc.ProtocolError{What: "report with descriptors"})
		return
	}
	switch r := m.GetReport().(type) {
	case *controlv1.InitReport_Armed:
		if inst.phase != phaseLeasing {
			return
		}
		inst.phase, inst.pid = phaseArmed, cred.PID
		inst.disarm()
		k.release(inst)
	case *controlv1.InitReport_Started:
		k.started(inst)
	case *controlv1.InitReport_Failed:
		if inst.failure == "" {
			inst.failed("init", m)
		}
	case *controlv1.InitReport_Exit:
		if inst.exit == nil {
			inst.exit = r.Exit
		}
	default:
		k.shellLied(sh, &ipc.ProtocolError{What: "unknown report"})
	}
}

// answer hands the answer to an order to whoever waits for it.
func (k *Kernel) answer(inst *instance, id uint64, m *controlv1.InitReport, files ipc.Files) {
	then := inst.asked[id]
	if then == nil {
		files.Close()
		return
	}
	delete(inst.asked, id)
	then(m, files)
}

// leaseTaken: the sandbox is built, and its notify socket is there.
func (k *Kernel) leaseTaken(inst *instance, files ipc.Files) {
	if len(files) != 1 || inst.phase != phaseLeasing || inst.notify != nil {
		files.Close()
		k.shellLied(inst.sh, &ipc.ProtocolError{What: "leased out of turn"})
		return
	}
	n, err := ipc.NotifyConn(files[0])
	if err != nil {
		inst.failure = "sandbox step notify: " + err.Error()
		k.end(inst, "")
		return
	}
	inst.notify = n
	go k.listenNotify(inst, n)
}

// controlEnded: the service has closed its control connection, or lied on it.
func (k *Kernel) controlEnded(inst *instance, err error) {
	var protocol *ipc.ProtocolError
	if errors.As(err, &protocol) {
		k.misbehaved(inst, protocol)
		return
	}
	if inst.svc.role != nil && inst.cause == "" && !inst.gone {
		// A system service without its connection is of no use, and has mostly ended
		// itself: solo-init's word of how comes by another way.
		k.end(inst, "")
	}
}

// misbehaved ends a service that broke the protocol.
func (k *Kernel) misbehaved(inst *instance, why error) {
	if inst.gone || inst.cause != "" {
		return
	}
	say("%s (%s): %v", inst.svc.name, inst.id, why)
	k.end(inst, reasonProtocol)
}

// fromService is the switch over what a service may say. What it may depends on its
// role; a user service may say hello.
func (k *Kernel) fromService(inst *instance, m *controlv1.FromService, files ipc.Files) {
	if inst.gone {
		files.Close()
		return
	}
	if m.GetHello() != nil && len(files) == 0 {
		_ = inst.control.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Welcome{
			Welcome: &controlv1.Welcome{Protocol: 1, Name: inst.svc.name},
		}})
		if inst.svc.role != nil {
			k.system.hello(inst)
		}
		return
	}
	if inst.svc.role == nil || inst.svc.role.handle == nil {
		files.Close()
		k.misbehaved(inst, &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())})
		return
	}
	if err := inst.svc.role.handle(k, inst, m, files); err != nil {
		k.misbehaved(inst, err)
	}
}
