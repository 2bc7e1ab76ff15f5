package filesystem

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// order is what the child of TestRuns executes.
type order struct {
	Program   string
	Argv, Env []string
	Mounts    []Mount
}

// enter builds a root of the order's mounts, as a sandbox has it, and executes the
// program there as an unprivileged user. It runs in a mount namespace of its own.
func enter(root string, args []string) error {
	var o order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("solo-root", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	for _, d := range []string{"app", "dev", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range rootLinks {
		if err := os.Symlink("usr"+l, filepath.Join(root, l)); err != nil {
			return err
		}
	}
	for _, m := range append(o.Mounts, Mount{Source: "/dev/null", Target: "/dev/null"}) {
		at := filepath.Join(root, m.Target)
		if m.Directory {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		} else {
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(at, nil, 0o644); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.Source, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Setgid(1000); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setuid(1000); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	return fmt.Errorf("exec %s: %w", o.Program, syscall.Exec(o.Program, o.Argv, o.Env))
}

// run executes code as the kernel plans it, where nothing of the host exists but its
// mounts.
func run(t *testing.T, l *fixture, m *solov1.DeployRequest) (string, error) {
	t.Helper()
	code := resolved(t, l, m)
	o := order{Program: code.Program, Env: append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"}, code.Env...)}
	for _, a := range code.Argv {
		switch a {
		case "$FILE":
			o.Argv = append(o.Argv, code.File)
		case "$ARGS":
			o.Argv = append(o.Argv, slices.Concat(m.GetSource().GetArgs(), m.GetBinary().GetArgs())...)
		default:
			o.Argv = append(o.Argv, a)
		}
	}
	for _, mount := range code.Mounts {
		if mount.Artifact {
			mount.Source = l.path(artifactOf(m))
		}
		// What lies below a directory is there already.
		if !slices.ContainsFunc(o.Mounts, func(d Mount) bool { return d.Directory && below(mount.Target, d.Target) }) {
			o.Mounts = append(o.Mounts, mount)
		}
	}
	text, err := json.Marshal(o)
	must(t, err)
	cmd := exec.Command("/proc/self/exe", string(text))
	cmd.Env = append(os.Environ(), "SOLO_FILESYSTEM_CHILD=enter", "SOLO_FILESYSTEM_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &stderr)
	}
	return string(out), err
}

// TestRuns: what Resolve answers suffices to run, for each kind of code.
func TestRuns(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	source := func(file, language, text string, args ...string) *solov1.DeployRequest {
		m := sourceOf(put(t, l, []byte(text)), file, language)
		m.GetSource().Args = args
		return m
	}
	host := func(p string, args ...string) *solov1.DeployRequest {
		m := hostPath(p)
		m.GetBinary().Args = args
		return m
	}
	read := func(p string) string {
		b, err := os.ReadFile(p)
		must(t, err)
		return put(t, l, b)
	}
	upload := func(p string, args ...string) *solov1.DeployRequest {
		m := uploaded(read(p))
		m.GetBinary().Args = args
		return m
	}
	for _, tt := range []struct {
		name string
		need testenv.Need
		file string
		m    *solov1.DeployRequest
		want string
	}{
		{"host binary", testenv.Root, "/bin/echo", host("/bin/echo", "a", "b c"), "a b c\n"},
		{"uploaded binary", testenv.Root, "/bin/echo", upload("/bin/echo", "up"), "up\n"},
		{"uploaded redis", testenv.Redis, "/usr/bin/redis-server", upload("/usr/bin/redis-server", "--version"), "Redis server v="},
		{"sh", testenv.Root, "/bin/sh", source("x.sh", "", `echo $0 "$@" | tr a-z A-Z; printf '2\n1\n' | sort | awk '{print $1*2}'`, "one", "two"), "/APP/X.SH ONE TWO\n2\n4\n"},
		{"sh calls itself by the usual name", testenv.Root, "/bin/sh", source("x", "sh", `/bin/sh -c 'echo inner'`), "inner\n"},
		{"bash", testenv.Root, "/bin/bash", source("run", "", "#!/usr/bin/env bash\na=(1 2 3); echo ${#a[@]}\n"), "3\n"},
		{"python", testenv.Python, "/usr/bin/python3", source("app.py", "", "import sys; print(sys.argv)", "x"), "['/app/app.py', 'x']\n"},
		{"python's modules", testenv.Python, "/usr/bin/python3", source("main", "python",
			"import ssl, ctypes, hashlib, json, lzma, mimetypes, http.server, asyncio, zlib, bz2, decimal, socket\n"+
				"print(ssl.create_default_context() is not None, mimetypes.guess_type('a.html')[0])"), "True text/html\n"},
		{"python starts itself again", testenv.Python, "/usr/bin/python3", source("main", "", "#!/usr/bin/python3 -u\nimport subprocess, sys\n"+
			"print(subprocess.check_output([sys.executable, '-c', 'print(40+2)'], text=True))"), "42\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.Require(t, tt.need)
			if _, err := os.Stat(tt.file); err != nil {
				t.Skip(err)
			}
			out, err := run(t, l, tt.m)
			if err != nil || !strings.HasPrefix(out, tt.want) {
				t.Errorf("output %q, want %q; %v", out, tt.want, err)
			}
		})
	}
}
