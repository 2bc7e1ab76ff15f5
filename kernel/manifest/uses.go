package manifest

import (
	"fmt"
	"net/netip"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Instances is how many instances a valid manifest asks for.
func Instances(m *solov1.DeployRequest) int { return int(max(1, m.GetReplicas())) }

// Backends is how many instances it brings behind published ports, one counted for
// each port.
func Backends(m *solov1.DeployRequest) int {
	ports := 0
	for _, u := range m.GetUses() {
		if u.GetPort() != nil {
			ports++
		}
	}
	return ports * Instances(m)
}

// taken are what a manifest's ports must not have twice.
type taken struct {
	listens, names map[string]bool
	// sockets are the ports inside on which solo-init listens for the program.
	sockets map[uint32]bool
}

func (c *checker) uses(m *solov1.DeployRequest) {
	if len(m.GetUses()) > MaxUses {
		c.add("uses", "%d are over the limit of %d", len(m.GetUses()), MaxUses)
		return
	}
	t := taken{map[string]bool{}, map[string]bool{}, map[uint32]bool{}}
	for i, u := range m.GetUses() {
		field := fmt.Sprintf("uses[%d]", i)
		switch use := u.GetUse().(type) {
		case *solov1.Use_Port:
			c.port(field+".port", use.Port, t)
		case *solov1.Use_Volume:
			c.add(field+".volume", "is not supported by this version of Solo")
		case *solov1.Use_Service:
			c.add(field+".service", "is not supported by this version of Solo")
		case *solov1.Use_Egress:
			c.add(field+".egress", "is not supported by this version of Solo")
		default:
			c.add(field, "one of port, volume, service, egress is required")
		}
	}
}

func (c *checker) port(field string, p *solov1.PortUse, t taken) {
	addr, listens := c.listen(field+".listen", p.GetListen(), t)
	if listens {
		p.Listen = addr.String()
	}
	switch {
	case p.GetTo() == 0 && listens:
		p.To = uint32(addr.Port())
	case p.GetTo() == 0:
		// What is wrong is said already.
	case p.GetTo() > 65535:
		c.add(field+".to", "%d is not a port", p.GetTo())
	}
	n := p.GetFdName()
	if n == "" {
		return
	}
	if !fdName.MatchString(n) {
		c.add(field+".fd_name", "%q is not a name of at most 64 letters, digits, and . _ -", clip(n))
	}
	if t.names[n] {
		c.add(field+".fd_name", "%q is there twice", clip(n))
	}
	if t.sockets[p.GetTo()] {
		c.add(field+".to", "two sockets cannot both listen on %d", p.GetTo())
	}
	t.names[n], t.sockets[p.GetTo()] = true, true
}

// listen reads the address on the host, in its normal form: an IPv4 address that is
// written as an IPv6 one is the same.
func (c *checker) listen(field, text string, t taken) (netip.AddrPort, bool) {
	addr, err := netip.ParseAddrPort(text)
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	switch {
	case err != nil || addr.Addr().Zone() != "":
		c.add(field, "%q is not an address and port such as 127.0.0.1:8080", clip(text))
	case !addr.Addr().IsLoopback():
		c.add(field, "%q is not a loopback address", clip(text))
	case addr.Port() == 0:
		c.add(field, "port 0 cannot be published")
	case t.listens[addr.String()]:
		c.add(field, "%q is there twice", addr.String())
	default:
		t.listens[addr.String()] = true
		return addr, true
	}
	return addr, false
}
