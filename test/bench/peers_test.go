package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/test/testenv"
)

// programs are those that were built for this run.
type programs struct {
	dir string
	// first is a static program that says a byte and waits, peer is ./peer.
	first, peer string
}

// build makes them, in a directory of their own that everybody may enter.
func build() (*programs, error) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "solo-bench-bin-")
	if err != nil {
		return nil, err
	}
	p := &programs{dir: dir, first: filepath.Join(dir, "first"), peer: filepath.Join(dir, "peer")}
	cc := os.Getenv("MUSL_CC")
	if cc == "" {
		cc = "musl-gcc"
	}
	// As the Makefile builds Solo's programs, so that what it compiled is used.
	goBuild := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", p.peer, "./test/bench/peer")
	goBuild.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{
		exec.Command(cc, "-static", "-Os", "-s", "-o", p.first, filepath.Join("test", "bench", "testdata", "first.c")),
		goBuild,
	} {
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("build a program: %v: %w: %s", cmd.Args, err, out), os.RemoveAll(dir))
		}
	}
	return p, os.Chmod(dir, 0o755)
}

// serve starts ./peer outside Solo and returns when it listens; it ends with the
// measurement.
func (p *programs) serve(tb testing.TB, what, where string) {
	tb.Helper()
	cmd := exec.Command(p.peer, what, where, "attached")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the peer's end: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		tb.Fatalf("the peer says %q: %v", line, err)
	}
}

// firstByte is the start of a command whose program is first: from the start to its
// byte. The program ends with its input.
func firstByte(tb testing.TB, command func() *exec.Cmd) operation {
	var cmd *exec.Cmd
	var in io.WriteCloser
	var out io.ReadCloser
	return operation{
		prepare: func() {
			var err, more error
			cmd = command()
			cmd.Stderr = os.Stderr
			in, err = cmd.StdinPipe()
			out, more = cmd.StdoutPipe()
			if err := errors.Join(err, more); err != nil {
				tb.Fatal(err)
			}
		},
		do: func() {
			if err := cmd.Start(); err != nil {
				tb.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				_ = in.Close()
				tb.Fatalf("%v says nothing: %v, %v", cmd.Args, err, cmd.Wait())
			}
		},
		clean: func() {
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				tb.Fatalf("%v: %v", cmd.Args, err)
			}
		},
	}
}

// bubblewrap starts first under bwrap with all namespaces of its own and nothing else;
// nil where it is not installed.
func (p *programs) bubblewrap(tb testing.TB) *operation {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		return nil
	}
	o := firstByte(tb, func() *exec.Cmd {
		return exec.Command(path, "--unshare-all", "--ro-bind", p.first, "/first", "/first", "wait")
	})
	return &o
}

// runcGroup is the cgroup of the container that runc makes.
func runcGroup() string { return fmt.Sprintf("/solo-bench-%d", os.Getpid()) }

// runc starts first by `runc run` with the configuration that `runc spec` makes; nil
// where it is not installed.
func (p *programs) runc(tb testing.TB) *operation {
	tb.Helper()
	path, err := exec.LookPath("runc")
	if err != nil {
		return nil
	}
	bundle, err := os.MkdirTemp("", "solo-bench-runc-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(bundle) })
	rootfs := filepath.Join(bundle, "rootfs")
	content, err := os.ReadFile(p.first)
	if err = errors.Join(err, os.Mkdir(rootfs, 0o755), os.WriteFile(filepath.Join(rootfs, "first"), content, 0o755)); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command(path, "spec", "--bundle", bundle).CombinedOutput(); err != nil {
		tb.Fatalf("runc spec: %v: %s", err, out)
	}
	if err := editSpec(filepath.Join(bundle, "config.json"), runcGroup()); err != nil {
		tb.Fatal(err)
	}
	o := firstByte(tb, func() *exec.Cmd {
		return exec.Command(path, "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, filepath.Base(runcGroup()))
	})
	return &o
}

// editSpec makes first the program of a bundle, without a terminal, in a group of ours.
func editSpec(path, group string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec struct {
		OCIVersion string            `json:"ociVersion"`
		Process    map[string]any    `json:"process"`
		Linux      map[string]any    `json:"linux"`
		Root       json.RawMessage   `json:"root"`
		Hostname   string            `json:"hostname"`
		Mounts     []json.RawMessage `json:"mounts"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if spec.Process == nil || spec.Linux == nil {
		return fmt.Errorf("read %s: it has no process or no linux", path)
	}
	spec.Process["terminal"] = false
	spec.Process["args"] = []string{"/first", "wait"}
	spec.Linux["cgroupsPath"] = group
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
