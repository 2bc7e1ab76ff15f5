// Package client connects programs outside to Solo's API.
//
// Trust: it runs with the caller's rights and holds the caller's token. Over a
// Unix socket the file's permissions protect the way; over TCP it speaks mutual
// TLS 1.3 and nothing else.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
)

// DefaultAddr is where solod listens by default.
const DefaultAddr = "unix:///run/solo/api.sock"

const (
	maxReceive  = 16 << 20
	uploadChunk = 256 << 10
)

// Options say where the API is and who asks.
type Options struct {
	// Addr is "unix:///path" or "host:port"; DefaultAddr when empty.
	Addr string
	// Token is sent with every call; without one every call is refused.
	Token string
	// CA, Cert and Key are PEM files, needed for host:port and only there.
	CA, Cert, Key string
}

// Validate says which option is missing or wrong.
func (o Options) Validate() error {
	if o.Addr == "" {
		return errors.New("the address is empty")
	}
	if o.unix() {
		if o.CA != "" || o.Cert != "" || o.Key != "" {
			return fmt.Errorf("certificates are for host:port, not for %s", o.Addr)
		}
		if !strings.HasPrefix(o.path(), "/") {
			return fmt.Errorf("address %q: the path of the socket must be absolute", o.Addr)
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(o.Addr); err != nil {
		return fmt.Errorf("address %q is neither unix:///path nor host:port", o.Addr)
	}
	if o.CA == "" || o.Cert == "" || o.Key == "" {
		return fmt.Errorf("address %s needs mutual TLS: a CA, a certificate and a key", o.Addr)
	}
	return nil
}

func (o Options) unix() bool { return strings.HasPrefix(o.Addr, "unix:") }

// path is the socket's path of unix:/path and unix:///path.
func (o Options) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(o.Addr, "unix:"), "//")
}

// Client is a connection to the API. Its fields are safe for concurrent use.
type Client struct {
	Solo      api.SoloServiceClient
	Lifecycle api.LifecycleServiceClient
	Artifacts api.ArtifactServiceClient
	Audit     api.AuditServiceClient
	Kernel    api.KernelServiceClient

	conn *grpc.ClientConn
}

// Open prepares a connection; the first call makes it. The caller must Close it.
func Open(o Options) (*Client, error) {
	if o.Addr == "" {
		o.Addr = DefaultAddr
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	target, network, addr := "passthrough:///localhost", "unix", o.path()
	if !o.unix() {
		config, err := o.tls()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
		target, network, addr = "passthrough:///"+o.Addr, "tcp", o.Addr
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		// gRPC's own resolvers would take a path or an address for a URL.
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
	}
	if o.Token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{token: o.Token, tls: !o.unix()}))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.Addr, err)
	}
	return &Client{
		Solo:      api.NewSoloServiceClient(conn),
		Lifecycle: api.NewLifecycleServiceClient(conn),
		Artifacts: api.NewArtifactServiceClient(conn),
		Audit:     api.NewAuditServiceClient(conn),
		Kernel:    api.NewKernelServiceClient(conn),
		conn:      conn,
	}, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Upload sends all of r and returns the artifact's digest and size. It stops
// reading as soon as the server refuses.
func (c *Client) Upload(ctx context.Context, r io.Reader) (*solov1.UploadResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Artifacts.Upload(ctx)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, uploadChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := stream.Send(&solov1.UploadRequest{Data: buf[:n]}); err != nil {
				break // the reason comes with the answer
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read what to upload: %w", err)
		}
	}
	return stream.CloseAndRecv()
}

func (o Options) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA certificate: %s holds none", o.CA)
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", o.Addr, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS13}, nil
}

// bearer adds the token to every call.
type bearer struct {
	token string
	tls   bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.tls }
