package kernel

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// publishing is a deployment that publishes ports; nobody listens on them here.
func publishing(name string, ports ...int) *solov1.DeployRequest {
	m := deployment(name)
	for _, p := range ports {
		m.Uses = append(m.Uses, &solov1.Use{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: fmt.Sprintf("127.0.0.1:%d", p), To: 80}}})
	}
	return m
}

// told is what solo-net was told of ports, in order.
func (r *rig) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, m := range r.said["solo-net"] {
		switch {
		case m.GetPortOpen() != nil:
			all = append(all, fmt.Sprintf("open %d %s %d %s", m.GetPortOpen().GetId(), m.GetPortOpen().GetListen(), m.GetPortOpen().GetTo(), m.GetPortOpen().GetService()))
		case m.GetPortClose() != nil:
			all = append(all, fmt.Sprintf("close %d", m.GetPortClose().GetId()))
		case m.GetBackend() != nil:
			all = append(all, fmt.Sprintf("backend %d %s", m.GetBackend().GetPortId(), m.GetBackend().GetInstance()))
		case m.GetBackendGone() != nil:
			all = append(all, fmt.Sprintf("gone %d %s", m.GetBackendGone().GetPortId(), m.GetBackendGone().GetInstance()))
		}
	}
	return all
}

// tells waits until solo-net has been told as much, in whatever order.
func (r *rig) tells(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	testenv.Eventually(r.t, hang, fmt.Sprintf("solo-net to hear %q", want), func() bool { return len(r.told()) >= len(want) })
	got := r.told()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("solo-net was told (-want +got):\n%s", diff)
	}
}

func TestPorts(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.deploy(publishing("a", 20001, 20002), stateReady)
	first := r.of("a")[0].id
	want := []string{"open 1 127.0.0.1:20001 80 a", "open 2 127.0.0.1:20002 80 a", "backend 1 " + first, "backend 2 " + first}
	r.tells(want...)

	// Another service cannot have a port that is taken, and leaves nothing of its others.
	e := r.ask(deployOp(publishing("b", 20003, 20002))).GetError()
	if e.GetReason() != "PORT_UNAVAILABLE" || e.GetMetadata()["listen"] != "127.0.0.1:20002" || e.GetMetadata()["errno"] != "EADDRINUSE" || !strings.Contains(e.GetMessage(), "published by service a") {
		t.Errorf("%v", e)
	}
	r.own(func(k *Kernel) {
		if k.services["b"] != nil || len(k.ports.byID) != 2 || len(k.reserved) != 0 {
			t.Errorf("left: %v, %d ports", k.services["b"], len(k.ports.byID))
		}
	})
	r.tells(want...)

	// Its instance ends: it is withdrawn once from each port, and the next takes over.
	r.of("a")[0].die(exited(cldExited, 1))
	r.until("the next instance", func(k *Kernel) bool {
		return k.services["a"].rec.GetRestarts() == 1 && k.services["a"].state() == stateReady
	})
	second := r.of("a")[0].id
	want = append(want, "gone 1 "+first, "gone 2 "+first, "backend 1 "+second, "backend 2 "+second)
	r.tells(want...)

	// A new solo-net is told everything again.
	net := r.of("solo-net")[0]
	net.die(nil)
	<-net.done
	r.tells(append(want, "open 1 127.0.0.1:20001 80 a", "open 2 127.0.0.1:20002 80 a", "backend 1 "+second, "backend 2 "+second)...)

	// Stopped, it has no ports.
	if got := r.ask(killOp("a", false)).GetKill(); got.GetState() != stateStopped {
		t.Errorf("%v", got)
	}
	r.deploy(publishing("b", 20002), stateReady)
	must(t, r.stop())
	r.sound()
}

// TestStoppingIsHeardOnce, however often a service says it.
func TestStoppingIsHeardOnce(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.deploy(publishing("a", 20001, 20002), stateReady)
	a := r.of("a")[0]
	backends := func() int { return len(heard(r.stage, "solo-net", (*controlv1.FromKernel).GetBackend)) }
	testenv.Eventually(t, hang, "the backends", func() bool { return backends() == 2 })
	for range 50 {
		_, err := a.notify.WriteString("STOPPING=1\nSTATUS=bye")
		must(t, err)
	}
	_, err := a.notify.WriteString("STATUS=last")
	must(t, err)
	r.until("the last word", func(k *Kernel) bool { return k.services["a"].text == "last" })
	if resp := r.ask(killOp("a", false)); resp.GetKill() == nil {
		t.Errorf("%v", resp)
	}
	testenv.Eventually(t, hang, "the end of the ports", func() bool {
		return len(heard(r.stage, "solo-net", (*controlv1.FromKernel).GetPortClose)) == 2
	})
	if gone := heard(r.stage, "solo-net", (*controlv1.FromKernel).GetBackendGone); len(gone) != 2 {
		t.Errorf("solo-net was told %d times of two ports", len(gone))
	}
	must(t, r.stop())
}

// TestOnePortOfMany: what solo-net cannot open ends the deployment with its other ports.
func TestOnePortOfMany(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.react("solo-net", func(a *actor, m *controlv1.FromKernel) bool {
		if m.GetPortOpen().GetListen() != "127.0.0.1:20002" {
			return false
		}
		a.tell(portState(m.GetPortOpen().GetId(), int32(unix.EACCES)))
		return true
	})
	m := publishing("a", 20001, 20002, 20003)
	m.RequestId = "id"
	e := r.ask(deployOp(m)).GetError()
	if e.GetReason() != "PORT_UNAVAILABLE" || e.GetMetadata()["errno"] != "EACCES" || control.Code(e.GetCode()) != control.FailedPrecondition {
		t.Errorf("%v", e)
	}
	r.tells("open 1 127.0.0.1:20001 80 a", "open 2 127.0.0.1:20002 80 a", "open 3 127.0.0.1:20003 80 a", "close 1", "close 2", "close 3")
	r.own(func(k *Kernel) {
		if k.services["a"] != nil || len(k.ports.byID)+len(k.reserved)+len(k.api.following) != 0 {
			t.Errorf("left: %v", k.services["a"])
		}
	})
	// The name, the id and the ports can be used.
	m.Uses = m.GetUses()[:1]
	r.deploy(m, stateReady)
	must(t, r.stop())
	r.sound()
}

// TestSocketsForStrangers: solo-net gets sockets of an instance only for ports of its
// service, and closed ports and probes that are over change nothing.
func TestSocketsForStrangers(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.deploy(publishing("a", 20001), stateReady)
	r.deploy(publishing("b", 20002), stateReady)
	a, b := r.of("a")[0].id, r.of("b")[0].id
	r.tells("open 1 127.0.0.1:20001 80 a", "open 2 127.0.0.1:20002 80 b", "backend 1 "+a, "backend 2 "+b)
	idle := ""
	r.until("an idle shell", func(k *Kernel) bool {
		if len(k.shells.idle) > 0 {
			idle = k.shells.idle[0].ID
		}
		return idle != ""
	})
	net := r.of("solo-net")[0]
	need := func(port uint64, instance string) {
		net.tell(&controlv1.FromService{Item: &controlv1.FromService_NeedSockets{NeedSockets: &controlv1.NeedSockets{PortId: port, Instance: instance, N: 3}}})
	}
	need(1, b)
	need(2, a)
	need(1, idle)
	need(1, net.id)
	need(1, "")
	need(99, a)
	net.tell(portState(99, int32(unix.EACCES)))
	net.tell(&controlv1.FromService{Item: &controlv1.FromService_NetProbeResult{NetProbeResult: &controlv1.NetProbeResult{Id: 99, Ready: true}}})
	need(1, a)
	r.tells("open 1 127.0.0.1:20001 80 a", "open 2 127.0.0.1:20002 80 b", "backend 1 "+a, "backend 2 "+b, "backend 1 "+a)
	backends := heard(r.stage, "solo-net", (*controlv1.FromKernel).GetBackend)
	if n := backends[len(backends)-1].GetN(); n != 3 {
		t.Errorf("%d sockets, 3 were asked for", n)
	}
	must(t, r.stop())
}

// TestPortLost: a port that cannot be opened again after a restart of solo-net is told
// of, and the service goes on.
func TestPortLost(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.deploy(publishing("a", 20001), stateReady)
	r.react("solo-net", func(a *actor, m *controlv1.FromKernel) bool {
		if m.GetPortOpen() == nil {
			return false
		}
		a.tell(portState(m.GetPortOpen().GetId(), int32(unix.EADDRINUSE)))
		return true
	})
	r.of("solo-net")[0].die(nil)
	testenv.Eventually(t, hang, "the event", func() bool {
		return slices.ContainsFunc(heard(r.stage, "solo-monitor", (*controlv1.FromKernel).GetEvent), func(e *controlv1.ServiceEvent) bool {
			return e.GetEvent().GetType() == "denied" && strings.Contains(e.GetEvent().GetDetail(), "127.0.0.1:20001")
		})
	})
	if s := r.ask(statusOp("a")).GetStatus().GetService(); s.GetState() != stateReady {
		t.Errorf("%v", s)
	}
	must(t, r.stop())
}

// TestPortTimeout: a solo-net that says nothing refuses, in its time, all of a service's
// ports at once.
func TestPortTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := quiet()
		k.events = newQueue()
		k.ports = newPorts(k)
		k.system = &systemServices{k: k}
		s := &service{k: k, name: "a", rec: &controlv1.ServiceRecord{}}
		for i := range 3 {
			s.plan.Ports = append(s.plan.Ports, &solov1.PortUse{Listen: fmt.Sprint("127.0.0.1:", 20000+i)})
		}
		var errs []error
		k.ports.open(s, func(err error) { errs = append(errs, err) })
		run := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
			for _, event := range k.events.take() {
				event()
			}
		}
		must(t, fromNet(k, nil, portState(2, 0), nil))
		run(portTimeout - 1)
		if len(errs) != 0 || len(k.ports.byID) != 3 {
			t.Fatalf("before its time: %v, %d ports", errs, len(k.ports.byID))
		}
		run(2)
		run(portTimeout)
		if len(errs) != 1 || control.As(errs[0]).Code != control.Unavailable || len(k.ports.byID) != 0 || len(s.ports) != 0 {
			t.Errorf("%v, %d ports", errs, len(k.ports.byID))
		}
		// What is closed while it waits is not told of.
		s.plan = manifest.Plan{Ports: s.plan.Ports[:1]}
		k.ports.open(s, func(err error) { errs = append(errs, err) })
		k.ports.close(s)
		run(2 * portTimeout)
		if len(errs) != 1 {
			t.Errorf("closed: %v", errs)
		}
	})
}
