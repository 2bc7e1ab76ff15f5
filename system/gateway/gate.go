package gateway

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"
)

// gate is a listener with a bounded number of connections. Whoever can reach the
// socket can fill it, so a connection that no call has proven gives way to a new
// one; see room. Accept is called by one goroutine.
//
// Lock order: link.mu, gate.mu.
type gate struct {
	net.Listener
	prove time.Duration

	mu     sync.Mutex
	room   room
	closed bool

	// changed has an element when room has changed while Accept waits for it.
	changed chan struct{}
	done    chan struct{}
}

func newGate(l net.Listener, places int, prove time.Duration) *gate {
	return &gate{Listener: l, prove: prove, room: room{places: places}, changed: make(chan struct{}, 1), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	for {
		raw, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !hungUp(raw) {
			if c := g.admit(raw); c != nil {
				return c, nil
			}
		}
		_ = raw.Close()
	}
}

// hungUp reports whether the client has closed the connection already. One that only
// connects is not worth a place, nor the work of a handshake: a queue full of them
// is emptied faster than it fills.
func hungUp(raw net.Conn) bool {
	sc, ok := raw.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	over := false
	err = rc.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
		over = err == nil && n > 0
	})
	return err == nil && over
}

// admit gives a connection a place, or returns nil. It waits while that may still
// change, which is turnTime at most: others wait in the listener's queue meanwhile,
// which is better than to let them push each other out.
func (g *gate) admit(raw net.Conn) *connection {
	c := &connection{Conn: raw, gate: g}
	c.place.conn = c
	for {
		out, wait, entered := g.enter(c)
		if out != nil {
			_ = out.Conn.Close()
		}
		if entered {
			return c
		}
		if wait <= 0 {
			return nil
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-g.changed:
		case <-g.done:
		}
		again.Stop()
	}
}

func (g *gate) enter(c *connection) (out *connection, wait time.Duration, entered bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, 0, false
	}
	p, wait, entered := g.room.enter(&c.place, time.Now())
	if entered {
		c.limit = time.AfterFunc(g.prove, c.expire)
	}
	if p != nil {
		p.conn.limit.Stop()
		out = p.conn
	}
	return out, wait, entered
}

// Close stops accepting. Connections stay open.
func (g *gate) Close() error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.done)
	}
	g.mu.Unlock()
	return g.Listener.Close()
}

// cut closes the gate and the unproven connections: gRPC's Stop waits for those that
// have not said a word yet.
func (g *gate) cut() {
	_ = g.Close()
	var out []*connection
	g.mu.Lock()
	for e := g.room.unproven.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*place).conn)
	}
	g.mu.Unlock()
	for _, c := range out {
		_ = c.Close()
	}
}

// wake lets Accept look at room again; g.mu is held or was.
func (g *gate) wake() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// connection is a client's connection and its place. A nil one is of nobody, and
// proves nothing.
type connection struct {
	net.Conn
	gate *gate
	// settled is set once, when the connection is proven: what comes later need not
	// be counted.
	settled atomic.Bool
	// place and limit belong to gate.mu.
	place place
	limit *time.Timer
}

// Close implements net.Conn. It may be called more than once.
func (c *connection) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

func (c *connection) leave() {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if c.gate.room.leave(&c.place, time.Now()) {
		c.limit.Stop()
		c.gate.wake()
	}
}

// expire ends a connection that had its time, unless the kernel has a call of it.
func (c *connection) expire() {
	c.gate.mu.Lock()
	waits := c.place.asking > 0
	if waits {
		c.limit.Reset(c.gate.prove)
	}
	over := !waits && !c.place.proven()
	c.gate.mu.Unlock()
	if over {
		_ = c.Close()
	}
}

// asks counts a call in that goes to the kernel; false says that answered need not
// be called.
func (c *connection) asks() bool {
	if c == nil || c.settled.Load() {
		return false
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.place.asks(time.Now())
	return true
}

// answered counts it out; see room.answered.
func (c *connection) answered(known bool) {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.gate.room.answered(&c.place, known, time.Now())
	if c.place.proven() && !c.settled.Swap(true) {
		c.limit.Stop()
		c.gate.wake()
	}
}

// RemoteAddr implements net.Conn. gRPC keeps what it returns as the peer's address,
// with and without TLS, and so a call finds its connection without a search.
func (c *connection) RemoteAddr() net.Addr { return origin{c.Conn.RemoteAddr(), c} }

type origin struct {
	net.Addr
	conn *connection
}

// connectionOf is the connection that a call came on, or nil.
func connectionOf(ctx context.Context) *connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	o, _ := p.Addr.(origin)
	return o.conn
}
