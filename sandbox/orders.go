package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// ErrLauncherGone says that the launcher ended; the next one takes new orders.
var ErrLauncherGone = errors.New("launcher has ended")

// Launcher is the kernel's connection to solo-launcher. Its methods may be called
// from any goroutine and block until the answer is there.
type Launcher struct {
	conn *ipc.Conn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer
	gone    bool
}

type answer struct {
	report *controlv1.LauncherReport
	files  ipc.Files
}

// NewLauncher takes the connection over and starts to receive. When the launcher
// ends, or breaks the protocol, every waiting order fails with ErrLauncherGone and
// ended is called once.
func NewLauncher(conn *ipc.Conn, ended func()) *Launcher {
	l := &Launcher{conn: conn, waiting: map[uint64]chan answer{}}
	go l.receive(ended)
	return l
}

// Close ends the launcher: it exits when its connection does.
func (l *Launcher) Close() { _ = l.conn.Close() }

func (l *Launcher) receive(ended func()) {
	for {
		m := &controlv1.LauncherReport{}
		files, _, err := l.conn.Receive(m)
		if err != nil {
			break
		}
		l.mu.Lock()
		ch, ok := l.waiting[m.GetId()]
		delete(l.waiting, m.GetId())
		l.mu.Unlock()
		if !ok {
			files.Close()
			break
		}
		ch <- answer{m, files}
	}
	_ = l.conn.Close()
	l.mu.Lock()
	l.gone = true
	for id, ch := range l.waiting {
		delete(l.waiting, id)
		close(ch)
	}
	l.mu.Unlock()
	ended()
}

func (l *Launcher) order(ctx context.Context, o *controlv1.LauncherOrder) (answer, error) {
	ch := make(chan answer, 1)
	l.mu.Lock()
	if l.gone {
		l.mu.Unlock()
		return answer{}, ErrLauncherGone
	}
	l.next++
	o.Id = l.next
	l.waiting[o.Id] = ch
	// The lock is held so that two orders do not send at once. The launcher reads
	// orders while it works, so this does not wait for long.
	err := l.conn.Send(o)
	if err != nil {
		delete(l.waiting, o.Id)
	}
	l.mu.Unlock()
	if err != nil {
		return answer{}, fmt.Errorf("order to launcher: %w", err)
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return answer{}, ErrLauncherGone
		}
		if f := a.report.GetFailed(); f != nil {
			a.files.Close()
			return answer{}, &StepError{Step: f.GetStep(), Errno: unix.Errno(f.GetErrno()), Message: f.GetMessage()}
		}
		return a, nil
	case <-ctx.Done():
		// The answer still comes, and is owned by nobody: a shell whose control
		// connection closes ends by itself.
		go func() {
			if a, ok := <-ch; ok {
				a.files.Close()
			}
		}()
		return answer{}, fmt.Errorf("order to launcher: %w", ctx.Err())
	}
}

// Prepare makes a shell. The caller owns it; after an error its cgroup may be left.
func (l *Launcher) Prepare(ctx context.Context, p *controlv1.Prepare) (*Shell, error) {
	a, err := l.order(ctx, &controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Prepare{Prepare: p}})
	if err != nil {
		return nil, err
	}
	prepared := a.report.GetPrepared()
	if prepared == nil || len(a.files) != 3 {
		a.files.Close()
		return nil, &StepError{Step: "prepare", Message: "the launcher's answer is not a shell"}
	}
	conn, err := ipc.FileConn(a.files[0])
	if err != nil {
		a.files[1:].Close()
		return nil, step("prepare", err)
	}
	if err := conn.PassCred(); err != nil {
		_ = conn.Close()
		a.files[1:].Close()
		return nil, step("prepare", err)
	}
	pidfd, err := ipc.Pollable(a.files[1])
	if err != nil {
		_ = conn.Close()
		a.files[2:].Close()
		return nil, step("prepare", err)
	}
	return &Shell{
		ID: p.GetShellId(), PID: int(prepared.GetPid()), Control: conn, PidFD: pidfd, UserNS: a.files[2],
		IDBase: p.GetIdBase(), Cgroup: p.GetCgroup(),
	}, nil
}

// Compile turns a seccomp profile into BPF.
func (l *Launcher) Compile(ctx context.Context, profile []byte) ([]byte, error) {
	a, err := l.order(ctx, &controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Compile{Compile: &controlv1.Compile{Profile: profile}}})
	if err != nil {
		return nil, err
	}
	a.files.Close()
	c := a.report.GetCompiled()
	if c == nil || len(c.GetProgram()) == 0 || len(c.GetProgram())%8 != 0 {
		return nil, &StepError{Step: "compile", Message: "the launcher's answer is not a BPF program"}
	}
	return c.GetProgram(), nil
}

// WaitExit blocks until the process of a pidfd has ended, or the file is closed
// (pidfd_open(2): it becomes readable).
func WaitExit(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}
