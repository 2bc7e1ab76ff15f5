package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/test/testenv"
)

// patience bounds waits for what must happen, before testenv.Scale; it is for hangs
// only. The VM's time is short in all.
var patience = map[bool]time.Duration{false: 20 * time.Second, true: 4 * time.Second}[testenv.VM()]

type options struct {
	// tcp also listens on TCP, with certificates.
	tcp bool
	// config is added to the configuration file, in protobuf's text format.
	config string
}

// solo is one solod with its directories.
type solo struct {
	dir, state, run string
	tmp             string // solod's TMPDIR
	programs        string // a directory in binary_paths that a test may fill
	bin             string
	listen          string // TCP address, or ""

	cmd    *exec.Cmd
	output *output
	client *client.Client
	before testenv.Traces
	digest string // of test/victim, once uploaded
}

// solods counts those that run.
var solods atomic.Int32

// prepare makes the directories and the configuration.
func prepare(t *testing.T, o options) (*solo, error) {
	dir, err := os.MkdirTemp("", "solo-e2e-")
	if err != nil {
		return nil, err
	}
	s := &solo{
		dir: dir, state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"),
		tmp: filepath.Join(dir, "tmp"), programs: filepath.Join(dir, "programs"), bin: testenv.Binaries(t),
	}
	// solod makes both of its directories.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(s.programs, 0o755), os.Mkdir(s.tmp, 0o700)); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`binary_paths: "/usr"
binary_paths: "/bin"
binary_paths: "/opt"
binary_paths: %q
pool_size: 2
max_upload_bytes: %d
log_bytes_per_service: %d
usage_interval_ms: 100
%s`, s.programs, maxUpload, maxLogs, o.config)
	if err := os.WriteFile(s.config(), []byte(config), 0o644); err != nil {
		return nil, err
	}
	if o.tcp {
		if s.listen, err = freeAddress(); err != nil {
			return nil, err
		}
		out, err := exec.Command(filepath.Join(s.bin, "solo-ctl"), "certs", "init", "--state-dir", s.state).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("solo-ctl certs init: %w: %s", err, out)
		}
	}
	return s, nil
}

// Limits that the configuration sets.
const (
	maxUpload = 8 << 20
	maxLogs   = 512 << 10
)

func (s *solo) config() string { return filepath.Join(s.dir, "solo.conf") }

func (s *solo) addr() string { return "unix://" + s.run + "/api.sock" }

func (s *solo) tokenFile() string { return filepath.Join(s.state, "root.token") }

func (s *solo) cert(name string) string { return filepath.Join(s.state, "certs", name) }

// group is the cgroup of everything that this solod makes.
func (s *solo) group() string { return fmt.Sprintf("/solo-%x", sha256.Sum256([]byte(s.state)))[:14] }

func (s *solo) scope() testenv.Scope {
	return testenv.Scope{Cgroups: []string{s.group()}, Paths: []string{s.dir}}
}

func (s *solo) running() bool { return s.cmd != nil }

// start boots solod and returns when it says that it is ready.
func (s *solo) start() error {
	if s.running() {
		return errors.New("solod is running")
	}
	s.before = testenv.Observe(s.scope())
	s.output = newOutput()
	s.cmd = exec.Command(filepath.Join(s.bin, "solod"),
		"--state-dir", s.state, "--run-dir", s.run, "--listen", s.listen,
		"--config", s.config())
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + s.tmp}
	// A process of Solo's that outlives solod holds its output open.
	s.cmd.WaitDelay = testenv.Scale(settle)
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	solods.Add(1)
	exited := make(chan error, 1)
	s.output.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(s.cmd)
	select {
	case <-s.output.ready:
	case err := <-exited:
		s.gone()
		return fmt.Errorf("solod ended before it was ready: %w\n%s", err, s.output.text())
	case <-time.After(testenv.Scale(patience)):
		_ = s.killAll()
		return fmt.Errorf("solod is not ready after %v\n%s", testenv.Scale(patience), s.output.text())
	}
	token, err := os.ReadFile(s.tokenFile())
	if err != nil {
		return err
	}
	s.client, err = client.Open(client.Options{Addr: s.addr(), Token: strings.TrimSpace(string(token))})
	return err
}

func (s *solo) gone() {
	s.cmd = nil
	solods.Add(-1)
}

// wait waits for solod's end, whatever caused it, and closes the client.
func (s *solo) wait(limit time.Duration) error {
	defer func() {
		if s.client != nil {
			_ = s.client.Close()
			s.client = nil
		}
	}()
	select {
	case err := <-s.output.exited:
		s.gone()
		return err
	case <-time.After(testenv.Scale(limit)):
		return fmt.Errorf("solod still runs after %v", testenv.Scale(limit))
	}
}

// stop ends solod as an operator would and says what was wrong with its end.
func (s *solo) stop() []string {
	if !s.running() {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return []string{fmt.Sprintf("SIGTERM to solod: %v", err)}
	}
	return s.ended()
}

// ended waits for solod's end and checks that it was orderly and left nothing.
func (s *solo) ended() []string {
	var problems []string
	if err := s.wait(60 * time.Second); err != nil {
		problems = append(problems, fmt.Sprintf("solod's end: %v\n%s", err, s.output.text()))
		if s.running() {
			_ = s.killAll()
		}
	}
	problems = append(problems, s.leftovers()...)
	for _, dir := range []string{s.run, s.tmp} {
		if entries, err := os.ReadDir(dir); err == nil {
			for _, e := range entries {
				problems = append(problems, "left behind: "+filepath.Join(dir, e.Name()))
			}
		}
	}
	return problems
}

// leftovers waits for everything that came with this solod to go, and lists what did
// not. While another one runs, what belongs to the test's own process is not looked
// at: it may be the other's.
func (s *solo) leftovers() []string {
	var problems []string
	for _, x := range left(s.scope(), s.before, solods.Load() > 0) {
		problems = append(problems, "left behind: "+x)
	}
	for _, pid := range groupPIDs(s.group()) {
		problems = append(problems, fmt.Sprintf("left behind: process %d", pid))
	}
	return problems
}

// killAll ends every process of this solod without warning, as a crash of the host
// would, and waits until they are gone.
func (s *solo) killAll() error {
	if s.running() {
		_ = s.cmd.Process.Kill()
	}
	for range 100 {
		pids := groupPIDs(s.group())
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if pids := groupPIDs(s.group()); len(pids) > 0 {
		return fmt.Errorf("processes %v do not end", pids)
	}
	if s.running() {
		_ = s.wait(patience) // it was killed: its status says nothing
	}
	return nil
}

// discard removes the directories.
func (s *solo) discard() { _ = os.RemoveAll(s.dir) }

// output is what solod prints.
type output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	said   bool
	ready  chan struct{}
	exited <-chan error
}

func newOutput() *output { return &output{ready: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if !o.said && bytes.Contains(o.buf.Bytes(), []byte("solod: ready")) {
		o.said = true
		close(o.ready)
	}
	return len(p), nil
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// freeAddress is a loopback address that nothing listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
