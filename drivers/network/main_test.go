package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

// The main goroutine keeps the main thread, so that no namespace is made there: the
// main thread cannot end, and what /proc says of the process is what it says of it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

const patience = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// collect closes the pipes that the net package keeps for its next splice(2): they go
// with the garbage, in the second round.
func collect() {
	runtime.GC()
	runtime.GC()
}

// holdGarbage keeps the garbage collector from closing what was forgotten, so that the
// test sees it.
func holdGarbage(t *testing.T) {
	t.Helper()
	old := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(old) })
}

// openSockets counts this process's sockets.
func openSockets(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	n := 0
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// sandbox is a network namespace like a service's: nothing but its own loopback. A
// thread of its own makes the sockets; the namespace ends with it and them.
type sandbox struct {
	orders chan func()
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	testenv.RequireRoot(t)
	s := &sandbox{orders: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		made <- err
		for f := range s.orders {
			f()
		}
	}()
	check(t, <-made)
	t.Cleanup(func() { close(s.orders) })
	return s
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// do runs f on the sandbox's thread.
func (s *sandbox) do(f func()) {
	done := make(chan struct{})
	s.orders <- func() { defer close(done); f() }
	<-done
}

// socket makes a socket inside.
func (s *sandbox) socket(family, typ, proto int) (f *os.File, err error) {
	s.do(func() {
		var fd int
		if fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto); err == nil {
			f = os.NewFile(uintptr(fd), "inside")
		}
	})
	return f, err
}

// sockets are n of the kind that solo-init makes.
func (s *sandbox) sockets(n int) (ipc.Files, error) {
	var list ipc.Files
	for range n {
		f, err := s.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			list.Close()
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// listen opens a listener inside, on port or on any, closed at the end of the test.
func (s *sandbox) listen(t testing.TB, port uint16) (*net.TCPListener, uint16) {
	t.Helper()
	var l *net.TCPListener
	var err error
	s.do(func() { l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}) })
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

// serve has handle answer each connection, in a goroutine of its own, and waits for
// all of them at the end of the test.
func serve(t testing.TB, l *net.TCPListener, handle func(c *net.TCPConn)) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(testenv.Scale(patience)))
				handle(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// named answers with a name and ends.
func named(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = io.WriteString(c, name) }
}

// host is a driver that runs, and the kernel's end of its connection: it answers
// NeedSockets from the instances' sandboxes and keeps the other answers.
type host struct {
	t      testing.TB
	kernel *ipc.Conn
	cancel context.CancelFunc
	done   chan error
	states chan *controlv1.PortState
	probes chan *controlv1.NetProbeResult

	mu        sync.Mutex
	sending   sync.Mutex
	instances map[string]*sandbox
	needs     map[string]int
}

// start runs the driver.
func start(t testing.TB, limits Limits) *host {
	t.Helper()
	kernel, f, err := ipc.Pair()
	check(t, err)
	conn, err := ipc.FileConn(f)
	check(t, err)
	c := control.New(conn, nil)
	ctx, cancel := context.WithCancel(context.Background())
	h := &host{
		t: t, kernel: kernel, cancel: cancel, done: make(chan error, 1),
		states: make(chan *controlv1.PortState, maxPorts+10), probes: make(chan *controlv1.NetProbeResult, 2*maxProbes),
		instances: map[string]*sandbox{}, needs: map[string]int{},
	}
	go func() {
		err := Serve(ctx, c, limits)
		_ = c.Close()
		h.done <- err
		close(h.done)
	}()
	hello := make(chan struct{})
	answered := make(chan struct{})
	go func() { h.answer(hello); close(answered) }()
	t.Cleanup(func() {
		cancel()
		if err := h.end(); err != nil && !errors.Is(err, control.ErrKernelGone) && !errors.As(err, new(*ipc.ProtocolError)) {
			t.Errorf("Serve: %v", err)
		}
		_ = kernel.Close()
		<-answered
		collect()
	})
	select {
	case <-hello:
	case <-time.After(testenv.Scale(patience)):
		t.Fatal("the driver says no hello")
	}
	return h
}

// end waits for Serve.
func (h *host) end() error {
	select {
	case err := <-h.done:
		return err
	case <-time.After(testenv.Scale(patience)):
		return errors.New("does not end")
	}
}

// answer is the kernel's loop.
func (h *host) answer(hello chan struct{}) {
	for {
		var m controlv1.FromService
		if _, _, err := h.kernel.Receive(&m); err != nil {
			return
		}
		switch item := m.GetItem().(type) {
		case *controlv1.FromService_Hello:
			close(hello)
		case *controlv1.FromService_PortState:
			h.states <- item.PortState
		case *controlv1.FromService_NetProbeResult:
			h.probes <- item.NetProbeResult
		case *controlv1.FromService_NeedSockets:
			need := item.NeedSockets
			h.mu.Lock()
			s := h.instances[need.GetInstance()]
			h.needs[need.GetInstance()] += int(need.GetN())
			h.mu.Unlock()
			if s != nil {
				h.supply(need.GetPortId(), need.GetInstance(), s, int(need.GetN()))
			}
		default:
			h.t.Errorf("the driver sent %v", &m)
		}
	}
}

// supply makes sockets and sends them as a Backend, unless the instance has left
// meanwhile: the kernel sends none after BackendGone.
func (h *host) supply(port uint64, instance string, s *sandbox, n int) {
	files, err := s.sockets(n)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer files.Close()
	h.sending.Lock()
	defer h.sending.Unlock()
	h.mu.Lock()
	there := h.instances[instance] == s
	h.mu.Unlock()
	if there {
		// The connection may be over by now.
		_ = h.kernel.Send(backend(port, instance, n), files...)
	}
}

// leave takes an instance from behind port 1.
func (h *host) leave(instance string) {
	h.t.Helper()
	h.sending.Lock()
	defer h.sending.Unlock()
	h.mu.Lock()
	delete(h.instances, instance)
	h.mu.Unlock()
	check(h.t, h.kernel.Send(gone(1, instance)))
}

func (h *host) send(m *controlv1.FromKernel, files ...*os.File) {
	h.t.Helper()
	h.sending.Lock()
	defer h.sending.Unlock()
	check(h.t, h.kernel.Send(m, files...))
}

func backend(port uint64, instance string, n int) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_Backend{Backend: &controlv1.Backend{PortId: port, Instance: instance, N: uint32(n)}}}
}

// open publishes a port and returns the driver's answer.
func (h *host) open(o *controlv1.PortOpen) *controlv1.PortState {
	h.t.Helper()
	h.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_PortOpen{PortOpen: o}})
	select {
	case s := <-h.states:
		return s
	case <-time.After(testenv.Scale(patience)):
		h.t.Fatal("no answer to PortOpen")
		return nil
	}
}

// publish opens port 1 for a port inside and returns its address.
func (h *host) publish(to uint16) string {
	h.t.Helper()
	address := freeAddress(h.t)
	if s := h.open(&controlv1.PortOpen{Id: 1, Listen: address, To: uint32(to), Service: "svc"}); s.GetErrno() != 0 {
		h.t.Fatalf("open %s: %v", address, s)
	}
	return address
}

// join makes a sandbox an instance behind port 1.
func (h *host) join(instance string, s *sandbox) {
	h.t.Helper()
	h.mu.Lock()
	h.instances[instance] = s
	h.mu.Unlock()
	h.supply(1, instance, s, 1)
}

// needed is how many sockets of an instance the driver has asked for.
func (h *host) needed(instance string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.needs[instance]
}

// loopback is an address in 127/8 that only this process uses.
func loopback() net.IP {
	pid := os.Getpid()
	return net.IPv4(127, 64+byte(pid>>16), byte(pid>>8), byte(pid))
}

// freeAddress is an address to listen on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback()})
	check(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// dial connects as a client does.
func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, testenv.Scale(patience))
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	check(t, c.SetDeadline(time.Now().Add(testenv.Scale(patience))))
	return c.(*net.TCPConn)
}

// readAll connects, reads all and returns it.
func readAll(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, testenv.Scale(patience))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(testenv.Scale(patience))); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("after %q: %w", b, err)
	}
	return string(b), nil
}
