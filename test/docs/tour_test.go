package docs

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

// patience bounds waits for what must happen; it is for hangs only.
const patience = 30 * time.Second

const (
	tourHeading = "A five-minute tour"
	tourDir     = "/tmp/solo-tour"
	tourPort    = "18000"
)

// reading are commands that change nothing: they are repeated until they say what the
// document says, as a person would who is too quick.
var reading = regexp.MustCompile(`^(solo-ctl (status|list|audit)|curl) `)

// TestTour runs the tour of README.md as it stands there, but in a directory and on a
// port of its own.
func TestTour(t *testing.T) {
	testenv.RequireSandbox(t)
	testenv.Require(t, testenv.Python, testenv.Tools)
	dir, err := os.MkdirTemp("", "solo-tour-")
	if err != nil {
		t.Fatal(err)
	}
	s := &tour{t: t, dir: dir, bin: testenv.Binaries(t)}
	testenv.Leaks(t, testenv.Scope{Cgroups: []string{s.group()}, Paths: []string{dir}})
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	port := freePort(t)
	here := strings.NewReplacer(tourDir, dir, ":"+tourPort, ":"+port)
	text := here.Replace(read(t, "README.md"))
	steps := commands(fenced(text, tourHeading, "sh"))
	ready := fenced(text, tourHeading, "ready")
	if len(steps) < 15 || len(ready) != 1 {
		t.Fatalf("the tour has %d commands and %d lines of solod's", len(steps), len(ready))
	}
	s.copyExamples(here)
	s.boot(strings.TrimSuffix(ready[0], "\n"))
	sh := s.shell()
	for _, c := range steps {
		again := time.Now().Add(testenv.Scale(patience))
		for {
			got, status := sh.run(c.line)
			if status == 0 && matches(c.want, got) {
				break
			}
			if !reading.MatchString(c.line) || time.Now().After(again) {
				t.Fatalf("$ %s\nends with %d and says\n%s\nREADME.md has\n%s", c.line, status, got, c.want)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	s.ended()
}

// tour is a solod with its directory and a shell beside it.
type tour struct {
	t        *testing.T
	dir, bin string
	solod    *exec.Cmd
	exited   chan error
	said     lines
}

// group is the cgroup of everything that this solod makes.
func (s *tour) group() string {
	return fmt.Sprintf("/solo-%x", sha256.Sum256([]byte(filepath.Join(s.dir, "state"))))[:14]
}

// copyExamples makes the examples' files, with the port replaced, where the tour is.
func (s *tour) copyExamples(here *strings.Replacer) {
	s.t.Helper()
	if err := errors.Join(os.Chmod(s.dir, 0o755), os.MkdirAll(filepath.Join(s.dir, "docs", "examples"), 0o755)); err != nil {
		s.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root(s.t), "docs", "examples", "*.*"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no examples: %v", err)
	}
	for _, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			s.t.Fatal(err)
		}
		to := filepath.Join(s.dir, "docs", "examples", filepath.Base(from))
		if err := os.WriteFile(to, []byte(here.Replace(string(data))), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
}

// boot starts solod, and returns when it has said that it is ready.
func (s *tour) boot(ready string) {
	s.t.Helper()
	s.solod = exec.Command(filepath.Join(s.bin, "solod"),
		"--state-dir", filepath.Join(s.dir, "state"), "--run-dir", filepath.Join(s.dir, "run"))
	s.solod.Stdout, s.solod.Stderr = &s.said, &s.said
	// A process of Solo's that outlives solod holds its output open.
	s.solod.WaitDelay = testenv.Scale(patience)
	if err := s.solod.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func() { s.exited <- s.solod.Wait() }()
	s.t.Cleanup(s.end)
	deadline := time.Now().Add(testenv.Scale(patience))
	for {
		for line := range strings.Lines(s.said.text()) {
			if strings.HasPrefix(line, "solod: ready") {
				if !matches(ready, line) {
					s.t.Fatalf("solod says %q, README.md has %q", line, ready)
				}
				return
			}
		}
		select {
		case err := <-s.exited:
			s.solod = nil
			s.t.Fatalf("solod ended: %v\n%s", err, s.said.text())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("solod is not ready:\n%s", s.said.text())
		}
	}
}

// ended waits for the end that the tour's last command brought, which must be in good
// order.
func (s *tour) ended() {
	s.t.Helper()
	select {
	case err := <-s.exited:
		s.solod = nil
		if err != nil {
			s.t.Errorf("solod's end: %v\n%s", err, s.said.text())
		}
	case <-time.After(testenv.Scale(patience)):
		s.t.Errorf("solod still runs:\n%s", s.said.text())
	}
}

// end ends a solod whose tour was cut short, with everything it made.
func (s *tour) end() {
	if s.solod == nil {
		return
	}
	s.t.Logf("solod said:\n%s", s.said.text())
	_ = s.solod.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		s.t.Logf("solod's end: %v", err)
		return
	case <-time.After(testenv.Scale(patience)):
		s.t.Error("solod does not end; it is killed")
	}
	_ = s.solod.Process.Kill()
	files, _ := filepath.Glob("/sys/fs/cgroup/*" + s.group() + "/*/cgroup.procs")
	deeper, _ := filepath.Glob("/sys/fs/cgroup/*" + s.group() + "/*/*/cgroup.procs")
	for _, file := range append(files, deeper...) {
		data, _ := os.ReadFile(file) // a group that has gone has no processes
		for word := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	s.t.Logf("solod's end: %v", <-s.exited)
}

// shell is one bash that runs command after command, as a person's does.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

const mark = "end-of-command-9f2c"

func (s *tour) shell() *shell {
	s.t.Helper()
	cmd := exec.Command("bash", "--norc", "-o", "pipefail")
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "LC_ALL=C.UTF-8"}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	// Nothing of a tour takes this long: a shell that hangs is ended.
	limit := time.AfterFunc(testenv.Scale(3*patience), func() { _ = cmd.Process.Kill() })
	s.t.Cleanup(func() {
		limit.Stop()
		_ = in.Close()
		_ = cmd.Wait() // its status is that of the last command
	})
	return &shell{t: s.t, in: in, out: bufio.NewReader(out)}
}

// run runs one line and answers what it said and its status.
func (s *shell) run(line string) (said string, status int) {
	s.t.Helper()
	// A pipe whose reader has had enough ends its writer, which is no failure.
	script := fmt.Sprintf("{ %s\n} </dev/null 2>&1; s=$?; [ $s != 141 ] || s=0; printf '\\n%s %%d\\n' $s\n", line, mark)
	if _, err := io.WriteString(s.in, script); err != nil {
		s.t.Fatalf("$ %s: %v", line, err)
	}
	var text bytes.Buffer
	for {
		out, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("$ %s: the shell ended: %v\n%s", line, err, &text)
		}
		if rest, ok := strings.CutPrefix(out, mark+" "); ok {
			status, err = strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				s.t.Fatal(err)
			}
			return strings.TrimSuffix(text.String(), "\n"), status
		}
		text.WriteString(out)
	}
}

// lines is what a program prints, as it comes.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// freePort is a port of the loopback that nothing listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return port
}
