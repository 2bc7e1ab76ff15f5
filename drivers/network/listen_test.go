package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestPortOpenAnswers(t *testing.T) {
	testenv.RequireRoot(t)
	busy, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback()})
	check(t, err)
	defer func() { _ = busy.Close() }()
	good := freeAddress(t)
	h := start(t, Limits{})
	for _, c := range []struct {
		name    string
		id      uint64
		listen  string
		to      uint32
		errno   unix.Errno
		message string
	}{
		{"good", 1, good, 80, 0, ""},
		{"id in use", 1, freeAddress(t), 80, unix.EEXIST, "port 1 is open already"},
		{"own address again", 2, good, 80, unix.EADDRINUSE, "address already in use"},
		{"busy", 2, busy.Addr().String(), 80, unix.EADDRINUSE, "address already in use"},
		{"highest inside", 3, freeAddress(t), 65535, 0, ""},
		{"lowest inside", 4, freeAddress(t), 1, 0, ""},
		{"inside 0", 2, freeAddress(t), 0, unix.EINVAL, "port 0 inside"},
		{"inside over 65535", 2, freeAddress(t), 65536, unix.EINVAL, "port 65536 inside"},
		{"inside far over", 2, freeAddress(t), 1<<32 - 1, unix.EINVAL, "inside is not between"},
		{"every address", 2, "0.0.0.0:8080", 80, unix.EACCES, "only loopback"},
		{"every address of IPv6", 2, "[::]:8080", 80, unix.EACCES, "only loopback"},
		{"every address, mapped", 2, "[::ffff:0.0.0.0]:8080", 80, unix.EACCES, "only loopback"},
		{"another machine's", 2, "192.0.2.1:8080", 80, unix.EACCES, "only loopback"},
		{"link-local", 2, "[fe80::1]:8080", 80, unix.EACCES, "only loopback"},
		{"private", 2, "10.0.0.1:8080", 80, unix.EACCES, "only loopback"},
		{"just outside of loopback", 2, "128.0.0.1:8080", 80, unix.EACCES, "only loopback"},
		{"multicast", 2, "224.0.0.1:8080", 80, unix.EACCES, "only loopback"},
		{"port 0", 2, "127.0.0.1:0", 80, unix.EINVAL, "not an address and port"},
		{"no port", 2, "127.0.0.1", 80, unix.EINVAL, "not an address and port"},
		{"port over 65535", 2, "127.0.0.1:65536", 80, unix.EINVAL, "not an address and port"},
		{"no address", 2, ":8080", 80, unix.EINVAL, "not an address and port"},
		{"name", 2, "localhost:8080", 80, unix.EINVAL, "not an address and port"},
		{"zone", 2, "[::1%lo]:8080", 80, unix.EINVAL, "not an address and port"},
		{"short form", 2, "127.1:8080", 80, unix.EINVAL, "not an address and port"},
		{"octal", 2, "127.0.0.010:8080", 80, unix.EINVAL, "not an address and port"},
		{"path", 2, "/run/socket", 80, unix.EINVAL, "not an address and port"},
		{"empty", 2, "", 80, unix.EINVAL, "not an address and port"},
		{"long", 2, strings.Repeat("1", 60000), 80, unix.EINVAL, "not an address and port"},
		{"id of a refused one", 2, freeAddress(t), 80, 0, ""},
	} {
		got := h.open(&controlv1.PortOpen{Id: c.id, Listen: c.listen, To: c.to, Service: "svc"})
		if got.GetId() != c.id || got.GetErrno() != int32(c.errno) || !strings.Contains(got.GetMessage(), c.message) || (c.errno == 0) != (got.GetMessage() == "") {
			t.Errorf("%s: %v, want errno %d and … %s", c.name, got, c.errno, c.message)
		}
		if len(got.GetMessage()) > 300 {
			t.Errorf("%s: a message of %d bytes", c.name, len(got.GetMessage()))
		}
	}
}

// TestPrivilegedPort gives up the capability that solo-net does not have either. Only
// this thread does.
func TestPrivilegedPort(t *testing.T) {
	start, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	check(t, err)
	var first int
	_, err = fmt.Sscan(string(start), &first)
	check(t, err)
	if first < 2 {
		t.Skip("every port is unprivileged here")
	}
	runtime.LockOSThread() // the thread ends with the test
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	check(t, unix.Capget(&header, &caps[0]))
	caps[0].Effective &^= 1 << unix.CAP_NET_BIND_SERVICE
	check(t, unix.Capset(&header, &caps[0]))
	l, err := listen(fmt.Sprintf("%s:%d", loopback(), first-1))
	if err == nil {
		_ = l.Close()
	}
	if errnoOf(err) != unix.EACCES {
		t.Errorf("listen below %d: %v, want EACCES", first, err)
	}
}

func TestIPv6Loopback(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("needs IPv6: %v", err)
	}
	address := l.Addr().String()
	check(t, l.Close())
	in := newSandbox(t)
	inside, to := in.listen(t, 0)
	serve(t, inside, named("six"))
	h := start(t, Limits{})
	if s := h.open(&controlv1.PortOpen{Id: 1, Listen: address, To: uint32(to)}); s.GetErrno() != 0 {
		t.Fatal(s)
	}
	h.join("one", in)
	if got, err := readAll(address); got != "six" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestErrnoOf(t *testing.T) {
	for want, err := range map[unix.Errno]error{
		unix.EADDRINUSE: &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", unix.EADDRINUSE)},
		unix.EACCES:     fmt.Errorf("a: %w", errors.Join(unix.EACCES)),
		unix.EIO:        errors.New("no number"),
	} {
		if got := errnoOf(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestHostileSockets sends what solo-init never makes. Each is closed, and the client
// is served by the good ones among them.
func TestHostileSockets(t *testing.T) {
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	serve(t, l, named("good"))
	host, err := hostCookie()
	check(t, err)
	make := func(family, typ, proto int) *os.File {
		t.Helper()
		f, err := in.socket(family, typ, proto)
		check(t, err)
		return f
	}
	connected := make(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, unix.Connect(int(connected.Fd()), &unix.SockaddrInet4{Port: int(to), Addr: [4]byte{127, 0, 0, 1}}))
	listening := make(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, unix.Listen(int(listening.Fd()), 1))
	outside, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	pipe, w, err := os.Pipe()
	check(t, err)
	check(t, w.Close())
	bad := []struct {
		f    *os.File
		what string
	}{
		{connected, "connected already"},
		{listening, "listens"},
		{make(unix.AF_INET, unix.SOCK_DGRAM, 0), "not a stream"},
		{make(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), "not a stream"},
		{make(unix.AF_INET6, unix.SOCK_STREAM, 0), "not IPv4"},
		{make(unix.AF_UNIX, unix.SOCK_STREAM, 0), "not IPv4"},
		{make(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0), "not IPv4"},
		{make(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), "not IPv4"},
		{os.NewFile(uintptr(outside), "outside"), "made outside of the sandbox"},
		{pipe, "socket operation on non-socket"},
	}
	if f, err := in.socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP); err == nil {
		bad = append(bad, struct {
			f    *os.File
			what string
		}{f, "not TCP"})
	}
	var files ipc.Files
	for _, c := range bad {
		if err := checkSocket(c.f, host); err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v, want %s", err, c.what)
		}
		files = append(files, c.f)
	}
	// One that blocks is as good: it is made not to.
	blocking := make(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, checkSocket(blocking, host))
	files = append(files, blocking)

	holdGarbage(t)
	h := start(t, Limits{})
	address := h.publish(to)
	before := openSockets(t)
	h.send(backend(1, "one", len(files)), files...)
	if got, err := readAll(address); got != "good" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	files.Close()
	// One of the files is a pipe.
	testenv.Eventually(t, patience, "the sockets to be closed", func() bool { return openSockets(t) <= before-len(files)+1 })
	// A connect that was begun already fails, and the client is reset.
	begun := make(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	full := fullListener(t, in)
	if err := unix.Connect(int(begun.Fd()), &unix.SockaddrInet4{Port: int(full), Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	h.send(backend(1, "one", 1), begun)
	check(t, begun.Close())
	wantReset(t, address)
}

// TestLyingBackend announces another number of sockets than it brings: that ends the
// driver, with everything closed.
func TestLyingBackend(t *testing.T) {
	for _, n := range []int{0, 1, 3, 1 << 31} {
		testenv.Leaks(t, testenv.Scope{})
		holdGarbage(t)
		in := newSandbox(t)
		before := openSockets(t)
		files, err := in.sockets(2)
		check(t, err)
		h := start(t, Limits{})
		address := h.publish(80)
		h.send(backend(1, "one", n), files...)
		files.Close()
		if err := h.end(); !errors.As(err, new(*ipc.ProtocolError)) {
			t.Errorf("%d announced: %v", n, err)
		}
		if _, err := net.Dial("tcp", address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%d announced: dial: %v", n, err)
		}
		// What is left is the kernel's end.
		if now := openSockets(t); now > before+1 {
			t.Errorf("%d announced: %d sockets before, %d after", n, before, now)
		}
	}
}

// TestStrayMessages: what the kernel never sends to solo-net ends it.
func TestStrayMessages(t *testing.T) {
	testenv.RequireRoot(t)
	null, err := os.Open("/dev/null")
	check(t, err)
	defer func() { _ = null.Close() }()
	for name, c := range map[string]struct {
		m     *controlv1.FromKernel
		files []*os.File
	}{
		"another service's":           {&controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{}}}, nil},
		"PortOpen with a descriptor":  {&controlv1.FromKernel{Item: &controlv1.FromKernel_PortOpen{PortOpen: &controlv1.PortOpen{Id: 1}}}, []*os.File{null}},
		"PortClose with a descriptor": {closing(1), []*os.File{null}},
		"NetProbe without":            {probing(&controlv1.NetProbe{Id: 1, Port: 80}), nil},
		"NetProbe with two":           {probing(&controlv1.NetProbe{Id: 1, Port: 80}), []*os.File{null, null}},
	} {
		h := start(t, Limits{})
		h.send(c.m, c.files...)
		if err := h.end(); !errors.As(err, new(*ipc.ProtocolError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPortConnections has a port with two places: the third client waits until one is
// free.
func TestPortConnections(t *testing.T) {
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	accepted := make(chan struct{}, 10)
	serve(t, l, func(c *net.TCPConn) {
		accepted <- struct{}{}
		echo(c)
	})
	h := start(t, Limits{PortConnections: 2})
	address := h.publish(to)
	h.join("one", in)
	first, second := dial(t, address), dial(t, address)
	exchange(t, first)
	exchange(t, second)
	third := dial(t, address)
	_, err := third.Write([]byte("x"))
	check(t, err)
	// Both places work on; the third is not there for the service.
	exchange(t, first)
	exchange(t, second)
	if n := len(accepted); n != 2 {
		t.Errorf("the service has %d connections, want 2", n)
	}
	check(t, first.CloseWrite())
	_, err = io.ReadAll(first)
	check(t, err)
	_, err = io.ReadFull(third, make([]byte, 1))
	check(t, err)
}

// TestMostPorts opens as many ports as the driver takes, and one more.
func TestMostPorts(t *testing.T) {
	testenv.RequireRoot(t)
	h := start(t, Limits{})
	ip := loopback()
	port := func(i int) *controlv1.PortOpen {
		return &controlv1.PortOpen{Id: uint64(i), Listen: fmt.Sprintf("%s:%d", ip, 20000+i), To: 80}
	}
	for i := range maxPorts {
		if s := h.open(port(i)); s.GetErrno() != 0 {
			t.Fatal(s)
		}
	}
	if s := h.open(port(maxPorts)); s.GetErrno() != int32(unix.EMFILE) {
		t.Errorf("one more: %v, want EMFILE", s)
	}
	h.send(closing(17))
	if s := h.open(port(maxPorts)); s.GetErrno() != 0 {
		t.Errorf("after closing one: %v", s)
	}
}

func TestLimitsDefaults(t *testing.T) {
	l := Limits{}.withDefaults()
	if l.PortConnections < 16 || l.PortConnections > 4096 || l.Stock != 32 || l.ConnectTimeout <= 0 || l.SocketWait <= 0 {
		t.Errorf("%+v", l)
	}
	if own := (Limits{1, 2, 3, 4}); own.withDefaults() != own {
		t.Errorf("%+v", own.withDefaults())
	}
	if got := (Limits{-1, -1, -1, -1}).withDefaults(); got != l {
		t.Errorf("%+v, want %+v", got, l)
	}
}
