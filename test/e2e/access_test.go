package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/test/testenv"
)

// as opens the API with a token, over the socket or over TCP.
func (x *tester) as(token string, tcp bool) *client.Client {
	x.Helper()
	o := client.Options{Addr: x.addr(), Token: token}
	if tcp {
		o = client.Options{Addr: x.listen, Token: token, CA: x.cert("ca.pem"), Cert: x.cert("client.pem"), Key: x.cert("client.key")}
	}
	c, err := client.Open(o)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { _ = c.Close() })
	return c
}

// TestTokens: no token and forged ones are refused alike by every operation, on
// both ways in.
func TestTokens(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	name := x.deploy(x.victim("sleep 1h"))
	secret := x.secret()
	last := secret[len(secret)-1]
	flipped := byte('a')
	if last == 'a' {
		flipped = 'b'
	}
	for what, token := range map[string]string{
		"none": "", "nonsense": "nonsense", "cut": secret[:len(secret)-1],
		"changed": secret[:len(secret)-1] + string(flipped), "long": strings.Repeat("x", 4000),
	} {
		for _, tcp := range []bool{false, true} {
			c := x.as(token, tcp)
			ctx := x.ctx()
			for op, call := range map[string]func() error{
				"deploy": func() error {
					_, err := c.Solo.Deploy(ctx, &solov1.DeployRequest{Name: x.name()})
					return err
				},
				"status": func() error { _, err := c.Solo.Status(ctx, &solov1.StatusRequest{Service: name}); return err },
				"list":   func() error { _, err := c.Solo.List(ctx, &solov1.ListRequest{}); return err },
				"kill":   func() error { _, err := c.Solo.Kill(ctx, &solov1.KillRequest{Service: name}); return err },
				"watch": func() error {
					s, err := c.Solo.Watch(ctx, &solov1.WatchRequest{})
					if err == nil {
						_, err = s.Recv()
					}
					return err
				},
				"shutdown": func() error { _, err := c.Solo.Shutdown(ctx, &solov1.ShutdownRequest{}); return err },
				"delete": func() error {
					_, err := c.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name})
					return err
				},
				"run": func() error {
					s, err := c.Lifecycle.Run(ctx)
					if err != nil {
						return err
					}
					_ = s.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: &solov1.RunStart{Manifest: &solov1.DeployRequest{}}}})
					_, err = s.Recv()
					return err
				},
				"authorize_upload": func() error { _, err := c.Upload(ctx, bytes.NewReader([]byte("x"))); return err },
				"audit_tail": func() error {
					s, err := c.Audit.Tail(ctx, &solov1.TailRequest{})
					if err == nil {
						_, err = s.Recv()
					}
					return err
				},
				"info": func() error { _, err := c.Kernel.Info(ctx, &solov1.InfoRequest{}); return err },
			} {
				err := call()
				d := denialOf(err)
				if status.Code(err) != codes.Unauthenticated || d.GetLayer() != "capability" || d.GetAsked() != op || d.GetHowToRequest() == "" {
					t.Errorf("%s with token %s, TCP %v: %v, %v", op, what, tcp, err, d)
				}
			}
		}
	}
	if s := x.status(name); s.GetState() != "ready" {
		t.Errorf("the service is %v", s)
	}
}

// TestCtlDenied: solo-ctl ends with 3 and says so in JSON too.
func TestCtlDenied(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	empty := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(empty, []byte("solo_forged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctl := filepath.Join(x.bin, "solo-ctl")
	for what, args := range map[string][]string{
		"forged": {"--addr", x.addr(), "--token-file", empty, "-o", "json", "list"},
		"tcp": {"--addr", x.listen, "--ca", x.cert("ca.pem"), "--cert", x.cert("client.pem"), "--key", x.cert("client.key"),
			"--token-file", empty, "-o", "json", "list"},
	} {
		out := x.program(nil, "", ctl, args...)
		var doc struct {
			Error struct {
				Code   string
				Denial struct{ Layer string }
			}
		}
		if err := json.Unmarshal([]byte(out.stdout), &doc); err != nil || out.status != 3 ||
			doc.Error.Code != "UNAUTHENTICATED" || doc.Error.Denial.Layer != "capability" {
			t.Errorf("%s: %+v", what, out)
		}
	}
	if out := x.program(nil, "", ctl, "--addr", x.addr(), "--token-file", x.tokenFile(), "frobnicate"); out.status != 2 {
		t.Errorf("an unknown command: %+v", out)
	}
}

// TestStateIsPrivate: only root gets into the state directory, whoever made it.
func TestStateIsPrivate(t *testing.T) {
	x := shared(t)
	type entry struct {
		mode os.FileMode
		uid  uint32
	}
	for path, want := range map[string]entry{x.state: {0o700, 0}, x.tokenFile(): {0o600, 0}} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if got := (entry{info.Mode().Perm(), owner.Uid}); !ok || got != want {
			t.Errorf("%s has mode %v of uid %d", path, got.mode, got.uid)
		}
	}
	if !strings.HasPrefix(x.secret(), "solo_") {
		t.Error("root's token does not begin with solo_")
	}
}

// TestOverTCP: with certificates it is the same API.
func TestOverTCP(t *testing.T) {
	x := shared(t)
	c := x.as(x.secret(), true)
	over, err := c.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	here, err := x.client.Kernel.Info(x.ctx(), &solov1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(here, over, protocmp.Transform(), protocmp.IgnoreFields(here, "uptime_ms", "shells_waiting")); diff != "" {
		t.Errorf("info (-socket +TCP):\n%s", diff)
	}
	name := x.name()
	req := x.victim("sleep 1h")
	req.Name, req.Wait = name, true
	x.generous(req)
	x.Cleanup(func() { x.forget(name) })
	r, err := c.Solo.Deploy(x.ctx(), req)
	if err != nil || r.GetState() != "ready" {
		t.Fatalf("deploy over TCP: %v, %v", r, err)
	}
	if _, err := c.Solo.Kill(x.ctx(), &solov1.KillRequest{Service: name}); err != nil {
		t.Errorf("kill over TCP: %v", err)
	}
}

// handshake connects with a TLS configuration and reads: a server's refusal of a
// client's certificate comes after the client's part of a TLS 1.3 handshake.
func handshake(addr string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(testenv.Scale(patience)))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// TestTCPNeedsCertificates: what does not present ours, or speaks an older TLS,
// gets nothing.
func TestTCPNeedsCertificates(t *testing.T) {
	x := shared(t)
	pem, err := os.ReadFile(x.cert("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no CA certificate")
	}
	ours, err := tls.LoadX509KeyPair(x.cert("client.pem"), x.cert("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	strangers := t.TempDir()
	if out := x.program(nil, "", filepath.Join(x.bin, "solo-ctl"), "certs", "init", "--dir", strangers); out.status != 0 {
		t.Fatalf("certs init: %+v", out)
	}
	strange, err := tls.LoadX509KeyPair(filepath.Join(strangers, "client.pem"), filepath.Join(strangers, "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	h2 := []string{"h2"}
	for what, config := range map[string]*tls.Config{
		"no certificate":  {RootCAs: pool, ServerName: "127.0.0.1", NextProtos: h2},
		"a stranger's":    {RootCAs: pool, ServerName: "127.0.0.1", NextProtos: h2, Certificates: []tls.Certificate{strange}},
		"TLS 1.2 at most": {RootCAs: pool, ServerName: "127.0.0.1", NextProtos: h2, Certificates: []tls.Certificate{ours}, MaxVersion: tls.VersionTLS12},
	} {
		if err := handshake(x.listen, config); err == nil || !strings.Contains(err.Error(), "tls:") && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The same with ours is answered: the server speaks first, its settings.
	good := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: h2, Certificates: []tls.Certificate{ours}, MinVersion: tls.VersionTLS13}
	if err := handshake(x.listen, good); err != nil {
		t.Errorf("with our certificate: %v", err)
	}
	// Without TLS at all.
	conn, err := grpc.NewClient(x.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(x.ctx(), testenv.Scale(5*time.Second))
	defer cancel()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err == nil {
		t.Error("plain text was answered")
	}
	if host, _, err := net.SplitHostPort(x.listen); err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("the address is %s, %v", x.listen, err)
	}
}

// TestGrpcurl: reflection is on, so that an agent needs nothing but the token.
func TestGrpcurl(t *testing.T) {
	testenv.Require(t, testenv.Tools)
	x := shared(t)
	x.deploy(x.victim("sleep 1h"))
	auth := []string{"-H", "authorization: Bearer " + x.secret()}
	ways := map[string][]string{
		"socket": {"-plaintext", "-unix", x.run + "/api.sock"},
		"tcp":    {"-cacert", x.cert("ca.pem"), "-cert", x.cert("client.pem"), "-key", x.cert("client.key"), x.listen},
	}
	for way, args := range ways {
		t.Run(way, func(t *testing.T) {
			x := x.on(t)
			out := x.program(nil, "", "grpcurl", append(append(auth, args...), "solo.v1.SoloService/List")...)
			var list struct {
				Services []struct{ Name, State string }
			}
			if err := json.Unmarshal([]byte(out.stdout), &list); err != nil || out.status != 0 || len(list.Services) == 0 {
				t.Errorf("list: %+v", out)
			}
			out = x.program(nil, "", "grpcurl", append(append([]string{}, args...), "list")...)
			for _, service := range []string{"solo.v1.SoloService", "solo.v1.LifecycleService", "grpc.health.v1.Health"} {
				if !strings.Contains(out.stdout, service) {
					t.Errorf("reflection does not list %s: %+v", service, out)
				}
			}
			out = x.program(nil, "", "grpcurl", append(append([]string{}, args...), "solo.v1.SoloService/List")...)
			if out.status == 0 || !strings.Contains(out.stderr, "Unauthenticated") {
				t.Errorf("without a token: %+v", out)
			}
		})
	}
	out := x.program(nil, "", "grpcurl", append(auth, "-cacert", x.cert("ca.pem"), x.listen, "solo.v1.SoloService/List")...)
	if out.status == 0 || strings.Contains(out.stdout, "services") {
		t.Errorf("without a client certificate: %+v", out)
	}
}
