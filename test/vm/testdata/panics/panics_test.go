// Package panics is for the test of the VM runner: it dies in the middle.
package panics

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestDies(t *testing.T) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	time.Sleep(time.Hour)
}
