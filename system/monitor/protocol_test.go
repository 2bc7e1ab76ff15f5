package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

// serve runs a monitor that gets one message, and returns how it ended.
func serve(t *testing.T, dir string, named map[string]*os.File, m *controlv1.FromKernel, files ...*os.File) error {
	t.Helper()
	conn, peer, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	own, err := ipc.FileConn(peer)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := control.New(own, named)
	defer func() { _ = c.Close() }()
	if m != nil {
		if err := conn.Send(m, files...); err != nil {
			t.Fatal(err)
		}
		ipc.Files(files).Close()
	}
	if err := conn.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}}); err != nil {
		t.Fatal(err)
	}
	return Serve(t.Context(), c, Config{Dir: dir})
}

// TestProtocol: a message with other descriptors than its own, or one that is not for
// the monitor, ends it, and every descriptor is closed.
func TestProtocol(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	null := func(n int) (files []*os.File) {
		for range n {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		return files
	}
	for _, c := range []struct {
		name  string
		m     *controlv1.FromKernel
		files int
		ok    bool
	}{
		{"config", &controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{}}}, 0, true},
		{"config with one", &controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{}}}, 1, false},
		{"log source without", &controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: &controlv1.LogSource{Service: "a"}}}, 0, false},
		{"log source with two", &controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: &controlv1.LogSource{Service: "a"}}}, 2, false},
		{"log source that is none", &controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: &controlv1.LogSource{Service: "a"}}}, 1, true},
		{"usage with two", &controlv1.FromKernel{Item: &controlv1.FromKernel_UsageSource{UsageSource: &controlv1.UsageSource{Service: "a"}}}, 2, false},
		{"usage of nothing", &controlv1.FromKernel{Item: &controlv1.FromKernel_UsageSource{UsageSource: &controlv1.UsageSource{Service: "a"}}}, 3, true},
		{"observer without", &controlv1.FromKernel{Item: &controlv1.FromKernel_Observer{Observer: &controlv1.Observer{}}}, 0, false},
		{"observer that is none", &controlv1.FromKernel{Item: &controlv1.FromKernel_Observer{Observer: &controlv1.Observer{}}}, 1, true},
		{"watcher that is none", &controlv1.FromKernel{Item: &controlv1.FromKernel_Watcher{Watcher: &controlv1.Watcher{}}}, 1, true},
		{"event", &controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{Service: "a", Event: &solov1.Event{Type: "ready"}}}}, 0, true},
		{"event of nobody", &controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{}}}, 0, true},
		{"gone, never seen", &controlv1.FromKernel{Item: &controlv1.FromKernel_ServiceGone{ServiceGone: &controlv1.ServiceGone{Service: "a"}}}, 0, true},
		{"for the gateway", &controlv1.FromKernel{Item: &controlv1.FromKernel_GatewayConfig{GatewayConfig: &controlv1.GatewayConfig{}}}, 0, false},
		{"for the gateway, with descriptors", &controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: &controlv1.Response{}}}, 3, false},
	} {
		err := serve(t, t.TempDir(), nil, c.m, null(c.files)...)
		var broken *ipc.ProtocolError
		if c.ok && err != nil || !c.ok && !errors.As(err, &broken) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestServeFails: what the monitor cannot work with is said before it is ready.
func TestServeFails(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	if err := serve(t, filepath.Join(t.TempDir(), "missing"), nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its directory: %v", err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := serve(t, t.TempDir(), map[string]*os.File{MetricsName: f}, nil); err == nil {
		t.Error("a listener that is none passes")
	}
}

// TestObserverThatLies: a gateway that sends something else is not listened to any
// more.
func TestObserverThatLies(t *testing.T) {
	k := boot(t, t.TempDir())
	conn, peer, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Observer{Observer: &controlv1.Observer{}}}, peer)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Send(&controlv1.Observation{Method: "Deploy", Code: "OK", DurationMs: 1}, null)
	_ = null.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Receive(&controlv1.Observation{}); err == nil {
		t.Error("the connection is open")
	}
	if got := k.scrape("solo_grpc"); len(got) != 0 {
		t.Errorf("counted: %q", got)
	}
}
