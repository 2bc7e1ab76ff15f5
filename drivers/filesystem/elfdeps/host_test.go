package elfdeps_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
)

func resolveFile(t *testing.T, program, at string, host elfdeps.Host) (elfdeps.Closure, error) {
	t.Helper()
	f, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return elfdeps.Resolve(f, at, host)
}

// programs of the host that exist, without links.
func programs(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, p := range []string{"/usr/bin/redis-server", "/usr/bin/bash", "/usr/bin/git", "/usr/bin/python3", "/usr/bin/curl", "/usr/bin/env"} {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			found = append(found, real)
		}
	}
	if len(found) == 0 {
		t.Skip("the host has none of the programs")
	}
	return found
}

// TestAgainstLdd compares with what the host's own loader says.
func TestAgainstLdd(t *testing.T) {
	if _, err := exec.LookPath("ldd"); err != nil {
		t.Skip(err)
	}
	for _, program := range programs(t) {
		t.Run(filepath.Base(program), func(t *testing.T) {
			c, err := resolveFile(t, program, program, elfdeps.Host{})
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("ldd", program).Output()
			if err != nil {
				t.Skipf("ldd: %v", err)
			}
			var want, got []string
			for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
				real, err := filepath.EvalSymlinks(m[1])
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, real)
			}
			for _, f := range c.Files {
				if f.Source != "/etc/ld.so.cache" {
					got = append(got, f.Source)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) || len(got) < 2 {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestRuns runs the programs where nothing exists but their closure.
func TestRuns(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot")
	}
	for _, program := range programs(t) {
		t.Run(filepath.Base(program), func(t *testing.T) {
			c, err := resolveFile(t, program, program, elfdeps.Host{})
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			for _, l := range c.Links {
				if err := os.Symlink(l.Target, filepath.Join(root, l.Path)); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range append(c.Files, elfdeps.Mount{Target: program, Source: program}) {
				copyFile(t, f.Source, filepath.Join(root, f.Target))
			}
			// git insists on one; an empty file will do.
			if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "dev/null"), nil, 0o666); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "--version")
			cmd.Env = []string{}
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			out, err := cmd.CombinedOutput()
			if err != nil || len(out) == 0 {
				t.Errorf("%v: %s\n%v", err, out, c)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if info, err := os.Lstat(from); err != nil || !info.Mode().IsRegular() {
		t.Fatalf("source %s is not a regular file: %v", from, err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestSelf: the test binary itself, static or not, is a program.
func TestSelf(t *testing.T) {
	c, err := resolveFile(t, "/proc/self/exe", "", elfdeps.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Static != (c.Interpreter == "" && len(c.Files) == 0) {
		t.Errorf("neither static nor dynamic: %+v", c)
	}
}

func TestDeterministic(t *testing.T) {
	program := programs(t)[0]
	first, err := resolveFile(t, program, program, elfdeps.Host{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range first.Files {
		if seen[f.Target] || !strings.HasPrefix(f.Target, "/") || filepath.Clean(f.Target) != f.Target {
			t.Errorf("target %q is twice there or not clean", f.Target)
		}
		seen[f.Target] = true
	}
	for range 5 {
		again, err := resolveFile(t, program, program, elfdeps.Host{})
		if err != nil || !slices.Equal(again.Files, first.Files) {
			t.Fatalf("%v\n%v\n%v", err, first, again)
		}
	}
}

func TestLeavesNoDescriptor(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	program := programs(t)[0]
	if _, err := resolveFile(t, program, program, elfdeps.Host{}); err != nil {
		t.Fatal(err)
	}
	before := count()
	for range 5 {
		if _, err := resolveFile(t, program, program, elfdeps.Host{}); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }
