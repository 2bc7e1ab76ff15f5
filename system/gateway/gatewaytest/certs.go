package gatewaytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certs are the files of one CA in a temporary directory: ca.pem, server.pem and
// .key, client.pem and .key.
type Certs struct {
	Dir string
	// Client is the client's certificate, Pool its CA.
	Client tls.Certificate
	Pool   *x509.CertPool
}

// NewCerts makes them.
func NewCerts(t testing.TB) Certs {
	t.Helper()
	c := Certs{Dir: t.TempDir(), Pool: x509.NewCertPool()}
	caKey := key(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	ca, der := sign(t, ca, ca, caKey, caKey)
	c.write(t, "ca.pem", "CERTIFICATE", der)
	c.Pool.AddCert(ca)
	for i, name := range []string{"server", "client"} {
		k := key(t)
		cert := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name},
			KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}[i]}}
		if name == "server" {
			cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
			cert.DNSNames = []string{"localhost"}
		}
		_, der := sign(t, cert, ca, k, caKey)
		c.write(t, name+".pem", "CERTIFICATE", der)
		keyDER, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		c.write(t, name+".key", "PRIVATE KEY", keyDER)
	}
	var err error
	if c.Client, err = tls.LoadX509KeyPair(c.Path("client.pem"), c.Path("client.key")); err != nil {
		t.Fatal(err)
	}
	return c
}

// Path is where the file of that name is.
func (c Certs) Path(name string) string { return filepath.Join(c.Dir, name) }

func (c Certs) write(t testing.TB, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(c.Path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, cert, parent *x509.Certificate, k, by *ecdsa.PrivateKey) (*x509.Certificate, []byte) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &k.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, der
}
