package network

import (
	"io"
	"net"
	"sync"
)

// relay moves bytes between a and b, each direction on its own, until both have
// ended, and closes both. The end of one direction is passed on as a half-close; an
// error in one ends both with a reset, so that nobody takes a cut stream for a whole
// one. TCPConn's ReadFrom uses splice(2); it holds no more than a pipe's worth.
func relay(a, b *net.TCPConn) {
	var once sync.Once
	abort := func() { once.Do(func() { reset(a, b) }) }
	move := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			abort()
			return
		}
		if err := to.CloseWrite(); err != nil {
			abort()
		}
	}
	var other sync.WaitGroup
	other.Go(func() { move(b, a) })
	move(a, b)
	other.Wait()
	_ = a.Close()
	_ = b.Close()
}

// reset ends connections such that the other side sees a reset (socket(7),
// SO_LINGER).
func reset(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}
