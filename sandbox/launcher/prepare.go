//go:build seccomp

package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"

	// libcontainer's C constructor, which enters the namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	// Lets libcontainer's cgroup managers set device rules.
	_ "github.com/opencontainers/cgroups/devices"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// shell is a prepared sandbox. Its descriptors are owned.
type shell struct {
	pid       int
	startTime uint64
	control   *os.File
	pidfd     *os.File
	userNS    *os.File
}

func (s *shell) close() {
	ipc.Files{s.control, s.pidfd, s.userNS}.Close()
}

var shellID = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}$`)

func validate(p *controlv1.Prepare) error {
	switch {
	case !shellID.MatchString(p.GetShellId()):
		return fmt.Errorf("shell id %q: %w", p.GetShellId(), unix.EINVAL)
	case !filepath.IsAbs(p.GetCgroup()) || filepath.Clean(p.GetCgroup()) != p.GetCgroup() || p.GetCgroup() == "/":
		return fmt.Errorf("cgroup %q: %w", p.GetCgroup(), unix.EINVAL)
	case p.GetIdBase() < idRange || p.GetIdBase() > 1<<32-1-idRange:
		return fmt.Errorf("id base %d: %w", p.GetIdBase(), unix.EINVAL)
	}
	return nil
}

// prepare makes a shell. After an error nothing of it is left but its cgroup. It
// blocks for about ten milliseconds.
func (h *host) prepare(p *controlv1.Prepare) (*shell, error) {
	if err := validate(p); err != nil {
		return nil, step("prepare", err)
	}
	root := filepath.Join(h.roots, p.GetShellId())
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, step("root", err)
	}
	defer func() { _ = os.Remove(root) }()
	if err := mountRoot(root, p.GetIdBase(), p.GetRootBytes()); err != nil {
		return nil, step("root", err)
	}
	// The sandbox's own namespace holds it from Run on.
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()

	control, inside, err := ipc.RawPair()
	if err != nil {
		return nil, step("control connection", err)
	}
	defer func() { _ = inside.Close() }()
	pid, err := h.run(p, root, inside)
	if err != nil {
		_ = control.Close()
		return nil, err
	}
	s := &shell{pid: pid, control: control}
	if err := s.describe(p.GetCgroup()); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		s.close()
		return nil, err
	}
	return s, nil
}

// run starts solo-init in a new container and returns its pid, which stays a child
// of this process until it is reaped by a goroutine of its own.
func (h *host) run(p *controlv1.Prepare, root string, inside *os.File) (int, error) {
	id := p.GetShellId()
	forget := func() { _ = os.RemoveAll(filepath.Join(h.containers, id)) }
	c, err := libcontainer.Create(h.containers, id, h.config(p, root))
	if err != nil {
		return 0, step("create", err)
	}
	process := h.process(inside)
	if err := c.Run(process); err != nil {
		// Run kills what it started when its own start fails, but not when solo-init
		// itself cannot be executed.
		if pid, perr := process.Pid(); perr == nil && pid > 0 {
			_ = process.Signal(unix.SIGKILL)
			_, _ = process.Wait()
		}
		forget()
		return 0, step("run", err)
	}
	pid, err := process.Pid()
	if err != nil {
		forget()
		return 0, step("run", err)
	}
	go func() {
		// By pid: wait4(-1) would take libcontainer's own helpers away from it.
		_, _ = process.Wait()
		forget()
	}()
	return pid, nil
}

// describe opens the shell's descriptors and checks that it is where it belongs. The
// pid is that of a child, so it stays its own until that is reaped; a child that is
// gone already has no namespaces any more.
func (s *shell) describe(cgroup string) error {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return step("pidfd_open", err)
	}
	s.pidfd = os.NewFile(uintptr(fd), "pidfd")
	if s.startTime, err = startTime(s.pid); err != nil {
		return step("start time", err)
	}
	if s.userNS, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", s.pid)); err != nil {
		return step("user namespace", err)
	}
	if err := checkCgroups(s.pid, cgroup); err != nil {
		return step("cgroup", err)
	}
	return nil
}

// startTime is field 22 of /proc/PID/stat (proc_pid_stat(5)). The second field, in
// parentheses, may hold anything.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStartTime(string(data))
}

func parseStartTime(stat string) (uint64, error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("stat has no command")
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, errors.New("stat is short")
	}
	var t uint64
	if _, err := fmt.Sscanf(fields[19], "%d", &t); err != nil {
		return 0, fmt.Errorf("stat field 22: %w", err)
	}
	return t, nil
}
