package e2e

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestReasons: why an instance ended is exact in the answer, in Status, in List and
// in the events.
func TestReasons(t *testing.T) {
	x := shared(t)
	for _, test := range []struct {
		acts, restart string
		state, reason string
	}{
		{"exit 0", "temporary", "finished", "exit:0"},
		{"exit 0", "transient", "finished", "exit:0"},
		{"exit 3", "temporary", "finished", "exit:3"},
		{"exit 255", "temporary", "finished", "exit:255"},
		{"signal 9", "temporary", "finished", "signal:9"},
		{"signal 15", "temporary", "finished", "signal:15"},
		{"signal 11", "temporary", "finished", "signal:11"},
		{"signal 6", "temporary", "finished", "signal:6"},
		{"deadly reboot", "temporary", "finished", "seccomp"},
		{"deadly x32", "temporary", "finished", "seccomp"},
		// Quarantine: this version will never work.
		{"deadly reboot", "permanent", "failed", "seccomp"},
		{"exit 125", "permanent", "failed", "exit:125"},
		{"garbage , sleep 1h", "temporary", "finished", "protocol"},
		{"overlong , sleep 1h", "temporary", "finished", "protocol"},
		{"lie , sleep 1h", "temporary", "finished", "protocol"},
		{"smuggle , sleep 1h", "temporary", "finished", smuggled()},
	} {
		t.Run(test.acts+" "+test.restart, func(t *testing.T) {
			x := x.on(t)
			req := x.victim(test.acts)
			req.Restart = test.restart
			if _, err := x.try(req); err != nil {
				t.Fatal(err)
			}
			name := req.GetName()
			s := x.awaitState(name, test.state, test.reason)
			if len(s.GetInstances()) != 0 || s.GetRestarts() != 0 {
				t.Errorf("after its end: %v", s)
			}
			if l := x.list(name); len(l) != 1 || l[0].GetState() != test.state || l[0].GetReason() != test.reason {
				t.Errorf("in the list: %v", l)
			}
			x.hasEvent(name, "exited", test.reason)
			if test.state == "failed" {
				x.hasEvent(name, "failed", test.reason)
			}
		})
	}
}

// smuggled is how a service ends that sends descriptors to the kernel. Since Linux
// 6.16 it cannot, and the victim says so and exits (unix(7), SO_PASSRIGHTS).
func smuggled() string {
	const passRights = 83
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	if _, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, passRights); err != nil {
		return "protocol"
	}
	return "exit:1"
}

// TestHello: the control connection of a user service answers a greeting.
func TestHello(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("hello , sleep 1h"))
	var got struct{ Answer int }
	if x.said(name, &got); got.Answer <= 0 {
		t.Errorf("the answer has %d bytes", got.Answer)
	}
}

// TestDescendantsEnd: with the main process its whole tree ends.
func TestDescendantsEnd(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("orphan , fork 2 , sleep 1h"))
	main := x.pid(name)
	group := groupPath(t, main)
	var pids []int
	// solo-init, the main process, an orphan's child and two.
	testenv.Eventually(t, patience, "five processes", func() bool {
		pids = groupPIDs(group)
		return len(pids) >= 5
	})
	x.killPID(main)
	testenv.Eventually(t, patience, "the old processes to end", func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	})
	s := x.await(name, "a restart", func(s *solov1.ServiceStatus) bool { return s.GetState() == "ready" && s.GetRestarts() == 1 })
	if s.GetReason() != "signal:9" {
		t.Errorf("the reason is %q", s.GetReason())
	}
}

// TestKill: with and without grace, and with a service that ignores the request.
func TestKill(t *testing.T) {
	x := shared(t)
	for _, test := range []struct {
		name  string
		acts  string
		grace time.Duration
		force bool
	}{
		{"with grace", "sleep 1h", time.Minute, false},
		{"force", "stubborn , sleep 1h", 10 * time.Minute, true},
		{"stubborn", "stubborn , sleep 1h", 300 * time.Millisecond, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := x.on(t)
			req := x.victim("ready , " + test.acts)
			req.Resources = &solov1.Resources{ShutdownTimeoutMs: uint32(test.grace.Milliseconds())}
			name := x.deploy(req)
			if test.name != "with grace" {
				// It is deaf from then on; before, SIGTERM would end it.
				x.deployDeaf(name)
			}
			pid := x.pid(name)
			r, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name, Force: test.force})
			if err != nil || r.GetState() != "stopped" || r.GetReason() != "killed" {
				t.Fatalf("kill: %v, %v", r, err)
			}
			if alive(pid) {
				t.Errorf("process %d lives on", pid)
			}
		})
	}
}

// deployDeaf waits until a service ignores SIGTERM (proc_pid_status(5), SigIgn).
func (x *tester) deployDeaf(name string) {
	x.Helper()
	pid := x.pid(name)
	testenv.Eventually(x.T, patience, name+" to ignore SIGTERM", func() bool { return ignores(x.T, pid, 15) })
}

// TestShutdownTimeout: SIGTERM alone does not end a deaf service before its grace.
func TestShutdownTimeout(t *testing.T) {
	x := shared(t)
	req := x.victim("stubborn , sleep 1h")
	req.Resources = &solov1.Resources{ShutdownTimeoutMs: 600_000}
	name := x.deploy(req)
	x.deployDeaf(name)
	pid := x.pid(name)
	killed := make(chan error, 1)
	go func() {
		_, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name})
		killed <- err
	}()
	x.await(name, "stopping", func(s *solov1.ServiceStatus) bool { return s.GetState() == "stopping" })
	if !alive(pid) {
		t.Error("it ended before its grace")
	}
	// A second call without grace ends the first one's wait.
	if _, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name, Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-killed; err != nil {
		t.Errorf("the first kill: %v", err)
	}
	x.awaitState(name, "stopped", "killed")
	if alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

// TestKillWhileStarting: a service that is not ready yet is killed all the same.
func TestKillWhileStarting(t *testing.T) {
	x := shared(t)
	req := x.victim("sleep 1h")
	req.Ready = &solov1.Ready{Probe: &solov1.Ready_Notify{Notify: true}}
	req.Resources = &solov1.Resources{StartupTimeoutMs: 600_000}
	answered := make(chan *solov1.DeployResponse, 1)
	x.generous(req)
	go func() {
		req.Wait = true
		r, _ := x.client.Solo.Deploy(x.ctx(), req)
		answered <- r
	}()
	x.Cleanup(func() { x.forget(req.GetName()) })
	testenv.Eventually(t, patience, "the service to start", func() bool {
		l := x.list(req.GetName())
		return len(l) == 1 && l[0].GetState() == "starting" && len(l[0].GetInstances()) == 1 && l[0].GetInstances()[0].GetPid() > 0
	})
	pid := x.pid(req.GetName())
	if _, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: req.GetName(), Force: true}); err != nil {
		t.Fatal(err)
	}
	if r := <-answered; r.GetState() != "stopped" && r.GetState() != "failed" {
		t.Errorf("the deploy that waited answered %v", r)
	}
	if alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
}
