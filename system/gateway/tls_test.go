package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

func load(t *testing.T, dir string) *tls.Config {
	t.Helper()
	config, err := gateway.LoadTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestTLS(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	seen := make(chan *controlv1.Request, 1)
	g := gatewaytest.Start(t, answer(t, seen, &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Pid: 7}}}), load(t, certs.Dir))
	c := openWith(t, client.Options{Addr: g.TCP, Token: token, CA: certs.Path("ca.pem"), Cert: certs.Path("client.pem"), Key: certs.Path("client.key")})
	r, err := c.Kernel.Info(patient(t), &solov1.InfoRequest{})
	if err != nil || r.GetPid() != 7 {
		t.Fatalf("got %v, %v", r, err)
	}
	if req := take(t, seen, "the request"); req.GetTransport() != "tcp" || req.GetToken() != token {
		t.Errorf("the request came over %q with token %q", req.GetTransport(), req.GetToken())
	}
}

// TestTLSRefuses: who does not bring what TCP needs gets nothing, not even health.
func TestTLSRefuses(t *testing.T) {
	certs, others := gatewaytest.NewCerts(t), gatewaytest.NewCerts(t)
	server, err := tls.LoadX509KeyPair(certs.Path("server.pem"), certs.Path("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.Start(t, nothing(t), load(t, certs.Dir))
	good := func() *tls.Config {
		return &tls.Config{RootCAs: certs.Pool, Certificates: []tls.Certificate{certs.Client}, MinVersion: tls.VersionTLS13}
	}
	health := func(creds credentials.TransportCredentials) error {
		cc, err := grpc.NewClient("passthrough:///"+g.TCP, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cc.Close() }()
		_, err = healthpb.NewHealthClient(cc).Check(patient(t), &healthpb.HealthCheckRequest{})
		return err
	}
	if err := health(credentials.NewTLS(good())); err != nil {
		t.Fatalf("with a good certificate: %v", err)
	}
	for name, change := range map[string]func(*tls.Config){
		"no certificate":           func(c *tls.Config) { c.Certificates = nil },
		"another CA's certificate": func(c *tls.Config) { c.Certificates = []tls.Certificate{others.Client} },
		"the server's certificate": func(c *tls.Config) { c.Certificates = []tls.Certificate{server} },
		"TLS 1.2":                  func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"distrust of the server":   func(c *tls.Config) { c.RootCAs = others.Pool },
	} {
		config := good()
		change(config)
		if err := health(credentials.NewTLS(config)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := health(insecure.NewCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: got %v", err)
	}
}

// TestPlaintextHTTP: a browser's or scanner's request over TCP ends the connection.
func TestPlaintextHTTP(t *testing.T) {
	certs := gatewaytest.NewCerts(t)
	g := gatewaytest.Start(t, nothing(t), load(t, certs.Dir))
	conn, err := net.Dial("tcp", g.TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(gatewaytest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the connection is not closed: %v", err)
	}
	if strings.Contains(string(text), "HTTP/1.1 200") {
		t.Errorf("answered %q", text)
	}
}

func TestLoadTLS(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(gatewaytest.Certs) error
		want  string
	}{
		"no certificate": {func(c gatewaytest.Certs) error { return os.Remove(c.Path("server.pem")) }, "server certificate"},
		"no key":         {func(c gatewaytest.Certs) error { return os.Remove(c.Path("server.key")) }, "server certificate"},
		"another key": {func(c gatewaytest.Certs) error {
			return os.Rename(c.Path("client.key"), c.Path("server.key"))
		}, "server certificate"},
		"no CA":    {func(c gatewaytest.Certs) error { return os.Remove(c.Path("ca.pem")) }, "CA certificate"},
		"empty CA": {func(c gatewaytest.Certs) error { return os.WriteFile(c.Path("ca.pem"), nil, 0o600) }, "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			certs := gatewaytest.NewCerts(t)
			if err := test.spoil(certs); err != nil {
				t.Fatal(err)
			}
			_, err := gateway.LoadTLS(certs.Dir)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "solo-ctl certs init") {
				t.Errorf("got %v, want %q and how to make them", err, test.want)
			}
		})
	}
	if _, err := gateway.LoadTLS(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	config := load(t, gatewaytest.NewCerts(t).Dir)
	if config.ClientAuth != tls.RequireAndVerifyClientCert || config.MinVersion != tls.VersionTLS13 || config.ClientCAs.Equal(x509.NewCertPool()) {
		t.Errorf("the configuration asks for client authentication %v, TLS %x", config.ClientAuth, config.MinVersion)
	}
}
