package network

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func probing(p *controlv1.NetProbe) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_NetProbe{NetProbe: p}}
}

// probe sends one probe with a socket of that sandbox and waits for its answer.
func (h *host) probe(in *sandbox, p *controlv1.NetProbe) *controlv1.NetProbeResult {
	h.t.Helper()
	files, err := in.sockets(1)
	check(h.t, err)
	h.send(probing(p), files...)
	files.Close()
	return h.probed()
}

func (h *host) probed() *controlv1.NetProbeResult {
	h.t.Helper()
	select {
	case r := <-h.probes:
		return r
	case <-time.After(testenv.Scale(patience)):
		h.t.Fatal("no answer to a probe")
		return nil
	}
}

// answering reads a request's head, answers and, if hold is set, keeps the connection
// open until the other side closes.
func answering(text string, hold bool) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		var head []byte
		for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, text)
		if hold {
			_, _ = io.Copy(io.Discard, c)
		}
	}
}

// never is a time-out that a test does not see the end of.
const never = 60_000

func TestHTTPProbe(t *testing.T) {
	in := newSandbox(t)
	h := start(t, Limits{})
	for i, c := range []struct {
		name   string
		answer string
		hold   bool
		want   string // "" for ready
	}{
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, ""},
		{"204 of HTTP/1.0", "HTTP/1.0 204 No Content\r\n\r\n", false, ""},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", false, ""},
		{"399", "HTTP/1.1 399 x\r\n\r\n", false, ""},
		{"400", "HTTP/1.1 400 Bad Request\r\n\r\n", false, "http probe: status 400"},
		{"404", "HTTP/1.1 404 Not Found\r\n\r\n", false, "http probe: status 404"},
		{"503", "HTTP/1.1 503 Service Unavailable\r\n\r\nbody", false, "http probe: status 503"},
		{"199", "HTTP/1.1 199 x\r\n\r\n", false, "http probe: status 199"},
		// The answer counts when its head is there.
		{"body without end", "HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n", true, ""},
		{"body that is missing", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", true, ""},
		{"huge body", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20), false, ""},
		{"chunks that are none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", true, ""},
		{"nothing", "", false, "http probe: the answer has no whole head"},
		{"cut head", "HTTP/1.1 200 OK\r\nContent-", false, "http probe: the answer has no whole head"},
		{"head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 1<<14), true, "http probe: the answer's head is over 65536 bytes"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2p1\r\n\r\n", false, "http probe: malformed"},
		{"HTTP/9", "HTTP/9 200 OK\r\n\r\n", false, "http probe: malformed"},
		{"no number", "HTTP/1.1 OK\r\n\r\n", false, "http probe: malformed"},
		{"negative number", "HTTP/1.1 -20 OK\r\n\r\n", false, "http probe: malformed"},
		{"bad header", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", false, "http probe: malformed"},
		{"endless line", strings.Repeat("\xff\x00", 1<<17), true, "http probe: the answer's head is over 65536 bytes"},
		{"long garbage line", strings.Repeat("\xff", 40000) + "\r\n\r\n", false, "http probe: malformed"},
	} {
		l, to := in.listen(t, 0)
		serve(t, l, answering(c.answer, c.hold))
		got := h.probe(in, &controlv1.NetProbe{Id: uint64(i), Port: uint32(to), HttpPath: "/health?x=1", TimeoutMs: never})
		if got.GetId() != uint64(i) || got.GetReady() != (c.want == "") || !strings.HasPrefix(got.GetDetail(), c.want) || got.GetReady() != (got.GetDetail() == "") {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
		if len(got.GetDetail()) > maxDetail+10 || !utf8.ValidString(got.GetDetail()) {
			t.Errorf("%s: a detail of %d bytes", c.name, len(got.GetDetail()))
		}
	}
}

// TestHTTPProbeRequest looks at what a service gets.
func TestHTTPProbeRequest(t *testing.T) {
	in := newSandbox(t)
	l, to := in.listen(t, 8080)
	request := make(chan string, 1)
	serve(t, l, func(c *net.TCPConn) {
		b := make([]byte, 1000)
		n, _ := c.Read(b)
		request <- string(b[:n])
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	})
	h := start(t, Limits{})
	if got := h.probe(in, &controlv1.NetProbe{Id: 1, Port: uint32(to), HttpPath: "/a%20b"}); !got.GetReady() {
		t.Errorf("%v", got)
	}
	want := "GET /a%20b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: solo-net\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if got := <-request; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTCPProbe(t *testing.T) {
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	serve(t, l, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	dead, free := in.listen(t, 0)
	check(t, dead.Close())
	full := fullListener(t, in)
	h := start(t, Limits{})
	for _, c := range []struct {
		name string
		p    *controlv1.NetProbe
		want string
	}{
		{"listens", &controlv1.NetProbe{Id: 1, Port: uint32(to)}, ""},
		{"refuses", &controlv1.NetProbe{Id: 2, Port: uint32(free)}, "connect: connection refused"},
		{"does not answer", &controlv1.NetProbe{Id: 3, Port: uint32(full), TimeoutMs: 20}, "connect: i/o timeout"},
		{"does not answer HTTP", &controlv1.NetProbe{Id: 4, Port: uint32(to), HttpPath: "/", TimeoutMs: 20}, "i/o timeout"},
		{"default time-out", &controlv1.NetProbe{Id: 5, Port: uint32(full)}, "connect: i/o timeout"},
	} {
		got := h.probe(in, c.p)
		if got.GetId() != c.p.GetId() || got.GetReady() != (c.want == "") || !strings.Contains(got.GetDetail(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
}

// TestProbeRefuses has orders that are answered without a connect.
func TestProbeRefuses(t *testing.T) {
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	serve(t, l, answering("HTTP/1.1 200 OK\r\n\r\n", false))
	h := start(t, Limits{})
	for _, c := range []struct {
		port uint32
		path string
		want string
	}{
		{0, "", "port 0 is not between"},
		{65536, "", "port 65536 is not between"},
		{uint32(to), "x", "does not start with /"},
		{uint32(to), "/a b", "must be escaped"},
		{uint32(to), "/a\r\nHost: x", "must be escaped"},
		{uint32(to), "/a\x7f", "must be escaped"},
		{uint32(to), "/ü", "must be escaped"},
		{uint32(to), "/" + strings.Repeat("x", maxPath), "is longer than"},
		{uint32(to), "/" + strings.Repeat("x", maxPath-1), ""},
	} {
		got := h.probe(in, &controlv1.NetProbe{Id: 9, Port: c.port, HttpPath: c.path, TimeoutMs: never})
		if got.GetReady() != (c.want == "") || !strings.Contains(got.GetDetail(), c.want) {
			t.Errorf("%d %.20q: %v, want %q", c.port, c.path, got, c.want)
		}
	}
	// The socket of a probe is looked at like a Backend's.
	f, err := in.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	check(t, err)
	h.send(probing(&controlv1.NetProbe{Id: 10, Port: uint32(to)}), f)
	check(t, f.Close())
	if got := h.probed(); got.GetReady() || got.GetDetail() != "not a stream" {
		t.Errorf("with a datagram socket: %v", got)
	}
}

// TestMostProbes has as many probes under way as the driver takes, and one more.
func TestMostProbes(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	in := newSandbox(t)
	l, to := in.listen(t, 0)
	release := make(chan struct{})
	serve(t, l, func(c *net.TCPConn) {
		<-release
		answering("HTTP/1.1 200 OK\r\n\r\n", false)(c)
	})
	h := start(t, Limits{})
	order := func(id int) {
		files, err := in.sockets(1)
		check(t, err)
		h.send(probing(&controlv1.NetProbe{Id: uint64(id), Port: uint32(to), HttpPath: "/", TimeoutMs: never}), files...)
		files.Close()
	}
	for i := range maxProbes + 1 {
		order(i)
	}
	if got := h.probed(); got.GetId() != maxProbes || got.GetReady() || got.GetDetail() != "256 probes are under way" {
		t.Errorf("one more: %v", got)
	}
	close(release)
	for range maxProbes {
		if got := h.probed(); !got.GetReady() {
			t.Errorf("%v", got)
		}
	}
	order(1)
	if got := h.probed(); !got.GetReady() {
		t.Errorf("afterwards: %v", got)
	}
}

// FuzzAnswer: whatever a service answers, the probe says ready or why not, and reads
// no more than its bound.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 404 x\r\nA: b\r\n\r\nbody", "", "HTTP/1.1 200", "HTTP/1.1 99999 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "\x00\xff\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := io.MultiReader(bytes.NewReader(data), strings.NewReader(strings.Repeat("x", 2*maxAnswer)))
		err := answer(r)
		rest, _ := io.Copy(io.Discard, r)
		if read := int64(len(data)+2*maxAnswer) - rest; read > maxAnswer {
			t.Errorf("%d bytes were read", read)
		}
		if err == nil && !bytes.HasPrefix(data, []byte("HTTP/")) {
			t.Errorf("ready by %q", data)
		}
	})
}
