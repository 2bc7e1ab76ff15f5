package launcher_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// rig is a running launcher and the kernel's end of its connection.
type rig struct {
	t       *testing.T
	conn    *ipc.Conn
	command *exec.Cmd
	group   string
	victim  string // its path
	orders  uint64
}

var rigs, idRanges atomic.Uint32

func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.RequireSandbox(t)
	built, err := build()
	must(t, err)
	initProgram, err := os.Open(built.init)
	must(t, err)
	return newRigWith(t, initProgram)
}

// newRigWith starts a launcher with this as solo-init, and closes it.
func newRigWith(t *testing.T, initProgram *os.File) *rig {
	t.Helper()
	testenv.RequireSandbox(t)
	built, err := build()
	must(t, err)
	group := fmt.Sprintf("/solo-test-%d-%d", os.Getpid(), rigs.Add(1))
	testenv.Leaks(t, testenv.Scope{Cgroups: []string{group}})
	conn, peer, err := ipc.Pair()
	must(t, err)
	r := &rig{t: t, conn: conn, group: group, victim: built.victim, command: launcherCommand(built, peer, initProgram)}
	must(t, r.command.Start())
	_ = peer.Close()
	_ = initProgram.Close()
	t.Cleanup(func() {
		_ = conn.Close()
		_ = r.command.Wait()
		r.removeGroups()
	})
	return r
}

func launcherCommand(built programs, control, initProgram *os.File) *exec.Cmd {
	c := exec.Command(built.launcher)
	c.Env = []string{}
	c.Stderr = os.Stderr
	c.ExtraFiles = []*os.File{control, initProgram}
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return c
}

// groupDirs lists the directories of a cgroup and its children, those first, in every
// hierarchy.
func groupDirs(group string) []string {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
	if _, err := os.Stat("/sys/fs/cgroup" + group); err == nil {
		tops = append(tops, "/sys/fs/cgroup"+group)
	}
	var dirs []string
	for _, top := range tops {
		entries, _ := os.ReadDir(top)
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(top, e.Name()))
			}
		}
		dirs = append(dirs, top)
	}
	return dirs
}

// removeGroups does what the kernel does with groups whose shells have ended.
func (r *rig) removeGroups() {
	r.t.Helper()
	for _, dir := range groupDirs(r.group) {
		testenv.Eventually(r.t, patience, "removal of "+dir, func() bool {
			err := unix.Rmdir(dir)
			return err == nil || errors.Is(err, unix.ENOENT)
		})
	}
}

// order sends one order to the launcher and returns the answer.
func (r *rig) order(o *controlv1.LauncherOrder) (*controlv1.LauncherReport, ipc.Files) {
	r.t.Helper()
	r.orders++
	o.Id = r.orders
	must(r.t, r.conn.Send(o))
	report := &controlv1.LauncherReport{}
	must(r.t, r.conn.SetReadDeadline(time.Now().Add(patience)))
	files, _, err := r.conn.Receive(report)
	must(r.t, err)
	if report.GetId() != o.Id {
		r.t.Fatalf("answer to order %d, want %d", report.GetId(), o.Id)
	}
	return report, files
}

func (r *rig) prepareOrder() *controlv1.Prepare {
	n := idRanges.Add(1)
	id := fmt.Sprintf("t%d", n)
	return &controlv1.Prepare{ShellId: id, Cgroup: r.group + "/" + id, IdBase: 300_000_000 + n*65536}
}

// prepare makes a shell and receives its first message.
func (r *rig) prepare() *shell {
	r.t.Helper()
	return r.prepareAs(r.prepareOrder())
}

func (r *rig) prepareAs(p *controlv1.Prepare) *shell {
	r.t.Helper()
	report, files := r.order(&controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Prepare{Prepare: p}})
	if f := report.GetFailed(); f != nil {
		r.t.Fatalf("prepare: %v", f)
	}
	return r.adopt(p, report, files)
}

func (r *rig) adopt(p *controlv1.Prepare, report *controlv1.LauncherReport, files ipc.Files) *shell {
	r.t.Helper()
	if len(files) != 3 {
		r.t.Fatalf("prepared with %d descriptors, want 3", len(files))
	}
	conn, err := ipc.FileConn(files[0])
	must(r.t, err)
	must(r.t, conn.PassCred())
	s := &shell{t: r.t, victim: r.victim, conn: conn, pidfd: files[1], userNS: files[2], pid: int(report.GetPrepared().GetPid()), idBase: p.GetIdBase(), cgroup: p.GetCgroup()}
	r.t.Cleanup(s.end)
	if m, _, _ := s.receive(); m.GetWaiting() == nil {
		r.t.Fatalf("first message is %v, want waiting", m)
	}
	return s
}
