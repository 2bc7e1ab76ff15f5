package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// childVariable makes the test program a gateway that takes its certificates from
// the directory that it names.
const childVariable = "SOLO_GATEWAY_TEST_CHILD"

// serveInherited is what cmd/solo-gateway does.
func serveInherited(dir string) int {
	getenv := os.Getenv
	if os.Getenv("LISTEN_PID") == "self" {
		getenv = func(name string) string {
			if name == "LISTEN_PID" {
				return strconv.Itoa(os.Getpid())
			}
			return os.Getenv(name)
		}
	}
	config, err := gateway.Inherit(getenv, dir)
	if err == nil {
		err = gateway.Serve(context.Background(), config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child starts a gateway that inherits files from descriptor 3 on.
func child(t *testing.T, dir string, env []string, files ...*os.File) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(env, childVariable+"="+dir)
	cmd.ExtraFiles = files
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &stderr
}

func listenerFile(t *testing.T, l net.Listener) *os.File {
	t.Helper()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestInherit runs a gateway in a process of its own, started as solo-kernel does.
func TestInherit(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	socket := filepath.Join(t.TempDir(), "s")
	unix, tcp := listen(t, "unix", socket), listen(t, "tcp", "127.0.0.1:0")
	conn, control, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	cmd, stderr := child(t, certs.Dir, []string{"SOLO_CONTROL=5", "LISTEN_FDS=2", "LISTEN_FDNAMES=tcp:api.sock", "LISTEN_PID=self"},
		listenerFile(t, tcp), listenerFile(t, unix), control)
	_ = control.Close()
	killer := time.AfterFunc(gatewaytest.Patience, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()

	kernel := make(chan error, 1)
	go func() {
		for {
			m := &controlv1.FromService{}
			if _, _, err := conn.Receive(m); err != nil {
				kernel <- nil
				return
			}
			req := m.GetRequest()
			if req == nil {
				continue // Hello
			}
			err := conn.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: &controlv1.Response{Id: req.GetId(),
				Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Version: req.GetTransport()}}}}})
			if err != nil {
				kernel <- err
				return
			}
		}
	}()
	for transport, o := range map[string]client.Options{
		"unix": {Addr: "unix://" + socket},
		"tcp":  {Addr: tcp.Addr().String(), CA: certs.Path("ca.pem"), Cert: certs.Path("client.pem"), Key: certs.Path("client.key")},
	} {
		r, err := openWith(t, o).Kernel.Info(patient(t), &solov1.InfoRequest{})
		if err != nil || r.GetVersion() != transport {
			t.Errorf("over %s: %v, %v", transport, r, err)
		}
	}
	if err := conn.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{GraceMs: long}}}); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the gateway ended with %v: %s", err, stderr)
	}
	if err := take(t, kernel, "the control connection to end"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the gateway removed a socket that is not its own: %v", err)
	}
}

// TestInheritRefuses: an environment that does not say what was inherited.
func TestInheritRefuses(t *testing.T) {
	base := map[string]string{"SOLO_CONTROL": "5", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "api.sock:tcp"}
	for _, test := range []struct {
		name, variable, value, want string
	}{
		{"no control", "SOLO_CONTROL", "", "names no descriptor"},
		{"control is standard error", "SOLO_CONTROL", "2", "names no descriptor"},
		{"control is a listener", "SOLO_CONTROL", "3", "SOCK_SEQPACKET"},
		{"control is not open", "SOLO_CONTROL", "77", "bad file descriptor"},
		{"no number", "LISTEN_FDS", "", "is not a number of listeners"},
		{"another number", "LISTEN_FDS", "1", "names 2 listeners"},
		{"unknown name", "LISTEN_FDNAMES", "api.sock:http", `unknown listener "http"`},
		{"one name twice", "LISTEN_FDNAMES", "tcp:tcp", "twice"},
		{"another process's", "LISTEN_PID", "1", "is not this process"},
		{"no certificates", "", "", "solo-ctl certs init"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var env []string
			for k, v := range base {
				if k != test.variable {
					env = append(env, k+"="+v)
				}
			}
			if test.variable != "" {
				env = append(env, test.variable+"="+test.value)
			}
			conn, control, err := ipc.Pair()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			defer func() { _ = control.Close() }()
			unix := listen(t, "unix", filepath.Join(t.TempDir(), "s"))
			cmd, stderr := child(t, filepath.Join(t.TempDir(), "none"), env,
				listenerFile(t, unix), listenerFile(t, listen(t, "tcp", "127.0.0.1:0")), control)
			killer := time.AfterFunc(gatewaytest.Patience, func() { _ = cmd.Process.Kill() })
			defer killer.Stop()
			if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("ended with %v: %s, want %q", err, stderr, test.want)
			}
		})
	}
}
