// Package gatewaytest runs a gateway against a kernel that the test plays, for tests
// of the gateway and of its clients.
//
// Trust: for tests only; nothing of Solo links it.
package gatewaytest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/gateway"
)

// Patience is how long tests wait for what must happen.
const Patience = 30 * time.Second

// Handler answers one request. It runs in a goroutine of its own and owns files.
type Handler func(k *Kernel, req *controlv1.Request, files ipc.Files)

// Kernel is the scripted peer of a gateway.
type Kernel struct {
	// Cancelled receives the ids of Cancel messages.
	Cancelled chan uint64
	// Ready is closed when Hello has come.
	Ready chan struct{}

	mu     sync.Mutex
	conn   *ipc.Conn
	closed atomic.Bool
}

// Send sends to the gateway; it does not take ownership of files.
func (k *Kernel) Send(m *controlv1.FromKernel, files ...*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conn.Send(m, files...)
}

// Respond answers a request; it does not take ownership of files.
func (k *Kernel) Respond(req *controlv1.Request, r *controlv1.Response, files ...*os.File) error {
	r.Id = req.GetId()
	return k.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: r}}, files...)
}

// Fail answers a request with an error.
func (k *Kernel) Fail(req *controlv1.Request, e *controlv1.Error) error {
	return k.Respond(req, &controlv1.Response{Error: e})
}

// Close ends the control connection, as a kernel that dies does.
func (k *Kernel) Close() {
	k.closed.Store(true)
	_ = k.conn.Close()
}

// New plays a kernel on a new connection and returns the gateway's end of it.
func New(t testing.TB, h Handler) (*Kernel, *ipc.Conn) {
	t.Helper()
	conn, other, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ipc.FileConn(other)
	if err != nil {
		t.Fatal(err)
	}
	k := &Kernel{Cancelled: make(chan uint64, 1024), Ready: make(chan struct{}), conn: conn}
	var done sync.WaitGroup
	done.Go(func() { k.receive(t, h) })
	t.Cleanup(func() {
		k.Close()
		done.Wait()
	})
	return k, peer
}

func (k *Kernel) receive(t testing.TB, h Handler) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		m := &controlv1.FromService{}
		files, _, err := k.conn.Receive(m)
		if err != nil {
			if !errors.Is(err, io.EOF) && !k.closed.Load() {
				t.Errorf("kernel: %v", err)
			}
			return
		}
		switch item := m.GetItem().(type) {
		case *controlv1.FromService_Hello:
			close(k.Ready)
		case *controlv1.FromService_Cancel:
			k.Cancelled <- item.Cancel.GetId()
		case *controlv1.FromService_Request:
			handlers.Go(func() { h(k, item.Request, files) })
		default:
			t.Errorf("kernel: unexpected %T", item)
			files.Close()
		}
	}
}

// Gateway is a running gateway.
type Gateway struct {
	Kernel *Kernel
	// Socket is the path of its api.sock.
	Socket string
	// TCP is the address of its TCP listener, if it has one.
	TCP string

	done chan struct{}
	err  error
}

// Wait returns what Serve returned, or fails the test when it does not return.
func (g *Gateway) Wait(t testing.TB) error {
	t.Helper()
	select {
	case <-g.done:
		return g.err
	case <-time.After(Patience):
		t.Fatal("the gateway does not end")
		return nil
	}
}

// Start runs a gateway until the test ends, with TCP if config is not nil.
func Start(t testing.TB, h Handler, config *tls.Config) *Gateway {
	t.Helper()
	return StartConfig(t, h, gateway.Config{TLS: config})
}

// StartConfig is Start with a configuration; its connection and its listeners are
// made here.
func StartConfig(t testing.TB, h Handler, c gateway.Config) *Gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "solo-gw-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &Gateway{Socket: filepath.Join(dir, "api.sock"), done: make(chan struct{})}
	var peer *ipc.Conn
	g.Kernel, peer = New(t, h)
	c.Control = peer
	if c.Unix, err = net.Listen("unix", g.Socket); err != nil {
		t.Fatal(err)
	}
	if c.TLS != nil {
		if c.TCP, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		g.TCP = c.TCP.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		g.err = gateway.Serve(ctx, c)
		close(g.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-g.done
	})
	select {
	case <-g.Kernel.Ready:
	case <-g.done:
		t.Fatalf("the gateway ended: %v", g.err)
	case <-time.After(Patience):
		t.Fatal("the gateway does not announce itself")
	}
	return g
}
