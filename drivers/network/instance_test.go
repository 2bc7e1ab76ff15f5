package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

// wantReset checks that nobody answers a client, and that it is told so.
func wantReset(t *testing.T, address string) {
	t.Helper()
	if got, err := readAll(address); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%q, %v, want a reset", got, err)
	}
}

// counts asks n times, one after the other, and counts who answers.
func counts(t *testing.T, address string, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		name, err := readAll(address)
		check(t, err)
		got[name]++
	}
	return got
}

// instances makes sandboxes that listen on one port and answer with their names.
func instances(t *testing.T, names ...string) (sandboxes []*sandbox, listeners []*net.TCPListener, to uint16) {
	t.Helper()
	for _, name := range names {
		s := newSandbox(t)
		var l *net.TCPListener
		l, to = s.listen(t, to)
		serve(t, l, named(name))
		sandboxes, listeners = append(sandboxes, s), append(listeners, l)
	}
	return sandboxes, listeners, to
}

// TestInstancesInTurn spreads clients over three instances, then over what is left.
func TestInstancesInTurn(t *testing.T) {
	in, listeners, to := instances(t, "a", "b", "c")
	// A client waits for sockets only, never for an instance that refuses.
	h := start(t, Limits{SocketWait: time.Hour})
	address := h.publish(to)
	for i, name := range []string{"a", "b", "c"} {
		h.join(name, in[i])
	}
	// All three are known when each has been asked for sockets.
	testenv.Eventually(t, patience, "stock of three", func() bool {
		return h.needed("a") > 0 && h.needed("b") > 0 && h.needed("c") > 0
	})
	testenv.Eventually(t, patience, "an even round", func() bool {
		got := counts(t, address, 30)
		return got["a"] == 10 && got["b"] == 10 && got["c"] == 10
	})
	// One refuses: its share goes to the others, and no client sees it.
	check(t, listeners[1].Close())
	if got := counts(t, address, 30); got["a"]+got["c"] != 30 || got["a"] == 0 || got["c"] == 0 {
		t.Errorf("with b refusing: %v", got)
	}
	// One is gone: the same, without trying it.
	h.leave("c")
	testenv.Eventually(t, patience, "the instance to be forgotten", func() bool { return counts(t, address, 3)["a"] == 3 })
	if got := counts(t, address, 50); got["a"] != 50 {
		t.Errorf("with a alone: %v", got)
	}
	// Nobody is left.
	check(t, listeners[0].Close())
	wantReset(t, address)
}

func gone(port uint64, instance string) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_BackendGone{BackendGone: &controlv1.BackendGone{PortId: port, Instance: instance}}}
}

func closing(port uint64) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_PortClose{PortClose: &controlv1.PortClose{Id: port}}}
}

func TestNoInstance(t *testing.T) {
	testenv.RequireRoot(t)
	holdGarbage(t)
	h := start(t, Limits{SocketWait: 30 * time.Millisecond})
	address := h.publish(80)
	wantReset(t, address)
	// An instance is announced, but no socket comes.
	h.send(backend(1, "empty", 0))
	testenv.Eventually(t, patience, "a request for sockets", func() bool { return h.needed("empty") > 0 })
	wantReset(t, address)
	// What concerns a port that is not open changes nothing.
	h.send(gone(7, "empty"))
	h.send(closing(7))
	in := newSandbox(t)
	files, err := in.sockets(3)
	check(t, err)
	before := openSockets(t)
	h.send(backend(7, "lost", 3), files...)
	files.Close()
	h.send(gone(1, "nobody"))
	wantReset(t, address)
	testenv.Eventually(t, patience, "sockets for no port to be closed", func() bool { return openSockets(t) <= before-3 })
}

// TestClientWaitsForInstance connects before there is an instance.
func TestClientWaitsForInstance(t *testing.T) {
	in, _, to := instances(t, "late")
	h := start(t, Limits{SocketWait: testenv.Scale(patience)})
	address := h.publish(to)
	answers := make(chan string, 10)
	for range cap(answers) {
		go func() {
			got, err := readAll(address)
			answers <- fmt.Sprint(got, err)
		}()
	}
	h.join("late", in[0])
	for range cap(answers) {
		if got := <-answers; got != "late<nil>" {
			t.Error(got)
		}
	}
}

// TestConnectionOutlivesBackendGone: connections of an instance that goes drain.
func TestConnectionOutlivesBackendGone(t *testing.T) {
	h, address := behind(t, echo)
	c := dial(t, address)
	exchange(t, c)
	h.leave("one")
	// The next message is answered: the one before has been worked off.
	h.open(&controlv1.PortOpen{Id: 2})
	exchange(t, c)
	check(t, c.CloseWrite())
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Errorf("at the end: %q, %v", b, err)
	}
}

// exchange sends a byte and waits for its echo.
func exchange(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	check(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	check(t, err)
}

// TestPortClose ends the listener and the connections, and frees the address.
func TestPortClose(t *testing.T) {
	ended := make(chan error, 1)
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	serve(t, l, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ended <- err
	})
	h := start(t, Limits{})
	address := h.publish(to)
	h.join("one", in)
	c := dial(t, address)
	exchange(t, c)
	h.send(closing(1))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client reads %d, %v, want a reset", n, err)
	}
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the service reads %v, want a reset", err)
	}
	if _, err := net.Dial("tcp", address); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial: %v, want refused", err)
	}
	// Address and id may be used again, and the stock is the new port's own.
	if s := h.open(&controlv1.PortOpen{Id: 1, Listen: address, To: uint32(to)}); s.GetErrno() != 0 {
		t.Errorf("open again: %v", s)
	}
	h.join("one", in)
	exchange(t, dial(t, address))
}

// TestStopEnds has connections in every state when the driver is stopped: relaying,
// waiting for a socket, and connecting to a service that does not answer.
func TestStopEnds(t *testing.T) {
	for _, how := range []string{"context", "stop", "kernel gone"} {
		t.Run(how, func(t *testing.T) {
			testenv.Leaks(t, testenv.Scope{})
			in, deaf := newSandbox(t), newSandbox(t)
			l, to := in.listen(t, 0)
			serve(t, l, echo)
			h := start(t, Limits{SocketWait: time.Hour, ConnectTimeout: time.Hour})
			address := h.publish(to)
			h.join("one", in)
			exchange(t, dial(t, address))
			// Port 2 has no instance; port 3 has one that drops the connect.
			waiting, connecting := freeAddress(t), freeAddress(t)
			h.open(&controlv1.PortOpen{Id: 2, Listen: waiting, To: 1})
			h.open(&controlv1.PortOpen{Id: 3, Listen: connecting, To: uint32(fullListener(t, deaf))})
			files, err := deaf.sockets(1)
			check(t, err)
			h.send(backend(3, "deaf", 1), files...)
			files.Close()
			clients := []*net.TCPConn{dial(t, waiting), dial(t, connecting)}
			testenv.Eventually(t, patience, "the connect to be under way", func() bool { return h.needed("deaf") > 0 && synSent(t, deaf) })
			switch how {
			case "context":
				h.cancel()
			case "stop":
				h.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}})
			case "kernel gone":
				check(t, h.kernel.Close())
			}
			if err := h.end(); err != nil && (how != "kernel gone" || !errors.Is(err, control.ErrKernelGone)) {
				t.Errorf("Serve: %v", err)
			}
			for i, c := range clients {
				if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("client %d reads %d, %v, want a reset", i, n, err)
				}
			}
		})
	}
}

// fullListener listens inside with a full queue: a further connect gets no answer.
func fullListener(t *testing.T, s *sandbox) uint16 {
	t.Helper()
	f, err := s.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, err)
	t.Cleanup(func() { _ = f.Close() })
	fd := int(f.Fd())
	check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(t, unix.Listen(fd, 0))
	name, err := unix.Getsockname(fd)
	check(t, err)
	// The queue of backlog 0 holds one.
	fill, err := s.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, err)
	t.Cleanup(func() { _ = fill.Close() })
	check(t, unix.Connect(int(fill.Fd()), name))
	return uint16(name.(*unix.SockaddrInet4).Port)
}

// synSent reports whether a connect is under way inside (proc_pid_net(5): state 02).
func synSent(t *testing.T, s *sandbox) bool {
	t.Helper()
	var text []byte
	var err error
	s.do(func() { text, err = os.ReadFile("/proc/thread-self/net/tcp") })
	check(t, err)
	return synSentLine.Match(text)
}

var synSentLine = regexp.MustCompile(`(?m)^ *\d+: [0-9A-F:]+ [0-9A-F:]+ 02 `)
