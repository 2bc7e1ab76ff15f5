package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var all = []string{CA, CAKey, Server, ServerKey, Client, ClientKey}

// modes are the files of a directory with their permissions.
func modes(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]fs.FileMode{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = info.Mode()
	}
	return found
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name := range modes(t, dir) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(text)
	}
	return found
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Fatalf("%s holds no certificate, or more", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// now is a time without fractions of a second, which certificates do not have.
var now = time.Unix(1_800_000_000, 0).UTC()

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "certs")
	made, err := Init(Request{Dir: dir, Hosts: []string{"solo.example.org", "192.0.2.7", "localhost", "*.example.org"}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"localhost", "127.0.0.1", "::1", "solo.example.org", "192.0.2.7", "*.example.org"}
	until := now.AddDate(5, 0, 0)
	want := Made{Dir: dir, Hosts: hosts, Until: until}
	for _, name := range []string{CAKey, CA, ServerKey, Server, ClientKey, Client} {
		want.Files = append(want.Files, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]fs.FileMode{CA: 0o644, Server: 0o644, Client: 0o644, CAKey: 0o600, ServerKey: 0o600, ClientKey: 0o600}, modes(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	ca, server, client := certificate(t, made.Files[1]), certificate(t, made.Files[3]), certificate(t, made.Files[5])
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, test := range []struct {
		name string
		cert *x509.Certificate
		use  x509.ExtKeyUsage
		host string
		at   time.Time
		ok   bool
	}{
		{"server", server, x509.ExtKeyUsageServerAuth, "localhost", now, true},
		{"server by address", server, x509.ExtKeyUsageServerAuth, "127.0.0.1", now, true},
		{"server by IPv6 address", server, x509.ExtKeyUsageServerAuth, "::1", now, true},
		{"server by further name", server, x509.ExtKeyUsageServerAuth, "solo.example.org", now, true},
		{"server by wildcard", server, x509.ExtKeyUsageServerAuth, "b.example.org", now, true},
		{"server by further address", server, x509.ExtKeyUsageServerAuth, "192.0.2.7", now, true},
		{"server by another name", server, x509.ExtKeyUsageServerAuth, "example.com", now, false},
		{"server as client", server, x509.ExtKeyUsageClientAuth, "", now, false},
		{"client", client, x509.ExtKeyUsageClientAuth, "", now, true},
		{"client as server", client, x509.ExtKeyUsageServerAuth, "", now, false},
		{"with a clock that is behind", client, x509.ExtKeyUsageClientAuth, "", now.Add(-59 * time.Minute), true},
		{"too early", client, x509.ExtKeyUsageClientAuth, "", now.Add(-61 * time.Minute), false},
		{"at the end", client, x509.ExtKeyUsageClientAuth, "", until, true},
		{"too late", client, x509.ExtKeyUsageClientAuth, "", until.Add(time.Second), false},
	} {
		_, err := test.cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: test.host, CurrentTime: test.at, KeyUsages: []x509.ExtKeyUsage{test.use}})
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if !ca.IsCA || !ca.MaxPathLenZero || server.IsCA || client.IsCA {
		t.Errorf("authorities: CA %v (path length zero: %v), server %v, client %v", ca.IsCA, ca.MaxPathLenZero, server.IsCA, client.IsCA)
	}
	for _, p := range [][2]string{{CA, CAKey}, {Server, ServerKey}, {Client, ClientKey}} {
		if _, err := tls.LoadX509KeyPair(filepath.Join(dir, p[0]), filepath.Join(dir, p[1])); err != nil {
			t.Errorf("%s and %s: %v", p[0], p[1], err)
		}
	}
}

// TestInitKeeps: one file that exists keeps all as they are.
func TestInitKeeps(t *testing.T) {
	for _, name := range all {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o640); err != nil {
			t.Fatal(err)
		}
		_, err := Init(Request{Dir: dir, Now: now})
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		if diff := cmp.Diff(map[string]string{name: "mine"}, contents(t, dir)); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", name, diff)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, ServerKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(Request{Dir: dir, Now: now}); !errors.Is(err, ErrExists) {
		t.Errorf("a link to nowhere: %v", err)
	}
}

// TestInitForce makes everything anew, with the right modes, and follows no link.
func TestInitForce(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, ClientKey)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAKey), []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(Request{Dir: dir, Force: true, Now: now}); err != nil {
		t.Fatal(err)
	}
	first := contents(t, dir)
	if _, err := Init(Request{Dir: dir, Force: true, Now: now}); err != nil {
		t.Fatal(err)
	}
	for name, text := range contents(t, dir) {
		if text == first[name] {
			t.Errorf("%s is the old one", name)
		}
	}
	if got := modes(t, dir)[CAKey]; got != 0o600 {
		t.Errorf("%s has mode %v", CAKey, got)
	}
	if got := modes(t, dir)[ClientKey]; got != 0o600 {
		t.Errorf("%s has mode %v", ClientKey, got)
	}
	if text, err := os.ReadFile(victim); string(text) != "mine" || err != nil {
		t.Errorf("the file behind the link: %q, %v", text, err)
	}
	if names := slices.Sorted(maps.Keys(modes(t, dir))); !slices.Equal(names, slices.Sorted(slices.Values(all))) {
		t.Errorf("the directory holds %v", names)
	}
}

func TestValidate(t *testing.T) {
	for _, host := range []string{"a_b", "", "a b", "a:1", "a/b", "ü.example", strings.Repeat("a", 254), "x\n"} {
		if err := (Request{Dir: "d", Hosts: []string{host}}).Validate(); err == nil {
			t.Errorf("host %q is taken", host)
		}
	}
	for _, host := range []string{"a", "a-b.example.org", "*.example.org", "192.0.2.1", "2001:db8::1", strings.Repeat("a", 253)} {
		if err := (Request{Dir: "d", Hosts: []string{host}}).Validate(); err != nil {
			t.Errorf("host %q: %v", host, err)
		}
	}
	if _, err := Init(Request{}); err == nil {
		t.Error("no directory is taken")
	}
}

// TestInitFails: what cannot be written leaves nothing half done beside it.
func TestInitFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, Server), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(Request{Dir: dir, Force: true, Now: now}); err == nil || !strings.Contains(err.Error(), Server) {
		t.Errorf("a directory in the place of a file: %v", err)
	}
	for name := range modes(t, dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("%s is left", name)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(Request{Dir: file, Now: now}); err == nil {
		t.Error("a file is taken for a directory")
	}
}
