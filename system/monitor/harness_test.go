package monitor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	if child != nil && os.Getenv(confinedDir) != "" {
		os.Exit(child())
	}
	os.Exit(testenv.CheckMain(m))
}

// confinedDir is set in the environment of a child that is to be a monitor.
const confinedDir = "SOLO_MONITOR_DIR"

// child is what such a child does; it needs seccomp.
var child func() int

// limit is for hangs only.
const limit = 30 * time.Second

// kernel plays the kernel's part beside a running monitor.
type kernel struct {
	t    *testing.T
	conn *ipc.Conn
	// socket is where metrics are served.
	socket string
	stop   func()
}

// boot runs a monitor on dir until the test ends or stop is called.
func boot(t *testing.T, dir string) *kernel {
	t.Helper()
	conn, peer, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	own, err := ipc.FileConn(peer)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, conn: conn, socket: filepath.Join(t.TempDir(), MetricsName)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	listener, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c := control.New(own, map[string]*os.File{MetricsName: listener})
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- Serve(ctx, c, Config{Dir: dir}) }()
	stopped := false
	k.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-result:
			if err != nil && !errors.Is(err, control.ErrKernelGone) {
				t.Errorf("monitor: %v", err)
			}
		case <-time.After(testenv.Scale(limit)):
			t.Error("the monitor does not stop")
		}
		_ = c.Close()
		_ = conn.Close()
	}
	t.Cleanup(k.stop)
	m := &controlv1.FromService{}
	if _, _, err := conn.Receive(m); err != nil {
		t.Fatal(err)
	}
	if m.GetHello().GetProtocol() != control.Protocol {
		t.Fatalf("first message: %v", m)
	}
	return k
}

// send sends a message and closes the files.
func (k *kernel) send(m *controlv1.FromKernel, files ...*os.File) {
	k.t.Helper()
	err := k.conn.Send(m, files...)
	ipc.Files(files).Close()
	if err != nil {
		k.t.Fatal(err)
	}
}

// pipe gives the monitor a log pipe and returns the end to write to.
func (k *kernel) pipe(l *controlv1.LogSource) *os.File {
	k.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = w.Close() })
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: l}}, r)
	return w
}

func (k *kernel) event(service, typ string) {
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{
		TimeUnixNano: 1, Service: service, Event: &solov1.Event{Type: typ}, Tier: "user",
	}}})
}

func (k *kernel) serviceGone(service string) {
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_ServiceGone{ServiceGone: &controlv1.ServiceGone{Service: service}}})
}

// stream is a watcher's other end.
type stream struct {
	t    *testing.T
	conn *ipc.Conn
}

func (k *kernel) watch(r *solov1.WatchRequest, scope string) *stream {
	k.t.Helper()
	conn, peer, err := ipc.Pair()
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = conn.Close() })
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Watcher{Watcher: &controlv1.Watcher{Request: r, Scope: scope}}}, peer)
	return &stream{k.t, conn}
}

// next waits for a record; nil is the end.
func (s *stream) next() *solov1.WatchResponse {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(testenv.Scale(limit)))
	m := &solov1.WatchResponse{}
	files, _, err := s.conn.Receive(m)
	files.Close()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		s.t.Fatalf("watch: %v", err)
	}
	return m
}

// rest reads to the end.
func (s *stream) rest() (all []*solov1.WatchResponse) {
	s.t.Helper()
	for m := s.next(); m != nil; m = s.next() {
		all = append(all, m)
	}
	return all
}

// stored reads what is stored of a service.
func (k *kernel) stored(service string, kinds ...string) []*solov1.WatchResponse {
	k.t.Helper()
	return k.watch(&solov1.WatchRequest{Service: service, Kinds: kinds, Since: "start", NoFollow: true}, "").rest()
}

// texts are the lines of a stream's records in short.
func texts(all []*solov1.WatchResponse) []string {
	var list []string
	for _, m := range all {
		switch item := m.Item.(type) {
		case *solov1.WatchResponse_Log:
			text := item.Log.Stream + ": " + string(item.Log.Text)
			if item.Log.Partial {
				text += "…"
			}
			list = append(list, text)
		case *solov1.WatchResponse_Event:
			list = append(list, "event: "+item.Event.Type)
		case *solov1.WatchResponse_Metric:
			list = append(list, "metric")
		}
	}
	return list
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
