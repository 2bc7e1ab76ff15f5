// Package fail is for the test of the VM runner: one of its tests fails.
package fail

import "testing"

func TestPasses(*testing.T) {}

func TestFails(t *testing.T) { t.Error("as it should") }
