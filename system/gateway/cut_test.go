package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

// TestCut: what is unproven at the end is closed, and so is whoever waits for a
// place; a proven connection is left to gRPC.
func TestCut(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-gate-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(l, 2, time.Hour)
	connect := func() net.Conn {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetReadDeadline(time.Now().Add(testenv.Scale(30 * time.Second))); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	accept := func() *connection {
		c, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(*connection)
	}
	first := connect()
	proven := accept()
	if !proven.asks() {
		t.Fatal("a new connection is settled")
	}
	proven.answered(true)
	if proven.asks() {
		t.Error("a proven connection is not settled")
	}
	second := connect()
	accept()
	third := connect()
	ended := make(chan error, 1)
	go func() {
		_, err := g.Accept()
		ended <- err
	}()

	g.cut()
	g.cut()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	for name, conn := range map[string]net.Conn{"unproven": second, "waiting": third} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
			t.Errorf("the %s connection: %v", name, err)
		}
	}
	if _, err := proven.Write([]byte("x")); err != nil {
		t.Errorf("the proven connection: %v", err)
	}
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Errorf("the proven connection's other end: %v", err)
	}
	g.room.sweep(time.Now().Add(turnTime))
	if g.room.taken != 1 {
		t.Errorf("%d places are taken", g.room.taken)
	}
}

func isReset(err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne) && !ne.Timeout()
}
