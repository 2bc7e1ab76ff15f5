package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// listen opens a listener on a loopback address of the host, "127.0.0.1:8080" or
// "[::1]:8080". Any other address is EACCES: nothing that a service publishes is
// reachable from another machine.
func listen(address string) (*net.TCPListener, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
		return nil, fmt.Errorf("listen on %.80q: not an address and port: %w", address, unix.EINVAL)
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %s: only loopback addresses may be published: %w", ap, unix.EACCES)
	}
	network := "tcp4"
	if ap.Addr().Is6() {
		network = "tcp6"
	}
	return net.ListenTCP(network, net.TCPAddrFromAddrPort(ap))
}

// errnoOf finds the system's error in err, EIO if there is none.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}

// checkSocket says whether f is what a Backend may bring: a non-blocking TCP socket
// over IPv4 that is not connected and does not listen.
func checkSocket(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var bad error
	err = raw.Control(func(fd uintptr) {
		for _, want := range []struct {
			option, value int
			what          string
		}{
			{unix.SO_DOMAIN, unix.AF_INET, "not IPv4"},
			{unix.SO_TYPE, unix.SOCK_STREAM, "not a stream"},
			{unix.SO_PROTOCOL, unix.IPPROTO_TCP, "not TCP"},
			{unix.SO_ACCEPTCONN, 0, "listens"},
		} {
			v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, want.option)
			if err != nil {
				bad = fmt.Errorf("getsockopt: %w", err)
				return
			}
			if v != want.value {
				bad = errors.New(want.what)
				return
			}
		}
		if _, err := unix.Getpeername(int(fd)); err == nil {
			bad = errors.New("connected already")
			return
		}
		bad = unix.SetNonblock(int(fd), true)
	})
	return errors.Join(err, bad)
}
