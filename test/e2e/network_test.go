package e2e

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// network is what a network namespace has, seen from outside by rtnetlink(7).
type network struct {
	Own    bool     // not the host's
	Up     []string // links; some hosts add tunnels to every namespace, which are down
	Routes int
}

// networkOf looks into the namespace of a process.
func networkOf(t *testing.T, pid int) network {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var own, host unix.Stat_t
	check(unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &own))
	check(unix.Stat("/proc/self/ns/net", &host))
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	check(err)
	defer func() { _ = f.Close() }()
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	check(err)
	defer h.Close()
	links, err := h.LinkList()
	check(err)
	n := network{Own: own.Ino != host.Ino}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp != 0 {
			n.Up = append(n.Up, l.Attrs().Name)
		}
	}
	routes, err := h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	check(err)
	n.Routes = len(routes)
	return n
}

// TestNetworks: the kernel can reach nobody, not even itself; services reach themselves;
// solo-net alone shares the host's network.
func TestNetworks(t *testing.T) {
	x := shared(t)
	info, err := x.client.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	nothing := network{Own: true}
	itself := network{Own: true, Up: []string{"lo"}}
	for name, want := range map[string]struct {
		pid int
		network
	}{
		"the kernel":      {int(info.GetPid()), nothing},
		"a service":       {x.pid(x.deploy(x.victim("sleep 1h"))), itself},
		"the gateway":     {x.pid("solo-gateway"), itself},
		"the audit log":   {x.pid("solo-audit"), itself},
		"the monitor":     {x.pid("solo-monitor"), itself},
		"the file driver": {x.pid("solo-fs"), itself},
	} {
		if diff := cmp.Diff(want.network, networkOf(t, want.pid)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if networkOf(t, x.pid("solo-net")).Own {
		t.Error("solo-net has a network of its own")
	}
}
