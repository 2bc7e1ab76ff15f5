package kernel

import (
	"os"
	"strconv"
	"time"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	defaultRunTimeout = 60_000
	maxRunTimeout     = 3_600_000
)

// oneshot is a run: a temporary service that is not in the store, whose input and
// output belong to the client.
type oneshot struct {
	k       *Kernel
	r       *request
	svc     *service
	timeout time.Duration
	timer   *time.Timer
	// inside are the program's descriptors 0 to 2, outside the client's ends.
	inside  [3]*os.File
	outside [3]*os.File
	began   time.Duration
	// cancelled says that nobody waits for it: what has not begun does not.
	cancelled bool
}

// run starts a program once.
func (k *Kernel) run(r *request, op *controlv1.RunOp, files ipc.Files) error {
	c, err := unpack(op.GetDeploy(), files)
	if err != nil {
		return err
	}
	req := op.GetDeploy().GetRequest()
	if req.GetName() == "" && req != nil {
		req.Name = "run-" + newID()[:12]
	}
	violations := runOnly(req, op.GetTimeoutMs())
	if req != nil && req.GetRestart() == "" {
		req.Restart = "temporary"
	}
	m, more := manifest.Validate(req, c.announced())
	if violations = append(append(violations, more...), beyondHost(m)...); len(violations) > 0 {
		c.close()
		r.refuse(control.Invalid(violations))
		return nil
	}
	ms := op.GetTimeoutMs()
	if ms == 0 {
		ms = defaultRunTimeout
	}
	k.admit(r, m, c, func(plan manifest.Plan) { k.runPlan(r, m, plan, time.Duration(ms)*time.Millisecond) })
	return nil
}

// runOnly says what a run cannot have.
func runOnly(m *solov1.DeployRequest, timeout uint32) []manifest.Violation {
	var found []manifest.Violation
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"restart", m.GetRestart() != ""}, {"replicas", m.GetReplicas() > 1}, {"ready", m.GetReady() != nil},
		{"request_id", m.GetRequestId() != ""}, {"validate_only", m.GetValidateOnly()},
	} {
		if f.set {
			found = append(found, manifest.Violation{Field: f.field, Description: "does not go with a run"})
		}
	}
	if timeout > maxRunTimeout {
		found = append(found, manifest.Violation{Field: "timeout_ms", Description: strconv.Itoa(int(timeout)) + " is over the limit of " + strconv.Itoa(maxRunTimeout)})
	}
	return found
}

func (k *Kernel) runPlan(r *request, m *solov1.DeployRequest, plan manifest.Plan, timeout time.Duration) {
	o := &oneshot{k: k, r: r, timeout: timeout}
	if r.over {
		return // the client has gone meanwhile
	}
	for i := range o.inside {
		rd, wr, err := pipe()
		if err != nil {
			o.close()
			r.refuse(err)
			return
		}
		o.inside[i], o.outside[i] = rd, wr
		if i > 0 {
			o.inside[i], o.outside[i] = wr, rd
		}
	}
	s := &service{k: k, name: m.GetName(), tier: tierUser, plan: plan, oneshot: o, rec: &controlv1.ServiceRecord{
		ServiceId: newID(), Manifest: m, Version: 1, Desired: desiredRunning, DeployedAtUnixNano: time.Now().UnixNano(),
		CodeDigest: plan.Code.Digest, Runtime: plan.Code.Runtime, Ephemeral: true,
	}}
	o.svc = s
	k.services[s.name] = s
	r.gone = o.cancel
	k.ports.open(s, func(err error) {
		switch {
		case err == nil && k.ending.begun:
			err = errShuttingDown()
		case err == nil && o.cancelled:
			err = control.Errorf(control.Canceled, "CANCELLED", "the run was cancelled before it began")
		}
		if err != nil {
			o.close()
			s.forget()
			r.refuse(err)
			return
		}
		k.record.commit(store.Change{Audit: []store.Entry{{
			Operation: r.op.Name, Actor: r.actor, Object: s.name, Result: "ok", Detail: deployFacts(s),
		}}}, func(err error) {
			if err != nil {
				r.refuse(err)
				o.cancel()
				return
			}
			if o.cancelled {
				return
			}
			s.durable = true
			for _, sl := range s.slots {
				if sl.inst != nil {
					k.release(sl.inst)
				}
			}
		})
		s.launch()
	})
}

// started: the program runs; its time counts, and the client gets its ends.
func (o *oneshot) started() {
	o.began = o.k.uptime()
	o.timer = o.k.later(o.timeout, func() { o.end(reasonTimeout) })
	files := o.outside
	o.outside = [3]*os.File{}
	o.r.answer(&controlv1.Response{More: true, Result: &controlv1.Response_RunStarted{RunStarted: &controlv1.RunStarted{
		ServiceId: o.svc.rec.GetServiceId(),
	}}}, files[:]...)
}

// cancel: nobody waits for the end any more.
func (o *oneshot) cancel() {
	o.cancelled = true
	o.end(reasonKilled)
}

func (o *oneshot) end(cause string) { o.svc.kill(cause) }

func (o *oneshot) close() {
	ipc.Files(o.inside[:]).Close()
	ipc.Files(o.outside[:]).Close()
	o.inside, o.outside = [3]*os.File{}, [3]*os.File{}
}

// ended answers with how the program ended, and leaves nothing.
func (o *oneshot) ended(inst *instance, reason string) {
	if o.timer != nil {
		o.timer.Stop()
	}
	o.close()
	s := o.svc
	s.rec.Desired = desiredFinished
	s.put("exit", reason, [2]string{"instance", inst.id}, [2]string{"decision", "finished"})
	s.forget()
	if inst.phase < phaseStarted {
		o.r.refuse(control.Errorf(control.FailedPrecondition, "NOT_STARTED", "%s", reason).With("step", reason))
		return
	}
	exit := &solov1.RunExit{
		ExitStatus: shellStatus(inst), Reason: reason, CpuUsec: s.cpu, WallMs: milliseconds(o.k.uptime() - o.began),
	}
	o.r.answer(&controlv1.Response{Result: &controlv1.Response_RunExit{RunExit: exit}})
}

// shellStatus is the end as a shell says it: the exit code, or 128 and the signal.
func shellStatus(inst *instance) int32 {
	const sigkill = 9
	switch {
	case inst.exit == nil:
		return 128 + sigkill
	case inst.exit.GetSiCode() == cldExited:
		return inst.exit.GetSiStatus()
	case inst.exit.GetSiStatus() == 0:
		return 128 + sigkill
	}
	return 128 + inst.exit.GetSiStatus()
}
