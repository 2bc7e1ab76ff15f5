// Package docs holds the documentation to the code: it runs the tour of README.md
// against a solod of its own and compares what the commands say, looks for every file,
// package, test, constant, command, flag and metric that the documents name, and reads
// the systemd unit.
package docs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

// root is the module's directory.
func root(t testing.TB) string {
	t.Helper()
	dir, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// read is a file of the module.
func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
