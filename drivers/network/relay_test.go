package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/test/testenv"
)

// behind publishes a port with one instance that handles connections so.
func behind(t *testing.T, handle func(*net.TCPConn)) (*host, string) {
	t.Helper()
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	serve(t, l, handle)
	h := start(t, Limits{})
	address := h.publish(to)
	h.join("one", in)
	return h, address
}

// stream is n random bytes and their sum.
func stream(seed uint64, n int64) (io.Reader, [32]byte) {
	source := func() io.Reader {
		return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}), n)
	}
	sum := sha256.New()
	_, _ = io.Copy(sum, source())
	return source(), [32]byte(sum.Sum(nil))
}

const large = 24 << 20

// TestLargeTransfers moves much in both directions at once.
func TestLargeTransfers(t *testing.T) {
	seed := testenv.Seed(t)
	up, upSum := stream(seed, large)
	down, downSum := stream(seed+1, large+12345)
	atService := make(chan [32]byte, 1)
	_, address := behind(t, func(c *net.TCPConn) {
		var wg sync.WaitGroup
		wg.Go(func() {
			sum := sha256.New()
			_, _ = io.Copy(sum, c)
			atService <- [32]byte(sum.Sum(nil))
		})
		_, _ = io.Copy(c, down)
		_ = c.CloseWrite()
		wg.Wait()
	})
	c := dial(t, address)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(c, up); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	check(t, err)
	wg.Wait()
	if [32]byte(sum.Sum(nil)) != downSum || n != large+12345 {
		t.Errorf("%d bytes down, or other ones", n)
	}
	if <-atService != upSum {
		t.Error("other bytes up")
	}
}

// TestHalfClose has each side end first: the other one's stream goes on.
func TestHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		_, address := behind(t, func(c *net.TCPConn) {
			// The answer needs the end of the question.
			b, err := io.ReadAll(c)
			_, _ = fmt.Fprintf(c, "%d bytes, %v", len(b), err)
		})
		c := dial(t, address)
		_, err := c.Write(make([]byte, 100_000))
		check(t, err)
		check(t, c.CloseWrite())
		b, err := io.ReadAll(c)
		check(t, err)
		if string(b) != "100000 bytes, <nil>" {
			t.Errorf("the service says %q", b)
		}
	})
	t.Run("service first", func(t *testing.T) {
		got := make(chan string, 1)
		_, address := behind(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "hello")
			_ = c.CloseWrite()
			b, err := io.ReadAll(c)
			got <- fmt.Sprintf("%d bytes, %v", len(b), err)
		})
		c := dial(t, address)
		b, err := io.ReadAll(c)
		check(t, err)
		if string(b) != "hello" {
			t.Errorf("the service says %q", b)
		}
		_, err = c.Write(make([]byte, 100_000))
		check(t, err)
		check(t, c.CloseWrite())
		if s := <-got; s != "100000 bytes, <nil>" {
			t.Errorf("the service got %s", s)
		}
	})
}

// TestResetsArePassedOn: a stream that one side cuts does not look whole to the other.
func TestResetsArePassedOn(t *testing.T) {
	t.Run("by the service", func(t *testing.T) {
		_, address := behind(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "part")
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		})
		c := dial(t, address)
		b := make([]byte, 4)
		_, err := io.ReadFull(c, b)
		check(t, err)
		_, err = c.Write([]byte("x"))
		check(t, err)
		if n, err := c.Read(b); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client reads %d, %v, want a reset", n, err)
		}
	})
	t.Run("by the client", func(t *testing.T) {
		got := make(chan error, 1)
		_, address := behind(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "x")
			_, err := io.ReadAll(c)
			got <- err
		})
		c := dial(t, address)
		_, err := c.Read(make([]byte, 1))
		check(t, err)
		check(t, c.SetLinger(0))
		check(t, c.Close())
		if err := <-got; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the service reads %v, want a reset", err)
		}
	})
}

// TestManyConnections has more clients at once than there are sockets in stock.
func TestManyConnections(t *testing.T) {
	const clients, rounds = 40, 10
	h, address := behind(t, echo)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for j := range rounds {
				want := bytes.Repeat(fmt.Appendf(nil, "%d-%d ", i, j), 1+j*100)
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = c.Write(want)
				err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
				got, rerr := io.ReadAll(c)
				if err = errors.Join(err, rerr, c.Close()); err != nil || !bytes.Equal(got, want) {
					t.Errorf("client %d, round %d: %d bytes came back of %d; %v", i, j, len(got), len(want), err)
					return
				}
			}
		})
	}
	wg.Wait()
	// Each connection used a socket, and the driver does not hoard. A request that is
	// answered late is made again, hence the double.
	if n := h.needed("one"); n < clients*rounds-1 || n > clients*rounds+2*(32+clients) {
		t.Errorf("the driver asked for %d sockets for %d connections", n, clients*rounds)
	}
}

// TestServiceSpeaksFirst has a client that says nothing.
func TestServiceSpeaksFirst(t *testing.T) {
	_, address := behind(t, named("220 ready"))
	got, err := readAll(address)
	if err != nil || got != "220 ready" {
		t.Errorf("%q, %v", got, err)
	}
}
