package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

// requireVM skips the test where no VM can be run, but not where the tests are promised
// a complete host.
func requireVM(t *testing.T) {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", mkfs()} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("SOLO_REQUIRE") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// bare are options for a VM with nothing of the host in it; the kernel is the one that
// `make test-vm` keeps.
func bare(t *testing.T, packages ...string) options {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(root, "build", "vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	return options{
		bin: filepath.Join(t.TempDir(), "none"), work: t.TempDir(), cache: cache, run: ".", timeout: 5 * time.Minute,
		packages: packages, bare: true, out: &bytes.Buffer{},
	}
}

// TestVerdicts boots once with packages that end in every way.
func TestVerdicts(t *testing.T) {
	requireVM(t)
	o := bare(t, "./testdata/pass", "./testdata/fail", "./testdata/none", "./testdata/panics", "./testdata/leaves", "./testdata/silent")
	err := run(t.Context(), o)
	out := o.out.(*bytes.Buffer).String()
	if err == nil {
		t.Fatalf("no error with packages that fail:\n%s", out)
	}
	for _, want := range []string{
		"testdata/fail failed", "testdata/none failed", "testdata/panics failed", "testdata/leaves failed", "testdata/silent failed", "the VM did not report success",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "testdata/pass") {
		t.Errorf("what passed is in the error: %v", err)
	}
	for _, want := range []string{
		"vm: ok     testdata/pass", "1 skipped", "testdata/fail: exit status 1", "testdata/none: has no test to run", "testdata/panics: ended by killed",
		"testdata/leaves: left processes behind: ", "testdata/silent: ended without saying PASS",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output does not say %q", want)
		}
	}
	if t.Failed() {
		t.Logf("the console:\n%s", out)
	}
}

// TestPassing: the other way round, an error would be one of the runner.
func TestPassing(t *testing.T) {
	requireVM(t)
	o := bare(t, "./testdata/pass")
	if err := run(t.Context(), o); err != nil {
		t.Errorf("%v\n%s", err, o.out)
	}
}

// broken is a VM that never comes to its tests: what it has as init is no program.
func broken(t *testing.T, timeout time.Duration) machine {
	t.Helper()
	o := bare(t)
	k, err := fetchKernel(o.cache)
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(o.work, name) }
	for _, name := range []string{"init", "disk"} {
		if err := os.WriteFile(path(name), bytes.Repeat([]byte{1}, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeInitramfs(path("initramfs"), path("init"), nil); err != nil {
		t.Fatal(err)
	}
	return machine{kernel: k.image, initramfs: path("initramfs"), disk: path("disk"), log: path("log"), timeout: timeout, out: o.out}
}

// TestBrokenVM: a kernel that panics and a VM that takes too long or is given up are
// failures, and leave no qemu.
func TestBrokenVM(t *testing.T) {
	requireVM(t)
	err := broken(t, 5*time.Minute).boot(t.Context(), []string{"x"})
	for _, want := range []string{"x did not run to its end", "the VM's init did not reach its end", "the VM did not report success"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a panic: %v, without %q", err, want)
		}
	}
	err = broken(t, time.Millisecond).boot(t.Context(), []string{"x"})
	if err == nil || !strings.Contains(err.Error(), "hung in its boot") {
		t.Errorf("out of time: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if err := broken(t, 5*time.Minute).boot(ctx, []string{"x"}); !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestNoSuchPackage(t *testing.T) {
	requireVM(t)
	for _, packages := range [][]string{nil, {"./testdata/absent"}, {"./testdata"}} {
		if err := run(t.Context(), bare(t, packages...)); err == nil {
			t.Errorf("no error for %q", packages)
		}
	}
}
