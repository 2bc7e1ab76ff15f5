package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

// roleEnv makes the test binary a system service of the given behaviour.
const roleEnv = "SOLO_CONTROL_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(control.Main("solo-test", func(ctx context.Context, c *control.Conn) error { return serve(ctx, c, role) }))
	}
	os.Exit(testenv.CheckMain(m))
}

// serve is the child: it proves what it was given, says that it is ready and serves.
func serve(ctx context.Context, c *control.Conn, role string) error {
	switch role {
	case "broken":
		return errors.New("first line\nsecond line")
	case "names":
		for _, name := range []string{"one", "two"} {
			f := c.Take(name)
			if f == nil {
				return fmt.Errorf("no descriptor %s", name)
			}
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			if err != nil {
				return err
			}
			if flags&unix.FD_CLOEXEC == 0 {
				return fmt.Errorf("descriptor %s stays open at execve", name)
			}
			if _, err := io.WriteString(f, name); err != nil {
				return err
			}
			_ = f.Close()
		}
		if c.Take("one") != nil || c.Take("three") != nil {
			return errors.New("Take gave a descriptor twice, or one of no name")
		}
	}
	if err := c.Ready(); err != nil {
		return err
	}
	return c.Serve(ctx, refuse{})
}

// refuse takes no message at all.
type refuse struct{}

func (refuse) Handle(m *controlv1.FromKernel, files ipc.Files) error {
	files.Close()
	return control.Unexpected(m)
}

// child is a started service and the kernel's end of its connection.
type child struct {
	cmd    *exec.Cmd
	kernel *ipc.Conn
	stderr strings.Builder
}

// start runs a service with named descriptors from 3 and the control connection after
// them.
func start(t *testing.T, role, names string, files ...*os.File) *child {
	t.Helper()
	kernel, end, err := ipc.Pair()
	check(t, err)
	t.Cleanup(func() { _ = kernel.Close() })
	check(t, kernel.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	c := &child{cmd: exec.Command("/proc/self/exe"), kernel: kernel}
	c.cmd.Stderr = &c.stderr
	c.cmd.ExtraFiles = append(files, end)
	// The race detector would wait a second at exit.
	c.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", roleEnv+"="+role,
		fmt.Sprintf("SOLO_CONTROL=%d", 3+len(files)), fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+names)
	err = c.cmd.Start()
	_ = end.Close()
	check(t, err)
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	return c
}

// ready waits for the service's Hello.
func (c *child) ready(t *testing.T) {
	t.Helper()
	var m controlv1.FromService
	if _, _, err := c.kernel.Receive(&m); err != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // the end of writing to stderr
		t.Fatalf("instead of hello: %v; %s", err, c.stderr.String())
	}
	if m.GetHello().GetProtocol() != control.Protocol {
		t.Fatalf("instead of hello: %v", &m)
	}
}

// end waits for the service and checks its exit status and what it said.
func (c *child) end(t *testing.T, status int, stderr string) {
	t.Helper()
	_ = c.cmd.Wait()
	if got := c.cmd.ProcessState.ExitCode(); got != status || c.stderr.String() != stderr {
		t.Errorf("ended with %d and %q, want %d and %q", got, c.stderr.String(), status, stderr)
	}
}

func TestMainEnds(t *testing.T) {
	stop := &controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}}
	batch := &controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{}}}
	t.Run("stop", func(t *testing.T) {
		c := start(t, "serve", "")
		c.ready(t)
		check(t, c.kernel.Send(stop))
		c.end(t, 0, "")
	})
	t.Run("kernel gone", func(t *testing.T) {
		c := start(t, "serve", "")
		c.ready(t)
		check(t, c.kernel.Close())
		c.end(t, 0, "")
	})
	t.Run("kernel gone before ready", func(t *testing.T) {
		c := start(t, "serve", "")
		check(t, c.kernel.Close())
		c.end(t, 0, "")
	})
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			c := start(t, "serve", "")
			c.ready(t)
			check(t, c.cmd.Process.Signal(sig))
			c.end(t, 0, "")
		})
	}
	t.Run("unexpected message", func(t *testing.T) {
		c := start(t, "serve", "")
		c.ready(t)
		check(t, c.kernel.Send(batch))
		c.end(t, 1, "solo-test: protocol: unexpected message *controlv1.FromKernel_AuditBatch\n")
	})
	t.Run("error of several lines", func(t *testing.T) {
		start(t, "broken", "").end(t, 1, "solo-test: first line second line\n")
	})
	t.Run("descriptors", func(t *testing.T) {
		var ends, readers []*os.File
		for range 2 {
			r, w, err := os.Pipe()
			check(t, err)
			defer func() { _ = r.Close() }()
			ends, readers = append(ends, w), append(readers, r)
		}
		c := start(t, "names", "one:two", ends...)
		ipc.Files(ends).Close()
		c.ready(t)
		for i, want := range []string{"one", "two"} {
			// Read to the end: nobody else may hold the descriptor.
			got, err := io.ReadAll(readers[i])
			check(t, err)
			if string(got) != want {
				t.Errorf("pipe %d got %q, want %q", i, got, want)
			}
		}
		check(t, c.kernel.Send(stop))
		c.end(t, 0, "")
	})
	t.Run("control descriptor is a pipe", func(t *testing.T) {
		r, w, err := os.Pipe()
		check(t, err)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleEnv+"=serve", "SOLO_CONTROL=3", "LISTEN_FDS=")
		cmd.ExtraFiles = []*os.File{r}
		out, err := cmd.CombinedOutput()
		_, _ = r.Close(), w.Close()
		if want := "solo-test: control connection: socket operation on non-socket\n"; err == nil || string(out) != want {
			t.Errorf("%v, %q, want %q", err, out, want)
		}
	})
}
