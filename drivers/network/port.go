package network

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// port is one published port: its listener, the sockets behind it, its connections.
type port struct {
	to       uint16
	limits   Limits
	listener *net.TCPListener
	stock    *stock
	slots    chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
	work     *sync.WaitGroup
}

func (d *driver) newPort(o *controlv1.PortOpen, l *net.TCPListener) *port {
	p := &port{
		to: uint16(o.GetTo()), limits: d.limits, listener: l,
		slots: make(chan struct{}, d.limits.PortConnections), work: &d.work,
	}
	p.ctx, p.cancel = context.WithCancel(d.ctx)
	p.stock = newStock(d.limits.Stock, func(instance string, n int) { d.need(o.GetId(), instance, n) })
	return p
}

// close ends the port: listener, connections, sockets. It does not wait.
func (p *port) close() {
	p.cancel()
	_ = p.listener.Close()
	p.stock.close()
}

// accept takes clients until the port is closed. When all slots are taken the next
// clients wait in the listener's queue.
func (p *port) accept() {
	for {
		select {
		case p.slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		client, err := p.listener.AcceptTCP()
		switch {
		case err == nil:
			p.work.Go(func() {
				defer func() { <-p.slots }()
				p.serve(client)
			})
			continue
		case p.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			<-p.slots
			return
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			// The client stays in the queue until descriptors are free again.
			sleep(p.ctx, 20*time.Millisecond)
		}
		// Anything else is about the one client (accept(2), "Error handling").
		<-p.slots
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve connects one client to an instance and relays until both sides are done.
func (p *port) serve(client *net.TCPConn) {
	service := p.dial()
	if service == nil {
		// "Nobody there", which an empty answer would not say.
		reset(client)
		return
	}
	stop := context.AfterFunc(p.ctx, func() { reset(client, service) })
	defer stop()
	relay(client, service)
}

// dial connects to an instance in turn; one that refuses is passed over for the
// next. It returns nil when none can be reached.
func (p *port) dial() *net.TCPConn {
	ctx, cancel := context.WithTimeout(p.ctx, p.limits.SocketWait)
	defer cancel()
	var tried map[string]bool
	for {
		f, name := p.stock.take(ctx, tried)
		if f == nil {
			return nil
		}
		conn, err := connect(p.ctx, f, p.to, time.Now().Add(p.limits.ConnectTimeout))
		if err == nil {
			return conn
		}
		if tried == nil {
			tried = map[string]bool{}
		}
		tried[name] = true
	}
}
