package root

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

// patience bounds every wait; it is for hangs only.
const patience = 30 * time.Second

// programs copies the test binary under the names of Solo's programs.
func programs(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "solod"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"solo-kernel", "solo-launcher", "solo-init"} {
		if err := os.Link(filepath.Join(dir, "solod"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
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

var _ io.Writer = (*output)(nil)

func TestSmoke(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	dir := programs(t)
	state, run := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "run")
	cmd := exec.Command(filepath.Join(dir, "solod"), "--state-dir", state, "--run-dir", run)
	var stdout, stderr output
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	testenv.Eventually(t, patience, "ready line", func() bool { return strings.Contains(stdout.String(), "ready") || len(done) > 0 })
	_ = cmd.Process.Signal(os.Interrupt)
	t.Log(<-done)
	t.Log(stdout.String(), stderr.String())
	j, _ := os.ReadFile(filepath.Join(state, "journal"))
	t.Logf("%s", j)
	left, _ := os.ReadDir(run)
	t.Log(left)
}
