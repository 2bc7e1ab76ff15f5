package elfdeps_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
)

// link is a symbolic link in a tree.
type link string

// dir is a directory with a mode.
type dir os.FileMode

// private is a file that others may not read.
type private []byte

const (
	glibcLoader = "/lib64/ld-linux-x86-64.so.2"
	muslLoader  = "/lib/ld-musl-x86_64.so.1"
)

// tree is what a host's root directory holds, by path.
type tree map[string]any

// merged is a host as Debian is: links in its root directory, glibc's loader.
func merged(more tree) tree {
	all := tree{
		"/lib": link("usr/lib"), "/lib64": link("usr/lib64"), "/bin": link("usr/bin"),
		"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": elftest.Image{Soname: "ld-linux-x86-64.so.2"},
		"/usr/lib64/ld-linux-x86-64.so.2":                link("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
		"/usr/lib/ld-musl-x86_64.so.1":                   elftest.Image{Soname: "libc.musl-x86_64.so.1"},
	}
	for p, what := range more {
		all[p] = what
	}
	return all
}

// lay writes the tree below a new directory and answers it as a host.
func (tr tree) lay(t testing.TB) elfdeps.Host {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Links and special directories last, so that all parents are real directories.
	for p, what := range tr {
		at := filepath.Join(root, p)
		if _, ok := what.(link); ok {
			continue
		}
		must(os.MkdirAll(filepath.Dir(at), 0o755))
		switch what := what.(type) {
		case elftest.Image:
			must(os.WriteFile(at, what.Bytes(), 0o755))
		case string:
			must(os.WriteFile(at, []byte(what), 0o644))
		case []byte:
			must(os.WriteFile(at, what, 0o644))
		case private:
			must(os.WriteFile(at, what, 0o640))
		case dir:
			must(os.MkdirAll(at, 0o755))
		default:
			t.Fatalf("%s is a %T", p, what)
		}
	}
	for p, what := range tr {
		at := filepath.Join(root, p)
		switch what := what.(type) {
		case link:
			must(os.MkdirAll(filepath.Dir(at), 0o755))
			must(os.Symlink(string(what), at))
		case dir:
			must(os.Chmod(at, os.FileMode(what)))
		}
	}
	return elfdeps.Host{Root: root, Architecture: "amd64"}
}

func resolve(t *testing.T, i elftest.Image, at string, host elfdeps.Host) (elfdeps.Closure, error) {
	t.Helper()
	return elfdeps.Resolve(strings.NewReader(string(i.Bytes())), at, host)
}

// glibc is a dynamic program.
func glibc(needed ...string) elftest.Image {
	return elftest.Image{Interp: glibcLoader, Needed: needed}
}

func musl(needed ...string) elftest.Image {
	return elftest.Image{Interp: muslLoader, Needed: needed}
}

// lib is a shared library.
func lib(soname string, needed ...string) elftest.Image {
	return elftest.Image{Soname: soname, Needed: needed}
}
