package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// otherHost is a tree with links of every kind, and a file outside of it that none may
// lead to.
func otherHost(t *testing.T) *host {
	t.Helper()
	dir, err := filepath.EvalSymlinks(place(t))
	must(t, err)
	write(t, dir+"/secret", static, 0o755)
	root := dir + "/host"
	write(t, root+"/usr/bin/tool", static, 0o755)
	write(t, root+"/srv/lib/a.so", nil, 0o644)
	for to, at := range map[string]string{
		"bin": "usr/bin", "up": "../../../../usr/bin", "out": "../..", "abs": "/usr/bin", "alias": "/bin/tool", "usr/lib": "/srv/lib",
		"secret": dir + "/secret", "loop": "/loop",
	} {
		must(t, os.Symlink(at, filepath.Join(root, to)))
	}
	h, err := newHost(root, &controlv1.FilesystemConfig{BinaryPaths: []string{"/abs"}}, nil)
	must(t, err)
	return h
}

// TestTree: links lead where they lead on the host whose root is elsewhere.
func TestTree(t *testing.T) {
	h := otherHost(t)
	for p, want := range map[string]string{
		"/": "/", "/usr": "/usr", "/bin": "/usr/bin", "/up/tool": "/usr/bin/tool", "/abs/tool": "/usr/bin/tool", "/alias": "/usr/bin/tool",
		"/out": "/", "/usr/lib/a.so": "/srv/lib/a.so", "/out/bin/../../usr": "/usr",
	} {
		got, _, err := h.tree.real(p)
		if err != nil || got != want {
			t.Errorf("%s is %s, want %s; %v", p, got, want, err)
		}
	}
	for _, p := range []string{"/secret", "/out/secret", "/out/../secret", "/up/secret", "/none"} {
		if got, _, err := h.tree.real(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is %s, %v", p, got, err)
		}
	}
	for dir, want := range map[string]string{"/bin": "/usr/bin", "/up": "/usr/bin", "/abs": "/usr/bin", "/out/out": "/"} {
		if got, err := h.tree.realDir(dir); err != nil || got != want {
			t.Errorf("directory %s is %s, want %s; %v", dir, got, want, err)
		}
	}
	found, err := h.tree.expand("/usr/lib/*")
	must(t, err)
	want := []Mount{{Source: "/srv/lib/a.so", Target: "/srv/lib/a.so"}, {Source: "/srv/lib/a.so", Target: "/usr/lib/a.so"}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("pattern (-want +got):\n%s", diff)
	}
	if _, err := h.tree.expand("/loop"); err == nil {
		t.Error("a loop of links is nothing")
	}
}

// TestOtherHostsPrograms: what is answered are that host's paths.
func TestOtherHostsPrograms(t *testing.T) {
	h := otherHost(t)
	code, err := h.Resolve(hostPath("/up/tool"), nil)
	must(t, err)
	want := Code{
		Runtime: "binary", Digest: digestOf(static), Program: "/usr/bin/tool", Argv: []string{"tool", "$ARGS"}, Profile: "default",
		Mounts: []Mount{{Source: "/usr/bin/tool", Target: "/usr/bin/tool"}},
	}
	if diff := cmp.Diff(want, code); diff != "" {
		t.Errorf("code (-want +got):\n%s", diff)
	}
	for p, word := range map[string]string{"/alias": "outside_binary_paths", "/secret": "outside_binary_paths", "/out/secret": "outside_binary_paths", "/bin/none": "not_found"} {
		_, err := h.Resolve(hostPath(p), nil)
		refused(t, err, "binary.path", word)
	}
}

// TestOnlyForOthers: what others cannot read is not mounted.
func TestOnlyForOthers(t *testing.T) {
	dir := place(t)
	write(t, dir+"/a-file", nil, 0o644)
	write(t, dir+"/a-secret", nil, 0o640)
	for name, mode := range map[string]os.FileMode{"a-dir": 0o755, "a-listed": 0o754, "a-searched": 0o751, "a-private": 0o700} {
		must(t, os.Mkdir(dir+"/"+name, 0o700))
		must(t, os.Chmod(dir+"/"+name, mode))
	}
	found, err := here.expand(dir + "/a-*")
	must(t, err)
	want := []Mount{{Source: dir + "/a-dir", Target: dir + "/a-dir", Directory: true}, {Source: dir + "/a-file", Target: dir + "/a-file"}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestNoexecOfTheNearest(t *testing.T) {
	tr := tree{root: "/", mounts: []*controlv1.HostMount{{Path: "/"}, {Path: "/opt", Noexec: true}, {Path: "/opt/bin"}}}
	for p, want := range map[string]bool{"/usr/bin/x": false, "/opt/x": true, "/optional/x": false, "/opt/bin/x": false, "/opt/binary": true} {
		if got := tr.noexec(p); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}
