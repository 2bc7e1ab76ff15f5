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

// hostCookie is the cookie of this process's network namespace, which is the host's
// (SO_NETNS_COOKIE, Linux 5.14).
func hostCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// checkSocket says whether f is what a Backend may bring, and makes it non-blocking: a
// TCP socket over IPv4 that is not connected, does not listen, and was made in another
// network namespace than the host's. One of the host's would make this driver connect
// a client to whatever listens on the host.
func checkSocket(f *os.File, host uint64) error {
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
		cookie, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil {
			bad = fmt.Errorf("getsockopt: %w", err)
			return
		}
		if cookie == host {
			bad = errors.New("made outside of the sandbox")
			return
		}
		bad = unix.SetNonblock(int(fd), true)
	})
	return errors.Join(err, bad)
}
