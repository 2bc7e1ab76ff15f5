package e2e

import (
	"testing"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

func notifyReady() *solov1.Ready { return &solov1.Ready{Probe: &solov1.Ready_Notify{Notify: true}} }

func tcpReady(port uint32) *solov1.Ready { return &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: port}} }

func httpReady(port uint32, path string) *solov1.Ready {
	return &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: port, Path: path}}}
}

func execReady(command ...string) *solov1.Ready {
	return &solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: command}}}
}

// TestReadiness: each way of being ready, and each way of not becoming it in time.
func TestReadiness(t *testing.T) {
	x := shared(t)
	const never = "startup_timeout"
	script := func(code string) *solov1.DeployRequest { return source("app.sh", code) }
	for _, test := range []struct {
		name   string
		req    *solov1.DeployRequest
		ready  *solov1.Ready
		reason string
	}{
		{"started", x.victim("sleep 1h"), nil, ""},
		{"notify", x.victim("ready , sleep 1h"), notifyReady(), ""},
		{"notify late", x.victim("sleep 200ms , ready , sleep 1h"), notifyReady(), ""},
		{"notify never", x.victim("sleep 1h"), notifyReady(), never},
		{"notify something else", x.victim("notify STATUS=thinking , sleep 1h"), notifyReady(), never},
		{"tcp", x.victim("listen 9001 , sleep 1h"), tcpReady(9001), ""},
		{"tcp late", x.victim("sleep 200ms , listen 9001 , sleep 1h"), tcpReady(9001), ""},
		{"tcp never", x.victim("listen 9001 , sleep 1h"), tcpReady(9002), never},
		{"http", x.victim("listen 9003 , sleep 1h"), httpReady(9003, "/"), ""},
		{"http late", x.victim("sleep 200ms , listen 9003 , sleep 1h"), httpReady(9003, "/"), ""},
		{"http unwell", x.victim("listen 9003 , sleep 1h"), httpReady(9003, "/503"), never},
		{"exec", script("echo >/tmp/there; exec sleep 1000"), execReady("/usr/bin/cat", "/tmp/there"), ""},
		{"exec late", script("sleep 0.2; echo >/tmp/there; exec sleep 1000"), execReady("/usr/bin/cat", "/tmp/there"), ""},
		{"exec never", script("exec sleep 1000"), execReady("/usr/bin/cat", "/tmp/there"), never},
		{"exec hangs", script("exec sleep 1000"), execReady("/usr/bin/sleep", "1000"), never},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := x.on(t)
			req := test.req
			req.Ready, req.Restart = test.ready, "temporary"
			if test.reason == "" {
				name := x.deploy(req)
				if ms := x.status(name).GetInstances()[0].GetStartupMs(); ms <= 0 {
					t.Errorf("it was ready after %v ms", ms)
				}
				return
			}
			req.Resources = &solov1.Resources{StartupTimeoutMs: 500}
			r, err := x.try(req)
			if err != nil {
				t.Fatal(err)
			}
			if r.GetState() != "finished" || r.GetReason() != test.reason {
				t.Errorf("deploy answered state %s, reason %q", r.GetState(), r.GetReason())
			}
			x.awaitState(req.GetName(), "finished", test.reason)
		})
	}
}

// TestNotReadyEnds: a program that ends before it is ready says why.
func TestNotReadyEnds(t *testing.T) {
	x := shared(t)
	req := x.victim("exit 7")
	req.Ready, req.Restart = notifyReady(), "temporary"
	r, err := x.try(req)
	if err != nil || r.GetState() != "finished" || r.GetReason() != "exit:7" {
		t.Errorf("deploy answered %v, %v", r, err)
	}
}

// TestStatusText: STATUS= is shown, of the service itself only.
func TestStatusText(t *testing.T) {
	x := shared(t)
	req := x.victim("notify STATUS=thinking , ready , sleep 1h")
	req.Ready = notifyReady()
	name := x.deploy(req)
	x.await(name, "its text", func(s *solov1.ServiceStatus) bool { return s.GetStatusText() == "thinking" })
}

// TestExtendTimeout: a service that needs longer says so (sd_notify(3)).
func TestExtendTimeout(t *testing.T) {
	x := shared(t)
	req := x.victim("notify EXTEND_TIMEOUT_USEC=600000000 , sleep 700ms , ready , sleep 1h")
	req.Ready, req.Restart = notifyReady(), "temporary"
	req.Resources = &solov1.Resources{StartupTimeoutMs: uint32(testenv.Scale(500 * time.Millisecond).Milliseconds())}
	if testenv.VM() {
		// The start alone takes long there: only the extension is certain.
		req.GetBinary().Args[4] = "1s"
	}
	x.deploy(req)
}

// TestDeployWithoutWait answers before the service is ready.
func TestDeployWithoutWait(t *testing.T) {
	x := shared(t)
	req := x.victim("sleep 1h")
	req.Ready = notifyReady()
	x.generous(req)
	x.Cleanup(func() { x.forget(req.GetName()) })
	r, err := x.client.Solo.Deploy(x.ctx(), req)
	if err != nil || r.GetState() == "ready" || r.GetServiceId() == "" || r.GetVersion() != 1 {
		t.Errorf("deploy answered %v, %v", r, err)
	}
	x.await(req.GetName(), "its start", func(s *solov1.ServiceStatus) bool { return s.GetState() == "starting" })
}
