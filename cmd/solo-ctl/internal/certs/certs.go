// Package certs makes the certificates for Solo's API over TCP: a CA of its own, a
// server certificate and a client certificate.
//
// Trust: runs as the operator. Private keys are written with mode 0600 and never
// printed. Whoever holds the client key may connect; what he may do is still
// decided by his token.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The files that Init writes.
const (
	CA         = "ca.pem"
	CAKey      = "ca.key"
	Server     = "server.pem"
	ServerKey  = "server.key"
	Client     = "client.pem"
	ClientKey  = "client.key"
	validYears = 5
)

// ErrExists says that a file is there already and Force was not given.
var ErrExists = errors.New("exists already")

// Request says what to make.
type Request struct {
	// Dir is made with mode 0755 when it is missing.
	Dir string
	// Hosts are names and addresses of the server besides localhost, 127.0.0.1 and
	// ::1.
	Hosts []string
	// Force replaces what is there. Certificates of the old CA end to be valid.
	Force bool
	// Now is the time from which the certificates are valid.
	Now time.Time
}

// Validate says which host is no name and no address.
func (r Request) Validate() error {
	if r.Dir == "" {
		return errors.New("no directory given")
	}
	for _, h := range r.Hosts {
		if net.ParseIP(h) == nil && !hostname(h) {
			return fmt.Errorf("host %q is neither a name nor an address", h)
		}
	}
	return nil
}

func hostname(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for _, c := range []byte(h) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '-' && c != '.' && c != '*' {
			return false
		}
	}
	return true
}

// Made lists what Init wrote, as absolute or given paths.
type Made struct {
	Dir   string    `json:"dir"`
	Files []string  `json:"files"`
	Hosts []string  `json:"hosts"`
	Until time.Time `json:"valid_until"`
}

// Init makes CA, server and client certificate in the directory: all or, when one
// of the files exists, none.
func Init(r Request) (Made, error) {
	if err := r.Validate(); err != nil {
		return Made{}, err
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return Made{}, fmt.Errorf("make directory: %w", err)
	}
	if !r.Force {
		for _, name := range []string{CA, CAKey, Server, ServerKey, Client, ClientKey} {
			path := filepath.Join(r.Dir, name)
			if _, err := os.Lstat(path); err == nil {
				return Made{}, fmt.Errorf("%s %w; --force replaces all certificates", path, ErrExists)
			}
		}
	}
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, h := range r.Hosts {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	until := r.Now.AddDate(validYears, 0, 0)
	ca, err := authority(r.Now, until)
	if err != nil {
		return Made{}, err
	}
	server, err := ca.issue("Solo server", r.Now, until, x509.ExtKeyUsageServerAuth, hosts)
	if err != nil {
		return Made{}, err
	}
	client, err := ca.issue("Solo client", r.Now, until, x509.ExtKeyUsageClientAuth, nil)
	if err != nil {
		return Made{}, err
	}
	made := Made{Dir: r.Dir, Hosts: hosts, Until: until}
	for _, p := range []struct {
		pair      *pair
		cert, key string
	}{{ca, CA, CAKey}, {server, Server, ServerKey}, {client, Client, ClientKey}} {
		keyDER, err := x509.MarshalPKCS8PrivateKey(p.pair.key)
		if err != nil {
			return Made{}, fmt.Errorf("encode key: %w", err)
		}
		for _, f := range []struct {
			name, kind string
			der        []byte
			mode       os.FileMode
		}{{p.key, "PRIVATE KEY", keyDER, 0o600}, {p.cert, "CERTIFICATE", p.pair.cert.Raw, 0o644}} {
			path := filepath.Join(r.Dir, f.name)
			if err := replace(path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
				return Made{}, err
			}
			made.Files = append(made.Files, path)
		}
	}
	return made, nil
}

// replace writes a new file and renames it over the old one, so that a key is
// never readable under another mode and never half there.
func replace(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, werr := f.Write(content)
	err = errors.Join(werr, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(now, until time.Time) (*pair, error) {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Solo CA"}, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(t, nil, now, until)
}

func (ca *pair) issue(name string, now, until time.Time, use x509.ExtKeyUsage, hosts []string) (*pair, error) {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return sign(t, ca, now, until)
}

// sign signs a template with the CA, or with its own key when ca is nil.
func sign(t *x509.Certificate, ca *pair, now, until time.Time) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = now.Add(-time.Hour), until // an hour for clocks that differ
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	id := sha256.Sum256(public)
	t.SubjectKeyId = id[:20]
	parent, signer := t, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return &pair{cert: cert, key: key}, nil
}
