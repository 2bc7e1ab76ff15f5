package control_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

const patience = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestEnvironment has only environments that must be refused before any descriptor
// is touched: the numbers are those of this process. TestMainEnds has the others.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		control, fds, names string
		want                string
	}{
		{"", "", "", `SOLO_CONTROL "" is not a descriptor`},
		{"x", "", "", `SOLO_CONTROL "x" is not a descriptor`},
		{"-1", "", "", `SOLO_CONTROL "-1" is not a descriptor`},
		{"2", "", "", `SOLO_CONTROL "2" is not a descriptor`},
		{"5 ", "", "", `SOLO_CONTROL "5 " is not a descriptor`},
		{"99999999999999999999", "", "", `SOLO_CONTROL "99999999999999999999" is not a descriptor`},
		{"4294967299", "", "", `SOLO_CONTROL "4294967299" is not a descriptor`},
		{"1073741823", "0", "", "control connection: bad file descriptor"},
		{"4", "x", "a", `LISTEN_FDS "x" is not a number of descriptors`},
		{"4", "-1", "", `LISTEN_FDS "-1" is not a number of descriptors`},
		{"300", "254", strings.Repeat("a:", 253) + "b", `LISTEN_FDS "254" is not a number of descriptors`},
		{"5", "2", "a", "LISTEN_FDNAMES has 1 names for 2 descriptors"},
		{"5", "1", "a:b", "LISTEN_FDNAMES has 2 names for 1 descriptors"},
		{"6", "3", "a:b:a", `LISTEN_FDNAMES has the name "a" twice`},
		{"3", "1", "a", "SOLO_CONTROL 3 is one of the 1 descriptors of LISTEN_FDS"},
		{"5", "3", "a:b:c", "SOLO_CONTROL 5 is one of the 3 descriptors of LISTEN_FDS"},
	} {
		env := map[string]string{"SOLO_CONTROL": c.control, "LISTEN_FDS": c.fds, "LISTEN_FDNAMES": c.names}
		conn, err := control.FromEnvironment(func(name string) string { return env[name] })
		if err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", env, err, c.want)
		}
		if conn != nil {
			t.Fatalf("%v: a connection", env)
		}
	}
}

// service is a Conn and the kernel's end of it.
func service(t *testing.T, named map[string]*os.File) (*control.Conn, *ipc.Conn) {
	t.Helper()
	kernel, f, err := ipc.Pair()
	check(t, err)
	conn, err := ipc.FileConn(f)
	check(t, err)
	check(t, kernel.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	c := control.New(conn, named)
	t.Cleanup(func() { _ = c.Close(); _ = kernel.Close() })
	return c, kernel
}

// record notes what it is handed.
type record struct {
	got   []*controlv1.FromKernel
	files int
	err   error
}

func (r *record) Handle(m *controlv1.FromKernel, files ipc.Files) error {
	r.got = append(r.got, m)
	r.files += len(files)
	files.Close()
	return r.err
}

func gone(instance string) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_BackendGone{
		BackendGone: &controlv1.BackendGone{PortId: 1, Instance: instance},
	}}
}

var (
	stop    = &controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{GraceMs: 1}}}
	welcome = &controlv1.FromKernel{Item: &controlv1.FromKernel_Welcome{Welcome: &controlv1.Welcome{Protocol: 1}}}
)

// descriptors counts this process's.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(list)
}

func TestServe(t *testing.T) {
	c, kernel := service(t, nil)
	null, err := os.Open("/dev/null")
	check(t, err)
	t.Cleanup(func() { _ = null.Close() })
	before := descriptors(t)
	// Welcome and Stop are the frame's own; descriptors with them are closed.
	check(t, kernel.Send(welcome, null))
	check(t, kernel.Send(gone("a")))
	check(t, kernel.Send(gone("b"), null, null))
	check(t, kernel.Send(stop, null))
	check(t, kernel.Send(gone("after the stop")))
	var r record
	check(t, c.Serve(t.Context(), &r))
	if diff := cmp.Diff([]*controlv1.FromKernel{gone("a"), gone("b")}, r.got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if r.files != 2 {
		t.Errorf("the handler got %d descriptors, want 2", r.files)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
}

func TestServeEnds(t *testing.T) {
	boom := errors.New("boom")
	protocol := &ipc.ProtocolError{What: "record is not protobuf"}
	for _, c := range []struct {
		name    string
		handler record
		act     func(kernel *ipc.Conn, cancel func()) error
		want    func(error) bool
	}{
		{"handler's error", record{err: boom}, func(k *ipc.Conn, _ func()) error { return k.Send(gone("a")) },
			func(err error) bool { return errors.Is(err, boom) }},
		{"kernel gone", record{}, func(k *ipc.Conn, _ func()) error { return k.Close() },
			func(err error) bool { return errors.Is(err, control.ErrKernelGone) }},
		{"context", record{}, func(_ *ipc.Conn, cancel func()) error { cancel(); return nil },
			func(err error) bool { return err == nil }},
		// A FromService is no FromKernel: field 5 is unknown to it.
		{"not a message", record{}, func(k *ipc.Conn, _ func()) error {
			return k.Send(&controlv1.FromService{Item: &controlv1.FromService_PortState{PortState: &controlv1.PortState{}}})
		}, func(err error) bool { return errors.As(err, &protocol) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, kernel := service(t, nil)
			ctx, cancel := context.WithTimeout(t.Context(), testenv.Scale(patience))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- conn.Serve(ctx, &c.handler) }()
			check(t, c.act(kernel, cancel))
			if err := <-done; !c.want(err) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

func TestSend(t *testing.T) {
	c, kernel := service(t, nil)
	// From many goroutines at once: every message arrives whole.
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := c.Send(&controlv1.FromService{Item: &controlv1.FromService_NeedSockets{NeedSockets: &controlv1.NeedSockets{PortId: uint64(i), Instance: "i", N: 1}}}); err != nil {
				t.Error(err)
			}
		})
	}
	var got []uint64
	for range n {
		var m controlv1.FromService
		_, _, err := kernel.Receive(&m)
		check(t, err)
		got = append(got, m.GetNeedSockets().GetPortId())
	}
	wg.Wait()
	slices.Sort(got)
	for i, id := range got {
		if id != uint64(i) {
			t.Fatalf("message %d is missing: %v", i, got)
		}
	}
	check(t, c.Ready())
	check(t, kernel.Close())
	// The Hello was not read: the first error is a reset, the next a broken pipe.
	for range 2 {
		if err := c.Ready(); !errors.Is(err, control.ErrKernelGone) {
			t.Errorf("to a kernel that is gone: %v", err)
		}
	}
	check(t, c.Close())
	if err := c.Ready(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTake(t *testing.T) {
	before := descriptors(t)
	null, err := os.Open("/dev/null")
	check(t, err)
	left, err := os.Open("/dev/zero")
	check(t, err)
	c, kernel := service(t, map[string]*os.File{"a": null, "b": left})
	if f := c.Take("a"); f != null {
		t.Errorf("took %v", f)
	}
	for _, name := range []string{"a", "c", ""} {
		if f := c.Take(name); f != nil {
			t.Errorf("took %v as %q", f, name)
		}
	}
	check(t, null.Close())
	check(t, c.Close())
	if err := left.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the descriptor nobody took: %v, want closed", err)
	}
	if f := c.Take("b"); f != nil {
		t.Errorf("took %v after Close", f)
	}
	check(t, kernel.Close())
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
}

func TestCount(t *testing.T) {
	for _, c := range []struct{ have, want int }{{0, 0}, {2, 2}, {0, 1}, {2, 1}, {1, 2}, {3, 0}} {
		var files ipc.Files
		for range c.have {
			f, err := os.Open("/dev/null")
			check(t, err)
			files = append(files, f)
		}
		err := control.Count(files, c.want)
		protocol := (*ipc.ProtocolError)(nil)
		if c.have == c.want && err != nil || c.have != c.want && !errors.As(err, &protocol) {
			t.Errorf("%d of %d: %v", c.have, c.want, err)
		}
		for _, f := range files {
			if err := f.Close(); errors.Is(err, os.ErrClosed) == (c.have == c.want) {
				t.Errorf("%d of %d: closing a descriptor: %v", c.have, c.want, err)
			}
		}
	}
	if err := control.Unexpected(&controlv1.FromKernel{}); err.Error() != "protocol: unexpected message <nil>" {
		t.Error(err)
	}
}
