package launcher_test

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func socketsOrder(id uint64, family, typ, n uint32) *controlv1.InitOrder {
	return &controlv1.InitOrder{Order: &controlv1.InitOrder_MakeSockets{MakeSockets: &controlv1.MakeSockets{Id: id, Family: family, Type: typ, N: n}}}
}

func listenOrder(id uint64, address, port uint32) *controlv1.InitOrder {
	return &controlv1.InitOrder{Order: &controlv1.InitOrder_Listen{Listen: &controlv1.Listen{Id: id, Address: address, Port: port}}}
}

func execOrder(id uint64, timeout time.Duration, argv ...string) *controlv1.InitOrder {
	o := &controlv1.ExecOrder{Id: id, TimeoutMs: uint32(timeout.Milliseconds())}
	for _, a := range argv {
		o.Argv = append(o.Argv, []byte(a))
	}
	return &controlv1.InitOrder{Order: &controlv1.InitOrder_Exec{Exec: o}}
}

const loopback = 0x7f000001

// dial connects a socket that solo-init made to a port inside and reads what comes.
func dial(t *testing.T, f *os.File, port int) string {
	t.Helper()
	fd := int(f.Fd())
	must(t, unix.SetNonblock(fd, false))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}))
	must(t, unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	must(t, err)
	return string(buf[:n])
}

// TestMakeSockets connects from outside to a service that listens on port 80 of its
// own namespace.
func TestMakeSockets(t *testing.T) {
	k := newKernelSide(t)
	v := k.start(k.leaseVictim("serve", "80"))
	if line := v.line(); line != "listening" {
		t.Fatalf("victim says %q", line)
	}
	v.send(socketsOrder(5, unix.AF_INET, unix.SOCK_STREAM, 64))
	m, files, _ := v.receive()
	defer files.Close()
	want := &controlv1.InitReport{Report: &controlv1.InitReport_Sockets{Sockets: &controlv1.Sockets{Id: 5, N: 64}}}
	if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" || len(files) != 64 {
		t.Fatalf("%d descriptors (-want +got):\n%s", len(files), diff)
	}
	for _, f := range files[:3] {
		if got := dial(t, f, 80); got != "served" {
			t.Errorf("read %q", got)
		}
	}
}

// TestListen accepts outside what connects inside.
func TestListen(t *testing.T) {
	s := newRig(t).prepare()
	v := s.lease(s.newLease("wait")) // sockets are made before the program runs, too
	v.send(listenOrder(6, loopback, 8080))
	m, files, _ := v.receive()
	defer files.Close()
	want := &controlv1.InitReport{Report: &controlv1.InitReport_Listening{Listening: &controlv1.Listening{Id: 6}}}
	if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" || len(files) != 1 {
		t.Fatalf("%d descriptors (-want +got):\n%s", len(files), diff)
	}
	v.send(socketsOrder(7, unix.AF_INET, unix.SOCK_STREAM, 1))
	_, clients, _ := v.receive()
	defer clients.Close()
	client, listener := int(clients[0].Fd()), int(files[0].Fd())
	must(t, unix.SetNonblock(client, false))
	must(t, unix.Connect(client, &unix.SockaddrInet4{Port: 8080, Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.SetNonblock(listener, false))
	conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(t, err)
	accepted := os.NewFile(uintptr(conn), "accepted")
	defer func() { _ = accepted.Close() }()
	_, err = unix.Write(client, []byte("through"))
	must(t, err)
	must(t, unix.Shutdown(client, unix.SHUT_WR))
	got, err := io.ReadAll(accepted)
	if err != nil || string(got) != "through" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	s := newRig(t).prepare()
	v := s.start(s.newLease("serve", "80"))
	v.line()
	for _, c := range []struct {
		order *controlv1.InitOrder
		want  *controlv1.Refused
	}{
		{socketsOrder(1, unix.AF_INET, unix.SOCK_STREAM, 65), &controlv1.Refused{Id: 1, Step: "socket", Errno: int32(unix.EINVAL)}},
		{socketsOrder(2, unix.AF_INET, unix.SOCK_STREAM, 0), &controlv1.Refused{Id: 2, Step: "socket", Errno: int32(unix.EINVAL)}},
		{socketsOrder(3, unix.AF_UNIX, unix.SOCK_STREAM, 1), &controlv1.Refused{Id: 3, Step: "socket", Errno: int32(unix.EINVAL)}},
		{socketsOrder(4, unix.AF_INET, unix.SOCK_RAW, 1), &controlv1.Refused{Id: 4, Step: "socket", Errno: int32(unix.EINVAL)}},
		{listenOrder(5, loopback, 80), &controlv1.Refused{Id: 5, Step: "bind", Errno: int32(unix.EADDRINUSE)}},
		{listenOrder(6, loopback, 0), &controlv1.Refused{Id: 6, Step: "bind", Errno: int32(unix.EINVAL)}},
		{listenOrder(7, loopback, 65536), &controlv1.Refused{Id: 7, Step: "bind", Errno: int32(unix.EINVAL)}},
		{listenOrder(8, 0x08080808, 80), &controlv1.Refused{Id: 8, Step: "bind", Errno: int32(unix.EADDRNOTAVAIL)}},
	} {
		v.send(c.order)
		m, files, _ := v.receive()
		files.Close()
		want := &controlv1.InitReport{Report: &controlv1.InitReport_Refused{Refused: c.want}}
		if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.order, diff)
		}
	}
}

func TestProbes(t *testing.T) {
	k := newKernelSide(t)
	v := k.start(k.leaseVictim("wait"))
	v.line()
	for _, c := range []struct {
		order *controlv1.InitOrder
		want  *controlv1.ProbeResult
	}{
		{execOrder(1, patience, "/app/victim", "exit", "0"), &controlv1.ProbeResult{Id: 1, SiCode: exited}},
		{execOrder(2, patience, "/app/victim", "exit", "3"), &controlv1.ProbeResult{Id: 2, SiCode: exited, SiStatus: 3}},
		{execOrder(3, patience, "/app/victim", "signal", "15"), &controlv1.ProbeResult{Id: 3, SiCode: killed, SiStatus: 15}},
		{execOrder(4, patience, "/app/none"), &controlv1.ProbeResult{Id: 4, SiCode: exited, SiStatus: 127}},
		{execOrder(5, 20*time.Millisecond, "/app/victim", "wait"), &controlv1.ProbeResult{Id: 5, SiCode: killed, SiStatus: 9, TimedOut: true}},
		{execOrder(6, 20*time.Millisecond, "/app/victim", "family"), &controlv1.ProbeResult{Id: 6, SiCode: killed, SiStatus: 9, TimedOut: true}},
		{execOrder(7, patience, "/app/victim", "deadly"), &controlv1.ProbeResult{Id: 7, SiCode: killed, SiStatus: 31}},
	} {
		v.send(c.order)
		m, _, _ := v.receive()
		want := &controlv1.InitReport{Report: &controlv1.InitReport_ProbeResult{ProbeResult: c.want}}
		if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.order, diff)
		}
	}
	// A probe's children end with it, and so nothing but the service is left.
	testenv.Eventually(t, patience, "only solo-init and the service to be left", func() bool { return len(v.processes()) == 2 })
}

// TestProbesAreBounded: eight at once, and none before the program runs.
func TestProbesAreBounded(t *testing.T) {
	s := newRig(t).prepare()
	v := s.lease(s.newLease("wait"))
	busy := func(id uint64) *controlv1.InitReport {
		return &controlv1.InitReport{Report: &controlv1.InitReport_Refused{Refused: &controlv1.Refused{Id: id, Step: "exec", Errno: int32(unix.EAGAIN)}}}
	}
	v.send(execOrder(1, patience, "/app/victim", "exit", "0"))
	m, _, _ := v.receive()
	if diff := cmp.Diff(busy(1), m, protocmp.Transform()); diff != "" {
		t.Errorf("before the release (-want +got):\n%s", diff)
	}
	v.release()
	for i := range uint64(9) {
		v.send(execOrder(10+i, patience, "/app/victim", "wait"))
	}
	m, _, _ = v.receive()
	if diff := cmp.Diff(busy(18), m, protocmp.Transform()); diff != "" {
		t.Errorf("ninth (-want +got):\n%s", diff)
	}
}

// TestMalformedOrdersEndTheShell: before the service runs and while it does.
func TestMalformedOrdersEndTheShell(t *testing.T) {
	r := newRig(t)
	unknown := func(b ...byte) *controlv1.InitOrder {
		o := &controlv1.InitOrder{}
		o.ProtoReflect().SetUnknown(b)
		return o
	}
	release := &controlv1.InitOrder{Order: &controlv1.InitOrder_Release{Release: &controlv1.Release{}}}
	signal := &controlv1.InitOrder{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: 65}}}
	for _, c := range []struct {
		name    string
		running bool
		order   *controlv1.InitOrder
		files   int
		step    string
	}{
		{"unknown order", false, unknown(0xfa, 1, 0), 0, "malformed order"},
		{"truncated", false, unknown(0x0a, 5, 1), 0, "malformed order"},
		{"fixed64", false, unknown(0x09, 1, 2, 3, 4, 5, 6, 7, 8), 0, "malformed order"},
		{"two orders", false, unknown(0x12, 0, 0x12, 0), 0, "malformed order"},
		{"empty lease", false, &controlv1.InitOrder{Order: &controlv1.InitOrder_Lease{Lease: &controlv1.Lease{}}}, 0, "malformed order"},
		{"release while waiting", false, release, 0, "release"},
		{"signal while waiting", false, &controlv1.InitOrder{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: 15}}}, 0, "signal"},
		{"descriptors", false, release, 1, "descriptors"},
		{"second release", true, release, 0, "release"},
		{"signal 65", true, signal, 0, "malformed order"},
		{"descriptors while running", true, socketsOrder(1, 2, 1, 1), 3, "descriptors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := r.prepare()
			s.t = t
			if c.running {
				s.start(s.newLease("wait")).line()
			}
			var files ipc.Files
			for range c.files {
				f, err := os.Open("/dev/null")
				must(t, err)
				files = append(files, f)
			}
			s.send(c.order, files...)
			files.Close()
			m, _, _ := s.receive()
			want := &controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: c.step, Errno: int32(unix.EPROTO)}}}
			if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			s.waitGone()
			if left := s.processes(); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
		})
	}
}

// TestShellsAreLeasedOnce: a second lease ends the service, whatever it says.
func TestShellsAreLeasedOnce(t *testing.T) {
	s := newRig(t).prepare()
	v := s.start(s.newLease("wait"))
	v.line()
	out := s.sendLease(s.newLease("hello"))
	m, _, _ := s.receive()
	want := &controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: "second lease", Errno: int32(unix.EPROTO)}}}
	if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.waitGone()
	if got, err := io.ReadAll(out); err != nil || len(got) > 0 {
		t.Errorf("the second program ran: %q, %v", got, err)
	}
}
