package gateway_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

// arrive connects, and waits while the listener's queue is full: connect(2) does not,
// on a socket that does not block.
func arrive(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Millisecond):
		}
	}
}

// stranger is one hostile client: it comes back until ctx ends, each time in one of
// the ways that need no token.
func stranger(ctx context.Context, socket string, random *rand.Rand) {
	for ctx.Err() == nil {
		conn, err := arrive(ctx, socket)
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		switch random.IntN(5) {
		case 0: // says nothing
			_, _ = io.Copy(io.Discard, conn)
		case 1: // answers pings for ever
			_ = idle(conn)
		case 2: // leaves at once
		case 3: // leaves after a word
			_, _ = io.WriteString(conn, http2.ClientPreface[:random.IntN(len(http2.ClientPreface)+1)])
			_, _ = conn.Read(make([]byte, 1))
		case 4: // knocks
			knock(ctx, conn, random.IntN(20))
		}
		stop()
		_ = conn.Close()
	}
}

// idle is a correct HTTP/2 client that calls nothing.
func idle(conn net.Conn) error {
	framer := http2.NewFramer(conn, conn)
	_, err := io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = framer.WriteSettings()
	}
	for err == nil {
		var f http2.Frame
		if f, err = framer.ReadFrame(); err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		}
	}
	return err
}

// knock makes calls with a token that is none, on this connection only.
func knock(ctx context.Context, conn net.Conn, calls int) {
	cc, err := overOne(conn)
	if err != nil {
		return
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer solo_wrong"), time.Second)
	defer cancel()
	for range calls {
		_, _ = api.NewSoloServiceClient(cc).List(ctx, &solov1.ListRequest{})
	}
}

// overOne is a client of one connection.
func overOne(conn net.Conn) (*grpc.ClientConn, error) {
	first := make(chan net.Conn, 1)
	first <- conn
	return grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		}))
}

// TestStorm: while many more strangers than there are places come, stay and come
// back, every client with a token gets in at the first try and keeps what it has.
func TestStorm(t *testing.T) {
	const strangers, clients = gateway.MaxConnections + 188, 6
	seed := testenv.Seed(t)
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	g := gatewaytest.Start(t, checking(t, arrived, release), nil)
	watcher := visit(t, "unix", g.Socket, insecure.NewCredentials())
	stream, err := api.NewSoloServiceClient(watcher).Watch(withToken(t, token), &solov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range strangers {
		all.Go(func() { stranger(ctx, g.Socket, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	// The first call of this one is with the kernel for as long as the storm goes on.
	slow, slowCtx := visitAfter(t, g), withToken(t, token)
	killed := make(chan error, 1)
	go func() {
		_, err := api.NewSoloServiceClient(slow).Kill(slowCtx, &solov1.KillRequest{})
		killed <- err
	}()
	take(t, arrived, "the slow call")
	for range clients {
		v := visitAfter(t, g)
		for range 2 {
			if _, err := api.NewSoloServiceClient(v).List(withToken(t, token), &solov1.ListRequest{}); err != nil {
				t.Errorf("list: %v", err)
			}
		}
		if n := v.dials.Load(); n != 1 {
			t.Errorf("a client had to connect %d times", n)
		}
		_ = v.Close()
	}
	if !watcher.kept(t) {
		t.Error("the watch has lost its connection")
	}
	close(release)
	if err := take(t, killed, "the slow call to end"); err != nil || slow.dials.Load() != 1 {
		t.Errorf("the slow call, after %d connections: %v", slow.dials.Load(), err)
	}
}

// visitAfter is visit that waits for its place in the queue.
func visitAfter(t *testing.T, g *gatewaytest.Gateway) visitor {
	t.Helper()
	return visitBy(t, insecure.NewCredentials(), func(ctx context.Context) (net.Conn, error) { return arrive(ctx, g.Socket) })
}
