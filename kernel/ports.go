package kernel

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// backendSockets is how many sockets an instance brings when it is announced, for
	// each port; solo-net asks for more.
	backendSockets = 4
	// maxSockets is the most that solo-init makes at once.
	maxSockets = 64
	// maxSupplying bounds the orders for sockets of one port that are under way.
	maxSupplying = 64
	// portTimeout bounds the wait for solo-net's answer, a restart of it included.
	portTimeout = 10 * time.Second
)

// port is one published port: its listener is in solo-net, its sockets come from the
// instances.
type port struct {
	id  uint64
	svc *service
	use *solov1.PortUse
	// answered waits for the first PortState; nil afterwards.
	answered func(error)
	open     bool
	// supplying counts orders for sockets that solo-init has not answered.
	supplying int
}

// ports are the published ports and the probes under way in solo-net.
type ports struct {
	k               *Kernel
	next, nextProbe uint64
	byID            map[uint64]*port
	probes          map[uint64]func(bool)
}

func newPorts(k *Kernel) *ports {
	return &ports{k: k, byID: map[uint64]*port{}, probes: map[uint64]func(bool){}}
}

// open publishes all ports of a service, or none. done is called once, perhaps at
// once.
func (p *ports) open(s *service, done func(error)) {
	p.close(s)
	uses := s.plan.Ports
	for _, use := range uses {
		for _, other := range p.byID {
			if other.use.GetListen() == use.GetListen() {
				done(portError(use, fmt.Sprintf("is published by service %s", other.svc.name), unix.EADDRINUSE))
				return
			}
		}
	}
	if len(uses) == 0 {
		done(nil)
		return
	}
	left, failed := len(uses), false
	for _, use := range uses {
		p.next++
		port := &port{id: p.next, svc: s, use: use}
		p.byID[port.id] = port
		s.ports = append(s.ports, port)
		port.answered = func(err error) {
			port.answered = nil
			port.open = err == nil
			if failed {
				return
			}
			if err != nil {
				failed = true
				p.close(s)
				done(err)
				return
			}
			if left--; left == 0 {
				done(nil)
			}
		}
		p.k.later(portTimeout, func() {
			if port.answered != nil {
				port.answered(control.Errorf(control.Unavailable, "PORT_UNAVAILABLE", "port %s: solo-net does not answer", use.GetListen()))
			}
		})
	}
	for _, port := range s.ports {
		p.send(port)
	}
}

func portError(use *solov1.PortUse, why string, errno unix.Errno) *control.Error {
	return control.Errorf(control.FailedPrecondition, "PORT_UNAVAILABLE", "port %s: %s", use.GetListen(), why).
		With("listen", use.GetListen()).With("errno", unix.ErrnoName(errno))
}

func (p *ports) send(port *port) {
	p.k.system.toNet(&controlv1.FromKernel{Item: &controlv1.FromKernel_PortOpen{PortOpen: &controlv1.PortOpen{
		Id: port.id, Listen: port.use.GetListen(), To: port.use.GetTo(), Http: port.use.GetHttp(), Service: port.svc.name,
	}}})
}

// close ends the ports of a service, with their connections.
func (p *ports) close(s *service) {
	ports := s.ports
	s.ports = nil
	for _, port := range ports {
		delete(p.byID, port.id)
		port.answered = nil
		p.k.system.toNet(&controlv1.FromKernel{Item: &controlv1.FromKernel_PortClose{PortClose: &controlv1.PortClose{Id: port.id}}})
	}
}

// announce brings an instance that is ready behind the ports of its service.
func (p *ports) announce(inst *instance) {
	inst.announced = true
	for _, port := range inst.svc.ports {
		p.supply(port, inst, backendSockets)
	}
}

// supply gives solo-net sockets of an instance.
func (p *ports) supply(port *port, inst *instance, n uint32) {
	if !inst.announced || port.supplying > maxSupplying {
		return
	}
	port.supplying++
	p.k.makeSockets(inst, min(max(n, 1), maxSockets), func(files ipc.Files) {
		port.supplying = max(0, port.supplying-1)
		if len(files) == 0 || p.byID[port.id] != port || !inst.announced {
			files.Close()
			return
		}
		p.k.system.toNet(&controlv1.FromKernel{Item: &controlv1.FromKernel_Backend{Backend: &controlv1.Backend{
			PortId: port.id, Instance: inst.id, N: uint32(len(files)),
		}}}, files...)
	})
}

// withdraw takes an instance from behind its ports, for good; its connections go on.
func (p *ports) withdraw(inst *instance) {
	if !inst.announced {
		return
	}
	inst.announced = false
	for _, port := range inst.svc.ports {
		p.k.system.toNet(&controlv1.FromKernel{Item: &controlv1.FromKernel_BackendGone{BackendGone: &controlv1.BackendGone{
			PortId: port.id, Instance: inst.id,
		}}})
	}
}

// probe has solo-net connect a socket that was made inside. It takes the socket over.
func (p *ports) probe(probe *controlv1.NetProbe, socket *os.File, done func(bool)) {
	p.nextProbe++
	probe.Id = p.nextProbe
	p.probes[probe.Id] = done
	p.k.system.toNet(&controlv1.FromKernel{Item: &controlv1.FromKernel_NetProbe{NetProbe: probe}}, socket)
}

// rejoin tells a new solo-net everything.
func (p *ports) rejoin() {
	for _, port := range p.byID {
		port.supplying = 0
		p.send(port)
		for _, sl := range port.svc.slots {
			if sl.inst != nil {
				p.supply(port, sl.inst, backendSockets)
			}
		}
	}
}

// lost: solo-net has ended, and its probes with it.
func (p *ports) lost() {
	probes := p.probes
	p.probes = map[uint64]func(bool){}
	for _, done := range probes {
		done(false)
	}
}

// fromNet is the switch over what solo-net may say.
func fromNet(k *Kernel, _ *instance, m *controlv1.FromService, files ipc.Files) error {
	if len(files) > 0 {
		files.Close()
		return &ipc.ProtocolError{What: "solo-net sent descriptors"}
	}
	p := k.ports
	switch item := m.GetItem().(type) {
	case *controlv1.FromService_PortState:
		port := p.byID[item.PortState.GetId()]
		if port == nil {
			return nil // closed meanwhile
		}
		var err error
		if e := item.PortState.GetErrno(); e != 0 {
			err = portError(port.use, unix.Errno(e).Error(), unix.Errno(e))
		}
		switch {
		case port.answered != nil:
			port.answered(err)
		case err != nil && port.open:
			// It was open before solo-net was replaced, and somebody else took it since.
			port.open = false
			say("service %s: %v", port.svc.name, err)
			k.event(port.svc, nil, &solov1.Event{Type: "denied", Detail: err.Error()})
		}
	case *controlv1.FromService_NeedSockets:
		need := item.NeedSockets
		port, sh := p.byID[need.GetPortId()], k.shells.byID[need.GetInstance()]
		if port != nil && sh != nil && sh.inst != nil && sh.inst.svc == port.svc {
			p.supply(port, sh.inst, need.GetN())
		}
	case *controlv1.FromService_NetProbeResult:
		if done := p.probes[item.NetProbeResult.GetId()]; done != nil {
			delete(p.probes, item.NetProbeResult.GetId())
			done(item.NetProbeResult.GetReady())
		}
	default:
		return &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())}
	}
	return nil
}
