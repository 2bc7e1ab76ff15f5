package testenv

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binaries is the directory of Solo's programs, the runtime descriptors and
// test/victim: SOLO_BIN where `make` set it, else build/test-bin, which it builds
// once per process. Blocks while it builds.
func Binaries(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("SOLO_BIN"); dir != "" {
		return dir
	}
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Binary is the path of one of Solo's programs.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Binaries(t), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: `make build` makes it", err)
	}
	return path
}

// Victim is the path of test/victim, a static program that does what it is told.
func Victim(t testing.TB) string {
	t.Helper()
	return Binary(t, "test/victim")
}

var buildOnce = sync.OnceValues(func() (string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "test-bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Several packages' tests may come here at once.
	cmd := exec.Command("flock", dir, "make", "-s", "-C", root, "programs", "BIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return dir, nil
})

// ModuleRoot is the directory of go.mod, above the working directory.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
