// Package leaves is for the test of the VM runner: it leaves a process behind.
package leaves

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("LEFT") != "" {
		for {
			time.Sleep(time.Hour)
		}
	}
	os.Exit(m.Run())
}

func TestLeaves(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"LEFT=1"}
	if err := cmd.Start(); err != nil {
		t.Error(err)
	}
}
