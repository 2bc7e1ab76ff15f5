package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// member is one file of an archive.
type member struct {
	Name         string
	Mode         int
	Data         string
	Major, Minor int
}

// unpack reads the "newc" format as its description says, and wants it well-formed: 110
// bytes of header, name and data each padded to four bytes, the trailer last.
func unpack(b []byte) ([]member, error) {
	var all []member
	at := 0
	take := func(n int) ([]byte, error) {
		if n < 0 || at+n > len(b) {
			return nil, fmt.Errorf("%d bytes at %d of %d", n, at, len(b))
		}
		p := b[at : at+n]
		at += n
		return p, nil
	}
	align := func() error {
		pad, err := take((4 - at%4) % 4)
		if err == nil && strings.Trim(string(pad), "\x00") != "" {
			err = fmt.Errorf("padding %q before %d", pad, at)
		}
		return err
	}
	inodes := map[uint64]bool{}
	for {
		head, err := take(110)
		if err != nil {
			return nil, err
		}
		if string(head[:6]) != "070701" {
			return nil, fmt.Errorf("magic %q", head[:6])
		}
		var f [13]uint64
		for i := range f {
			if f[i], err = strconv.ParseUint(string(head[6+8*i:14+8*i]), 16, 32); err != nil {
				return nil, err
			}
		}
		name, err := take(int(f[11]))
		if err != nil {
			return nil, err
		}
		if err := align(); err != nil {
			return nil, err
		}
		data, err := take(int(f[6]))
		if err != nil {
			return nil, err
		}
		if err := align(); err != nil {
			return nil, err
		}
		text, ok := strings.CutSuffix(string(name), "\x00")
		if !ok || strings.Contains(text, "\x00") {
			return nil, fmt.Errorf("name %q", name)
		}
		if text == "TRAILER!!!" {
			if at != len(b) {
				return nil, fmt.Errorf("%d bytes after the trailer", len(b)-at)
			}
			return all, nil
		}
		if inodes[f[0]] {
			return nil, fmt.Errorf("inode %d twice", f[0])
		}
		inodes[f[0]] = true
		all = append(all, member{Name: text, Mode: int(f[1]), Data: string(data), Major: int(f[9]), Minor: int(f[10])})
	}
}

func TestArchive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) member {
			return member{
				Name: rapid.StringMatching(`[a-z][a-z/]{0,9}`).Draw(t, "name"), Mode: rapid.SampledFrom([]int{modeDir | 0o755, modeFile | 0o644, modeChar | 0o600}).Draw(t, "mode"),
				Data: string(rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "data")), Major: rapid.IntRange(0, 300).Draw(t, "major"), Minor: rapid.IntRange(0, 300).Draw(t, "minor"),
			}
		}), 0, 8).Draw(t, "members")
		var b bytes.Buffer
		a := &archive{w: &b}
		for _, m := range want {
			a.entry(m.Name, m.Mode, []byte(m.Data), m.Major, m.Minor)
		}
		if err := a.close(); err != nil {
			t.Fatal(err)
		}
		got, err := unpack(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// narrow takes n bytes and then fails.
type narrow struct{ n int }

var errFull = errors.New("full")

func (w *narrow) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestArchiveKeepsTheError(t *testing.T) {
	for n := range 300 {
		a := &archive{w: &narrow{n}}
		a.entry("init", modeFile, []byte("x"), 0, 0)
		if err := a.close(); err != nil && !errors.Is(err, errFull) || (err == nil) != (n >= 244) {
			t.Errorf("with room for %d bytes: %v", n, err)
		}
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := filepath.Join(dir, "initramfs.gz")
	if err := writeInitramfs(path, file("program"), []string{file("b.ko"), file("a.ko")}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpack(plain)
	if err != nil {
		t.Fatal(err)
	}
	want := []member{
		{Name: "dev", Mode: modeDir | 0o755},
		{Name: "dev/console", Mode: modeChar | 0o600, Major: 5, Minor: 1},
		{Name: "modules", Mode: modeDir | 0o755},
		{Name: "init", Mode: modeFile | 0o755, Data: "content of program"},
		{Name: "modules/b.ko", Mode: modeFile | 0o644, Data: "content of b.ko"},
		{Name: "modules/a.ko", Mode: modeFile | 0o644, Data: "content of a.ko"},
		{Name: "modules/order", Mode: modeFile | 0o644, Data: "b.ko\na.ko\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := writeInitramfs(path, filepath.Join(dir, "absent"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a program: %v", err)
	}
}

func TestModinfo(t *testing.T) {
	for text, want := range map[string][]string{
		"":                            nil,
		"license=GPL\x00depends=\x00": nil,
		"depends=jbd2,mbcache,crc-16\x00retpoline=Y\x00": {"jbd2", "mbcache", "crc_16"},
		"alias=depends=x\x00depends=a":                   {"a"},
	} {
		if diff := cmp.Diff(want, parseModinfo([]byte(text))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for path, want := range map[string]string{"/lib/modules/6.1/kernel/fs/ext4.ko": "ext4", "virtio-blk.ko": "virtio_blk", "modules.dep": "", "x.ko.xz": ""} {
		if got, ok := moduleName(path); ok != (want != "") || ok && got != want {
			t.Errorf("%s is module %q, %v", path, got, ok)
		}
	}
}

func TestModuleOrder(t *testing.T) {
	depends := map[string][]string{"ext4": {"jbd2", "mbcache"}, "jbd2": {"crc"}, "virtio_blk": {"virtio", "builtin"}, "a": {"b"}, "b": {"a"}, "bad": {"absent"}}
	files, builtin := map[string]string{}, map[string]bool{"builtin": true}
	for _, name := range []string{"ext4", "jbd2", "mbcache", "crc", "virtio_blk", "virtio", "a", "b", "bad"} {
		files[name] = name
	}
	read := func(file string) ([]string, error) { return depends[file], nil }
	for _, c := range []struct {
		wanted, want string
		ok           bool
	}{
		{"", "", true},
		{"builtin", "", true},
		{"ext4", "crc jbd2 mbcache ext4", true},
		{"virtio_blk ext4 jbd2", "virtio virtio_blk crc jbd2 mbcache ext4", true},
		{"absent? mbcache? ext4", "mbcache crc jbd2 ext4", true},
		{"absent", "", false},
		{"bad?", "", false},
		{"absent? absent", "", false},
		{"a", "b a", true}, // a circle ends
	} {
		got, err := sortModules(strings.Fields(c.wanted), files, builtin, read)
		if (err == nil) != c.ok || err == nil && strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, %v", c.wanted, got, err)
		}
	}
	if _, err := sortModules([]string{"ext4"}, files, builtin, func(string) ([]string, error) { return nil, errFull }); !errors.Is(err, errFull) {
		t.Errorf("a module that cannot be read: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		// Module i depends on some after it.
		const n = 8
		names, depends := map[string]string{}, map[string][]string{}
		for i := range n {
			names[fmt.Sprint(i)] = fmt.Sprint(i)
			for j := i + 1; j < n; j++ {
				if rapid.Bool().Draw(t, "depends") {
					depends[fmt.Sprint(i)] = append(depends[fmt.Sprint(i)], fmt.Sprint(j))
				}
			}
		}
		wanted := rapid.SliceOfN(rapid.SampledFrom([]string{"0", "1", "2", "3", "4", "5", "6", "7"}), 0, 5).Draw(t, "wanted")
		order, err := sortModules(wanted, names, nil, func(file string) ([]string, error) { return depends[file], nil })
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range order {
			if slices.Contains(order[:i], m) {
				t.Fatalf("%s is there twice: %v", m, order)
			}
			for _, d := range depends[m] {
				if !slices.Contains(order[:i], d) {
					t.Fatalf("%s comes before %s: %v", m, d, order)
				}
			}
		}
		for _, w := range wanted {
			if !slices.Contains(order, w) {
				t.Fatalf("%s is missing: %v", w, order)
			}
		}
	})
}

func TestReport(t *testing.T) {
	const good = "SeaBIOS\r\n\x1b[2J@@ up Linux 6.1\n@@ run a\n=== RUN TestX\r\n--- SKIP: TestX\r\n    --- SKIP: TestX/y\nPASS\n@@ done a ok 1.5\n" +
		"@@ run b\n--- PASS: TestY\n@@ done b ok 0.1\n@@ end\n"
	for _, c := range []struct {
		name, console, where string
		errs                 []string
	}{
		{"all well", good, "the end", nil},
		{"nothing", "", "its boot", []string{"a did not run to its end", "b did not run to its end", "the VM's init did not reach its end"}},
		{"one failed", strings.Replace(good, "a ok", "a failed", 1), "the end", []string{"a failed"}},
		{"no end", strings.Replace(good, "@@ end\n", "", 1), "its boot", []string{"the VM's init did not reach its end"}},
		{"cut in b", good[:strings.Index(good, "@@ done b")], "b", []string{"b did not run to its end", "the VM's init did not reach its end"}},
		{"an unknown verdict", strings.Replace(good, "a ok", "a okay", 1), "the end", []string{"a okay"}},
		{"half a verdict", strings.Replace(good, "a ok 1.5", "a ok", 1), "the end", []string{"a did not run to its end"}},
	} {
		var out bytes.Buffer
		r := newReport(&out, false)
		if err := r.read(strings.NewReader(c.console)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		if err := r.check([]string{"a", "b"}); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if diff := cmp.Diff(c.errs, got); diff != "" || r.where() != c.where {
			t.Errorf("%s: in %s (-want +got):\n%s", c.name, r.where(), diff)
		}
	}
	var out bytes.Buffer
	r := newReport(&out, false)
	if err := r.read(strings.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	const want = "SeaBIOS\nvm: up Linux 6.1\n--- SKIP: TestX\n    --- SKIP: TestX/y\nPASS\nvm: ok     a (1.5s, 2 skipped)\n--- PASS: TestY\nvm: ok     b (0.1s, 0 skipped)\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("what people read (-want +got):\n%s", diff)
	}
	r = newReport(io.Discard, true)
	if err := r.read(strings.NewReader(strings.Repeat("x", 2<<20))); err == nil {
		t.Error("a line without an end was read")
	}
}
