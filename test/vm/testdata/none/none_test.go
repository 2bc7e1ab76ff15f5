// Package none is for the test of the VM runner: it has no test.
package none
