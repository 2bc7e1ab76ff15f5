package elfdeps_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
)

// TestRefusals has every kind of error that a program can cause.
func TestRefusals(t *testing.T) {
	missing := func(name string) error { return &elfdeps.MissingLibraryError{Name: name, NeededBy: "/p"} }
	library := func(path string, err error) error { return &elfdeps.LibraryError{Path: path, Err: err} }
	interpreter := func(path, reason string) error { return &elfdeps.InterpreterError{Path: path, Reason: reason} }
	image := func(i elftest.Image) string { return string(i.Bytes()) }
	for _, tt := range []struct {
		name    string
		host    tree
		program string
		want    error
	}{
		{"empty", nil, "", elfdeps.ErrNotELF},
		{"text", nil, "hello", elfdeps.ErrNotELF},
		{"half a magic", nil, "\x7fEL", elfdeps.ErrNotELF},
		{"script", nil, "#!/bin/sh\n", elfdeps.ErrScript},
		{"magic only", nil, "\x7fELF", elfdeps.ErrMalformed},
		{"class 3", nil, image(elftest.Image{Class: 3}), elfdeps.ErrMalformed},
		{"byte order 3", nil, image(elftest.Image{Order: 3}), elfdeps.ErrMalformed},
		{"header cut", nil, image(elftest.Image{})[:63], elfdeps.ErrMalformed},
		{"program headers cut", nil, image(elftest.Image{})[:100], elfdeps.ErrMalformed},
		{"32-bit", nil, image(elftest.Image{Class: 1, Machine: elftest.X86}), &elfdeps.ArchitectureError{Architecture: "x86 (32-bit)"}},
		{"x32", nil, image(elftest.Image{Class: 1}), &elfdeps.ArchitectureError{Architecture: "x86_64 (32-bit)"}},
		{"arm64", nil, image(elftest.Image{Machine: elftest.AArch64}), &elfdeps.ArchitectureError{Architecture: "aarch64 (64-bit)"}},
		{"big-endian", nil, image(elftest.Image{Machine: 22, Order: 2}), &elfdeps.ArchitectureError{Architecture: "s390 (64-bit, big-endian)"}},
		{"unknown machine", nil, image(elftest.Image{Machine: 9999}), &elfdeps.ArchitectureError{Architecture: "machine number 9999 (64-bit)"}},
		{"object file", nil, image(elftest.Image{Type: elftest.Rel}), &elfdeps.NotExecutableError{Kind: "relocatable object"}},
		{"core dump", nil, image(elftest.Image{Type: elftest.Core}), &elfdeps.NotExecutableError{Kind: "core dump"}},
		{"odd type", nil, image(elftest.Image{Type: 77}), &elfdeps.NotExecutableError{Kind: "file of ELF type 77"}},
		{"shared library", nil, image(lib("libx.so")), &elfdeps.NotExecutableError{Kind: "shared library"}},
		{"library without entry", nil, image(elftest.Image{NoEntry: true}), &elfdeps.NotExecutableError{Kind: "shared library"}},
		{"no entry", nil, image(elftest.Image{NoEntry: true, Type: elftest.Exec}), &elfdeps.NotExecutableError{Kind: "file without an entry point"}},

		{"no interpreter", nil, image(elftest.Image{Interp: "/lib64/ld-none.so"}), interpreter("/lib64/ld-none.so", "does not exist")},
		{"relative interpreter", nil, image(elftest.Image{Interp: "ld.so"}), interpreter("ld.so", "is not a usable absolute path")},
		{"interpreter not clean", nil, image(elftest.Image{Interp: "/lib64/../x"}), interpreter("/lib64/../x", "is not a usable absolute path")},
		{"interpreter in /tmp", tree{"/tmp/ld.so": lib("")}, image(elftest.Image{Interp: "/tmp/ld.so"}), interpreter("/tmp/ld.so", "is not a usable absolute path")},
		{"interpreter a link to /proc", tree{"/usr/ld": link("/proc/ld"), "/proc/ld": lib("")}, image(elftest.Image{Interp: "/usr/ld"}), interpreter("/usr/ld", "does not exist")},
		{"interpreter a directory", nil, image(elftest.Image{Interp: "/usr/lib"}), interpreter("/usr/lib", "does not exist")},
		{"interpreter a text", tree{"/o/ld": "text"}, image(elftest.Image{Interp: "/o/ld"}), interpreter("/o/ld", "cannot be used: not an ELF file")},
		{"interpreter unreadable", tree{"/o/ld": private(lib("").Bytes())}, image(elftest.Image{Interp: "/o/ld"}), interpreter("/o/ld", "does not exist")},
		{"interpreter for arm64", tree{"/o/ld": elftest.Image{Machine: elftest.AArch64}}, image(elftest.Image{Interp: "/o/ld"}), interpreter("/o/ld", "cannot be used: a program for aarch64 (64-bit), not for this machine")},
		{"empty interpreter", nil, image(elftest.Image{Interp: "\x00"}), elfdeps.ErrMalformed},

		{"missing", nil, image(glibc("libnone.so")), missing("libnone.so")},
		{"missing in a library", tree{gnu + "liba.so": lib("", "libnone.so")}, image(glibc("liba.so")), &elfdeps.MissingLibraryError{Name: "libnone.so", NeededBy: "/lib/x86_64-linux-gnu/liba.so"}},
		{"dangling link", tree{gnu + "liba.so": link("gone")}, image(glibc("liba.so")), missing("liba.so")},
		{"link loop", tree{gnu + "liba.so": link("libb.so"), gnu + "libb.so": link("liba.so")}, image(glibc("liba.so")), missing("liba.so")},
		{"unreadable", tree{gnu + "liba.so": private(lib("").Bytes())}, image(glibc("liba.so")), missing("liba.so")},
		{"below an unsearchable directory", tree{"/o/closed": dir(0o700), "/o/closed/a.so": lib("")}, image(glibc("/o/closed/a.so")), missing("/o/closed/a.so")},
		{"below a file", tree{"/o/f": "x"}, image(glibc("/o/f/a.so")), missing("/o/f/a.so")},
		{"in /proc", tree{"/proc/1/root/a.so": lib("")}, image(glibc("/proc/1/root/a.so")), missing("/proc/1/root/a.so")},
		{"in /var/run", tree{"/var/run/a.so": lib("")}, image(glibc("/var/run/a.so")), missing("/var/run/a.so")},
		{"a link into /tmp", tree{"/tmp/a.so": lib(""), "/o/a.so": link("/tmp/a.so")}, image(glibc("/o/a.so")), missing("/o/a.so")},
		{"relative with a slash", tree{"/o/a.so": lib("")}, image(glibc("o/a.so")), missing("o/a.so")},
		{"a directory", tree{gnu + "liba.so": dir(0o755)}, image(glibc("liba.so")), missing("liba.so")},
		{"no default directories", tree{gnu + "liba.so": lib("")}, image(elftest.Image{Interp: glibcLoader, Needed: []string{"liba.so"}, Flags1: elftest.NoDefLib}), missing("liba.so")},
		{"only in a cache for another machine", tree{"/o/liba.so": lib(""), "/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so", Flags: 0x0003})}, image(glibc("liba.so")), missing("liba.so")},
		{"only in a cache for newer processors", tree{"/o/liba.so": lib(""), "/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so", Hwcap: 1 << 62})}, image(glibc("liba.so")), missing("liba.so")},
		{"musl does not read the cache", tree{"/o/liba.so": lib(""), "/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"})}, image(musl("liba.so")), missing("liba.so")},

		{"a library that is a text", tree{gnu + "liba.so": "GROUP ( libc.so.6 )"}, image(glibc("liba.so")), library("/lib/x86_64-linux-gnu/liba.so", elfdeps.ErrNotELF)},
		{"a library that is cut", tree{gnu + "liba.so": lib("liba.so").Bytes()[:70]}, image(glibc("liba.so")), library("/lib/x86_64-linux-gnu/liba.so", elfdeps.ErrMalformed)},
		{"a library for another machine by path", tree{"/o/a.so": elftest.Image{Machine: elftest.AArch64}}, image(glibc("/o/a.so")), library("/o/a.so", &elfdeps.ArchitectureError{Architecture: "aarch64 (64-bit)"})},
		{"a program for a library", tree{"/o/a.so": elftest.Image{Type: elftest.Exec}}, image(glibc("/o/a.so")), library("/o/a.so", errors.New("not a shared library"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := merged(tt.host).lay(t)
			c, err := elfdeps.Resolve(strings.NewReader(tt.program), "/p", host)
			if !same(err, tt.want) {
				t.Errorf("got  %T %v\nwant %T %v", err, err, tt.want, tt.want)
			}
			if diff := cmp.Diff(elfdeps.Closure{}, c); diff != "" {
				t.Errorf("a closure beside an error:\n%s", diff)
			}
		})
	}
}

// same compares typed errors by type and text, and others by identity.
func same(got, want error) bool {
	var a, b *elfdeps.LibraryError
	if errors.As(got, &a) && errors.As(want, &b) {
		return a.Path == b.Path && same(a.Err, b.Err)
	}
	return errors.Is(got, want) || fmt.Sprintf("%T %v", got, got) == fmt.Sprintf("%T %v", want, want)
}

func TestArchitectureOfHost(t *testing.T) {
	host := merged(nil).lay(t)
	host.Architecture = "riscv64"
	if _, err := resolve(t, elftest.Image{}, "/p", host); err == nil || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("got %v", err)
	}
	host.Architecture = "arm64"
	if c, err := resolve(t, elftest.Image{Machine: elftest.AArch64}, "/p", host); err != nil || !c.Static {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestReadError keeps what the reader said.
func TestReadError(t *testing.T) {
	if _, err := elfdeps.Resolve(failing{}, "/p", elfdeps.Host{}); err == nil || !strings.Contains(err.Error(), "closed pipe") {
		t.Errorf("got %v", err)
	}
}

// TestSearchIsBounded: a program can name many directories, and libraries that are in
// the last of them.
func TestSearchIsBounded(t *testing.T) {
	const libraries, directories = 120, 500
	var dirs, needed []string
	files := tree{}
	for i := range directories {
		dirs = append(dirs, fmt.Sprintf("/usr/lib/d%d", i))
		files[dirs[i]+"/x"] = ""
	}
	for i := range libraries {
		needed = append(needed, fmt.Sprintf("l%d.so", i))
		files[dirs[directories-1]+"/"+needed[i]] = lib("")
	}
	host := merged(files).lay(t)
	p := glibc(needed...)
	p.Rpath = strings.Join(dirs, ":")
	if _, err := resolve(t, p, "/p", host); !errors.Is(err, elfdeps.ErrTooLong) {
		t.Errorf("got %v", err)
	}
	p.Rpath = strings.Join(dirs[directories-10:], ":")
	if c, err := resolve(t, p, "/p", host); err != nil || len(c.Files) != libraries+1 {
		t.Errorf("with few directories: %d files, %v", len(c.Files), err)
	}
}

// TestCut cuts a program anywhere: an error, and of a known kind, or the same answer.
func TestCut(t *testing.T) {
	host := merged(tree{gnu + "liba.so": lib("liba.so")}).lay(t)
	whole := elftest.Image{Interp: glibcLoader, Needed: []string{"liba.so"}, Runpath: "$ORIGIN/x"}.Bytes()
	if _, err := elfdeps.Resolve(strings.NewReader(string(whole)), "/p", host); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		_, err := elfdeps.Resolve(strings.NewReader(string(whole[:n])), "/p", host)
		if err == nil || !known(err) {
			t.Errorf("first %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// known tells whether Resolve's documentation promises the error.
func known(err error) bool {
	var (
		architecture *elfdeps.ArchitectureError
		kind         *elfdeps.NotExecutableError
		interpreter  *elfdeps.InterpreterError
		missing      *elfdeps.MissingLibraryError
		library      *elfdeps.LibraryError
	)
	for _, e := range []error{elfdeps.ErrScript, elfdeps.ErrNotELF, elfdeps.ErrMalformed, elfdeps.ErrTooMany, elfdeps.ErrTooLong} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &architecture) || errors.As(err, &kind) || errors.As(err, &interpreter) ||
		errors.As(err, &missing) || errors.As(err, &library)
}

// TestLies overwrites numbers of a good program with others.
func TestLies(t *testing.T) {
	host := merged(tree{gnu + "liba.so": lib("liba.so")}).lay(t)
	whole := elftest.Image{Interp: glibcLoader, Needed: []string{"liba.so"}, Rpath: "/a:/b", Runpath: "$ORIGIN"}.Bytes()
	rapid.Check(t, func(t *rapid.T) {
		b := append([]byte(nil), whole...)
		for range rapid.IntRange(1, 4).Draw(t, "lies") {
			at := rapid.IntRange(4, len(b)-8).Draw(t, "at")
			value := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, 1 << 31, 1 << 62, 1<<63 - 1, 1 << 63, ^uint64(0)})).Draw(t, "value")
			switch rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "size") {
			case 1:
				b[at] = byte(value)
			case 2:
				binary.LittleEndian.PutUint16(b[at:], uint16(value))
			case 4:
				binary.LittleEndian.PutUint32(b[at:], uint32(value))
			default:
				binary.LittleEndian.PutUint64(b[at:], value)
			}
		}
		check(t, string(b), host)
	})
}

// check holds what is true for every program, however hostile.
func check(t interface{ Fatalf(string, ...any) }, program string, host elfdeps.Host) {
	c, err := elfdeps.Resolve(strings.NewReader(program), "/app/p", host)
	if err != nil {
		if !known(err) {
			t.Fatalf("unknown error %T: %v", err, err)
		}
		return
	}
	if c.Static {
		if len(c.Files)+len(c.Links) > 0 || c.Interpreter != "" {
			t.Fatalf("static, and more: %+v", c)
		}
		return
	}
	if len(c.Files) == 0 || len(c.Files) > elfdeps.MaxFiles {
		t.Fatalf("%d files", len(c.Files))
	}
	for _, f := range c.Files {
		for _, p := range []string{f.Source, f.Target} {
			if !strings.HasPrefix(p, "/") || strings.Contains(p, "/../") || strings.ContainsRune(p, 0) {
				t.Fatalf("path %q", p)
			}
			for _, own := range []string{"/proc/", "/sys/", "/dev/", "/run/", "/tmp/"} {
				if strings.HasPrefix(p, own) {
					t.Fatalf("path %q lies in %s", p, own)
				}
			}
		}
	}
}

// FuzzResolve looks for any file among libraries of a host.
func FuzzResolve(f *testing.F) {
	host := merged(tree{gnu + "liba.so": lib("liba.so", "libb.so"), gnu + "libb.so": lib("libb.so"), "/proc/liba.so": lib("")}).lay(f)
	for _, i := range []elftest.Image{
		{}, glibc("liba.so"), musl("liba.so"), glibc("/proc/liba.so"), glibc("../../proc/liba.so"),
		{Interp: glibcLoader, Needed: []string{"liba.so"}, Runpath: "$ORIGIN/../proc:/proc"},
	} {
		f.Add(i.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) { check(t, string(b), host) })
}
