package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connect connects a socket that was made inside an instance to 127.0.0.1:port
// there, waiting until the deadline or the end of ctx. It takes f over, also when it
// fails.
func connect(ctx context.Context, f *os.File, port uint16, deadline time.Time) (*net.TCPConn, error) {
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	// The connect is begun before the runtime's poller sees the descriptor: an
	// unconnected socket polls as writable, which would be taken for the answer.
	// net.FileConn registers a duplicate afterwards.
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		to := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
		cerr = unix.Connect(int(fd), to)
	}); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if cerr != nil && !errors.Is(cerr, unix.EINPROGRESS) && !errors.Is(cerr, unix.EINTR) {
		return nil, fmt.Errorf("connect: %w", cerr)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("connect: not a TCP socket")
	}
	if cerr != nil {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err := established(conn, deadline)
		if !stop() {
			err = ctx.Err()
		}
		if err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
	return conn, nil
}

// established waits for the end of a connect (connect(2), EINPROGRESS).
func established(conn *net.TCPConn, deadline time.Time) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	var serr error
	err = raw.Write(func(fd uintptr) bool {
		var errno int
		errno, serr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if serr != nil {
			return true
		}
		if errno != 0 {
			serr = syscall.Errno(errno)
			return true
		}
		// The poller may wake us early: connected is who has a peer.
		_, err := unix.Getpeername(int(fd))
		return err == nil
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded // without the socket's own address
	case err != nil || serr != nil:
		return errors.Join(err, serr)
	}
	return conn.SetWriteDeadline(time.Time{})
}
