package filesystem

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
)

// here is this host.
var here = tree{root: "/"}

func TestExpand(t *testing.T) {
	dir := place(t)
	for _, f := range []string{"lib3.1/x", "lib3.2/x", "lib2/x", "libc", "real/deep", "tool1", "tool"} {
		write(t, dir+"/"+f, nil, 0o644)
	}
	must(t, os.Symlink("real", dir+"/way"))
	must(t, os.Symlink("real/deep", dir+"/tool-link"))
	must(t, os.Symlink("gone", dir+"/tool-gone"))
	must(t, os.Symlink("tool-loop", dir+"/tool-loop"))
	must(t, unix.Mkfifo(dir+"/tool-pipe", 0o666))
	file := func(source, target string) Mount {
		return Mount{Source: dir + source, Target: dir + target}
	}
	folder := func(source, target string) Mount {
		return Mount{Source: dir + source, Target: dir + target, Directory: true}
	}
	for _, tt := range []struct {
		pattern string
		want    []Mount
	}{
		{"/tool", []Mount{file("/tool", "/tool")}},
		{"/real", []Mount{folder("/real", "/real")}},
		{"/none", nil},
		{"/none/*", nil},
		{"/none*", nil},
		{"/lib3*", []Mount{folder("/lib3.1", "/lib3.1"), folder("/lib3.2", "/lib3.2")}},
		{"/lib*", []Mount{folder("/lib2", "/lib2"), folder("/lib3.1", "/lib3.1"), folder("/lib3.2", "/lib3.2"), file("/libc", "/libc")}},
		{"/lib*1", []Mount{folder("/lib3.1", "/lib3.1")}},
		{"/real/*", []Mount{file("/real/deep", "/real/deep")}},
		{"/way", []Mount{folder("/real", "/real"), folder("/real", "/way")}},
		{"/way/*", []Mount{file("/real/deep", "/real/deep"), file("/real/deep", "/way/deep")}},
		{"/tool-link", []Mount{file("/real/deep", "/real/deep"), file("/real/deep", "/tool-link")}},
		{"/tool-gone", nil},
		{"/tool-pipe", nil},
		{"/tool*l", nil},
	} {
		got, err := here.expand(dir + tt.pattern)
		must(t, err)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.pattern, diff)
		}
	}
	if _, err := here.expand(dir + "/tool-loop"); err == nil {
		t.Error("a loop of links is nothing")
	}
}

func TestInside(t *testing.T) {
	for p, want := range map[string]string{
		"/bin": "/usr/bin", "/bin/sh": "/usr/bin/sh", "/lib64/ld.so": "/usr/lib64/ld.so", "/sbin/x": "/usr/sbin/x", "/lib/x": "/usr/lib/x",
		"/usr/bin/sh": "/usr/bin/sh", "/library": "/library", "/lib32/x": "/lib32/x", "/opt/bin": "/opt/bin",
	} {
		if got := inside(p); got != want {
			t.Errorf("%s is %s inside, want %s", p, got, want)
		}
	}
}

// TestLibrariesOfOtherLinks: a link in the host's root that no sandbox has.
func TestLibrariesOfOtherLinks(t *testing.T) {
	got := libraries(elfdeps.Closure{
		Files: []elfdeps.Mount{{Target: "/lib64/ld.so", Source: "/lib64/ld.so"}, {Target: "/srv/opt/a.so", Source: "/srv/opt/a.so.1"}},
		Links: []elfdeps.Link{{Path: "/lib64", Target: "usr/lib64"}, {Path: "/opt", Target: "srv/opt"}},
	})
	want := []Mount{
		{Source: "/lib64/ld.so", Target: "/usr/lib64/ld.so"}, {Source: "/srv/opt/a.so.1", Target: "/srv/opt/a.so"}, {Source: "/srv/opt/a.so.1", Target: "/opt/a.so"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

// TestUniqueProperty: sorted, each target once, the first of each, whatever the order
// of the rest.
func TestUniqueProperty(t *testing.T) {
	mount := rapid.Custom(func(t *rapid.T) Mount {
		return Mount{Source: rapid.SampledFrom([]string{"/1", "/2"}).Draw(t, "source"), Target: rapid.SampledFrom([]string{"/a", "/b", "/c"}).Draw(t, "target")}
	})
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(mount).Draw(t, "mounts")
		out := unique(in)
		for i, m := range out {
			if i > 0 && out[i-1].Target >= m.Target {
				t.Fatalf("not sorted: %v", out)
			}
		}
		first := map[string]Mount{}
		for _, m := range in {
			if _, ok := first[m.Target]; !ok {
				first[m.Target] = m
			}
		}
		if len(first) != len(out) {
			t.Fatalf("%d targets, %d mounts", len(first), len(out))
		}
		for _, m := range out {
			if first[m.Target] != m {
				t.Fatalf("%v is not the first", m)
			}
		}
	})
}
