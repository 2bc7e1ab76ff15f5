// Package e2e tests Solo as a whole: each test talks to a solod that runs from
// bin/ as an operator would start it, and to nothing inside it.
//
// Most tests share one solod (shared); those about its life have their own (own).
// Every solod is stopped with SIGTERM at the end and must leave nothing: processes,
// groups, mounts, namespaces, sockets, descriptors of this process.
//
// The package is also built as one static program and run in test/vm, on cgroup v2
// and Linux 6.1, where everything takes much longer (testenv.Scale) and loops are
// shorter (times).
package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
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
	before := testenv.Observe(testenv.Scope{})
	code := m.Run()
	problems := sharing.stop()
	for _, x := range left(testenv.Scope{}, before, false) {
		problems = append(problems, "left behind: "+x)
	}
	for _, p := range problems {
		fmt.Fprintf(os.Stderr, "the solod of most tests: %s\n", p)
		code = max(code, 1)
	}
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

// settle is how long endings may take: the last reap, a group that is removed again.
var settle = patience / 2

// left waits for what came since before to go, and lists what did not. With shared
// set it passes over what may be another solod's: only groups and mounts tell whose
// they are.
func left(scope testenv.Scope, before testenv.Traces, shared bool) []string {
	deadline := time.Now().Add(testenv.Scale(settle))
	for {
		extra := testenv.Observe(scope).Since(before)
		if shared {
			extra = slices.DeleteFunc(extra, func(x string) bool {
				return !strings.HasPrefix(x, "cgroup ") && !strings.HasPrefix(x, "mount ")
			})
		}
		if len(extra) == 0 || time.Now().After(deadline) {
			return extra
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sharing holds the solod that tests share. Only one test runs at a time.
var sharing common

type common struct {
	mu sync.Mutex
	s  *solo
}

func (c *common) get(t *testing.T) *solo {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		s, err := prepare(t, options{tcp: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.start(); err != nil {
			s.discard()
			t.Fatalf("start the shared solod: %v", err)
		}
		c.s = s
	}
	return c.s
}

// stop ends the shared solod, if there is one, and says what was wrong with its end.
func (c *common) stop() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return nil
	}
	problems := c.s.stop()
	c.s.discard()
	c.s = nil
	return problems
}

// shared is the solod of most tests. What a test deploys on it by x.deploy is deleted
// at the test's end.
func shared(t *testing.T) *tester {
	t.Helper()
	testenv.RequireSandbox(t)
	return newTester(t, sharing.get(t))
}

// own is a solod for one test, prepared and not yet started; the test's end stops it
// if it runs. The shared one is stopped first, so that what comes and goes there does
// not look like this one's.
func own(t *testing.T, o options) *tester {
	t.Helper()
	testenv.RequireSandbox(t)
	for _, p := range sharing.stop() {
		t.Errorf("the solod of most tests: %s", p)
	}
	s, err := prepare(t, o)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Leaks(t, s.scope())
	t.Cleanup(func() {
		for _, p := range s.stop() {
			t.Error(p)
		}
		s.discard()
	})
	return newTester(t, s)
}

// hostOnly marks a test that is not repeated in the VM: what it is about depends
// neither on the version of cgroups nor on that of Linux, and time is short there.
func hostOnly(t *testing.T) {
	t.Helper()
	if testenv.VM() {
		t.Skip("is run on the host only")
	}
}

// times is a count of repetitions: n here, fewer where everything is slow.
func times(n int) int {
	if testenv.VM() {
		return max(2, n/10)
	}
	return n
}
