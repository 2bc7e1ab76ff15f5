package cgroups_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/test/testenv"
)

// patience bounds waits for something that must happen; it is generous because
// the tests also run in an emulated machine.
const patience = 60 * time.Second

// victimEnv makes the test binary a victim: the process that a test limits,
// freezes or kills.
const victimEnv = "SOLO_CGROUPS_VICTIM"

func TestMain(m *testing.M) {
	if role := os.Getenv(victimEnv); role != "" {
		victim(role)
		return
	}
	if group := os.Getenv(moveEnv); group != "" {
		if err := mover(group); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(testenv.CheckMain(m))
}

// victim obeys one command a line from standard input and answers each with a
// line, so that it does nothing before it sits in its group.
func victim(role string) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		word, arg, _ := strings.Cut(in.Text(), " ")
		n, _ := strconv.Atoi(arg)
		switch word {
		case "hold":
			held = append(held, touch(n))
			fmt.Println("held")
		case "fork":
			fmt.Println("forked", fork(n))
		case "burn":
			for end := time.Now().Add(time.Duration(n) * time.Millisecond); time.Now().Before(end); {
			}
			fmt.Println("burnt")
		default:
			fmt.Println(role)
		}
	}
}

var held [][]byte

// touch makes n bytes resident.
func touch(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	return b
}

// fork starts n more victims, which live until this one dies or they are killed, and
// tells how many started.
func fork(n int) int {
	started := 0
	for range n {
		c := exec.Command("/proc/self/exe")
		r, w, err := os.Pipe()
		if err != nil {
			return started
		}
		c.Stdin = r
		if c.Start() == nil {
			started++
			pipes = append(pipes, w)
		} else {
			_ = w.Close()
		}
		_ = r.Close()
	}
	return started
}

// pipes keeps the garbage collector from closing what holds the children.
var pipes []*os.File

// process is a started victim.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	done chan struct{}
}

// start starts a victim in a group. It is killed at the end of the test.
func start(t *testing.T, g *cgroups.Group) *process {
	t.Helper()
	p := startOutside(t)
	check(t, g.AddProc(p.cmd.Process.Pid))
	return p
}

// startOutside starts a victim in no group of the test.
func startOutside(t *testing.T) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("/proc/self/exe"), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), victimEnv+"=here", "GOMAXPROCS=1")
	in, err := p.cmd.StdinPipe()
	check(t, err)
	out, err := p.cmd.StdoutPipe()
	check(t, err)
	p.in, p.out = in, bufio.NewReader(out)
	check(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = in.Close()
		_ = out.Close()
	})
	go func() {
		_, _ = p.cmd.Process.Wait()
		close(p.done)
	}()
	if got := p.ask("hello"); got != "here" {
		t.Fatalf("victim answered %q", got)
	}
	return p
}

// order sends a command without waiting for the answer.
func (p *process) order(format string, args ...any) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.in, format+"\n", args...)
	check(p.t, err)
}

// ask sends a command and returns the answer, "" if the victim died.
func (p *process) ask(format string, args ...any) string {
	p.t.Helper()
	p.order(format, args...)
	line, _ := p.out.ReadString('\n')
	return strings.TrimSpace(line)
}

func (p *process) waitDead() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("the victim lives")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// mount finds the hierarchies. Where there are none or no rights the test is skipped.
func mount(t *testing.T) *cgroups.Hierarchy {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	h, err := cgroups.Mount()
	check(t, err)
	return h
}

// group makes a group of its own for the test and removes it with all that is in
// it at the end.
func group(t *testing.T) *cgroups.Group {
	t.Helper()
	h := mount(t)
	root, err := h.Open(fmt.Sprintf("/solo-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := root.RemoveTree(ctx); err != nil {
			t.Error(err)
		}
		if exists(t, root) {
			t.Error("group is left")
		}
	})
	g := child(t, root, "user/x")
	check(t, g.Create())
	return g
}

// child names a group below g.
func child(t *testing.T, g *cgroups.Group, name string) *cgroups.Group {
	t.Helper()
	c, err := mount(t).Open(g.Path() + "/" + name)
	check(t, err)
	return c
}

// exists looks for the group in every hierarchy where Create makes it, past the package.
func exists(t *testing.T, g *cgroups.Group) bool {
	t.Helper()
	h := mount(t)
	roots := []string{h.Unified()}
	if h.Mode() == cgroups.V1Hybrid {
		for _, controller := range []string{"cpu", "cpuacct", "memory", "pids"} {
			roots = append(roots, v1Root(t, controller))
		}
	}
	n := 0
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, g.Path())); err == nil {
			n++
		}
	}
	if n > 0 && n < len(roots) {
		t.Errorf("group %s is in %d of %d hierarchies", g.Path(), n, len(roots))
	}
	return n > 0
}

// events reads cgroup.events past the package.
func events(t *testing.T, g *cgroups.Group) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(mount(t).Unified(), g.Path(), "cgroup.events"))
	check(t, err)
	return string(content)
}
