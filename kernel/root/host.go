package root

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path of a unix socket, without its final NUL (unix(7)).
const maxSocketPath = 107

// openDir makes a directory and locks it for this process's life. A crash frees the
// lock; children do not inherit it.
func openDir(dir string, mode os.FileMode, flag string) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make the directory of %s: %w", flag, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s belongs to uid %d and has mode %03o: others may write there; chown it to root and chmod %03o, or choose another with %s",
			dir, st.Uid, st.Mode&0o777, mode, flag)
	}
	fd, err := unix.Open(filepath.Join(dir, "lock"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open %s/lock: %w", dir, err)
	}
	switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s is in use by another solod: stop that one, or choose another directory with %s", dir, flag)
	case err != nil:
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	return nil
}

// checkCertificates only looks whether the gateway will find its certificates.
func checkCertificates(stateDir string) error {
	for _, name := range []string{"ca.pem", "server.pem", "server.key"} {
		file := filepath.Join(stateDir, "certs", name)
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("--listen needs certificates: %w: make them with `solo-ctl certs init --state-dir %s`", err, stateDir)
		}
	}
	return nil
}

// listenUnix opens a listening socket at path, in the place of one that an earlier
// run left. Nobody can connect before the mode is set. The file is not given to the
// runtime's poller: only services accept here.
func listenUnix(path string, mode os.FileMode) (*os.File, error) {
	switch st, err := os.Lstat(path); {
	case err == nil && st.Mode()&os.ModeSocket == 0:
		return nil, fmt.Errorf("%s is not a socket and in the way: move it, or choose another --run-dir", path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	return listen(unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, path, func(int) error { return os.Chmod(path, mode) })
}

// listenTCP opens a listening socket and tells its address, with the port that the
// system chose for port 0.
func listenTCP(at netip.AddrPort) (*os.File, netip.AddrPort, error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().Unmap().As4()})
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	f, err := listen(family, addr, at.String(), nil)
	if err != nil {
		return nil, at, fmt.Errorf("%w: free the port or choose another with --listen", err)
	}
	bound, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		return nil, at, fmt.Errorf("getsockname: %w", err)
	}
	port := at.Port()
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = uint16(b.Port)
	case *unix.SockaddrInet6:
		port = uint16(b.Port)
	}
	return f, netip.AddrPortFrom(at.Addr(), port), nil
}

func listen(family int, addr unix.Sockaddr, name string, bound func(fd int) error) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil && family != unix.AF_UNIX {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err == nil && bound != nil {
		err = bound(fd)
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Host ids are handed out in ranges of 65,536, at most 1,024 of them: a slot. Each
// slot that a solod uses is marked by an abstract socket's name, which ends with the
// process. Without --id-base the slots from 1<<29 on are tried; the last one of all
// ids would hold the invalid id 1<<32-1.
const (
	idsPerRange = 1 << 16
	maxRanges   = 1024
	idsPerSlot  = idsPerRange * maxRanges
	firstSlot   = 1 << 29 / idsPerSlot
	slots       = 1<<32/idsPerSlot - firstSlot - 1
	lastBase    = 1<<32 - 2*idsPerRange
)

// claimIDs takes the ranges from base on, or the first free slot when base is 0,
// beginning where the state directory's hash points.
func claimIDs(base uint64, seed [sha256.Size]byte) (first, ranges uint32, err error) {
	if base != 0 {
		n := min(maxRanges, (lastBase-base)/idsPerRange+1)
		for slot := base / idsPerSlot; slot <= (base+n*idsPerRange-1)/idsPerSlot; slot++ {
			free, err := claimSlot(slot)
			if err == nil && !free {
				err = fmt.Errorf("--id-base %d: these host ids are in use by another solod: choose a multiple of %d that is free", base, idsPerSlot)
			}
			if err != nil {
				return 0, 0, err
			}
		}
		return uint32(base), uint32(n), nil
	}
	start := uint64(seed[0])<<8 | uint64(seed[1])
	for i := range uint64(slots) {
		slot := firstSlot + (start+i)%slots
		if free, err := claimSlot(slot); err != nil || free {
			return uint32(slot * idsPerSlot), maxRanges, err
		}
	}
	return 0, 0, fmt.Errorf("all %d slots of host ids are in use by other solods: stop one, or choose ids with --id-base", slots)
}

// claimSlot binds the slot's name, for life.
func claimSlot(slot uint64) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@solo-ids-" + strconv.FormatUint(slot, 10)})
	if err == nil {
		return true, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return false, nil
	}
	return false, fmt.Errorf("claim host ids: %w", err)
}

// notify tells systemd, if that started us (sd_notify(3)). Nothing depends on it.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: name})
	_ = unix.Close(fd)
}
