package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

var anyDigest = "sha256:" + strings.Repeat("0a", 32)

// goodCode is an answer that the kernel takes.
func goodCode() *controlv1.Code {
	return &controlv1.Code{
		Runtime: "python", Program: "/usr/bin/python3", Argv: []string{"python3", "$FILE"}, File: "/app/x.py", Env: []string{"A=b"},
		SeccompProfile: "default", StartupTimeoutMs: 5000,
		Mounts: []*controlv1.CodeMount{
			{Target: "/app/x.py", Artifact: true}, {Source: "/usr/bin/python3.11", Target: "/usr/bin/python3"}, {Source: "/opt/lib", Target: "/usr/lib", Directory: true},
		},
	}
}

func checker() *Kernel {
	k := quiet()
	k.boot = &controlv1.Boot{StateDir: "/var/lib/solo", RunDir: "/srv/run"}
	return k
}

func TestCheckCode(t *testing.T) {
	got, err := checker().checkCode(goodCode(), anyDigest)
	if err != nil {
		t.Fatal(err)
	}
	want := manifest.Code{
		Runtime: "python", Digest: anyDigest, Program: "/usr/bin/python3", Argv: []string{"python3", "$FILE"}, File: "/app/x.py", Env: []string{"A=b"},
		Profile: "default", StartupTimeoutMs: 5000,
		Mounts: []manifest.Mount{
			{Target: "/app/x.py", Artifact: true}, {Source: "/usr/bin/python3.11", Target: "/usr/bin/python3"}, {Source: "/opt/lib", Target: "/usr/lib", Directory: true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The digest of an artifact is the kernel's own; that of a host's program is not.
	lie := goodCode()
	lie.Digest = "sha256:" + strings.Repeat("0b", 32)
	if got, err = checker().checkCode(lie, anyDigest); err != nil || got.Digest != anyDigest {
		t.Errorf("%s, %v", got.Digest, err)
	}
	lie.Mounts = lie.Mounts[1:]
	if got, err = checker().checkCode(lie, ""); err != nil || got.Digest != lie.GetDigest() {
		t.Errorf("%s, %v", got.Digest, err)
	}
}

// TestCheckCodeRefuses what an honest solo-fs does not say.
func TestCheckCodeRefuses(t *testing.T) {
	mount := func(source, target string) func(*controlv1.Code) {
		return func(c *controlv1.Code) { c.Mounts[1] = &controlv1.CodeMount{Source: source, Target: target} }
	}
	lies := map[string]func(*controlv1.Code){
		"nothing":                 func(c *controlv1.Code) { proto.Reset(c) },
		"no profile":              func(c *controlv1.Code) { c.SeccompProfile = "" },
		"profile of the kernel":   func(c *controlv1.Code) { c.SeccompProfile = "kernel" },
		"profile of solo-net":     func(c *controlv1.Code) { c.SeccompProfile = "net" },
		"no runtime":              func(c *controlv1.Code) { c.Runtime = "" },
		"long runtime":            func(c *controlv1.Code) { c.Runtime = strings.Repeat("x", 65) },
		"no argv":                 func(c *controlv1.Code) { c.Argv = nil },
		"many words":              func(c *controlv1.Code) { c.Env = make([]string, maxCodeWords) },
		"large words":             func(c *controlv1.Code) { c.Argv = []string{strings.Repeat("x", maxCodeBytes)} },
		"NUL in argv":             func(c *controlv1.Code) { c.Argv = []string{"a\x00b"} },
		"NUL in env":              func(c *controlv1.Code) { c.Env = []string{"a=\x00"} },
		"NUL in runtime":          func(c *controlv1.Code) { c.Runtime = "\x00" },
		"endless start":           func(c *controlv1.Code) { c.StartupTimeoutMs = maxStartupMs + 1 },
		"relative program":        func(c *controlv1.Code) { c.Program = "usr/bin/x" },
		"no program":              func(c *controlv1.Code) { c.Program = "" },
		"program in /proc":        func(c *controlv1.Code) { c.Program = "/proc/self/exe" },
		"file in /dev":            func(c *controlv1.Code) { c.File = "/dev/x" },
		"file by dots":            func(c *controlv1.Code) { c.File = "/app/../proc/x" },
		"many mounts":             func(c *controlv1.Code) { c.Mounts = make([]*controlv1.CodeMount, maxCodeMounts+1) },
		"empty mount":             func(c *controlv1.Code) { c.Mounts[1] = nil },
		"artifact with a path":    func(c *controlv1.Code) { c.Mounts[0].Source = "/usr/bin/x" },
		"artifact as a directory": func(c *controlv1.Code) { c.Mounts[0].Directory = true },
		"relative source":         mount("usr/bin", "/usr/bin"),
		"source by dots":          mount("/usr/../etc", "/usr/bin"),
		"source with NUL":         mount("/usr/\x00", "/usr/bin"),
		"the root":                mount("/", "/usr/bin"),
		"source with a slash":     mount("/usr/", "/usr/bin"),
		"long source":             mount("/"+strings.Repeat("x", 4096), "/usr/bin"),
		"state":                   mount("/var/lib/solo", "/usr/bin"),
		"state file":              mount("/var/lib/solo/root.token", "/usr/bin/x"),
		"socket directory":        mount("/srv/run/api.sock", "/usr/bin/x"),
		"host's proc":             mount("/proc/1/root", "/usr/bin"),
		"host's sys":              mount("/sys", "/usr/bin"),
		"host's dev":              mount("/dev/vda", "/usr/bin/x"),
		"host's run":              mount("/run", "/usr/bin"),
		"over the root":           mount("/usr/bin", "/"),
		"over /proc":              mount("/usr/bin", "/proc"),
		"over notify":             mount("/usr/bin/x", "/run/notify"),
		"over /tmp":               mount("/usr/bin", "/tmp"),
		"into /dev":               mount("/usr/bin/x", "/dev/null"),
		"into /sys":               mount("/usr/bin", "/sys/x"),
		"target by dots":          mount("/usr/bin", "/usr/../tmp"),
		"relative target":         mount("/usr/bin", "x"),
		"no target":               mount("/usr/bin", ""),
	}
	for name, lie := range lies {
		c := goodCode()
		lie(c)
		if got, err := checker().checkCode(c, anyDigest); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	// An artifact where the code is none, and a host's program without a digest.
	for _, digest := range []string{anyDigest, "", "sha256:x"} {
		c := goodCode()
		c.Digest = digest
		if digest != anyDigest {
			c.Mounts = c.Mounts[1:]
		}
		if _, err := checker().checkCode(c, ""); err == nil {
			t.Errorf("digest %q", digest)
		}
	}
}

// FuzzCheckCode holds what a lease relies on for every answer that is taken.
func FuzzCheckCode(f *testing.F) {
	for _, c := range []*controlv1.Code{goodCode(), {}, {Mounts: []*controlv1.CodeMount{{Source: "/a/..", Target: "/proc"}}}} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, artifact bool) {
		c, digest := &controlv1.Code{}, ""
		if proto.Unmarshal(b, c) != nil {
			return
		}
		if artifact {
			digest = anyDigest
		}
		got, err := checker().checkCode(c, digest)
		if err != nil {
			return
		}
		for _, m := range got.Mounts {
			if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || strings.HasPrefix(m.Target, "/proc") && len(m.Target) == 5 {
				t.Errorf("target %q", m.Target)
			}
			if m.Artifact != (m.Source == "") || m.Artifact && !artifact || !m.Artifact && filepath.Clean(m.Source) != m.Source {
				t.Errorf("source %q", m.Source)
			}
		}
		if len(got.Mounts) > maxCodeMounts || strings.Contains(strings.Join(slices.Concat(got.Argv, got.Env), ""), "\x00") || manifest.CheckDigest(got.Digest) != "" {
			t.Errorf("taken: %+v", got)
		}
	})
}

// public is a directory that others may enter.
func public(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err == nil {
		err = os.Chmod(filepath.Dir(dir), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOpenHost opens what others may read, and nothing by way of a link.
func TestOpenHost(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Leaks(t, testenv.Scope{})
	dir := public(t)
	lay := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"good": 0o755, "private": 0o700, "unsearchable": 0o754, "unreadable": 0o751} {
		d := filepath.Join(dir, name)
		lay(os.Mkdir(d, 0o700), os.WriteFile(d+"/file", nil, 0o600), os.Chmod(d+"/file", 0o644), os.WriteFile(d+"/secret", nil, 0o640), os.Chmod(d, mode))
	}
	lay(os.Symlink("good", dir+"/link"), os.Symlink("file", dir+"/good/link"), os.Symlink("/", dir+"/good/root"))
	for p, want := range map[string]error{
		"good": nil, "good/file": nil, "unreadable/file": nil,
		"good/secret": unix.EACCES, "private": unix.EACCES, "private/file": unix.EACCES,
		"unsearchable": unix.EACCES, "unsearchable/file": unix.EACCES, "unreadable": unix.EACCES,
		"link/file": unix.ENOTDIR, "good/root/etc": unix.ENOTDIR, "good/file/x": unix.ENOTDIR, "none": unix.ENOENT,
	} {
		f, err := openHost(filepath.Join(dir, p))
		if !errors.Is(err, want) || want != nil && f != nil {
			t.Errorf("%s: %v, want %v", p, err, want)
		}
		if f != nil {
			info, err := f.Stat()
			real, lerr := os.Lstat(filepath.Join(dir, p))
			if err != nil || lerr != nil || !os.SameFile(info, real) {
				t.Errorf("%s is another file: %v %v", p, err, lerr)
			}
			_ = f.Close()
		}
	}
	// A link as the last element is opened itself, and is no file to be mounted.
	if f, err := openHost(dir + "/good/link"); err == nil {
		info, err := f.Stat()
		if err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		_ = f.Close()
	}
}

// TestHostFilesystems: the root's, and what is mounted on the way to a binary path.
func TestHostFilesystems(t *testing.T) {
	testenv.RequireRoot(t)
	dir := public(t)
	outer, inner := dir+"/outer", dir+"/outer/a/inner"
	for _, m := range []struct {
		at    string
		flags uintptr
	}{{outer, 0}, {inner, unix.MS_NOEXEC}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("solo-test", m.at, "tmpfs", m.flags, "size=64k,mode=755"); err != nil {
			t.Skipf("mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(m.at, unix.MNT_DETACH) })
	}
	if err := errors.Join(os.MkdirAll(inner+"/bin", 0o755), os.Symlink(inner+"/bin", dir+"/bin")); err != nil {
		t.Fatal(err)
	}
	below := func(paths ...string) []*controlv1.HostMount {
		return slices.DeleteFunc(hostFilesystems(paths), func(m *controlv1.HostMount) bool { return !strings.HasPrefix(m.GetPath(), dir) })
	}
	for _, c := range []struct {
		paths []string
		want  []*controlv1.HostMount
	}{
		{[]string{dir + "/bin", dir + "/none", "", "x", "/proc", "/dev/shm"}, []*controlv1.HostMount{{Path: outer}, {Path: inner, Noexec: true}}},
		{[]string{outer + "/a", outer}, []*controlv1.HostMount{{Path: outer}}},
		{[]string{dir}, nil},
	} {
		if diff := cmp.Diff(c.want, below(c.paths...), protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.paths, diff)
		}
	}
	all := hostFilesystems([]string{"/proc", "/sys", "/dev", "/run"})
	for i, m := range all {
		if (i == 0) != (m.GetPath() == "/") || strings.HasPrefix(m.GetPath(), "/proc") || strings.HasPrefix(m.GetPath(), "/dev") {
			t.Errorf("mount %d is %v", i, m)
		}
	}
}

// TestReadRuntimes: which files are read, in which order, and which may be missing.
func TestReadRuntimes(t *testing.T) {
	write := func(dir, name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := func(programs string, dirs ...string) ([]*controlv1.RuntimeFile, error) {
		k := quiet()
		k.boot = &controlv1.Boot{ProgramDir: programs, Config: &controlv1.Config{RuntimePaths: dirs}}
		f, err := newFilesystem(k)
		if err != nil {
			return nil, err
		}
		return f.runtimes, nil
	}
	first, second, programs := t.TempDir(), t.TempDir(), t.TempDir()
	want := []*controlv1.RuntimeFile{
		{Path: write(first, "a.textproto", "A"), Text: []byte("A")}, {Path: write(first, "b.textproto", ""), Text: []byte{}}, {Path: write(second, "a.textproto", "\xff"), Text: []byte("\xff")},
	}
	write(first, "README", "no")
	write(first, "c.textproto.bak", "no")
	got, err := read(programs, first, second)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := read(programs, first, first+"/none"); err == nil {
		t.Errorf("a missing directory of the configuration: %v", got)
	}
	before, err := read(programs)
	if err != nil {
		t.Fatal(err)
	}
	write(programs+"/runtimes", "x.textproto", "X")
	if after, err := read(programs); err != nil || len(after) != len(before)+1 {
		t.Errorf("beside the programs: %v, %v", after, err)
	}
	for name, lay := range map[string]func(p string) error{
		"is larger than 32768 bytes": func(p string) error { return os.WriteFile(p, make([]byte, maxRuntime+1), 0o644) },
		"is not a regular file":      func(p string) error { return unix.Mkfifo(p, 0o644) },
		"no such file":               func(p string) error { return os.Symlink("gone", p) },
		"there are more than 256": func(p string) error {
			for i := range maxRuntimes {
				write(filepath.Dir(p), fmt.Sprintf("%d.textproto", i), "")
			}
			return os.WriteFile(p, nil, 0o644)
		},
	} {
		p := filepath.Join(t.TempDir(), "x.textproto")
		if err := lay(p); err != nil {
			t.Fatal(err)
		}
		if _, err := read(programs, filepath.Dir(p)); err == nil || !strings.Contains(err.Error(), "runtime descriptor "+p+": ") || !strings.Contains(err.Error(), name) {
			t.Errorf("%v; want %q", err, name)
		}
	}
}
