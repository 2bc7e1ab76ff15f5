package library

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/test/testenv"
)

// stored is what the store holds: sizes by name. Every file must be what its name
// says.
func stored(t testing.TB, l *Library) map[string]int {
	t.Helper()
	entries, err := os.ReadDir(l.artifacts)
	must(t, err)
	have := map[string]int{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(l.artifacts, e.Name()))
		must(t, err)
		if digestOf(b) != "sha256:"+e.Name() {
			t.Errorf("%s holds %d bytes of something else", e.Name(), len(b))
		}
		have["sha256:"+e.Name()] = len(b)
	}
	return have
}

func TestPut(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	for name, c := range map[string][]byte{
		"text": []byte("print('hello')\n"), "empty": nil, "large": bytes.Repeat([]byte("0123456789abcdef"), 4<<20),
	} {
		t.Run(name, func(t *testing.T) {
			digest := put(t, l, c)
			var st unix.Stat_t
			must(t, unix.Lstat(l.ArtifactPath(digest), &st))
			if st.Mode != unix.S_IFREG|0o555 || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
				t.Errorf("mode %o, %d links, uid %d", st.Mode, st.Nlink, st.Uid)
			}
			f, err := l.OpenArtifact(digest)
			must(t, err)
			if got := content(t, f); !bytes.Equal(got, c) {
				t.Errorf("%d bytes come back, %d went in", len(got), len(c))
			}
			if _, err := f.Write([]byte("x")); err == nil {
				t.Error("the artifact can be written")
			}
			must(t, f.Close())
		})
	}
	if have := stored(t, l); len(have) != 3 {
		t.Errorf("store: %v", have)
	}
}

// TestPutIgnoresTheOffset: the descriptor is shared with whoever passed it.
func TestPutIgnoresTheOffset(t *testing.T) {
	l := library(t)
	f := sealed(t, []byte("content"))
	_, err := f.Seek(3, 0)
	must(t, err)
	digest, size, err := l.Put(f, 100)
	if err != nil || digest != digestOf([]byte("content")) || size != 7 {
		t.Fatalf("%s %d %v", digest, size, err)
	}
	if at, err := f.Seek(0, 1); at != 3 || err != nil {
		t.Errorf("the offset went to %d, %v", at, err)
	}
}

// TestPutAgain: the second time nothing is written, and a store that was opened anew
// knows the first one's files.
func TestPutAgain(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(dir)
	must(t, err)
	digest := put(t, first, []byte("x"))
	before, err := os.Stat(first.ArtifactPath(digest))
	must(t, err)
	second, err := Open(dir)
	must(t, err)
	put(t, second, []byte("x"))
	after, err := os.Stat(second.ArtifactPath(digest))
	must(t, err)
	if !os.SameFile(before, after) || len(stored(t, second)) != 1 {
		t.Error("the artifact was written twice")
	}
}

func TestPutLimit(t *testing.T) {
	l := library(t)
	f := sealed(t, make([]byte, 1000))
	if _, _, err := l.Put(f, 999); !isProtocol(err) {
		t.Errorf("over the limit: %v", err)
	}
	if have := stored(t, l); len(have) != 0 {
		t.Errorf("store after a refusal: %v", have)
	}
	if _, size, err := l.Put(f, 1000); err != nil || size != 1000 {
		t.Errorf("at the limit: %d, %v", size, err)
	}
}

func isProtocol(err error) bool {
	var p *ipc.ProtocolError
	return errors.As(err, &p)
}

// TestPutGarbage passes what no honest gateway passes.
func TestPutGarbage(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	keep := func(f *os.File, err error) *os.File {
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	reopen := func(f *os.File, flags int) *os.File {
		fd, err := unix.Open(descriptorPath(f), flags|unix.O_CLOEXEC, 0)
		must(t, err)
		return keep(os.NewFile(uintptr(fd), "reopened"), nil)
	}
	seals := func(s int) *os.File {
		f := keep(ipc.NewMemfd("test"))
		_, err := f.WriteString("content")
		must(t, err)
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, s)
		must(t, err)
		return f
	}
	closed := keep(ipc.SealedFile("closed", nil))
	must(t, closed.Close())
	r, w, err := os.Pipe()
	must(t, err)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	// A fresh memfd whose only seal-bearing reader is write-only: sealed, unreadable.
	writeOnly := keep(ipc.NewMemfd("write-only"))
	_, err = writeOnly.WriteString("content")
	must(t, err)
	unreadable := reopen(writeOnly, unix.O_WRONLY)
	must(t, ipc.Seal(writeOnly))
	for name, f := range map[string]*os.File{
		"nil":                    nil,
		"closed":                 closed,
		"regular file":           keep(os.Create(filepath.Join(t.TempDir(), "f"))),
		"directory":              keep(os.Open(t.TempDir())),
		"device":                 keep(os.Open("/dev/zero")),
		"pipe to read":           keep(r, nil),
		"pipe to write":          keep(w, nil),
		"socket":                 keep(os.NewFile(uintptr(pair[0]), "socket"), nil),
		"other socket":           keep(os.NewFile(uintptr(pair[1]), "socket"), nil),
		"proc":                   keep(os.Open("/proc/self/status")),
		"unsealed":               keep(ipc.NewMemfd("test")),
		"may shrink":             seals(ipc.Seals &^ unix.F_SEAL_SHRINK &^ unix.F_SEAL_SEAL),
		"may grow":               seals(ipc.Seals &^ unix.F_SEAL_GROW),
		"may be written":         seals(ipc.Seals &^ unix.F_SEAL_WRITE),
		"may be sealed further":  seals(ipc.Seals &^ unix.F_SEAL_SEAL),
		"may be written by maps": seals(unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL),
		"path only":              reopen(sealed(t, []byte("x")), unix.O_PATH),
		"not readable":           unreadable,
	} {
		t.Run(name, func(t *testing.T) {
			if digest, _, err := l.Put(f, 1<<20); !isProtocol(err) || digest != "" {
				t.Errorf("%q, %T %v", digest, err, err)
			}
		})
	}
	if have := stored(t, l); len(have) != 0 {
		t.Errorf("store: %v", have)
	}
}

// TestPutAtOnce: many put the same and different contents at once.
func TestPutAtOnce(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	const workers, contents = 16, 4
	want := map[string]int{}
	var all [contents][]byte
	for i := range all {
		all[i] = bytes.Repeat([]byte{byte('a' + i)}, 300_000+i)
		want[digestOf(all[i])] = len(all[i])
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for j := range contents {
				c := all[(i+j)%contents]
				f, err := ipc.SealedFile("test", c)
				if err != nil {
					t.Error(err)
					return
				}
				if digest, _, err := l.Put(f, 1<<20); err != nil || digest != digestOf(c) {
					t.Errorf("%s %v", digest, err)
				}
				_ = f.Close()
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(want, stored(t, l)); diff != "" {
		t.Errorf("store (-want +got):\n%s", diff)
	}
}

// TestOpenArtifactRefuses names the digest, and never leaves the store.
func TestOpenArtifactRefuses(t *testing.T) {
	l := library(t)
	write(t, filepath.Join(filepath.Dir(l.artifacts), "state.db"), []byte("secret"), 0o600)
	absent := digestOf([]byte("absent"))
	for _, digest := range []string{
		absent, "", "sha256:", "sha256:../state.db", "../state.db", "sha256:" + strings.Repeat("A", 64), strings.TrimPrefix(absent, "sha256:"),
		"sha512:" + strings.TrimPrefix(absent, "sha256:"), absent + "\x00", absent + "\n", "sha256:" + strings.Repeat("../", 22), strings.Repeat("x", 1<<20),
	} {
		f, err := l.OpenArtifact(digest)
		var e *control.Error
		if f != nil || !errors.As(err, &e) || e.Code != control.NotFound || e.Reason != "ARTIFACT_NOT_FOUND" {
			t.Errorf("%.90q: %v, %v", digest, f, err)
			continue
		}
		if !strings.Contains(e.Message, fmt.Sprintf("%.60q", digest)[:min(len(digest), 60)]) || len(e.Message) > 2000 {
			t.Errorf("%.90q: message %q", digest, e.Message)
		}
		if p := l.ArtifactPath(digest); (p != "") != (digest == absent) {
			t.Errorf("%.90q has the path %q", digest, p)
		}
	}
	if p := l.ArtifactPath(absent); filepath.Dir(p) != l.artifacts {
		t.Errorf("path %q", p)
	}
}

// TestDamagedStore: what lies under a digest's name and is not it is not used.
func TestDamagedStore(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	c := []byte("content")
	p := l.ArtifactPath(digestOf(c))
	for name, lay := range map[string]func() error{
		"shorter":   func() error { return os.WriteFile(p, []byte("con"), 0o555) },
		"directory": func() error { return os.Mkdir(p, 0o755) },
		"link":      func() error { return os.Symlink("/etc/passwd", p) },
		"pipe":      func() error { return unix.Mkfifo(p, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, lay())
			defer func() { must(t, os.Remove(p)) }()
			_, _, err := l.Put(sealed(t, c), 100)
			var e *control.Error
			if !errors.As(err, &e) || e.Code != control.Internal || e.Meta["step"] == "" {
				t.Errorf("put: %v", err)
			}
			if name == "shorter" {
				return
			}
			if f, err := l.OpenArtifact(digestOf(c)); !errors.As(err, &e) || f != nil {
				t.Errorf("open: %v", err)
			}
		})
	}
	put(t, l, c)
}

// TestStoreGone names the step.
func TestStoreGone(t *testing.T) {
	l := library(t)
	must(t, os.Remove(l.artifacts))
	_, _, err := l.Put(sealed(t, []byte("x")), 100)
	var e *control.Error
	if !errors.As(err, &e) || e.Meta["step"] != "open artifact store" || !strings.Contains(e.Message, l.artifacts) {
		t.Errorf("%v", err)
	}
}

func TestOpenStoreRefuses(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "file"), nil, 0o600)
	if _, err := Open(file); err == nil {
		t.Error("a file was taken for the state directory")
	}
	state := t.TempDir()
	must(t, os.Symlink(t.TempDir(), filepath.Join(state, "artifacts")))
	if _, err := Open(state); err == nil || !strings.Contains(err.Error(), "artifacts") {
		t.Errorf("a link for the store: %v", err)
	}
}
