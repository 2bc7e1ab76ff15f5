// Package bench measures Solo from outside, through its API, and prints one table of
// what it found beside the targets of the project.
//
//	make bench               all of it
//	make bench BENCH=Status  one
//
// Figures are taken sparse (nothing is asked for during 25 ms before each operation),
// and with their peer in turn, in one run: a ratio stays comparable on a busy or a slow
// machine where an absolute figure does not. Nothing here asserts a time: targets are
// printed as met or missed, for people to judge. TestSmoke takes a few samples of
// everything, so that the benchmarks stay in order.
//
// Peers that are not installed (bwrap, runc) are reported as such.
package bench

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := openPoller(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scope := testenv.Scope{Cgroups: []string{runcGroup()}}
	before := testenv.Observe(scope)
	code := m.Run()
	problems := sharing.stop()
	for _, x := range left(scope, before, func(string) bool { return true }) {
		problems = append(problems, "left behind: "+x)
	}
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "bench:", p)
		code = max(code, 1)
	}
	results.print(os.Stdout)
	return code
}

// openPoller makes the runtime open its epoll descriptors, which stay.
func openPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	_ = r.Close()
	return w.Close()
}

// patience bounds waits for what must happen; it is for hangs only.
const patience = 20 * time.Second

// left waits for what came since before to go, and lists what did not, as far as it
// counts.
func left(scope testenv.Scope, before testenv.Traces, counts func(string) bool) []string {
	deadline := time.Now().Add(testenv.Scale(patience))
	for {
		extra := slices.DeleteFunc(testenv.Observe(scope).Since(before), func(x string) bool { return !counts(x) })
		if len(extra) == 0 || time.Now().After(deadline) {
			return extra
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sharing holds what the measurements share: the solod with its waiting shells, and
// the programs that were built.
var sharing common

type common struct {
	mu sync.Mutex
	s  *solo
	p  *programs
}

// get boots the shared solod if it does not run yet.
func (c *common) get(tb testing.TB) *solo {
	tb.Helper()
	p := c.programs(tb)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		s, err := boot(testenv.Binaries(tb), p, pool)
		if err != nil {
			tb.Fatal(err)
		}
		c.s = s
	}
	return c.s
}

func (c *common) programs(tb testing.TB) *programs {
	tb.Helper()
	testenv.RequireSandbox(tb)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p == nil {
		p, err := build()
		if err != nil {
			tb.Fatal(err)
		}
		c.p = p
	}
	return c.p
}

// stop ends the solod, removes the programs, and says what was wrong.
func (c *common) stop() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var problems []string
	if c.s != nil {
		problems = c.s.stop()
		c.s = nil
	}
	if c.p != nil {
		_ = os.RemoveAll(c.p.dir)
		c.p = nil
	}
	return problems
}
