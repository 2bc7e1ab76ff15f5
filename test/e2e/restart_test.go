package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestCrashAndBack: what is killed from outside comes back, and says why it ended.
func TestCrashAndBack(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("sleep 1h"))
	first := x.pid(name)
	x.killPID(first)
	s := x.await(name, "a restart", func(s *solov1.ServiceStatus) bool { return s.GetState() == "ready" && s.GetRestarts() == 1 })
	if s.GetReason() != "signal:9" {
		t.Errorf("the reason is %q", s.GetReason())
	}
	if now := x.pid(name); now == first || !alive(now) {
		t.Errorf("the new process is %d", now)
	}
	if s.GetVersion() != 1 {
		t.Errorf("a restart made version %d", s.GetVersion())
	}
}

// TestRestartIntensity: five restarts within a minute, the sixth end is the last.
func TestRestartIntensity(t *testing.T) {
	x := shared(t)
	neighbour := x.deploy(x.victim("sleep 1h"))
	req := x.victim("print again , exit 1")
	if _, err := x.try(req); err != nil {
		t.Fatal(err)
	}
	name := req.GetName()
	s := x.awaitState(name, "failed", "restart_intensity")
	if s.GetRestarts() != 5 || len(s.GetInstances()) != 0 {
		t.Errorf("in the end: %v", s)
	}
	var starts int
	var waits []time.Duration
	for _, e := range x.events(name) {
		switch e.GetType() {
		case "starting":
			starts++
		case "restarting":
			d, err := time.ParseDuration(e.GetDetail())
			if err != nil {
				t.Errorf("a restart's detail is %q", e.GetDetail())
			}
			waits = append(waits, d)
		}
	}
	if starts != 6 || len(waits) != 5 {
		t.Fatalf("%d starts and the waits %v", starts, waits)
	}
	// At once, then 100 ms doubled each time, 20 % either way.
	for i, want := range []time.Duration{0, 100, 200, 400, 800} {
		want *= time.Millisecond
		if low, high := want*8/10-time.Millisecond, want*12/10+time.Millisecond; waits[i] < low || waits[i] > high {
			t.Errorf("wait %d is %v, not within %v to %v", i, waits[i], low, high)
		}
	}
	if s := x.status(neighbour); s.GetState() != "ready" || s.GetRestarts() != 0 {
		t.Errorf("the neighbour is %v", s)
	}

	// Start gives it another chance.
	r, err := x.client.Lifecycle.Start(x.ctx(), &solov1.StartRequest{Service: name})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	x.await(name, "an end after "+r.GetState(), func(s *solov1.ServiceStatus) bool { return s.GetState() == "failed" && s.GetRestarts() >= 5 })
}

// TestRestartTypes: OTP's three, each after a normal and an abnormal end.
func TestRestartTypes(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	for _, test := range []struct {
		restart, acts string
		state, reason string
		again         bool
	}{
		{"permanent", "exit 0", "failed", "restart_intensity", true},
		{"transient", "exit 0", "finished", "exit:0", false},
		{"transient", "exit 1", "failed", "restart_intensity", true},
		{"temporary", "exit 1", "finished", "exit:1", false},
	} {
		t.Run(test.restart+" "+test.acts, func(t *testing.T) {
			x := x.on(t)
			req := x.victim(test.acts)
			req.Restart = test.restart
			if _, err := x.try(req); err != nil {
				t.Fatal(err)
			}
			s := x.awaitState(req.GetName(), test.state, test.reason)
			if again := s.GetRestarts() > 0; again != test.again {
				t.Errorf("it was restarted %d times", s.GetRestarts())
			}
		})
	}
}

// TestKillWhileWaiting: kill cancels a restart that waits for its time.
func TestKillWhileWaiting(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	req := x.victim("exit 1")
	if _, err := x.try(req); err != nil {
		t.Fatal(err)
	}
	name := req.GetName()
	x.await(name, "a wait", func(s *solov1.ServiceStatus) bool { return s.GetState() == "backoff" || s.GetState() == "failed" })
	r, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name})
	if err != nil || r.GetState() != "stopped" {
		t.Fatalf("kill: %v, %v", r, err)
	}
	before := x.status(name).GetRestarts()
	// Starting it makes a whole new life; nothing of the old one may interfere.
	if diff := cmp.Diff("stopped", x.status(name).GetState()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if _, err := x.client.Lifecycle.Start(x.ctx(), &solov1.StartRequest{Service: name}); err != nil {
		t.Fatal(err)
	}
	x.await(name, "more restarts", func(s *solov1.ServiceStatus) bool {
		return s.GetState() == "failed" || s.GetRestarts() > before
	})
}
