package library

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/ipc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("SOLO_LIBRARY_CHILD"); role != "" {
		child(role)
	}
	os.Exit(testenv.CheckMain(m))
}

// child is what this program does when a test starts it as another process.
func child(role string) {
	var err error
	switch role {
	case "put":
		err = putForever(os.Getenv("SOLO_LIBRARY_DIR"))
	default:
		err = errors.New("no such role")
	}
	_, _ = os.Stderr.WriteString(role + ": " + err.Error() + "\n")
	os.Exit(1)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// library has a store of its own.
func library(t testing.TB) *Library {
	t.Helper()
	l, err := Open(t.TempDir())
	must(t, err)
	return l
}

func write(t testing.TB, path string, content []byte, mode os.FileMode) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, content, 0o600))
	must(t, os.Chmod(path, mode))
	return path
}

func sealed(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := ipc.SealedFile("test", content)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func put(t testing.TB, l *Library, content []byte) string {
	t.Helper()
	f, err := ipc.SealedFile("test", content)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	digest, size, err := l.Put(f, 1<<30)
	must(t, err)
	if want := digestOf(content); digest != want || size != int64(len(content)) {
		t.Fatalf("put answers %s, %d; want %s, %d", digest, size, want, len(content))
	}
	return digest
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func uploaded(digest string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Artifact: digest}}}
}

func artifact(digest, file string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: digest, File: file}}}
}

func sourceOf(digest, file, language string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Artifact: digest, File: file, Language: language}}}
}

func content(t testing.TB, f *os.File) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := b.ReadFrom(f)
	must(t, err)
	return b.Bytes()
}
