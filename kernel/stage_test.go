package kernel

import (
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// stage plays everybody around the kernel.
type stage struct {
	r *rig

	mu     sync.Mutex
	actors map[string]*actor
	// made counts the sandboxes; refuse has the launcher refuse, hold keep its answers.
	made   int
	refuse bool
	held   chan struct{}
	// on is asked before a system service reacts to a message; true says that it has
	// been dealt with.
	on map[string]func(a *actor, m *controlv1.FromKernel) bool
	// ends are the services whose sandboxes have ended, in order; shells are "".
	ends []string
	// said is what the kernel told them, by name.
	said map[string][]*controlv1.FromKernel

	log   auditLog
	calls calls
	token string
}

func newStage(r *rig) *stage {
	return &stage{r: r, on: map[string]func(*actor, *controlv1.FromKernel) bool{}}
}

// reset is for a new kernel; the log stays.
func (st *stage) reset() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.actors, st.said = map[string]*actor{}, map[string][]*controlv1.FromKernel{}
	st.calls.lost()
}

// react sets what a system service does with its messages.
func (st *stage) react(name string, on func(a *actor, m *controlv1.FromKernel) bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.on[name] = on
}

// heard are the messages that a service got of one kind.
func heard[M proto.Message](st *stage, name string, pick func(*controlv1.FromKernel) M) (all []M) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, m := range st.said[name] {
		if part := pick(m); part.ProtoReflect().IsValid() {
			all = append(all, part)
		}
	}
	return all
}

// of are the living actors of a service, oldest first.
func (st *stage) of(name string) []*actor {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []*actor
	for _, a := range st.actors {
		if a.service() == name {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *actor) int { return a.serial - b.serial })
	return out
}

// closeAll ends what a failed test has left.
func (st *stage) closeAll() {
	st.mu.Lock()
	var left []*actor
	for _, a := range st.actors {
		left = append(left, a)
	}
	st.mu.Unlock()
	for _, a := range left {
		a.die(nil)
		<-a.done
	}
	st.calls.lost()
}

// launch plays solo-launcher.
func (st *stage) launch(conn *ipc.Conn) {
	var sending sync.Mutex
	var work sync.WaitGroup
	defer func() { work.Wait(); _ = conn.Close() }()
	answer := func(m *controlv1.LauncherReport, files ...*os.File) {
		sending.Lock()
		defer sending.Unlock()
		_ = conn.Send(m, files...)
		ipc.Files(files).Close()
	}
	for {
		o := &controlv1.LauncherOrder{}
		if _, _, err := conn.Receive(o); err != nil {
			return
		}
		if o.GetPrepare() == nil {
			answer(&controlv1.LauncherReport{Id: o.GetId(), Report: &controlv1.LauncherReport_Compiled{Compiled: &controlv1.Compiled{Program: make([]byte, 8)}}})
			continue
		}
		work.Go(func() {
			st.mu.Lock()
			refuse, held := st.refuse, st.held
			st.mu.Unlock()
			if held != nil {
				<-held
			}
			if refuse {
				answer(&controlv1.LauncherReport{Id: o.GetId(), Report: &controlv1.LauncherReport_Failed{Failed: &controlv1.LaunchFailed{Step: "run", Errno: int32(unix.EAGAIN)}}})
				return
			}
			a, files, err := st.sandbox(o.GetPrepare())
			if err != nil {
				answer(&controlv1.LauncherReport{Id: o.GetId(), Report: &controlv1.LauncherReport_Failed{Failed: &controlv1.LaunchFailed{Step: "test", Message: err.Error()}}})
				return
			}
			answer(&controlv1.LauncherReport{Id: o.GetId(), Report: &controlv1.LauncherReport_Prepared{Prepared: &controlv1.Prepared{Pid: int32(a.cmd.Process.Pid)}}}, files...)
		})
	}
}

// sandbox makes a process in the group and somebody who speaks for it.
func (st *stage) sandbox(p *controlv1.Prepare) (*actor, ipc.Files, error) {
	hier := st.r.hier
	group, err := hier.Open(p.GetCgroup())
	if err != nil {
		return nil, nil, err
	}
	if err := group.Create(); err != nil {
		return nil, nil, err
	}
	dir, err := os.Open(hier.Unified() + p.GetCgroup())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = dir.Close() }()
	userns, err := duplicate(st.r.userns)
	if err != nil {
		return nil, nil, err
	}
	conn, theirs, err := ipc.Pair()
	if err != nil {
		_ = userns.Close()
		return nil, nil, err
	}
	// It ends by itself should the test be killed.
	cmd := exec.Command("sleep", "900")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		ipc.Files{userns, theirs}.Close()
		_ = conn.Close()
		return nil, nil, err
	}
	// One of its own: the kernel makes it non-blocking, and Wait's must not be.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		ipc.Files{userns, theirs}.Close()
		_ = conn.Close()
		return nil, nil, err
	}
	a := &actor{st: st, id: p.GetShellId(), conn: conn, cmd: cmd, done: make(chan struct{})}
	st.mu.Lock()
	st.made++
	a.serial = st.made
	st.actors[a.id] = a
	st.mu.Unlock()
	go a.bury()
	go a.obey()
	return a, ipc.Files{theirs, os.NewFile(uintptr(pidfd), "pidfd"), userns}, nil
}

// hold has a system service keep what it is told to itself until the returned function
// is called; then it reacts to all of it, in order.
func (st *stage) hold(name string) (release func()) {
	var mu sync.Mutex
	var kept []*controlv1.FromKernel
	var by *actor
	over := false
	st.react(name, func(a *actor, m *controlv1.FromKernel) bool {
		mu.Lock()
		defer mu.Unlock()
		if over || m.GetStop() != nil || m.GetFilesystemConfig() != nil || m.GetWelcome() != nil {
			return false
		}
		by, kept = a, append(kept, m)
		return true
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		for _, m := range kept {
			switch name {
			case "solo-fs":
				by.resolve(m)
			case "solo-net":
				by.publish(m)
			case "solo-audit":
				by.keep(m.GetAuditBatch())
			}
		}
	}
}
