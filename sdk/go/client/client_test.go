package client_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

func TestOptions(t *testing.T) {
	tls := func(addr string) client.Options {
		return client.Options{Addr: addr, CA: "ca.pem", Cert: "c.pem", Key: "c.key"}
	}
	for _, test := range []struct {
		name string
		o    client.Options
		want string // part of the error; empty: none
	}{
		{"socket", client.Options{Addr: "unix:///run/solo/api.sock"}, ""},
		{"socket, short", client.Options{Addr: "unix:/run/solo/api.sock"}, ""},
		{"TCP", tls("127.0.0.1:50051"), ""},
		{"TCP by name", tls("solo.example.org:50051"), ""},
		{"IPv6", tls("[::1]:50051"), ""},
		{"nothing", client.Options{}, "empty"},
		{"relative socket", client.Options{Addr: "unix:api.sock"}, "must be absolute"},
		{"socket without a path", client.Options{Addr: "unix://"}, "must be absolute"},
		{"abstract socket", client.Options{Addr: "unix-abstract:solo"}, "mutual TLS"},
		{"socket with certificates", tls("unix:///run/solo/api.sock"), "not for unix:"},
		{"no port", tls("localhost"), "neither"},
		{"another scheme", tls("dns:///localhost:50051"), "neither"},
		{"a URL", tls("https://localhost:50051"), "neither"},
		{"TCP without a CA", client.Options{Addr: "localhost:1", Cert: "c.pem", Key: "c.key"}, "mutual TLS"},
		{"TCP without a certificate", client.Options{Addr: "localhost:1", CA: "ca.pem", Key: "c.key"}, "mutual TLS"},
		{"TCP without a key", client.Options{Addr: "localhost:1", CA: "ca.pem", Cert: "c.pem"}, "mutual TLS"},
		{"TCP with a token only", client.Options{Addr: "localhost:1", Token: "t"}, "mutual TLS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.o.Validate()
			if got := err != nil; got != (test.want != "") || got && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if test.want == "" || test.o.Addr == "" {
				return // Open takes the default address
			}
			if c, err := client.Open(test.o); err == nil {
				_ = c.Close()
				t.Error("Open takes what Validate refuses")
			}
		})
	}
}

// seen is a kernel that answers Info and passes on what it was asked.
func seen(t *testing.T) (chan *controlv1.Request, gatewaytest.Handler) {
	requests := make(chan *controlv1.Request, 1)
	return requests, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		files.Close()
		requests <- req
		if err := k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Pid: 7}}}); err != nil {
			t.Errorf("respond: %v", err)
		}
	}
}

func info(t *testing.T, o client.Options) error {
	t.Helper()
	c, err := client.Open(o)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Kernel.Info(t.Context(), &solov1.InfoRequest{})
	return err
}

// TestToken: the token goes over the socket and over TLS, and is left out if empty.
func TestToken(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	config, err := gateway.LoadTLS(certs.Dir)
	if err != nil {
		t.Fatal(err)
	}
	requests, h := seen(t)
	g := gatewaytest.Start(t, h, config)
	for _, token := range []string{"solo_abc", ""} {
		for transport, o := range map[string]client.Options{
			"unix": {Addr: "unix://" + g.Socket, Token: token},
			"tcp":  {Addr: g.TCP, Token: token, CA: certs.Path("ca.pem"), Cert: certs.Path("client.pem"), Key: certs.Path("client.key")},
		} {
			if err := info(t, o); err != nil {
				t.Errorf("over %s: %v", transport, err)
				continue
			}
			if req := <-requests; req.GetToken() != token || req.GetTransport() != transport {
				t.Errorf("token %q came over %s, want %q over %s", req.GetToken(), req.GetTransport(), token, transport)
			}
		}
	}
}

// TestSocketPath: a path is a path, whatever is in it.
func TestSocketPath(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo %41?x#y-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	requests, h := seen(t)
	g := gatewaytest.Start(t, h, nil)
	path := filepath.Join(dir, "api.sock")
	if err := os.Symlink(g.Socket, path); err != nil {
		t.Fatal(err)
	}
	if err := info(t, client.Options{Addr: "unix://" + path, Token: "t"}); err != nil {
		t.Fatal(err)
	}
	<-requests
}

// TestNoTokenInPlaintext: a server that does not speak TLS, or not with the right
// certificate, never sees the token.
func TestNoTokenInPlaintext(t *testing.T) {
	const token = "solo_do_not_tell"
	certs := gatewaytest.NewCerts(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(gatewaytest.Patience))
		// What an HTTP/2 server without TLS says first: empty SETTINGS.
		_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
		text, _ := io.ReadAll(conn)
		got <- string(text)
	}()
	err = info(t, client.Options{Addr: l.Addr().String(), Token: token, CA: certs.Path("ca.pem"), Cert: certs.Path("client.pem"), Key: certs.Path("client.key")})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if text := <-got; strings.Contains(text, token) || text == "" {
		t.Errorf("the server got %q", text)
	}

	others := gatewaytest.NewCerts(t)
	config, err := gateway.LoadTLS(others.Dir)
	if err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.Start(t, func(_ *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
		t.Errorf("the kernel got %v", req)
	}, config)
	err = info(t, client.Options{Addr: g.TCP, Token: token, CA: certs.Path("ca.pem"), Cert: others.Path("client.pem"), Key: others.Path("client.key")})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("another CA: got %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := client.Options{Addr: "localhost:1", CA: certs.Path("ca.pem"), Cert: certs.Path("client.pem"), Key: certs.Path("client.key")}
	for _, test := range []struct {
		name   string
		change func(*client.Options)
		want   string
	}{
		{"CA missing", func(o *client.Options) { o.CA += ".none" }, "CA certificate"},
		{"CA empty", func(o *client.Options) { o.CA = empty }, "holds none"},
		{"certificate missing", func(o *client.Options) { o.Cert += ".none" }, "client certificate"},
		{"another key", func(o *client.Options) { o.Key = certs.Path("server.key") }, "client certificate"},
	} {
		o := good
		test.change(&o)
		if err := info(t, o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// uploads is a kernel that takes uploads of at most limit bytes.
func uploads(t *testing.T, limit uint64, got chan<- []byte) gatewaytest.Handler {
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		defer files.Close()
		if req.GetAuthorizeUpload() != nil {
			_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_UploadAuthorized{UploadAuthorized: &controlv1.UploadAuthorized{MaxBytes: limit}}})
			return
		}
		content, err := io.ReadAll(files[0])
		if err != nil {
			t.Errorf("read: %v", err)
		}
		got <- content
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Stored{Stored: &solov1.UploadResponse{Digest: "sha256:1", Size: req.GetStoreArtifact().GetSize()}}})
	}
}

// endless gives zeros for ever and counts them.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.n += len(p)
	return len(p), nil
}

type broken struct{}

var errBroken = errors.New("disk on fire")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestUpload(t *testing.T) {
	got := make(chan []byte, 2)
	g := gatewaytest.Start(t, uploads(t, 3<<20, got), nil)
	c, err := client.Open(client.Options{Addr: "unix://" + g.Socket, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	content := bytes.Repeat([]byte("solo "), 500_000)
	r, err := c.Upload(t.Context(), bytes.NewReader(content))
	if err != nil || r.GetDigest() != "sha256:1" || r.GetSize() != uint64(len(content)) {
		t.Fatalf("upload: %v, %v", r, err)
	}
	if arrived := <-got; !bytes.Equal(arrived, content) {
		t.Errorf("%d bytes arrived, and others", len(arrived))
	}
	var zeros endless
	if _, err := c.Upload(t.Context(), &zeros); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an endless upload: %v after %d bytes", err, zeros.n)
	}
	if _, err := c.Upload(t.Context(), io.MultiReader(strings.NewReader("half"), broken{})); !errors.Is(err, errBroken) {
		t.Errorf("an unreadable file: %v", err)
	}
	if len(got) > 0 {
		t.Errorf("half a file of %d bytes was stored", len(<-got))
	}
}
