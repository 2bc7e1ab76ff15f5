package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// static is a program that needs nothing.
var static = elftest.Image{Type: elftest.Exec}.Bytes()

// TestRefusedPaths has every way in which a host path cannot be deployed.
func TestRefusedPaths(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	interp := "/lib64/ld-linux-x86-64.so.2"
	for _, tt := range []struct {
		name string
		// lay makes it below dir and answers the path to deploy.
		lay   func(t *testing.T, dir string) string
		word  string
		texts []string
	}{
		{"no file", func(t *testing.T, d string) string { return d + "/none" }, "not_found", []string{"/none does not exist"}},
		{"no directory", func(t *testing.T, d string) string { return d + "/none/p" }, "not_found", []string{"directory", "/none does not exist"}},
		{"below a file", func(t *testing.T, d string) string { return write(t, d+"/f", static, 0o755) + "/p" }, "not_found", []string{"is not a directory"}},
		{"long name", func(t *testing.T, d string) string { return d + "/" + strings.Repeat("n", 256) }, "not_found", nil},
		{"not clean", func(t *testing.T, d string) string { return d + "/../x" }, "not_found", []string{"not a clean path"}},
		{"relative", func(t *testing.T, d string) string { return "bin/sleep" }, "not_found", []string{"not absolute"}},
		{"directory", func(t *testing.T, d string) string { must(t, os.Mkdir(d+"/d", 0o755)); return d + "/d" }, "not_regular", []string{"directory"}},
		{"the binary path itself", func(t *testing.T, d string) string { return d }, "not_regular", nil},
		{"pipe", func(t *testing.T, d string) string { must(t, unix.Mkfifo(d+"/p", 0o777)); return d + "/p" }, "not_regular", []string{"pipe"}},
		{"socket", func(t *testing.T, d string) string {
			must(t, unix.Mknod(d+"/s", unix.S_IFSOCK|0o777, 0))
			return d + "/s"
		}, "not_regular", []string{"socket"}},
		{"link", func(t *testing.T, d string) string {
			write(t, d+"/real", static, 0o755)
			must(t, os.Symlink("real", d+"/l"))
			return d + "/l"
		}, "symlink", []string{"symbolic link to ", "/real; deploy that"}},
		{"link out", func(t *testing.T, d string) string {
			must(t, os.Symlink("/etc/shadow", d+"/l"))
			return d + "/l"
		}, "symlink", []string{"to /etc/shadow;"}},
		{"dangling link", func(t *testing.T, d string) string { must(t, os.Symlink("gone", d+"/l")); return d + "/l" }, "symlink", nil},
		{"directories in a loop", func(t *testing.T, d string) string {
			must(t, os.Symlink("b", d+"/a"))
			must(t, os.Symlink("a", d+"/b"))
			return d + "/a/p"
		}, "symlink", []string{"more than 40 symbolic links"}},
		{"outside", func(t *testing.T, d string) string {
			return write(t, place(t)+"/p", static, 0o755)
		}, "outside_binary_paths", []string{"outside binary_paths (/usr, /bin, "}},
		{"a sibling with the same beginning", func(t *testing.T, d string) string {
			p := write(t, d+"2/p", static, 0o755)
			t.Cleanup(func() { must(t, os.RemoveAll(d+"2")) })
			return p
		}, "outside_binary_paths", nil},
		{"outside by a linked directory", func(t *testing.T, d string) string {
			out := place(t)
			write(t, out+"/p", static, 0o755)
			must(t, os.Symlink(out, d+"/way"))
			return d + "/way/p"
		}, "outside_binary_paths", nil},
		{"outside is not looked into", func(t *testing.T, d string) string { return "/etc/no-such-file" }, "outside_binary_paths", nil},
		{"through /proc", func(t *testing.T, d string) string { return "/proc/self/root/usr/bin/env" }, "symlink", []string{"/proc"}},
		{"a descriptor", func(t *testing.T, d string) string {
			must(t, os.Symlink("/proc/self/fd", d+"/fd"))
			return d + "/fd/0"
		}, "symlink", []string{"/proc"}},
		{"not executable", func(t *testing.T, d string) string { return write(t, d+"/p", static, 0o644) }, "not_executable", []string{"mode 0644"}},
		{"not executable by others", func(t *testing.T, d string) string { return write(t, d+"/p", static, 0o750) }, "not_executable", []string{"by others", "mode 0750"}},
		{"not readable", func(t *testing.T, d string) string { return write(t, d+"/p", static, 0o711) }, "not_readable", []string{"mode 0711"}},
		{"directory not searchable", func(t *testing.T, d string) string {
			p := write(t, d+"/closed/p", static, 0o755)
			must(t, os.Chmod(d+"/closed", 0o750))
			return p
		}, "not_readable", []string{"/closed is not searchable by others (mode 0750)"}},
		{"nothing is told of a closed directory", func(t *testing.T, d string) string {
			must(t, os.Mkdir(d+"/closed", 0o700))
			return d + "/closed/none/p"
		}, "not_readable", []string{"/closed is not searchable"}},
		{"empty", func(t *testing.T, d string) string { return write(t, d+"/p", nil, 0o755) }, "not_elf", []string{"empty"}},
		{"text", func(t *testing.T, d string) string { return write(t, d+"/p", []byte("hello"), 0o755) }, "not_elf", nil},
		{"python script", func(t *testing.T, d string) string {
			return write(t, d+"/p", []byte("#!/usr/bin/env -S python3 -u\n"), 0o755)
		}, "script", []string{`deploy it as source of the runtime "python"`}},
		{"unknown script", func(t *testing.T, d string) string { return write(t, d+"/p", []byte("#!/usr/bin/perl -w\n"), 0o755) }, "script", []string{`"perl"`, "name its runtime (bash, python, sh)"}},
		{"other architecture", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Machine: elftest.AArch64}.Bytes(), 0o755)
		}, "architecture", []string{"aarch64"}},
		{"32-bit", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Class: 1, Machine: elftest.X86}.Bytes(), 0o755)
		}, "architecture", []string{"x86 (32-bit)"}},
		{"object file", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Type: elftest.Rel}.Bytes(), 0o755)
		}, "not_executable", []string{"relocatable object"}},
		{"shared library", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Soname: "libx.so"}.Bytes(), 0o755)
		}, "not_executable", []string{"shared library"}},
		{"missing library", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Interp: interp, Needed: []string{"libsolo-none.so.1"}}.Bytes(), 0o755)
		}, "library", []string{`"libsolo-none.so.1"`, "needed by /app/p"}},
		{"missing interpreter", func(t *testing.T, d string) string {
			return write(t, d+"/p", elftest.Image{Interp: "/lib/ld-solo-none.so"}.Bytes(), 0o755)
		}, "interpreter", []string{`"/lib/ld-solo-none.so" does not exist`}},
		{"cut", func(t *testing.T, d string) string { return write(t, d+"/p", static[:60], 0o755) }, "malformed", []string{"malformed ELF file"}},
		{"huge", func(t *testing.T, d string) string {
			p := write(t, d+"/p", static, 0o755)
			must(t, os.Truncate(p, maxProgram+1))
			return p
		}, "too_large", []string{"1073741825 bytes", "at most 1073741824"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := place(t)
			l := library(t, dir)
			_, err := l.Resolve(hostPath(tt.lay(t, dir)))
			refused(t, err, "binary.path", tt.word, tt.texts...)
		})
	}
}

// TestRefusedDevice: nothing opens a device, not even to look.
func TestRefusedDevice(t *testing.T) {
	l := library(t, "/dev")
	for _, p := range []string{"/dev/null", "/dev/tty", "/dev/full"} {
		if _, err := os.Lstat(p); err != nil {
			continue
		}
		_, err := l.Resolve(hostPath(p))
		refused(t, err, "binary.path", "not_regular", "device")
	}
}

// TestPipeIsNotOpened: opening it would release whoever waits for a reader.
func TestPipeIsNotOpened(t *testing.T) {
	dir := place(t)
	p := filepath.Join(dir, "pipe")
	must(t, unix.Mkfifo(p, 0o777))
	_, err := library(t, dir).Resolve(hostPath(p))
	refused(t, err, "binary.path", "not_regular")
	if fd, err := unix.Open(p, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ENXIO) {
		_ = unix.Close(fd)
		t.Errorf("the pipe has a reader: %v", err)
	}
}

// TestNoexec is a file system from which nothing can be executed: that of a program
// by what the kernel says of it, that of an upload by its descriptor.
func TestNoexec(t *testing.T) {
	testenv.RequireRoot(t)
	dir := filepath.Join(place(t), "solo-noexec")
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("solo-noexec", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=755"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	l := library(t, dir)
	l.tree.mounts = []*controlv1.HostMount{{Path: "/"}, {Path: dir, Noexec: true}, {Path: dir + "2"}}
	_, err := l.Resolve(hostPath(write(t, dir+"/p", static, 0o755)))
	refused(t, err, "binary.path", "not_executable", "noexec")
	resolved(t, l, hostPath("/bin/sleep"))
	// The store there can hold source, and no programs.
	l.uploads = dir
	resolved(t, l, sourceOf(put(t, l, []byte("print()")), "a.py", ""))
	_, err = l.Resolve(uploaded(put(t, l, static)))
	var e *Error
	if !errors.As(err, &e) || e.Meta["step"] != "state directory" {
		t.Errorf("got %v", err)
	}
}

// TestSwapped exchanges the program, or its directory, for a link all the time: what
// is answered is the program itself or a refusal, never what the link leads to.
func TestSwapped(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	good := elftest.Image{Type: elftest.Exec, Padding: 1}.Bytes()
	other := elftest.Image{Type: elftest.Exec, Padding: 2}.Bytes()
	times := 2000
	if testenv.Long() {
		times = 100_000
	}
	for _, tt := range []struct{ name, swapped, with, seen string }{
		{"program", "d/p", "link-to-file", "symlink"},
		{"directory", "d", "link-to-directory", "outside_binary_paths"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, out := place(t), place(t)
			write(t, dir+"/d/p", good, 0o755)
			write(t, out+"/p", other, 0o755)
			must(t, os.Symlink(out+"/p", dir+"/link-to-file"))
			must(t, os.Symlink(out, dir+"/link-to-directory"))
			l := library(t, dir)
			var stop atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				for !stop.Load() {
					if err := unix.Renameat2(unix.AT_FDCWD, dir+"/"+tt.swapped, unix.AT_FDCWD, dir+"/"+tt.with, unix.RENAME_EXCHANGE); err != nil {
						t.Error(err)
						return
					}
				}
			})
			answers := map[string]int{}
			for i := 0; i < times || i < 50*times && (answers["ok"] == 0 || answers[tt.seen] == 0); i++ {
				code, err := l.Resolve(hostPath(dir + "/d/p"))
				var e *Error
				switch {
				case err == nil && code.Digest == digestOf(good) && code.Mounts[0].Source == dir+"/d/p":
					answers["ok"]++
				case errors.As(err, &e) && slices.Contains([]string{"symlink", "outside_binary_paths", "changed"}, e.Meta["problem"]):
					answers[e.Meta["problem"]]++
				default:
					t.Errorf("answer %+v, %v", code, err)
				}
			}
			stop.Store(true)
			wg.Wait()
			t.Log(answers)
			if answers["ok"] == 0 || answers[tt.seen] == 0 {
				t.Errorf("the race was not seen: %v", answers)
			}
		})
	}
}
