//go:build seccomp

package launcher

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// workers is how many shells are prepared at once: a second one gains 40 % on two
	// cores, a third nothing.
	workers = 2
	// maxOrders is how many orders are taken before reading stops.
	maxOrders = 64
	// lastOrders is how long orders under way may take once the kernel is gone.
	lastOrders = 5 * time.Second
)

// StepError says which step of an order failed. It unwraps to the errno, if any.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

func step(name string, err error) error {
	if err == nil {
		return nil
	}
	return &StepError{Step: name, Err: err}
}

// Launcher serves one control connection.
type Launcher struct {
	// Conn is the connection to the kernel. The launcher owns it.
	Conn *ipc.Conn
	// Init is the program solo-init, opened read-only. The launcher owns it.
	Init *os.File
	// StateDir is a directory over which the launcher mounts its tmpfs. It and the
	// directories above must be searchable by everyone.
	StateDir string
	// Compile turns an OCI seccomp profile into BPF.
	Compile func(profile []byte) ([]byte, error)

	host    *host
	sending sync.Mutex
	slots   chan struct{}
}

// Serve sets the mount namespace up and obeys orders until the kernel closes the
// connection, which is no error; then shells stay as they are.
func (l *Launcher) Serve() error {
	h, err := newHost(l.StateDir, l.Init)
	if err != nil {
		return err
	}
	l.host = h
	l.slots = make(chan struct{}, workers)
	pending := make(chan struct{}, maxOrders)
	for {
		order := &controlv1.LauncherOrder{}
		files, _, err := l.Conn.Receive(order)
		if err != nil {
			l.drain(pending)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("order from kernel: %w", err)
		}
		if len(files) > 0 {
			files.Close()
			return &ipc.ProtocolError{What: "order with descriptors"}
		}
		pending <- struct{}{}
		go func() {
			defer func() { <-pending }()
			l.obey(order)
		}()
	}
}

// drain waits for the orders under way, so that no half-made shell is left.
func (l *Launcher) drain(pending chan struct{}) {
	limit := time.NewTimer(lastOrders)
	defer limit.Stop()
	for range cap(pending) {
		select {
		case pending <- struct{}{}:
		case <-limit.C:
			return
		}
	}
}

func (l *Launcher) obey(order *controlv1.LauncherOrder) {
	report := &controlv1.LauncherReport{Id: order.GetId()}
	switch o := order.GetOrder().(type) {
	case *controlv1.LauncherOrder_Prepare:
		l.slots <- struct{}{}
		shell, err := l.host.prepare(o.Prepare)
		<-l.slots
		if err != nil {
			l.fail(report, err)
			return
		}
		report.Report = &controlv1.LauncherReport_Prepared{Prepared: &controlv1.Prepared{
			Pid: int32(shell.pid), StartTime: shell.startTime,
		}}
		// A shell that nobody learns of ends: its control connection closes here.
		_ = l.send(report, shell.control, shell.pidfd, shell.userNS)
		shell.close()
	case *controlv1.LauncherOrder_Compile:
		program, err := l.Compile(o.Compile.GetProfile())
		if err != nil {
			l.fail(report, step("compile", err))
			return
		}
		report.Report = &controlv1.LauncherReport_Compiled{Compiled: &controlv1.Compiled{Program: program}}
		if err := l.send(report); err != nil {
			l.fail(report, step("compile", err))
		}
	default:
		l.fail(report, step("order", unix.EINVAL))
	}
}

func (l *Launcher) fail(report *controlv1.LauncherReport, err error) {
	failed := &controlv1.LaunchFailed{Step: "launch", Message: err.Error()}
	var s *StepError
	if errors.As(err, &s) {
		failed.Step, failed.Message = s.Step, s.Err.Error()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		failed.Errno = int32(errno)
	}
	report.Report = &controlv1.LauncherReport_Failed{Failed: failed}
	_ = l.send(report) // a kernel that is gone shows as EOF in Serve
}

func (l *Launcher) send(report *controlv1.LauncherReport, files ...*os.File) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return l.Conn.Send(report, files...)
}
