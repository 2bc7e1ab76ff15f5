package cgroups_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/solo-os/solo/cgroups"
)

// moveEnv makes the test binary move itself into the group it names and back.
const moveEnv = "SOLO_CGROUPS_MOVE"

// mover is that process. It says where it is at each step, and waits for a line
// before it goes back.
func mover(group string) error {
	h, err := cgroups.Mount()
	if err != nil {
		return err
	}
	g, err := h.Open(group)
	if err != nil {
		return err
	}
	before, err := g.MoveSelf()
	if err != nil {
		return err
	}
	fmt.Println(before.Group())
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := before.Restore(); err != nil {
		return err
	}
	now, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	fmt.Printf("%q\n", now)
	return nil
}

func TestMoveSelf(t *testing.T) {
	g := group(t)
	self := child(t, g, "solod")
	before, err := os.ReadFile("/proc/self/cgroup")
	check(t, err)
	here, err := mount(t).Current()
	check(t, err)

	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), moveEnv+"="+self.Path())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	check(t, err)
	if got := strings.TrimSpace(line); got != here.Group() {
		t.Errorf("it was in %q, its parent in %q", got, here.Group())
	}
	pids, err := self.Procs()
	check(t, err)
	if len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("Procs = %v, not %d", pids, cmd.Process.Pid)
	}
	// The group beside it can have limits while it is in its own.
	check(t, g.Set(cgroups.Limits{PidsMax: 1000}))
	_, err = fmt.Fprintln(in)
	check(t, err)
	line, err = lines.ReadString('\n')
	check(t, err)
	if got := strings.TrimSpace(line); got != fmt.Sprintf("%q", before) {
		t.Errorf("after Restore: %s, not %q", got, before)
	}
	check(t, cmd.Wait())
	check(t, self.Remove())
}
