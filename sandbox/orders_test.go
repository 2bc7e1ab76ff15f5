package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// scripted is a launcher whose other end the test plays.
type scripted struct {
	*Launcher
	t     *testing.T
	peer  *ipc.Conn
	ended chan struct{}
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	conn, peer := pair(t)
	s := &scripted{t: t, peer: peer, ended: make(chan struct{})}
	s.Launcher = NewLauncher(conn, func() { close(s.ended) })
	t.Cleanup(func() {
		s.Close()
		<-s.ended
	})
	return s
}

func (s *scripted) receive() *controlv1.LauncherOrder {
	s.t.Helper()
	o := &controlv1.LauncherOrder{}
	files, _, err := s.peer.Receive(o)
	must(s.t, err)
	if len(files) > 0 {
		files.Close()
		s.t.Errorf("order with %d descriptors", len(files))
	}
	return o
}

func (s *scripted) answer(r *controlv1.LauncherReport, files ...*os.File) {
	s.t.Helper()
	must(s.t, s.peer.Send(r, files...))
}

// result is what an order gave.
type result struct {
	shell   *Shell
	program []byte
	err     error
}

func (s *scripted) prepare(ctx context.Context) <-chan result {
	ch := make(chan result, 1)
	go func() {
		sh, err := s.Prepare(ctx, &controlv1.Prepare{ShellId: "a", Cgroup: "/solo-x/user/a", IdBase: 131072})
		ch <- result{shell: sh, err: err}
	}()
	return ch
}

func (s *scripted) compile(ctx context.Context, profile string) <-chan result {
	ch := make(chan result, 1)
	go func() {
		p, err := s.Compile(ctx, []byte(profile))
		ch <- result{program: p, err: err}
	}()
	return ch
}

func compiled(id uint64, program string) *controlv1.LauncherReport {
	return &controlv1.LauncherReport{Id: id, Report: &controlv1.LauncherReport_Compiled{Compiled: &controlv1.Compiled{Program: []byte(program)}}}
}

func prepared(id uint64) *controlv1.LauncherReport {
	return &controlv1.LauncherReport{Id: id, Report: &controlv1.LauncherReport_Prepared{Prepared: &controlv1.Prepared{Pid: 4711, StartTime: 5}}}
}

func TestOrdersMayBeAnsweredInAnyOrder(t *testing.T) {
	s := newScripted(t)
	answers := map[string]<-chan result{}
	for _, p := range []string{"a", "b", "c"} {
		answers[p] = s.compile(t.Context(), p)
	}
	orders := map[string]uint64{}
	for range 3 {
		o := s.receive()
		orders[string(o.GetCompile().GetProfile())] = o.GetId()
	}
	for _, p := range []string{"c", "a", "b"} {
		s.answer(compiled(orders[p], "program"+p))
		if r := <-answers[p]; r.err != nil || string(r.program) != "program"+p {
			t.Errorf("%s: %q, %v", p, r.program, r.err)
		}
	}
}

func TestPrepareGivesTheShell(t *testing.T) {
	s := newScripted(t)
	got := s.prepare(t.Context())
	o := s.receive()
	init, inside, err := ipc.Pair()
	must(t, err)
	defer func() { _ = init.Close() }()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	must(t, err)
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	userNS, err := os.Open("/proc/self/ns/user")
	must(t, err)
	s.answer(prepared(o.GetId()), inside, pidfd, userNS)
	ipc.Files{inside, pidfd, userNS}.Close()
	r := <-got
	must(t, r.err)
	defer r.shell.Close()
	type facts struct {
		ID, Cgroup string
		PID        int
		Base, Host uint32
	}
	want := facts{"a", "/solo-x/user/a", 4711, 131072, 132072}
	if diff := cmp.Diff(want, facts{r.shell.ID, r.shell.Cgroup, r.shell.PID, r.shell.IDBase, r.shell.HostUID()}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Its connection gives the sender's credentials.
	must(t, init.Send(&controlv1.InitReport{Report: &controlv1.InitReport_Waiting{Waiting: &controlv1.Waiting{}}}))
	m := &controlv1.InitReport{}
	_, cred, err := r.shell.Control.Receive(m)
	if err != nil || m.GetWaiting() == nil || int(cred.PID) != os.Getpid() {
		t.Errorf("%v from %v, %v", m, cred, err)
	}
}

// TestLyingLauncher: an answer that is not what was asked for is an error of that
// step, and its descriptors are closed (CheckMain counts them).
func TestLyingLauncher(t *testing.T) {
	null := opened(t, "/dev/null")
	for _, c := range []struct {
		name   string
		order  func(*scripted) <-chan result
		answer func(id uint64) *controlv1.LauncherReport
		files  int
		want   string
	}{
		{"prepared without descriptors", func(s *scripted) <-chan result { return s.prepare(t.Context()) }, prepared, 0, "prepare"},
		{"prepared with two", func(s *scripted) <-chan result { return s.prepare(t.Context()) }, prepared, 2, "prepare"},
		{"prepared with four", func(s *scripted) <-chan result { return s.prepare(t.Context()) }, prepared, 4, "prepare"},
		{"control connection that is none", func(s *scripted) <-chan result { return s.prepare(t.Context()) }, prepared, 3, "prepare"},
		{"compiled for prepare", func(s *scripted) <-chan result { return s.prepare(t.Context()) },
			func(id uint64) *controlv1.LauncherReport { return compiled(id, "12345678") }, 3, "prepare"},
		{"nothing", func(s *scripted) <-chan result { return s.prepare(t.Context()) },
			func(id uint64) *controlv1.LauncherReport { return &controlv1.LauncherReport{Id: id} }, 1, "prepare"},
		{"prepared for compile", func(s *scripted) <-chan result { return s.compile(t.Context(), "x") }, prepared, 3, "compile"},
		{"empty program", func(s *scripted) <-chan result { return s.compile(t.Context(), "x") },
			func(id uint64) *controlv1.LauncherReport { return compiled(id, "") }, 0, "compile"},
		{"half a program", func(s *scripted) <-chan result { return s.compile(t.Context(), "x") },
			func(id uint64) *controlv1.LauncherReport { return compiled(id, "123456789") }, 0, "compile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScripted(t)
			got := c.order(s)
			var files []*os.File
			for range c.files {
				files = append(files, null)
			}
			s.answer(c.answer(s.receive().GetId()), files...)
			var e *StepError
			if r := <-got; !errors.As(r.err, &e) || e.Step != c.want || r.shell != nil || r.program != nil {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestFailuresKeepTheirErrno(t *testing.T) {
	s := newScripted(t)
	got := s.prepare(t.Context())
	s.answer(&controlv1.LauncherReport{Id: s.receive().GetId(), Report: &controlv1.LauncherReport_Failed{Failed: &controlv1.LaunchFailed{
		Step: "root", Errno: int32(unix.ENOSPC), Message: "fsmount",
	}}})
	r := <-got
	if !errors.Is(r.err, unix.ENOSPC) || errors.Is(r.err, unix.EINVAL) || r.err.Error() != "sandbox step root: fsmount: no space left on device" {
		t.Errorf("%v", r.err)
	}
}

// TestLauncherGone: every order that waits, and every later one, fails with
// ErrLauncherGone, whether it ended or answers what nobody asked.
func TestLauncherGone(t *testing.T) {
	for name, end := range map[string]func(*scripted, uint64){
		"closed":          func(s *scripted, _ uint64) { _ = s.peer.Close() },
		"unknown id":      func(s *scripted, id uint64) { s.answer(compiled(id+1000, "12345678"), opened(s.t, "/dev/null")) },
		"answers twice":   func(s *scripted, id uint64) { s.answer(compiled(id, "12345678")); s.answer(compiled(id, "12345678")) },
		"closed by owner": func(s *scripted, _ uint64) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted(t)
			first := s.compile(t.Context(), "x")
			id := s.receive().GetId()
			second := s.compile(t.Context(), "y")
			s.receive()
			end(s, id)
			<-s.ended
			if r := <-second; !errors.Is(r.err, ErrLauncherGone) {
				t.Errorf("waiting order: %+v", r)
			}
			if r := <-first; name != "answers twice" && !errors.Is(r.err, ErrLauncherGone) {
				t.Errorf("waiting order: %+v", r)
			}
			if r := <-s.compile(t.Context(), "z"); !errors.Is(r.err, ErrLauncherGone) {
				t.Errorf("later order: %+v", r)
			}
		})
	}
}

// TestOrderGivenUp: the answer that comes later is closed, and harms nobody.
func TestOrderGivenUp(t *testing.T) {
	s := newScripted(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := s.prepare(ctx)
	id := s.receive().GetId()
	cancel()
	if r := <-got; !errors.Is(r.err, context.Canceled) {
		t.Errorf("%+v", r)
	}
	null := opened(t, "/dev/null")
	s.answer(prepared(id), null, null, null)
	next := s.compile(t.Context(), "x")
	s.answer(compiled(s.receive().GetId(), "12345678"))
	if r := <-next; r.err != nil {
		t.Errorf("next order: %v", r.err)
	}
}

// TestOrdersFromManyGoroutines answers each order with its own profile.
func TestOrdersFromManyGoroutines(t *testing.T) {
	s := newScripted(t)
	go func() {
		for {
			o := &controlv1.LauncherOrder{}
			if _, _, err := s.peer.Receive(o); err != nil {
				return
			}
			_ = s.peer.Send(compiled(o.GetId(), string(o.GetCompile().GetProfile())))
		}
	}()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				want := fmt.Sprintf("%04d%04d", g, i)
				if got, err := s.Compile(t.Context(), []byte(want)); err != nil || string(got) != want {
					t.Errorf("%q, %v, want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestWaitExit(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	c := exec.Command("cat")
	c.Stdin = r
	must(t, c.Start())
	_ = r.Close()
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	must(t, err)
	pidfd, err := ipc.Pollable(os.NewFile(uintptr(fd), "pidfd"))
	must(t, err)
	waited := make(chan error, 1)
	go func() { waited <- WaitExit(pidfd) }()
	select {
	case err := <-waited:
		t.Errorf("returned while the process lives: %v", err)
	default:
	}
	_ = w.Close()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	must(t, c.Wait())
	if err := WaitExit(pidfd); err != nil {
		t.Errorf("after its end: %v", err)
	}
	must(t, pidfd.Close())
}

// TestWaitExitEndsWithTheFile: closing it is how a waiter is sent home.
func TestWaitExitEndsWithTheFile(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	must(t, err)
	pidfd, err := ipc.Pollable(os.NewFile(uintptr(fd), "pidfd"))
	must(t, err)
	waited := make(chan error, 1)
	go func() { waited <- WaitExit(pidfd) }()
	must(t, pidfd.Close())
	if err := <-waited; err == nil {
		t.Error("this process has ended")
	}
}
