package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/solo-os/solo/ipc"
)

const (
	firstListener = 3 // SD_LISTEN_FDS_START, sd_listen_fds(3)
	unixName      = "api.sock"
	tcpName       = "tcp"
)

// Inherit takes what the kernel gave to this process: the control connection
// (SOLO_CONTROL), the listeners (LISTEN_FDS, LISTEN_FDNAMES) and, when one of them
// is TCP, the certificates of tlsDir. getenv is os.Getenv. It may be called once.
func Inherit(getenv func(string) string, tlsDir string) (Config, error) {
	var c Config
	fd, err := strconv.ParseUint(getenv("SOLO_CONTROL"), 10, 20)
	if err != nil || fd < firstListener {
		return c, fmt.Errorf("SOLO_CONTROL=%q names no descriptor; solo-gateway is started by solo-kernel", getenv("SOLO_CONTROL"))
	}
	if c.Control, err = ipc.FileConn(os.NewFile(uintptr(fd), "control")); err != nil {
		return c, err
	}
	if err := c.inheritListeners(getenv); err != nil {
		c.close()
		return Config{}, err
	}
	if c.TCP != nil {
		if c.TLS, err = LoadTLS(tlsDir); err != nil {
			c.close()
			return Config{}, err
		}
	}
	return c, nil
}

func (c *Config) inheritListeners(getenv func(string) string) error {
	n, err := strconv.ParseUint(getenv("LISTEN_FDS"), 10, 8)
	if err != nil {
		return fmt.Errorf("LISTEN_FDS=%q is not a number of listeners", getenv("LISTEN_FDS"))
	}
	if pid := getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("LISTEN_PID=%s is not this process (%d)", pid, os.Getpid())
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	if len(names) != int(n) {
		return fmt.Errorf("LISTEN_FDNAMES names %d listeners, LISTEN_FDS says %d", len(names), n)
	}
	for i, name := range names {
		slot := &c.Unix
		switch name {
		case unixName:
		case tcpName:
			slot = &c.TCP
		default:
			return fmt.Errorf("LISTEN_FDNAMES: unknown listener %q", name)
		}
		if *slot != nil {
			return fmt.Errorf("LISTEN_FDNAMES: %q twice", name)
		}
		f := os.NewFile(uintptr(firstListener+i), name)
		l, err := net.FileListener(f) // a duplicate
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("listener %s: %w", name, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // solod made the socket file and removes it
		}
		*slot = l
	}
	if c.Unix == nil {
		return fmt.Errorf("LISTEN_FDNAMES: no listener named %s", unixName)
	}
	return nil
}

// LoadTLS reads ca.pem, server.pem and server.key of dir and makes a configuration
// that accepts TLS 1.3 from clients with a certificate of that CA, and no others.
func LoadTLS(dir string) (*tls.Config, error) {
	const hint = "make certificates with: solo-ctl certs init"
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		return nil, fmt.Errorf("TCP needs mutual TLS: server certificate: %w (%s)", err, hint)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("TCP needs mutual TLS: CA certificate: %w (%s)", err, hint)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TCP needs mutual TLS: %s holds no certificate (%s)", filepath.Join(dir, "ca.pem"), hint)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
	}, nil
}
