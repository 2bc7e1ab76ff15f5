package root

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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

	proc    *os.Process // nil while it does not run
	since   time.Time
	history supervision.State
}

// openGroups finds the root of the groups: what the flag names, else the unit's own
// under systemd, else one named after the state directory. Of those below it, solod,
// launcher and kernel have one each; the kernel makes those of services.
func (r *root) openGroups() error {
	h, err := cgroups.Mount()
	if err != nil {
		return fmt.Errorf("%w: Solo needs cgroup v2, or v1 with cgroup2 mounted beside it", err)
	}
	at, err := h.Current()
	if err != nil {
		return err
	}
	top, own := r.CgroupRoot, at.Group()
	if top == "" && own != "/" && os.Getenv("NOTIFY_SOCKET")+os.Getenv("INVOCATION_ID") != "" {
		top = own
	}
	r.boot.CgroupRoot = cmp.Or(top, fmt.Sprintf("/solo-%x", r.seed[:4]))
	if strings.HasPrefix(own, r.boot.CgroupRoot+"/") {
		return fmt.Errorf("solod was started in group %s, below its --cgroup-root %s: start it outside", own, r.boot.CgroupRoot)
	}
	if h, err = h.Below(r.boot.CgroupRoot); err != nil {
		return err
	}
	for name, group := range map[string]**cgroups.Group{"": &r.top, "/solod": &r.self, "/launcher": &r.launcher.group, "/kernel": &r.kernel.group} {
		if *group, err = h.Open(r.boot.CgroupRoot + name); err != nil {
			return err
		}
	}
	r.made = r.self
	if own != r.top.Path() && strings.HasPrefix(r.top.Path(), "/solo") {
		r.made = r.top
	}
	return nil
}

// enterGroup kills what an earlier run left, whose solod is gone, as the state
// directory's lock says, and moves this process to its group.
func (r *root) enterGroup() error {
	// The same root given to the solod of another state directory would end that.
	if err := claim(fmt.Sprintf("solo-cgroup-%.16x", sha256.Sum256([]byte(r.top.Path())))); err != nil {
		return fmt.Errorf("%w: another solod runs below %s: choose another --cgroup-root", err, r.top.Path())
	}
	err := r.clearGroups()
	if err == nil {
		r.before, err = r.self.MoveSelf()
	}
	return err
}

// clearGroups kills and removes everything below the root but this process's own group.
func (r *root) clearGroups() error {
	ctx, cancel := context.WithTimeout(context.Background(), clearTimeout)
	defer cancel()
	children, err := r.top.Children()
	for _, c := range children {
		if r.before == nil || c.Path() != r.self.Path() {
			err = errors.Join(err, c.RemoveTree(ctx))
		}
	}
	return err
}

// load takes the programs that lie beside solod.
func (r *root) load() error {
	var err, err2, err3 error
	r.launcher.name, r.launcher.unshare = "solo-launcher", unix.CLONE_NEWNS
	r.kernel.name, r.kernel.unshare = "solo-kernel", unix.CLONE_NEWNET
	r.launcher.program, err = loadProgram(r.boot.GetProgramDir(), r.launcher.name)
	r.kernel.program, err2 = loadProgram(r.boot.GetProgramDir(), r.kernel.name)
	r.init, err3 = os.Open(filepath.Join(r.boot.GetProgramDir(), "solo-init"))
	return cmp.Or(err, err2, err3)
}

// loadProgram copies a program into a sealed memfd. It is run from there: every
// restart runs the same bytes, whatever is installed meanwhile.
func loadProgram(dir, name string) (*os.File, error) {
	from, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }()
	f, err := ipc.NewMemfd(name)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, from); err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return f, ipc.Seal(f)
}

// run starts a child in its group, with files from descriptor 3 on. No Pdeathsig: it
// follows the thread that forks, not the process. A session of its own keeps the
// terminal's signals from it.
func (r *root) run(c *child, files ...*os.File) error {
	// By our own table of descriptors: in the child's the numbers change before exec.
	program := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.program.Fd())
	proc, err := os.StartProcess(program, []string{c.name}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: append([]*os.File{r.null, os.Stderr, os.Stderr}, files...),
		Sys: &syscall.SysProcAttr{Setsid: true, Unshareflags: c.unshare},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", proc.Pid), r.oom, 0)
	// Until it is waited for, its pid is its own.
	if err := cmp.Or(c.group.Create(), c.group.AddProc(proc.Pid)); err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		return err
	}
	c.proc, c.since = proc, time.Now()
	go func() {
		state, _ := proc.Wait()
		r.events <- func() { r.exited(c, state) }
	}()
	return nil
}

// kill ends the child and what it has forked.
func (c *child) kill() {
	if c.proc != nil {
		_ = c.proc.Kill()
	}
	_ = c.group.Kill()
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
