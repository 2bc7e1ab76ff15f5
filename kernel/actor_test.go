package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// actor is one sandbox: it plays solo-init, and the program when it runs. Which part a
// user service has is said by its arguments: its name, then any of
//
//	fail-lease   the sandbox cannot be made      fail-start   execve fails
//	silent       it never starts                 stubborn     SIGTERM changes nothing
//	lie          it breaks the protocol          exit=N       it ends with N at once
type actor struct {
	st     *stage
	id     string
	serial int
	conn   *ipc.Conn
	cmd    *exec.Cmd
	// done is closed when its process and its connections are gone.
	done chan struct{}

	sending sync.Mutex
	mu      sync.Mutex
	argv    []string
	lease   *controlv1.Lease
	held    ipc.Files // its output, its control connection before it is used
	control *ipc.Conn
	notify  *os.File
	buried  bool
}

func (a *actor) service() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(a.argv) == 0:
		return ""
	case len(a.argv) > 1:
		return a.argv[1]
	}
	return a.argv[0]
}

func (a *actor) plays(part string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.argv) > 2 && slices.Contains(a.argv[2:], part)
}

// say sends a report; one that is gone says nothing.
func (a *actor) say(m *controlv1.InitReport, files ...*os.File) {
	a.sending.Lock()
	defer a.sending.Unlock()
	_ = a.conn.Send(m, files...)
}

func exited(code, status int32) *controlv1.Exit {
	return &controlv1.Exit{SiCode: code, SiStatus: status}
}

// die ends it as solo-init does: with a word of how the program ended, or without.
func (a *actor) die(exit *controlv1.Exit) {
	if exit != nil {
		a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Exit{Exit: exit}})
	}
	_ = a.cmd.Process.Kill()
}

// bury waits for the end of its process, whoever ended it, and closes what was its own.
func (a *actor) bury() {
	defer close(a.done)
	_ = a.cmd.Wait()
	name := a.service()
	a.st.mu.Lock()
	a.st.ends = append(a.st.ends, name) // before the kernel can know
	a.st.mu.Unlock()
	a.mu.Lock()
	a.buried = true
	a.held.Close()
	ipc.Files{a.notify}.Close()
	if a.control != nil {
		_ = a.control.Close()
	}
	a.mu.Unlock()
	_ = a.conn.Close()
	a.st.mu.Lock()
	delete(a.st.actors, a.id)
	a.st.mu.Unlock()
}

// obey reads the kernel's orders.
func (a *actor) obey() {
	a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Waiting{Waiting: &controlv1.Waiting{}}})
	for {
		o := &controlv1.InitOrder{}
		files, _, err := a.conn.Receive(o)
		if err != nil {
			return
		}
		switch o := o.GetOrder().(type) {
		case *controlv1.InitOrder_Lease:
			a.leased(o.Lease, files)
			continue
		case *controlv1.InitOrder_Release:
			a.released()
		case *controlv1.InitOrder_Signal:
			if !a.plays("stubborn") {
				a.die(exited(cldKilled, o.Signal.GetSignal()))
			}
		case *controlv1.InitOrder_MakeSockets:
			n := int(o.MakeSockets.GetN())
			a.give(&controlv1.InitReport{Report: &controlv1.InitReport_Sockets{Sockets: &controlv1.Sockets{Id: o.MakeSockets.GetId(), N: uint32(n)}}}, n)
		case *controlv1.InitOrder_Listen:
			a.give(&controlv1.InitReport{Report: &controlv1.InitReport_Listening{Listening: &controlv1.Listening{Id: o.Listen.GetId()}}}, 1)
		case *controlv1.InitOrder_Exec:
			a.say(&controlv1.InitReport{Report: &controlv1.InitReport_ProbeResult{ProbeResult: &controlv1.ProbeResult{Id: o.Exec.GetId(), SiCode: cldExited}}})
		}
		files.Close()
	}
}

// give answers with descriptors, which stand for sockets.
func (a *actor) give(m *controlv1.InitReport, n int) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return
	}
	a.say(m, slices.Repeat([]*os.File{f}, n)...)
	_ = f.Close()
}

// leased takes the parts of a lease that somebody on the stage uses.
func (a *actor) leased(l *controlv1.Lease, files ipc.Files) {
	a.mu.Lock()
	a.lease = l
	for _, word := range l.GetArgv() {
		a.argv = append(a.argv, string(word))
	}
	last := len(files) - 1
	a.held = ipc.Files{files[1], files[2], files[last]}
	files[:1].Close()
	files[3:last].Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		a.notify = os.NewFile(uintptr(pair[1]), "notify")
	}
	if a.buried {
		a.held.Close()
		ipc.Files{a.notify}.Close()
	}
	a.mu.Unlock()
	if err != nil || a.plays("fail-lease") {
		if err == nil {
			_ = unix.Close(pair[0])
		}
		a.fail("mount /x")
		return
	}
	inner := os.NewFile(uintptr(pair[0]), "notify")
	a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Leased{Leased: &controlv1.Leased{}}}, inner)
	_ = inner.Close()
	a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Armed{Armed: &controlv1.Armed{}}})
}

func (a *actor) fail(step string) {
	a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: step, Errno: int32(unix.EINVAL)}}})
	a.die(nil)
}

// released begins the program.
func (a *actor) released() {
	if a.plays("silent") {
		return
	}
	if a.plays("fail-start") {
		a.fail("execveat")
		return
	}
	a.say(&controlv1.InitReport{Report: &controlv1.InitReport_Started{Started: &controlv1.Started{}}})
	if a.plays("lie") {
		a.give(&controlv1.InitReport{Report: &controlv1.InitReport_Started{Started: &controlv1.Started{}}}, 1)
	}
	a.mu.Lock()
	system := len(a.argv) == 1 && !a.buried
	if system {
		last := a.held[2]
		a.held = a.held[:2]
		a.control, _ = ipc.FileConn(last)
	}
	words := a.argv
	a.mu.Unlock()
	if system {
		go a.serve(words[0])
		return
	}
	for _, w := range words {
		if rest, ok := strings.CutPrefix(w, "exit="); ok {
			code := int32(0)
			_, _ = fmt.Sscan(rest, &code)
			a.die(exited(cldExited, code))
		}
	}
}
