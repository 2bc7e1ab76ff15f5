// Package network is solo-net: it publishes ports of sandboxed services on the
// host's loopback addresses.
//
// A service's network namespace holds nothing but its own loopback, so nothing
// outside can connect to it. solo-init makes unconnected TCP sockets inside that
// namespace, which the kernel hands to this driver (Backend); a socket stays in the
// namespace it was made in (network_namespaces(7)), so connecting it to 127.0.0.1
// reaches the service. For each client the driver takes one such socket, connects it
// and relays both ways:
//
//	client ──TCP──> listener on the host │ solo-net │ socket made inside ──> 127.0.0.1:to
//
// Bytes go through splice(2) in the kernel, each direction on its own, with
// half-close and with TCP's own back-pressure. A port declared http is relayed the
// same way, by connection; the relay by request comes with rolling updates.
//
// Trust: runs unprivileged, but alone in the host's network namespace; that is what
// it must not give away, so it never passes a descriptor to anyone. Clients and
// services are untrusted: their bytes are not looked at, except the answer to an HTTP
// probe, which is read within a bound.
package network

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
)

// Limits bounds what the driver holds. The zero value of a field means its default.
type Limits struct {
	// PortConnections is the most connections of one port; further clients wait in
	// the listener's queue. Default 4096, less if the descriptors do not suffice.
	PortConnections int
	// Stock is how many unconnected sockets are kept for each instance. Default 32.
	Stock int
	// ConnectTimeout bounds the connect to the service. Default 5 s.
	ConnectTimeout time.Duration
	// SocketWait is how long a client waits when no socket is at hand. Default 2 s.
	SocketWait time.Duration
}

// descriptorsPerConnection: two sockets, and a pipe for each direction's splice(2).
const descriptorsPerConnection = 6

func (l Limits) withDefaults() Limits {
	if l.PortConnections <= 0 {
		l.PortConnections = 4096
		var r unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil {
			l.PortConnections = min(l.PortConnections, max(16, int(min(r.Cur, 1<<20))/2/descriptorsPerConnection))
		}
	}
	if l.Stock <= 0 {
		l.Stock = 32
	}
	if l.ConnectTimeout <= 0 {
		l.ConnectTimeout = 5 * time.Second
	}
	if l.SocketWait <= 0 {
		l.SocketWait = 2 * time.Second
	}
	return l
}

const (
	maxPorts  = 4096
	maxProbes = 256
)

// Serve says that the driver is ready and publishes ports until the kernel asks for a
// stop or ctx ends (nil). It returns when every listener and connection is closed.
func Serve(ctx context.Context, c *control.Conn, limits Limits) error {
	host, err := hostCookie()
	if err != nil {
		return err
	}
	work, cancel := context.WithCancel(context.Background())
	d := &driver{
		conn: c, limits: limits.withDefaults(), ctx: work, host: host,
		ports: map[uint64]*port{}, probes: make(chan struct{}, maxProbes),
	}
	defer func() {
		cancel()
		for _, p := range d.ports {
			p.close()
		}
		d.work.Wait()
	}()
	if err := c.Ready(); err != nil {
		return err
	}
	return c.Serve(ctx, d)
}

// driver is the state of Serve; only its goroutine touches ports.
type driver struct {
	conn   *control.Conn
	limits Limits
	ctx    context.Context
	ports  map[uint64]*port
	probes chan struct{}
	host   uint64 // see hostCookie
	work   sync.WaitGroup
}

// Handle implements control.Handler.
func (d *driver) Handle(m *controlv1.FromKernel, files ipc.Files) error {
	switch item := m.GetItem().(type) {
	case *controlv1.FromKernel_Backend:
		return d.backend(item.Backend, files)
	case *controlv1.FromKernel_NetProbe:
		if err := control.Count(files, 1); err != nil {
			return err
		}
		return d.probe(item.NetProbe, files[0])
	}
	if err := control.Count(files, 0); err != nil {
		return err
	}
	switch item := m.GetItem().(type) {
	case *controlv1.FromKernel_PortOpen:
		return d.open(item.PortOpen)
	case *controlv1.FromKernel_PortClose:
		if p := d.ports[item.PortClose.GetId()]; p != nil {
			delete(d.ports, item.PortClose.GetId())
			p.close()
		}
		return nil
	case *controlv1.FromKernel_BackendGone:
		// The port may have been closed first; then there is nothing to forget.
		if p := d.ports[item.BackendGone.GetPortId()]; p != nil {
			p.stock.remove(item.BackendGone.GetInstance())
		}
		return nil
	default:
		return control.Unexpected(m)
	}
}

func (d *driver) open(o *controlv1.PortOpen) error {
	errno, message := unix.Errno(0), ""
	var p *port
	switch {
	case d.ports[o.GetId()] != nil:
		errno, message = unix.EEXIST, fmt.Sprintf("port %d is open already", o.GetId())
	case len(d.ports) >= maxPorts:
		errno, message = unix.EMFILE, fmt.Sprintf("%d ports are open already", maxPorts)
	case o.GetTo() == 0 || o.GetTo() > 65535:
		errno, message = unix.EINVAL, fmt.Sprintf("port %d inside is not between 1 and 65535", o.GetTo())
	default:
		l, err := listen(o.GetListen())
		if err != nil {
			errno, message = errnoOf(err), err.Error()
			break
		}
		p = d.newPort(o, l)
		d.ports[o.GetId()] = p
	}
	err := d.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_PortState{
		PortState: &controlv1.PortState{Id: o.GetId(), Errno: int32(errno), Message: message},
	}})
	if p != nil {
		d.work.Go(p.accept)
	}
	return err
}

func (d *driver) backend(b *controlv1.Backend, files ipc.Files) error {
	if int(b.GetN()) != len(files) {
		files.Close()
		return &ipc.ProtocolError{What: fmt.Sprintf("%d sockets where %d are announced", len(files), b.GetN())}
	}
	good := files[:0]
	for _, f := range files {
		if err := checkSocket(f, d.host); err != nil {
			// A service cannot do this, but solo-init's word is not proof.
			fmt.Fprintf(os.Stderr, "solo-net: socket of %s dropped: %v\n", b.GetInstance(), err)
			_ = f.Close()
			continue
		}
		good = append(good, f)
	}
	// Sockets that come after BackendGone would make the instance known again; the
	// kernel drops answers that are late.
	p := d.ports[b.GetPortId()]
	if p == nil {
		good.Close()
		return nil
	}
	p.stock.add(b.GetInstance(), good)
	return nil
}

// need asks the kernel for sockets. It may be called from any goroutine.
func (d *driver) need(port uint64, instance string, n int) {
	// When the connection is gone Serve ends by its own reading.
	_ = d.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_NeedSockets{
		NeedSockets: &controlv1.NeedSockets{PortId: port, Instance: instance, N: uint32(n)},
	}})
}
