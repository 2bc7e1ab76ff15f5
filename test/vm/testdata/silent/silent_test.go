// Package silent is for the test of the VM runner: it ends with 0 without a verdict.
package silent

import (
	"os"
	"testing"
)

func TestMain(*testing.M) { os.Exit(0) }

func TestNever(t *testing.T) { t.Error("it runs") }
