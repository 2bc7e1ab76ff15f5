// Package control is a system service's side of its control connection: it finds
// the descriptors it was started with, says when it is ready, and runs the loop that
// takes the kernel's messages.
//
// Trust: runs unprivileged inside a sandbox. The kernel is trusted; what its messages
// carry on behalf of others (pipes, sockets, names) is judged by the handler.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// Protocol is the version of the control protocol that this package speaks.
const Protocol = 1

// firstListenFD is the first descriptor counted by LISTEN_FDS (sd_listen_fds(3)).
const firstListenFD = 3

// ErrKernelGone is returned by Send and Serve when the kernel has closed the
// connection.
var ErrKernelGone = errors.New("control connection: the kernel is gone")

// Handler takes the kernel's messages, one at a time. It owns the files from the
// call on, whatever it returns, and should not block. An error ends Serve.
type Handler interface {
	Handle(m *controlv1.FromKernel, files ipc.Files) error
}

// Conn is a service's control connection. Send may be called from any goroutine.
type Conn struct {
	conn *ipc.Conn
	send sync.Mutex

	mu    sync.Mutex
	named map[string]*os.File
}

// New makes a Conn of a connection and of named descriptors. It takes ownership of
// both.
func New(conn *ipc.Conn, named map[string]*os.File) *Conn {
	return &Conn{conn: conn, named: named}
}

// FromEnvironment takes the descriptors that the environment names: SOLO_CONTROL is
// the number of the control connection, LISTEN_FDS and LISTEN_FDNAMES describe the
// others. getenv is os.Getenv. It touches no descriptor unless all of it makes sense.
func FromEnvironment(getenv func(string) string) (*Conn, error) {
	names, err := listenNames(getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"))
	if err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(getenv("SOLO_CONTROL"))
	if err != nil || fd < firstListenFD || fd > maxFD {
		return nil, fmt.Errorf("SOLO_CONTROL %.80q is not a descriptor", getenv("SOLO_CONTROL"))
	}
	if fd < firstListenFD+len(names) {
		return nil, fmt.Errorf("SOLO_CONTROL %d is one of the %d descriptors of LISTEN_FDS", fd, len(names))
	}
	conn, err := ipc.FileConn(os.NewFile(uintptr(fd), "control"))
	if err != nil {
		return nil, err
	}
	named := make(map[string]*os.File, len(names))
	for i, name := range names {
		unix.CloseOnExec(firstListenFD + i)
		named[name] = os.NewFile(uintptr(firstListenFD+i), name)
	}
	return New(conn, named), nil
}

// maxFD bounds a descriptor's number; fs.nr_open is never higher.
const maxFD = 1 << 30

// listenNames reads sd_listen_fds(3)'s two variables. LISTEN_PID is not looked at:
// the number was set outside this process's namespace.
func listenNames(count, names string) ([]string, error) {
	if count == "" || count == "0" {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > ipc.MaxFiles {
		return nil, fmt.Errorf("LISTEN_FDS %.80q is not a number of descriptors", count)
	}
	list := strings.Split(names, ":")
	if len(list) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for %d descriptors", len(list), n)
	}
	for i, name := range list {
		if slices.Contains(list[:i], name) {
			return nil, fmt.Errorf("LISTEN_FDNAMES has the name %.80q twice", name)
		}
	}
	return list, nil
}

// Take returns the inherited descriptor of that name, or nil. The caller owns it;
// a second call returns nil.
func (c *Conn) Take(name string) *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.named[name]
	delete(c.named, name)
	return f
}

// Send writes one message to the kernel and waits while the kernel does not read.
func (c *Conn) Send(m *controlv1.FromService) error {
	c.send.Lock()
	defer c.send.Unlock()
	err := c.conn.Send(m)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return ErrKernelGone
	}
	return err
}

// Ready tells the kernel that the service is ready.
func (c *Conn) Ready() error {
	return c.Send(&controlv1.FromService{Item: &controlv1.FromService_Hello{
		Hello: &controlv1.Hello{Protocol: Protocol},
	}})
}

// Serve hands the kernel's messages to h until the kernel asks for a stop or ctx is
// done (nil), the kernel is gone (ErrKernelGone), or something fails. The caller then
// stops the service in order.
func (c *Conn) Serve(ctx context.Context, h Handler) error {
	wake := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer wake()
	for {
		m := &controlv1.FromKernel{}
		files, _, err := c.conn.Receive(m)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return ErrKernelGone
		case err != nil:
			return err
		}
		switch m.GetItem().(type) {
		case *controlv1.FromKernel_Welcome:
			files.Close()
		case *controlv1.FromKernel_Stop:
			files.Close()
			return nil
		default:
			if err := h.Handle(m, files); err != nil {
				return err
			}
		}
	}
}

// Close ends the connection and closes the inherited descriptors nobody took.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.named {
		_ = f.Close()
	}
	c.named = nil
	return c.conn.Close()
}

// Unexpected says that the kernel sent something this service does not take.
func Unexpected(m *controlv1.FromKernel) error {
	return &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())}
}

// Count checks that a message came with n descriptors, and closes them if not.
func Count(files ipc.Files, n int) error {
	if len(files) == n {
		return nil
	}
	files.Close()
	return &ipc.ProtocolError{What: fmt.Sprintf("%d descriptors where %d belong", len(files), n)}
}
