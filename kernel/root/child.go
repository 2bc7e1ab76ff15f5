package root

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/supervision"
)

// child is one of the two programs that solod supervises.
type child struct {
	name    string
	program *os.File
	unshare uintptr
	group   *cgroups.Group

	// proc is nil while it does not run.
	proc    *os.Process
	since   time.Time
	history supervision.State
}

// exit is the end of a child.
type exit struct {
	child *child
	state *os.ProcessState
	err   error
}

// loadProgram copies a program into a sealed memfd. It is run from there, so that
// every restart runs the same bytes, whatever is installed meanwhile, and none can
// be changed through /proc/PID/exe.
func loadProgram(dir, name string) (*os.File, error) {
	from, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("%w: %s belongs beside solod", err, name)
	}
	defer func() { _ = from.Close() }()
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd was executable
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, from); err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	if err := ipc.Seal(f); err != nil {
		return nil, err
	}
	// Its number must be none that a child's own descriptors get.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return nil, fmt.Errorf("dup memfd: %w", err)
	}
	return os.NewFile(uintptr(high), name), nil
}

// start runs the child in its group, with files from descriptor 3 on, and tells
// exits of its end. No Pdeathsig: it follows the thread that forks, not the process.
// A session of its own keeps the terminal's signals from it.
func (c *child) start(exits chan<- exit, oom []byte, files ...*os.File) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	proc, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", c.program.Fd()), []string{c.name}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: append([]*os.File{null, os.Stderr, os.Stderr}, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true, Unshareflags: c.unshare},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", proc.Pid), oom, 0)
	// Until it is waited for, its pid is its own.
	if err = c.group.AddProc(proc.Pid); err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		return err
	}
	c.proc, c.since = proc, time.Now()
	go func() {
		state, err := proc.Wait()
		exits <- exit{c, state, err}
	}()
	return nil
}

// kill ends the child and what it has forked.
func (c *child) kill() error {
	if c.proc == nil {
		return nil
	}
	_ = c.proc.Kill()
	return c.group.Kill()
}

// reap collects orphans of sandboxes, which become children of the subreaper, but no
// child in known: those are waited for by pid. When one of known is the first that
// has ended, it hides the others: reap again after its exit was received.
func reap(known ...*child) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || info.Signo == 0 {
			return
		}
		// si_pid comes first in the union, which is aligned to 8 bytes (sigaction(2)).
		pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		for _, c := range known {
			if c.proc != nil && c.proc.Pid == pid {
				return
			}
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}
