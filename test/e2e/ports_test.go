package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// address is a free loopback address.
func (x *tester) address() string { return x.addresses(1)[0] }

// addresses are different free loopback addresses.
func (x *tester) addresses(n int) []string {
	x.Helper()
	var list []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			x.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		list = append(list, l.Addr().String())
	}
	return list
}

// get fetches a page without keeping the connection.
func get(url string) (string, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testenv.Scale(patience)}
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", r.Status)
	}
	return string(body), err
}

// answers waits until a URL gives a body.
func (x *tester) answers(url, want string) {
	x.Helper()
	var body string
	var err error
	testenv.Eventually(x.T, patience, url, func() bool {
		body, err = get(url)
		return err == nil && body == want
	})
}

const pythonServes = `
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open("/srv/page").read().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
`

// TestPort publishes a port of an unmodified program.
func TestPort(t *testing.T) {
	hostOnly(t)
	testenv.Require(t, testenv.Python)
	x := shared(t)
	listen := x.address()
	req := source("app.py", pythonServes)
	req.Files = []*solov1.File{{Path: "/srv/page", Content: []byte("the page\n")}}
	req.Uses = []*solov1.Use{port(listen, 8000)}
	req.Ready = httpReady(8000, "/")
	name := x.deploy(req)
	if body, err := get("http://" + listen + "/"); err != nil || body != "the page\n" {
		t.Fatalf("got %q, %v", body, err)
	}
	if got := x.status(name).GetPorts(); len(got) != 1 || !strings.HasPrefix(got[0], listen) {
		t.Errorf("ports are %q", got)
	}

	// Several at once.
	var all sync.WaitGroup
	for range times(40) {
		all.Go(func() {
			if body, err := get("http://" + listen + "/"); err != nil || body != "the page\n" {
				t.Errorf("got %q, %v", body, err)
			}
		})
	}
	all.Wait()

	// After a crash the next instance answers on the same port.
	x.killPID(x.pid(name))
	x.await(name, "a restart", func(s *solov1.ServiceStatus) bool { return s.GetState() == "ready" && s.GetRestarts() == 1 })
	x.answers("http://"+listen+"/", "the page\n")

	// Killed, its port is free for others.
	if _, err := x.client.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name}); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, "the port to be free", func() bool {
		l, err := net.Listen("tcp", listen)
		if err == nil {
			_ = l.Close()
		}
		return err == nil
	})
	if _, err := x.client.Lifecycle.Start(x.ctx(), &solov1.StartRequest{Service: name, Wait: true}); err != nil {
		t.Fatal(err)
	}
	x.answers("http://"+listen+"/", "the page\n")
}

// TestActivation: a program that knows LISTEN_FDS gets its socket, by its name.
func TestActivation(t *testing.T) {
	x := shared(t)
	listen := x.address()
	req := x.victim("inspect , activate , ready , sleep 1h")
	req.Uses = []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: listen, To: 80, FdName: "web"}}}}
	req.Ready = notifyReady()
	name := x.deploy(req)
	x.answers("http://"+listen+"/", "victim\n")
	var got sight
	x.said(name, &got)
	env := map[string]string{}
	for _, kv := range got.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if env["LISTEN_FDS"] != "1" || env["LISTEN_FDNAMES"] != "web" || env["LISTEN_PID"] == "" || env["SOLO_CONTROL"] != "4" {
		t.Errorf("the environment is %q", got.Env)
	}
	if !strings.HasPrefix(got.Files["3"], "socket:") || !strings.HasPrefix(got.Files["4"], "socket:") {
		t.Errorf("its descriptors are %q", got.Files)
	}
}

// TestBusyPort: a port that another has is refused by its address, and nothing is made.
func TestBusyPort(t *testing.T) {
	x := shared(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	listen := l.Addr().String()
	busy := func(listen, why string) {
		t.Helper()
		req := x.victim("listen 80 , sleep 1h")
		req.Uses = []*solov1.Use{port(listen, 80)}
		_, err := x.try(req)
		x.refuses(err, refusal{Code: codes.FailedPrecondition, Reason: "PORT_UNAVAILABLE"})
		if !strings.Contains(status.Convert(err).Message(), listen) || !strings.Contains(status.Convert(err).Message(), why) {
			t.Errorf("the message is %v", err)
		}
		var named bool
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				for _, v := range info.GetMetadata() {
					named = named || v == listen
				}
			}
		}
		if !named {
			t.Errorf("no detail names %s: %v", listen, status.Convert(err).Details())
		}
		if got := x.list(req.GetName()); len(got) != 0 {
			t.Errorf("the refused service exists: %v", got)
		}
	}
	busy(listen, "address already in use")
	// The same of another service of Solo's.
	other := x.address()
	req := x.victim("listen 80 , sleep 1h")
	req.Uses = []*solov1.Use{port(other, 80)}
	busy(other, x.deploy(req))
	x.answers("http://"+other+"/", "victim\n")
}

// TestTwoPorts of one service, each to its own port inside.
func TestTwoPorts(t *testing.T) {
	x := shared(t)
	both := x.addresses(2)
	one, two := both[0], both[1]
	req := x.victim("listen 81 , listen 82 , ready , sleep 1h")
	req.Uses = []*solov1.Use{port(one, 81), port(two, 82)}
	req.Ready = notifyReady()
	x.deploy(req)
	x.answers("http://"+one+"/", "victim\n")
	x.answers("http://"+two+"/", "victim\n")
}

// TestBigTransfers: the relay passes a lot of data unchanged, both ways.
func TestBigTransfers(t *testing.T) {
	hostOnly(t)
	testenv.Require(t, testenv.Python)
	x := shared(t)
	listen := x.address()
	req := source("echo.py", `
import socket, threading
s = socket.create_server(("127.0.0.1", 7000))
def serve(c):
    with c:
        while data := c.recv(65536):
            c.sendall(data)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
`)
	req.Uses, req.Ready = []*solov1.Use{port(listen, 7000)}, tcpReady(7000)
	x.deploy(req)
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	size := times(32) << 20 / 32 * 16
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for n := 0; n < size; n += len(buf) {
			for i := range buf {
				buf[i] = byte((n + i) * 7)
			}
			if _, err := c.Write(buf); err != nil {
				sent <- err
				return
			}
		}
		sent <- c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || <-sent != nil {
		t.Fatalf("read %d bytes: %v", len(got), err)
	}
	if len(got) != size {
		t.Fatalf("%d bytes came back of %d", len(got), size)
	}
	for i, b := range got {
		if b != byte(i*7) {
			t.Fatalf("byte %d came back as %d", i, b)
		}
	}
}
