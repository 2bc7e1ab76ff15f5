package elfdeps_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
)

const gnu = "/usr/lib/x86_64-linux-gnu/"

// TestSearch holds the order of the loaders. Files are those after the interpreter.
func TestSearch(t *testing.T) {
	with := func(i elftest.Image, change func(*elftest.Image)) elftest.Image {
		change(&i)
		return i
	}
	rpath := func(i elftest.Image, dirs string) elftest.Image {
		return with(i, func(i *elftest.Image) { i.Rpath = dirs })
	}
	runpath := func(i elftest.Image, dirs string) elftest.Image {
		return with(i, func(i *elftest.Image) { i.Runpath = dirs })
	}
	a := lib("liba.so")
	for _, tt := range []struct {
		name    string
		host    tree
		program elftest.Image
		at      string
		want    []string // target, or target=source
	}{
		{"default directory", tree{gnu + "liba.so": a}, glibc("liba.so"), "/usr/bin/p", []string{gnu + "liba.so"}},
		{"multiarch before plain", tree{gnu + "liba.so": a, "/usr/lib/liba.so": a}, glibc("liba.so"), "/p", []string{gnu + "liba.so"}},
		{"link in a default directory", tree{gnu + "liba.so": link("liba.so.1"), gnu + "liba.so.1": a}, glibc("liba.so"), "/p", []string{gnu + "liba.so=" + gnu + "liba.so.1"}},
		{"breadth first", tree{gnu + "liba.so": lib("liba.so", "libc1.so"), gnu + "libb.so": lib("libb.so", "libc2.so"), gnu + "libc1.so": lib(""), gnu + "libc2.so": lib("")},
			glibc("liba.so", "libb.so"), "/p", []string{gnu + "liba.so", gnu + "libb.so", gnu + "libc1.so", gnu + "libc2.so"}},
		{"cycle", tree{gnu + "liba.so": lib("liba.so", "libb.so"), gnu + "libb.so": lib("libb.so", "liba.so")}, glibc("liba.so"), "/p", []string{gnu + "liba.so", gnu + "libb.so"}},
		{"diamond", tree{gnu + "liba.so": lib("", "libd.so"), gnu + "libb.so": lib("", "libd.so"), gnu + "libd.so": lib("")}, glibc("liba.so", "libb.so"), "/p", []string{gnu + "liba.so", gnu + "libb.so", gnu + "libd.so"}},
		{"by soname of one loaded", tree{"/o/other.so": lib("liba.so")}, glibc("/o/other.so", "liba.so"), "/p", []string{"/o/other.so"}},
		{"the loader's own soname", nil, glibc("ld-linux-x86-64.so.2"), "/p", nil},
		{"path with a slash", tree{"/o/x.so": a}, glibc("/o/x.so"), "/p", []string{"/o/x.so"}},
		{"two names of one file", tree{"/o/a.so": lib(""), "/o/b.so": link("a.so")}, glibc("/o/a.so", "/o/b.so"), "/p", []string{"/o/a.so", "/o/b.so=/o/a.so"}},
		{"rpath before cache", tree{"/r/liba.so": a, "/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}), "/o/liba.so": a}, rpath(glibc("liba.so"), "/r"), "/p", []string{"/r/liba.so"}},
		{"runpath before cache", tree{"/r/liba.so": a, "/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}), "/o/liba.so": a}, runpath(glibc("liba.so"), "/r"), "/p", []string{"/r/liba.so"}},
		{"runpath silences rpath", tree{"/r/liba.so": a, gnu + "liba.so": a}, runpath(rpath(glibc("liba.so"), "/r"), "/none"), "/p", []string{gnu + "liba.so"}},
		{"rpath is inherited", tree{"/r/libb.so": lib(""), "/r/liba.so": lib("", "libb.so")}, rpath(glibc("liba.so"), "/r"), "/p", []string{"/r/liba.so", "/r/libb.so"}},
		{"several rpaths, first wins", tree{"/r1/x": "", "/r2/liba.so": a, "/r3/liba.so": a}, rpath(glibc("liba.so"), "/r1:/r2:/r3"), "/p", []string{"/r2/liba.so"}},
		{"relative rpath is nothing", tree{gnu + "liba.so": a, "/lib2/liba.so": a}, rpath(glibc("liba.so"), "lib2:."), "/p", []string{gnu + "liba.so"}},
		{"origin", tree{"/opt/p/lib/liba.so": a, "/opt/p/bin/p": ""}, runpath(glibc("liba.so"), "$ORIGIN/../lib"), "/opt/p/bin/p", []string{"/opt/p/lib/liba.so"}},
		{"origin in braces", tree{"/opt/p/bin/liba.so": a}, runpath(glibc("liba.so"), "${ORIGIN}"), "/opt/p/bin/p", []string{"/opt/p/bin/liba.so"}},
		{"origin of a library", tree{"/o/liba.so": runpath(lib("", "libb.so"), "$ORIGIN/sub"), "/o/sub/libb.so": lib("")}, glibc("/o/liba.so"), "/p", []string{"/o/liba.so", "/o/sub/libb.so"}},
		{"unknown origin", tree{gnu + "liba.so": a, "/liba.so": a}, runpath(glibc("liba.so"), "$ORIGIN"), "", []string{gnu + "liba.so"}},
		{"LIB", tree{"/o/lib/x86_64-linux-gnu/liba.so": a}, runpath(glibc("liba.so"), "/o/$LIB"), "/p", []string{"/o/lib/x86_64-linux-gnu/liba.so"}},
		{"PLATFORM", tree{"/o/x86_64/liba.so": a}, runpath(glibc("liba.so"), "/o/${PLATFORM}"), "/p", []string{"/o/x86_64/liba.so"}},
		{"unknown token", tree{gnu + "liba.so": a, "/o/$HOME/liba.so": a}, runpath(glibc("liba.so"), "/o/$HOME"), "/p", []string{gnu + "liba.so"}},
		{"another machine is passed over", tree{"/r/liba.so": elftest.Image{Machine: elftest.X86, Class: 1}, gnu + "liba.so": a}, rpath(glibc("liba.so"), "/r"), "/p", []string{gnu + "liba.so"}},
		{"cache", tree{"/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}), "/o/liba.so": a}, glibc("liba.so"), "/p", []string{"/etc/ld.so.cache", "/o/liba.so"}},
		{"cache behind the old format", tree{"/etc/ld.so.cache": elftest.Cache(true, elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}), "/o/liba.so": a}, glibc("liba.so"), "/p", []string{"/etc/ld.so.cache", "/o/liba.so"}},
		{"cache of a default directory is not needed inside", tree{"/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/lib/x86_64-linux-gnu/liba.so"}), gnu + "liba.so": a}, glibc("liba.so"), "/p", []string{gnu + "liba.so"}},
		{"stale cache", tree{"/etc/ld.so.cache": elftest.Cache(false, elftest.CacheEntry{Name: "liba.so", Path: "/gone/liba.so"}), gnu + "liba.so": a}, glibc("liba.so"), "/p", []string{gnu + "liba.so"}},
		{"garbage for a cache", tree{"/etc/ld.so.cache": "garbage", gnu + "liba.so": a}, glibc("liba.so"), "/p", []string{gnu + "liba.so"}},
		{"musl", tree{"/usr/lib/liba.so": a}, musl("libc.musl-x86_64.so.1", "liba.so"), "/p", []string{"/usr/lib/liba.so"}},
		{"musl is its own libc", nil, musl("libc.so", "libpthread.so.0", "libm.so.6", "libdl.so.2"), "/p", nil},
		{"musl's path file", tree{"/etc/ld-musl-x86_64.path": "/m1:/m2\n/m3", "/m3/liba.so": a}, musl("liba.so"), "/p", []string{"/etc/ld-musl-x86_64.path", "/m3/liba.so"}},
		{"musl's path file replaces the defaults", tree{"/etc/ld-musl-x86_64.path": "/m1", "/m1/liba.so": a, "/usr/lib/liba.so": a}, musl("liba.so"), "/p", []string{"/etc/ld-musl-x86_64.path", "/m1/liba.so"}},
		{"musl inherits runpath", tree{"/r/liba.so": lib("", "libb.so"), "/r/libb.so": lib("")}, runpath(musl("liba.so"), "/r"), "/p", []string{"/r/liba.so", "/r/libb.so"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := merged(tt.host).lay(t)
			c, err := resolve(t, tt.program, tt.at, host)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range c.Files[1:] {
				if f.Source == f.Target {
					got = append(got, f.Target)
				} else {
					got = append(got, f.Target+"="+f.Source)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInterpreterAndLinks(t *testing.T) {
	c, err := resolve(t, glibc(), "/p", merged(nil).lay(t))
	if err != nil {
		t.Fatal(err)
	}
	want := elfdeps.Closure{
		Interpreter: glibcLoader,
		Files:       []elfdeps.Mount{{Target: "/usr/lib64/ld-linux-x86-64.so.2", Source: gnu + "ld-linux-x86-64.so.2"}},
		Links:       []elfdeps.Link{{Path: "/lib64", Target: "usr/lib64"}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("closure (-want +got):\n%s", diff)
	}
}

func TestStatic(t *testing.T) {
	host := merged(nil).lay(t)
	for name, i := range map[string]elftest.Image{
		"fixed":                {Type: elftest.Exec},
		"position independent": {Flags1: elftest.PIE},
		"pie with a soname":    {Flags1: elftest.PIE, Soname: "p"},
		"unmarked":             {},
	} {
		c, err := resolve(t, i, "/p", host)
		if diff := cmp.Diff(elfdeps.Closure{Static: true}, c); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

// TestMaxFiles is exact: the interpreter and libraries together.
func TestMaxFiles(t *testing.T) {
	files := tree{}
	var needed []string
	for i := range elfdeps.MaxFiles {
		n := fmt.Sprintf("lib%d.so", i)
		files[gnu+n] = lib(n)
		needed = append(needed, n)
	}
	host := merged(files).lay(t)
	c, err := resolve(t, glibc(needed[:elfdeps.MaxFiles-1]...), "/p", host)
	if err != nil || len(c.Files) != elfdeps.MaxFiles {
		t.Fatalf("%d files, %v", len(c.Files), err)
	}
	if _, err := resolve(t, glibc(needed...), "/p", host); !errors.Is(err, elfdeps.ErrTooMany) {
		t.Fatalf("got %v", err)
	}
}
