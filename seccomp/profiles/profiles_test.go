package profiles

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/seccomp"
	"github.com/solo-os/solo/seccomp/lint"
	"github.com/solo-os/solo/seccomp/model"
)

func TestNames(t *testing.T) {
	want := []string{"audit", "default", "floor", "fs", "gateway", "jit", "kernel", "monitor", "net"}
	if diff := cmp.Diff(want, Names()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range Names() {
		text, err := Read(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := seccomp.Parse(text)
		if err == nil {
			err = lint.Check(p)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "none", "gen/main", "../profiles/floor", "floor.json"} {
		if _, err := Read(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("Read(%q): %v", name, err)
		}
	}
}

// TestFresh writes the files anew and compares: nobody edited them, and none is left
// over.
func TestFresh(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "./gen", dir).CombinedOutput(); err != nil {
		t.Fatalf("gen: %v\n%s", err, out)
	}
	read := func(dir string) map[string]string {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			m[filepath.Base(f)] = string(text)
		}
		return m
	}
	if diff := cmp.Diff(read(dir), read(".")); diff != "" {
		t.Errorf("run go generate ./seccomp/profiles (-want +got):\n%s", diff)
	}
}

func TestReadmeNamesEveryProfile(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		if !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("README.md has no row for %s", name)
		}
	}
}

// decide asks a profile what happens on a call with these arguments.
func decide(t *testing.T, name, call string, args ...uint64) seccomp.Action {
	t.Helper()
	text, err := Read(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := seccomp.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	nr, ok := model.Number(call)
	if !ok {
		t.Fatalf("no call %s", call)
	}
	var a [6]uint64
	copy(a[:], args)
	return model.Decide(p, seccomp.ArchX86_64, nr, a)
}

// TestPolicy holds the profiles to what the README and the design promise.
func TestPolicy(t *testing.T) {
	const enosys, eperm, eafnosupport = 38, 1, 97
	const newUser, fastOpen = 0x10000000, 0x20000000
	services := []string{"gateway", "audit", "monitor", "net", "fs"}
	sandboxed := append([]string{"default", "jit"}, services...)
	everywhere := append([]string{"floor", "kernel"}, sandboxed...)
	for _, c := range []struct {
		profiles []string
		call     string
		args     []uint64
		want     seccomp.Action
	}{
		{everywhere, "init_module", nil, seccomp.KillProcess},
		{everywhere, "kexec_load", nil, seccomp.KillProcess},
		{everywhere, "clone3", nil, seccomp.Errno(enosys)},
		{everywhere, "unshare", []uint64{newUser}, seccomp.Errno(eperm)},
		{everywhere, "setns", nil, seccomp.Errno(eperm)},
		{everywhere, "clone", []uint64{newUser | 17}, seccomp.Errno(eperm)},
		{everywhere, "ptrace", nil, seccomp.Errno(eperm)},
		{everywhere, "bpf", nil, seccomp.Errno(eperm)},
		{everywhere, "io_uring_setup", nil, seccomp.Errno(eperm)},
		{everywhere, "userfaultfd", nil, seccomp.Errno(eperm)},
		{everywhere, "keyctl", nil, seccomp.Errno(eperm)},
		{everywhere, "perf_event_open", nil, seccomp.Errno(eperm)},
		{append([]string{"floor"}, sandboxed...), "mount", nil, seccomp.Errno(eperm)},
		{append([]string{"floor"}, sandboxed...), "move_mount", nil, seccomp.Errno(eperm)},
		{[]string{"kernel"}, "move_mount", nil, seccomp.Allow},
		{[]string{"kernel"}, "execve", nil, seccomp.Errno(eperm)},
		{[]string{"kernel"}, "execveat", nil, seccomp.Errno(eperm)},
		{[]string{"kernel"}, "socket", []uint64{2}, seccomp.Errno(eperm)},
		{sandboxed, "execveat", nil, seccomp.Allow},
		{services, "execve", nil, seccomp.Errno(eperm)},
		{services, "fork", nil, seccomp.Errno(eperm)},
		{[]string{"default", "jit"}, "execve", nil, seccomp.Allow},
		{[]string{"floor", "default", "jit", "net"}, "socket", []uint64{16}, seccomp.Errno(eafnosupport)},
		{[]string{"floor", "default", "jit", "net"}, "socket", []uint64{2}, seccomp.Allow},
		{[]string{"gateway", "audit", "monitor", "fs"}, "socket", []uint64{2}, seccomp.Errno(eperm)},
		{[]string{"gateway", "audit", "monitor", "fs"}, "connect", nil, seccomp.Errno(eperm)},
		{services, "sendmsg", []uint64{0, 0, fastOpen}, seccomp.Errno(eperm)},
		{[]string{"default", "gateway", "audit", "monitor", "net", "fs"}, "mmap", []uint64{0, 4096, 7}, seccomp.Errno(eperm)},
		{[]string{"jit"}, "mmap", []uint64{0, 4096, 7}, seccomp.Allow},
		{[]string{"floor", "default", "jit", "kernel"}, "ioctl", []uint64{0, 0x5412}, seccomp.Errno(eperm)},
		{[]string{"gateway", "fs"}, "unlinkat", nil, seccomp.Errno(eperm)},
		{[]string{"audit", "monitor", "kernel"}, "renameat", nil, seccomp.Allow},
	} {
		for _, name := range c.profiles {
			if got := decide(t, name, c.call, c.args...); got != c.want {
				t.Errorf("%s: %s %#x: %#x, want %#x", name, c.call, c.args, got, c.want)
			}
		}
	}
}
