// Package pass is for the test of the VM runner: it passes in a VM as described.
package pass

import (
	"os"
	"strings"
	"testing"
)

func TestHost(t *testing.T) {
	if os.Getenv("SOLO_VM") != "1" || os.Getpid() == 1 {
		t.Error("not in the VM")
	}
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil || !strings.Contains(string(controllers), "memory") {
		t.Errorf("no cgroup v2: %q, %v", controllers, err)
	}
	note, err := os.ReadFile("testdata/note")
	if err != nil || string(note) != "with its testdata\n" {
		t.Errorf("not in its directory: %q, %v", note, err)
	}
}

func TestSkips(t *testing.T) { t.Skip("to be counted") }
