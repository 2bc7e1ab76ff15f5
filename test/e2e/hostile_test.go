package e2e

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// bystanders notes what a hostile service must not touch: a neighbour and Solo's own
// processes. The function that it returns checks them.
func (x *tester) bystanders() func() {
	x.Helper()
	name := x.deploy(x.victim("sleep 1h"))
	pid, system, generation := x.pid(name), x.systemPIDs(), x.generation()
	return func() {
		x.Helper()
		if now := x.pid(name); now != pid {
			x.Errorf("the neighbour's process was %d, is %d", pid, now)
		}
		if now := x.systemPIDs(); !maps.Equal(system, now) {
			x.Errorf("Solo's processes (-before +after):\n%s", cmp.Diff(system, now))
		}
		if now := x.generation(); now != generation {
			x.Errorf("kernel %d took the place of kernel %d", now, generation)
		}
		x.deploy(x.victim("sleep 1h"))
	}
}

// TestEndsWhileProbed: a program that ends between two probes of it.
func TestEndsWhileProbed(t *testing.T) {
	x := shared(t)
	check := x.bystanders()
	for name, ready := range map[string]*solov1.Ready{
		"tcp": tcpReady(80), "http": httpReady(80, "/"), "exec": execReady("/usr/bin/cat", "/tmp/none"),
	} {
		t.Run(name, func(t *testing.T) {
			x := x.on(t)
			req := x.victim("sleep 20ms , exit 0")
			req.Ready = ready
			r, err := x.try(req)
			if err != nil || r.GetState() != "failed" || r.GetReason() != "restart_intensity" {
				t.Errorf("deploy answered %v, %v", r, err)
			}
		})
	}
	check()
}

// TestNotifyFlood: hundreds of notifications, of a service with many ports.
func TestNotifyFlood(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	check := x.bystanders()
	for _, text := range []string{"STOPPING=1", "STATUS=busy", "READY=1", "nonsense"} {
		req := x.victim("flood " + text + " , print done , sleep 1h")
		for _, listen := range x.addresses(32) {
			req.Uses = append(req.Uses, port(listen, 80))
		}
		name := x.deploy(req)
		x.awaitLog(name, "done")
		check()
	}
}

// TestGreetingFlood: a service that asks and asks, and never reads an answer, is held
// up, or ended for it; nobody else waits.
func TestGreetingFlood(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	check := x.bystanders()
	req := x.victim("greet 6000 , print done , sleep 1h")
	req.Restart = "temporary"
	if _, err := x.try(req); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		x.forget(x.deploy(x.victim("sleep 1h")))
	}
	check()
	if s := x.status(req.GetName()); s.GetReason() != "protocol" && s.GetState() != "ready" {
		t.Errorf("the service is %v\n%s", s, x.allLogs(req.GetName()))
	}
}

// TestForkBomb: a program that multiplies is ended as a whole.
func TestForkBomb(t *testing.T) {
	x := shared(t)
	check := x.bystanders()
	req := source("bomb.sh", "bomb() { bomb | bomb & }; bomb; sleep 1000")
	req.Resources, req.Restart = &solov1.Resources{MaxProcesses: 50}, "temporary"
	if _, err := x.try(req); err != nil {
		t.Fatal(err)
	}
	x.awaitState(req.GetName(), "finished", "limit:processes")
	check()
}
