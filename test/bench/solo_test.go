package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
	"github.com/solo-os/solo/test/testenv"
)

// pool is how many shells wait in the shared solod.
const pool = 32

// solo is one solod with directories of its own.
type solo struct {
	dir, state, run string
	*programs

	cmd    *exec.Cmd
	said   *output
	exited chan error
	client *client.Client
	before testenv.Traces
	// waiting is the size of its pool.
	waiting uint32
}

// boot starts a solod whose pool has this size, -1 for none, and returns when it is
// ready. The caller must stop it.
func boot(bin string, p *programs, size int) (*solo, error) {
	dir, err := os.MkdirTemp("", "solo-bench-")
	if err != nil {
		return nil, err
	}
	s := &solo{
		dir: dir, state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"), programs: p,
		said: &output{ready: make(chan struct{})}, exited: make(chan error, 1), waiting: uint32(max(0, size)),
	}
	conf := filepath.Join(dir, "solo.conf")
	text := fmt.Sprintf("binary_paths: '/usr'\nbinary_paths: '/bin'\nbinary_paths: %q\npool_size: %d\n", p.dir, size)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(conf, []byte(text), 0o644)); err != nil {
		return nil, err
	}
	s.before = testenv.Observe(s.scope())
	s.cmd = exec.Command(filepath.Join(bin, "solod"),
		"--state-dir", s.state, "--run-dir", s.run, "--listen", "", "--config", conf)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	// A process of Solo's that outlives solod holds its output open.
	s.cmd.WaitDelay = testenv.Scale(patience)
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() { s.exited <- s.cmd.Wait() }()
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("boot solod: %w\n%s\n%s", err, s.said.text(), strings.Join(s.stop(), "\n")))
	}
	return s, nil
}

// open waits for solod to be ready and connects to it.
func (s *solo) open() error {
	select {
	case <-s.said.ready:
	case err := <-s.exited:
		s.exited <- err
		return fmt.Errorf("it ended: %w", err)
	case <-time.After(testenv.Scale(patience)):
		return fmt.Errorf("it is not ready after %v", testenv.Scale(patience))
	}
	token, err := os.ReadFile(filepath.Join(s.state, "root.token"))
	if err != nil {
		return err
	}
	s.client, err = client.Open(client.Options{Addr: "unix://" + s.socket(), Token: strings.TrimSpace(string(token))})
	return err
}

func (s *solo) socket() string { return filepath.Join(s.run, "api.sock") }

// group is the cgroup of everything that this solod makes.
func (s *solo) group() string { return fmt.Sprintf("/solo-%x", sha256.Sum256([]byte(s.state)))[:14] }

func (s *solo) scope() testenv.Scope {
	return testenv.Scope{Cgroups: []string{s.group()}, Paths: []string{s.dir}}
}

// stop ends solod as an operator would, removes its directories, and says what was
// wrong with its end. Of what came meanwhile only groups and mounts tell that they are
// this solod's and not another's; TestMain looks at the rest.
func (s *solo) stop() []string {
	var problems []string
	if s.client != nil {
		_ = s.client.Close()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // one that has ended says so next
	select {
	case err := <-s.exited:
		if err != nil {
			problems = append(problems, fmt.Sprintf("solod's end: %v\n%s", err, s.said.text()))
		}
	case <-time.After(testenv.Scale(3 * patience)):
		_ = s.cmd.Process.Kill()
		problems = append(problems, fmt.Sprintf("solod ignores SIGTERM: %v\n%s", <-s.exited, s.said.text()))
	}
	ours := func(x string) bool { return strings.HasPrefix(x, "cgroup ") || strings.HasPrefix(x, "mount ") }
	for _, x := range left(s.scope(), s.before, ours) {
		problems = append(problems, "left behind: "+x)
	}
	if entries, err := os.ReadDir(s.run); err == nil && len(entries) > 0 {
		problems = append(problems, fmt.Sprintf("left behind: %s in %s", entries[0].Name(), s.run))
	}
	_ = os.RemoveAll(s.dir)
	return problems
}

// context bounds a call; it is for hangs only.
func (s *solo) context(tb testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(tb.Context(), testenv.Scale(2*patience))
}

// filled waits until all shells of the pool wait again, so that none is being prepared
// beside the next operation.
func (s *solo) filled(tb testing.TB) {
	tb.Helper()
	testenv.Eventually(tb, patience, fmt.Sprintf("%d waiting shells", s.waiting), func() bool {
		ctx, cancel := s.context(tb)
		defer cancel()
		r, err := s.client.Kernel.Info(ctx, &solov1.InfoRequest{})
		if err != nil {
			tb.Fatal(err)
		}
		return r.GetShellsWaiting() == s.waiting
	})
}

var named atomic.Uint64

// deploy deploys and waits until the service is ready.
func (s *solo) deploy(tb testing.TB, req *solov1.DeployRequest) *solov1.DeployResponse {
	tb.Helper()
	ctx, cancel := s.context(tb)
	defer cancel()
	r, err := s.client.Solo.Deploy(ctx, req)
	if err != nil {
		tb.Fatalf("deploy %s: %v", req.GetName(), err)
	}
	if r.GetState() != "ready" {
		tb.Fatalf("deploy %s: state %s, reason %q", req.GetName(), r.GetState(), r.GetReason())
	}
	return r
}

// forget deletes a service, without its grace.
func (s *solo) forget(tb testing.TB, name string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Scale(2*patience))
	defer cancel()
	if _, err := s.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name, Force: true}); err != nil {
		tb.Fatalf("kill %s: %v", name, err)
	}
	if _, err := s.client.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name}); err != nil {
		tb.Fatalf("delete %s: %v", name, err)
	}
}

// host is a request, with a name of its own, for a program of the host. Its limit for
// the start is one that a busy machine meets; the rest is as by default.
func host(path string, args ...string) *solov1.DeployRequest {
	return &solov1.DeployRequest{
		Name:      fmt.Sprintf("bench-%d", named.Add(1)),
		Code:      &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: path, Args: args}},
		Resources: &solov1.Resources{StartupTimeoutMs: uint32(testenv.Scale(patience).Milliseconds())},
		Wait:      true,
	}
}

// pid is the host's process id of a service's main process.
func (s *solo) pid(tb testing.TB, name string) int {
	tb.Helper()
	ctx, cancel := s.context(tb)
	defer cancel()
	r, err := s.client.Solo.Status(ctx, &solov1.StatusRequest{Service: name})
	if err != nil {
		tb.Fatalf("status of %s: %v", name, err)
	}
	if list := r.GetService().GetInstances(); len(list) == 1 && list[0].GetPid() > 0 {
		return int(list[0].GetPid())
	}
	tb.Fatalf("%s has no one instance with a pid: %v", name, r.GetService())
	return 0
}

// output is what solod prints.
type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	ready chan struct{}
	said  bool
}

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
