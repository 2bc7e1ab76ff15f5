package launcher_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

// patience is far longer than anything here takes on a loaded machine.
const patience = 60 * time.Second

// scratch is a directory for programs that the tests build.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "solo-launcher-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(scratch) }()
		return testenv.CheckMain(m)
	}())
}

// programs are what the tests run.
type programs struct{ launcher, init, victim string }

// build makes the programs; launcher and solo-init are those of `make` where it made
// them.
var build = sync.OnceValues(func() (p programs, err error) {
	p.victim = filepath.Join(scratch, "victim")
	if err := run(musl(p.victim, "testdata/victim.c")); err != nil {
		return p, err
	}
	if dir := os.Getenv("SOLO_BIN"); dir != "" {
		p.launcher, p.init = filepath.Join(dir, "solo-launcher"), filepath.Join(dir, "solo-init")
		return p, nil
	}
	p.launcher, p.init = filepath.Join(scratch, "solo-launcher"), filepath.Join(scratch, "solo-init")
	sources, err := filepath.Glob("../initproc/*.c")
	if err != nil {
		return p, err
	}
	if err := run(musl(p.init, sources...)); err != nil {
		return p, err
	}
	return p, run(exec.Command("go", "build", "-tags", "seccomp netgo osusergo",
		"-ldflags", "-linkmode external -extldflags -static", "-o", p.launcher, "../../cmd/solo-launcher"))
})

func musl(out string, sources ...string) *exec.Cmd {
	return exec.Command("musl-gcc", append([]string{"-static", "-Os", "-s", "-std=gnu11", "-Wall", "-Werror", "-o", out}, sources...)...)
}

func run(c *exec.Cmd) error {
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", c, err, out)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
