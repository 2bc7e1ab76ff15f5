package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/cgroups"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// patience bounds every wait; it is for hangs only.
const patience = 30 * time.Second

// rig is one solod with its directories.
type rig struct {
	t                 *testing.T
	state, run, group string
	env               []string
	stdout, stderr    *output
	cmd               *exec.Cmd
	done              chan struct{} // closed when solod has ended
}

// output is what a process writes, readable meanwhile.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

var rigs atomic.Int32

// newRig prepares a solod; script steers its kernels. At the end of the test nothing
// may be left of it.
func newRig(t *testing.T, script string) *rig {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	dir := t.TempDir()
	r := &rig{
		t: t, state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"),
		group: fmt.Sprintf("/solo-root-%d-%d", os.Getpid(), rigs.Add(1)),
	}
	testenv.Leaks(t, testenv.Scope{Cgroups: []string{r.group}, Paths: []string{dir, programs}})
	if err := os.Mkdir(r.state, 0o700); err != nil {
		t.Fatal(err)
	}
	r.script(script)
	t.Cleanup(r.destroy)
	return r
}

func (r *rig) script(words string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.state, "script"), []byte(words), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start runs solod with more flags.
func (r *rig) start(args ...string) {
	r.t.Helper()
	args = append([]string{"--state-dir", r.state, "--run-dir", r.run, "--cgroup-root", r.group}, args...)
	r.command(exec.Command(filepath.Join(programs, "solod"), args...))
}

func (r *rig) command(cmd *exec.Cmd) {
	r.t.Helper()
	r.stdout, r.stderr, r.done = &output{}, &output{}, make(chan struct{})
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	// What its orphans keep open is not waited for.
	cmd.WaitDelay = time.Second
	cmd.Env = append([]string{"GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")}, r.env...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.cmd = cmd
	go func(done chan struct{}) {
		defer close(done)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
			r.t.Errorf("wait for solod: %v", err)
		}
	}(r.done)
}

// until waits for something while solod runs.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	testenv.Eventually(r.t, patience, what, func() bool {
		select {
		case <-r.done:
			if !ok() {
				r.t.Fatalf("solod ended before %s:\n%s\n%s", what, r.stderr, r.journal(""))
			}
			return true
		default:
			return ok()
		}
	})
}

func (r *rig) ready() {
	r.t.Helper()
	r.until("the ready line", func() bool { return strings.Contains(r.stdout.String(), "\n") })
}

func (r *rig) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// ended waits for solod's end and answers its exit status.
func (r *rig) ended() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(testenv.Scale(patience)):
		r.t.Fatalf("solod does not end:\n%s\n%s", r.stderr, r.journal(""))
	}
	return r.cmd.ProcessState.ExitCode()
}

// stop ends solod in the orderly way.
func (r *rig) stop() {
	r.t.Helper()
	r.signal(unix.SIGTERM)
	if code := r.ended(); code != 0 {
		r.t.Errorf("solod exits %d:\n%s", code, r.stderr)
	}
}

// refused runs solod, which must end with a status and one line that has all parts.
func (r *rig) refused(code int, parts []string, args ...string) {
	r.t.Helper()
	r.start(args...)
	got := r.ended()
	text := r.stderr.String()
	if got != code || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "solod: ") || r.stdout.String() != "" {
		r.t.Errorf("%q: exits %d, want %d with one line:\n%s%s", args, got, code, r.stdout, text)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			r.t.Errorf("%q: no %q in %q", args, p, text)
		}
	}
}

// destroy ends what a failed test left.
func (r *rig) destroy() {
	if r.cmd == nil {
		return
	}
	select {
	case <-r.done:
	default:
		_ = r.cmd.Process.Kill()
		<-r.done
	}
	h, err := cgroups.Mount()
	if err != nil {
		r.t.Error(err)
		return
	}
	g, err := h.Open(r.group)
	if err == nil {
		err = g.RemoveTree(context.Background())
	}
	if err != nil {
		r.t.Error(err)
	}
}

// journal is what the kernels wrote, the rest of each line that begins with a word.
func (r *rig) journal(word string) []string {
	data, _ := os.ReadFile(filepath.Join(r.state, "journal"))
	var list []string
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), word); ok {
			list = append(list, strings.TrimSpace(rest))
		}
	}
	return list
}

// pids waits until the kernels have noted n pids under a word, and answers them.
func (r *rig) pids(word string, n int) []int {
	r.t.Helper()
	r.until(fmt.Sprintf("%d lines of %s", n, word), func() bool { return len(r.journal(word+" ")) >= n })
	var list []int
	for _, s := range r.journal(word + " ") {
		pid, err := strconv.Atoi(s)
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, pid)
	}
	if len(list) != n {
		r.t.Fatalf("%d lines of %s, want %d: %v", len(list), word, n, list)
	}
	return list
}

// boot is the last Boot message that a kernel got.
func (r *rig) boot() *controlv1.Boot {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.state, "boot"))
	if err != nil {
		r.t.Fatal(err)
	}
	m := &controlv1.Boot{}
	if err := proto.Unmarshal(data, m); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// kill ends a process of the rig.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// gone reports whether there is no such process, not even a zombie.
func gone(pid int) bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
