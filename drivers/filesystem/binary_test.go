package filesystem

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestHostPrograms compares real programs with what elfdeps and the file say.
func TestHostPrograms(t *testing.T) {
	l := library(t)
	for _, asked := range []string{"/bin/sleep", "/usr/bin/sleep", "/bin/bash", "/usr/bin/redis-check-rdb", "/usr/bin/python3.11", "/usr/bin/curl"} {
		real, err := filepath.EvalSymlinks(filepath.Dir(asked))
		must(t, err)
		real = filepath.Join(real, filepath.Base(asked))
		if info, err := os.Lstat(real); err != nil || !info.Mode().IsRegular() {
			continue
		}
		t.Run(asked, func(t *testing.T) {
			b, err := os.ReadFile(real)
			must(t, err)
			closure, err := elfdeps.Resolve(bytes.NewReader(b), real, elfdeps.Host{})
			must(t, err)
			want := Code{
				Runtime: "binary", Digest: digestOf(b), Program: real, Argv: []string{filepath.Base(asked), "$ARGS"}, Profile: "default",
				Mounts: []Mount{{Source: real, Target: real}},
			}
			for _, f := range closure.Files {
				want.Mounts = append(want.Mounts, Mount{Source: f.Source, Target: f.Target})
			}
			slices.SortFunc(want.Mounts, func(a, b Mount) int { return bytes.Compare([]byte(a.Target), []byte(b.Target)) })
			if diff := cmp.Diff(want, resolved(t, l, hostPath(asked))); diff != "" {
				t.Errorf("code (-want +got):\n%s", diff)
			}
			if closure.Static || len(want.Mounts) < 3 {
				t.Errorf("the host's %s shows nothing: %v", asked, want.Mounts)
			}
		})
	}
}

// TestRedisServerIsALink: Debian's package has it so.
func TestRedisServerIsALink(t *testing.T) {
	to, err := os.Readlink("/usr/bin/redis-server")
	if err != nil {
		t.Skip("the host's redis-server is no link")
	}
	_, err = library(t).Resolve(hostPath("/usr/bin/redis-server"))
	refused(t, err, "binary.path", "symlink", filepath.Join("/usr/bin", to), "upload the program")
}

// TestClosedPlace: below /tmp the sandbox has a file system of its own, so a program
// from there is seen in /app.
func TestClosedPlace(t *testing.T) {
	dir := place(t)
	if !isClosed(dir) {
		t.Skipf("%s is not below /tmp", dir)
	}
	p := write(t, dir+"/sub/tool", static, 0o555)
	want := Code{
		Runtime: "binary", Digest: digestOf(static), Program: "/app/tool", Argv: []string{"tool", "$ARGS"}, Profile: "default",
		Mounts: []Mount{{Source: p, Target: "/app/tool"}},
	}
	if diff := cmp.Diff(want, resolved(t, library(t, dir), hostPath(p))); diff != "" {
		t.Errorf("code (-want +got):\n%s", diff)
	}
}

// TestBinaryPathsAreFollowed: links on both sides, and a path that appears later.
func TestBinaryPathsAreFollowed(t *testing.T) {
	dir := place(t)
	must(t, os.Symlink("real", dir+"/path"))
	l := library(t, dir+"/path", dir+"/later")
	write(t, dir+"/real/p", static, 0o755)
	write(t, dir+"/later/p", static, 0o755)
	must(t, os.Symlink("../real", dir+"/later/over"))
	for asked, want := range map[string]string{
		dir + "/path/p": dir + "/real/p", dir + "/real/p": dir + "/real/p", dir + "/later/p": dir + "/later/p", dir + "/later/over/p": dir + "/real/p",
	} {
		if got := resolved(t, l, hostPath(asked)).Mounts[0].Source; got != want {
			t.Errorf("%s is %s, want %s", asked, got, want)
		}
	}
}

func TestUploadedPrograms(t *testing.T) {
	l := library(t)
	fixed := put(t, l, static)
	for _, tt := range []struct {
		name    string
		m       *solov1.DeployRequest
		program string
	}{
		{"binary", uploaded(fixed), "/app/program"},
		{"artifact", artifact(fixed, "main"), "/app/main"},
		{"artifact with a source's suffix", artifact(fixed, "app.py"), "/app/app.py"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Code{
				Runtime: "binary", Program: tt.program, Argv: []string{filepath.Base(tt.program), "$ARGS"}, Profile: "default",
				Mounts: []Mount{{Target: tt.program, Artifact: true}},
			}
			if diff := cmp.Diff(want, resolved(t, l, tt.m)); diff != "" {
				t.Errorf("code (-want +got):\n%s", diff)
			}
		})
	}
	b, err := os.ReadFile("/bin/sleep")
	must(t, err)
	dynamic := resolved(t, l, uploaded(put(t, l, b)))
	host := resolved(t, l, hostPath("/bin/sleep"))
	without := func(c Code) []Mount {
		return slices.DeleteFunc(c.Mounts, func(m Mount) bool { return m.Target == c.Program })
	}
	if diff := cmp.Diff(without(host), without(dynamic)); diff != "" {
		t.Errorf("libraries of the host's (-) and the uploaded (+) program:\n%s", diff)
	}
}

// TestRefusedUploads name the field that the client filled in.
func TestRefusedUploads(t *testing.T) {
	l := library(t)
	for _, tt := range []struct {
		name    string
		content []byte
		word    string
		texts   []string
	}{
		{"empty", nil, "not_elf", []string{"empty"}},
		{"text", []byte("hello"), "not_elf", nil},
		{"script", []byte("#!/usr/bin/python3\n"), "script", []string{`runtime "python"`}},
		{"script for nobody", []byte("#!\n"), "script", []string{"bash, python, sh"}},
		{"other architecture", elftest.Image{Machine: elftest.AArch64}.Bytes(), "architecture", []string{"aarch64"}},
		{"library", elftest.Image{Soname: "x"}.Bytes(), "not_executable", nil},
		{"missing library", elftest.Image{Interp: "/lib64/ld-linux-x86-64.so.2", Needed: []string{"libsolo-none.so"}}.Bytes(), "library", []string{`"libsolo-none.so", needed by /app/program`}},
		{"missing interpreter", elftest.Image{Interp: "/lib/none"}.Bytes(), "interpreter", []string{"/lib/none"}},
		{"cut", static[:63], "malformed", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			digest := put(t, l, tt.content)
			_, err := l.Resolve(uploaded(digest))
			refused(t, err, "binary.artifact", tt.word, tt.texts...)
			if isELF(tt.content) {
				_, err = l.Resolve(artifact(digest, "program"))
				refused(t, err, "artifact.digest", tt.word)
			}
		})
	}
}

func TestNoCode(t *testing.T) {
	for _, m := range []*solov1.DeployRequest{{}, {Code: &solov1.DeployRequest_Bytecode{Bytecode: &solov1.Bytecode{}}}} {
		_, err := library(t).Resolve(m)
		var e *Error
		if !errors.As(err, &e) || e.Code != invalidArgument || len(e.Violations) != 1 || e.Violations[0].Field != "code" {
			t.Errorf("got %v", err)
		}
	}
}

// TestDigestsAreKept for files that have not changed for a while, and only for those.
func TestDigestsAreKept(t *testing.T) {
	dir := place(t)
	l := library(t, dir)
	p := write(t, dir+"/p", static, 0o755)
	resolved(t, l, hostPath(p))
	if len(l.digests.known) != 0 {
		t.Errorf("kept for a file just written: %v", l.digests.known)
	}
	resolved(t, l, hostPath("/bin/sleep"))
	if len(l.digests.known) != 1 {
		t.Errorf("kept: %v", l.digests.known)
	}
	// A kept digest is used: it is found again even if it is a wrong one.
	for v := range l.digests.known {
		l.digests.known[v] = "kept"
	}
	if got := resolved(t, l, hostPath("/bin/sleep")).Digest; got != "kept" {
		t.Errorf("read again: %s", got)
	}
	for i := range maxDigests {
		l.digests.keep(version{ino: uint64(i)}, "x")
	}
	if n := len(l.digests.known); n == 0 || n > maxDigests {
		t.Errorf("%d kept, at most %d are", n, maxDigests)
	}
	// A change of the content is a change of the answer.
	write(t, p, append(static, 0), 0o755)
	if got := resolved(t, l, hostPath(p)).Digest; got != digestOf(append(static, 0)) {
		t.Errorf("digest of the old content: %s", got)
	}
}

// TestChangedWhileRead: no digest of a mixture of two contents is answered.
func TestChangedWhileRead(t *testing.T) {
	dir := place(t)
	l := library(t, dir)
	p := write(t, dir+"/p", append(static, make([]byte, 8<<20)...), 0o755)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(1); !stop.Load(); i++ {
			if err := os.Chtimes(p, time.Unix(i, 0), time.Unix(i, 0)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	for range 1000 {
		if _, err := l.Resolve(hostPath(p)); err != nil {
			refused(t, err, "binary.path", "changed", "try again")
			return
		}
	}
	t.Error("a file that changes all the time was read 1000 times")
}
