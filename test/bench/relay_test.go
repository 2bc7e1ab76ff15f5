package bench

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	insidePort = 8080
	bigBytes   = 64 << 20
)

// freeAddress is a loopback address that nothing listens on now.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// fetching reads a page of this length over a connection that is kept.
func fetching(tb testing.TB, address, page string, length int64) operation {
	tb.Helper()
	transport := &http.Transport{DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	c := http.Client{Transport: transport, Timeout: 2 * patience}
	buf := make([]byte, 256<<10)
	return operation{do: func() {
		r, err := c.Get("http://" + address + page)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		// Discard alone would read in pieces of its own.
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buf)
		if err != nil || n != length {
			tb.Fatalf("%s of %s: %d bytes, want %d: %v", page, address, n, length, err)
		}
	}}
}

// relay: requests and downloads through a published port, beside the same server
// outside Solo.
func relay(tb testing.TB, n int) []row {
	s := sharing.get(tb)
	through, direct := freeAddress(tb), freeAddress(tb)
	req := host(s.peer, "http", "127.0.0.1:"+strconv.Itoa(insidePort))
	req.Uses = []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: through, To: insidePort, Http: true}}}}
	req.Ready = &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: insidePort}}
	s.deploy(tb, req)
	tb.Cleanup(func() { s.forget(tb, req.GetName()) })
	s.filled(tb)
	s.serve(tb, "http", direct)
	const hello = int64(len("hello"))
	small := inTurn(n, fetching(tb, through, "/", hello), fetching(tb, direct, "/", hello))
	big := inTurn(n, fetching(tb, through, "/big", bigBytes), fetching(tb, direct, "/big", bigBytes))
	const against = "direct loopback"
	return []row{
		{name: "relay, HTTP request", own: small[0], peer: small[1], against: against, targets: []target{{added, 0.1 * ms}}},
		{name: "relay, 64 MiB download", own: big[0], peer: big[1], against: against, targets: []target{{throughput, 0.5}}},
	}
}
