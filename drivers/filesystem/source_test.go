package filesystem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// withRuntimes has the given descriptors only.
func withRuntimes(t *testing.T, texts map[string]string) *fixture {
	t.Helper()
	return newFixture(t, &controlv1.FilesystemConfig{}, descriptors(texts)...)
}

// TestRuntimeCode is the whole answer for a descriptor.
func TestRuntimeCode(t *testing.T) {
	l := withRuntimes(t, map[string]string{"x.textproto": `
		name: "x" suffixes: ".x" program: "/usr/bin/solo-none" program: "/bin/sh" argv: "x" argv: "$FILE" argv: "$ARGS"
		mounts: "/etc/solo-none" mounts: "/etc/p*wd" mounts: "/lib" mounts: "/usr/solo-none/*"
		env: "A=b" seccomp_profile: "jit" startup_timeout_ms: 77 libraries: true`})
	digest := put(t, l, []byte("text"))
	sh, err := filepath.EvalSymlinks("/bin/sh")
	must(t, err)
	libDir, err := filepath.EvalSymlinks("/lib")
	must(t, err)
	f, err := os.Open(sh)
	must(t, err)
	defer func() { _ = f.Close() }()
	closure, err := elfdeps.Resolve(f, sh, elfdeps.Host{})
	must(t, err)
	want := Code{
		Runtime: "x", Program: sh, Argv: []string{"x", "$FILE", "$ARGS"}, File: "/app/m.x", Env: []string{"A=b"},
		Profile: "jit", StartupTimeoutMs: 77,
		Mounts: unique(append(libraries(closure),
			Mount{Target: "/app/m.x", Artifact: true},
			Mount{Source: "/etc/passwd", Target: "/etc/passwd"},
			Mount{Source: sh, Target: sh},
			Mount{Source: libDir, Target: "/usr/lib", Directory: true},
		)),
	}
	got := resolved(t, l, sourceOf(digest, "m.x", ""))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("code (-want +got):\n%s", diff)
	}
	// The answer is the caller's: a change of it does not reach the next one.
	got.Argv[0], got.Env[0] = "changed", "changed"
	if again := resolved(t, l, sourceOf(digest, "m.x", "")); again.Argv[0] != "x" || again.Env[0] != "A=b" {
		t.Errorf("changed: %v %v", again.Argv, again.Env)
	}
}

// TestRecognise: the language counts most, then the suffix, then the first line.
func TestRecognise(t *testing.T) {
	l := library(t)
	for _, tt := range []struct{ file, language, text, want string }{
		{"main", "python", "", "python"},
		{"main.sh", "python", "#!/bin/bash\n", "python"},
		{"main.py", "", "#!/bin/bash\n", "python"},
		{"main.sh", "", "", "sh"},
		{"main", "", "#!/bin/bash\n", "bash"},
		{"main.txt", "", "#!/usr/bin/env python3.12\n", "python"},
		{".py", "", "#!/bin/sh\n", "sh"},
		{"a.b.py", "", "", "python"},
		{"a.PY", "", "#!/bin/sh\n", "sh"},
	} {
		digest := put(t, l, []byte(tt.text))
		requests := []*solov1.DeployRequest{sourceOf(digest, tt.file, tt.language)}
		if tt.language == "" {
			requests = append(requests, artifact(digest, tt.file))
		}
		for _, m := range requests {
			code := resolved(t, l, m)
			if code.Runtime != tt.want || code.File != "/app/"+tt.file {
				t.Errorf("%+v: %s %s", tt, code.Runtime, code.File)
			}
		}
	}
}

func TestUnrecognised(t *testing.T) {
	l := library(t)
	for _, tt := range []struct {
		file, text string
		texts      []string
	}{
		{"main", "hello", []string{`"main"`, "does not begin with #!", "one of bash, python, sh"}},
		{"main.rb", "#!/usr/bin/ruby\n", []string{"interpreter ruby", "one of bash, python, sh"}},
		{"main", "", []string{"does not begin with #!"}},
		{"main", "#!/bin/sh2\n", []string{"interpreter sh2"}},
		{"main", "#!" + strings.Repeat("x", 1000), []string{"xxx…"}},
	} {
		digest := put(t, l, []byte(tt.text))
		_, err := l.Resolve(sourceOf(digest, tt.file, ""))
		refused(t, err, "source.language", "runtime", tt.texts...)
		_, err = l.Resolve(artifact(digest, tt.file))
		refused(t, err, "artifact.file", "runtime", tt.texts...)
	}
	_, err := l.Resolve(sourceOf(put(t, l, nil), "main.py", "cobol"))
	refused(t, err, "source.language", "runtime", `"cobol" is no runtime of this Solo (bash, python, sh)`)
}

func TestNotText(t *testing.T) {
	l := library(t)
	for _, tt := range []struct {
		content string
		word    string
		texts   []string
	}{
		{"print(1)\x00", "not_text", []string{"NUL byte"}},
		{"print('\xff')", "not_text", []string{"UTF-8"}},
		{"print(1) # \xc3", "not_text", []string{"UTF-8"}},
		{strings.Repeat("é", 100_000) + "\xed\xa0\x80", "not_text", []string{"UTF-8"}},
		{strings.Repeat("x", 200_000) + "\x00", "not_text", []string{"NUL byte"}},
	} {
		digest := put(t, l, []byte(tt.content))
		_, err := l.Resolve(sourceOf(digest, "main.py", ""))
		refused(t, err, "source", tt.word, tt.texts...)
		_, err = l.Resolve(artifact(digest, "main.py"))
		refused(t, err, "artifact.digest", tt.word, tt.texts...)
	}
	_, err := l.Resolve(sourceOf(put(t, l, static), "main.py", "python"))
	refused(t, err, "source", "not_source", "deploy it as a binary")
	for _, text := range []string{"", "\ufeffprint(1)", strings.Repeat("é", 200_000), "\u65e5\U0001f600"} {
		resolved(t, l, sourceOf(put(t, l, []byte(text)), "main.py", ""))
	}
}

// TestCheckTextProperty: whatever the sizes of the reads, the answer is that of the
// whole text.
func TestCheckTextProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		if rapid.Bool().Draw(t, "spoilt") {
			b := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "bytes")
			at := rapid.IntRange(0, len(text)).Draw(t, "at")
			text = text[:at] + string(b) + text[at:]
		}
		text = strings.Repeat("a", rapid.SampledFrom([]int{0, 64<<10 - 3, 64<<10 - 1, 64 << 10}).Draw(t, "before")) + text
		want := utf8.ValidString(text) && !strings.ContainsRune(text, 0)
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)),
			"halves": iotest.HalfReader(strings.NewReader(text)), "data with EOF": iotest.DataErrReader(strings.NewReader(text)),
		} {
			if len(text) > 1000 && name == "bytes" {
				continue
			}
			if err := checkText(r); (err == nil) != want {
				t.Fatalf("%s: %v, want %v", name, err, want)
			}
		}
	})
	if err := checkText(iotest.ErrReader(io.ErrClosedPipe)); err == nil || !strings.Contains(err.Error(), "closed pipe") {
		t.Errorf("a reader's error: %v", err)
	}
}

// TestRuntimeUnavailable is the host's lack, not the client's mistake.
func TestRuntimeUnavailable(t *testing.T) {
	dir := place(t)
	text := write(t, dir+"/text", []byte("text"), 0o755)
	private := write(t, dir+"/private", static, 0o700)
	for name, tt := range map[string]struct{ descriptor, want string }{
		"no program":    {`program: "/usr/bin/solo-none" program: "/opt/solo-none"`, "none of its programs exists on this host (/usr/bin/solo-none, /opt/solo-none)"},
		"directory":     {`program: "/usr/bin"`, "is not a file that others may read and execute"},
		"private":       {fmt.Sprintf("program: %q", private), "is not a file that others may read and execute"},
		"in /tmp":       {fmt.Sprintf("program: %q", text), "the sandbox's own"},
		"not a program": {`program: "/usr/bin/ldd" libraries: true`, "script"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "in /tmp" && !isClosed(dir) {
				t.Skipf("%s is not below /tmp", dir)
			}
			l := withRuntimes(t, map[string]string{"x.textproto": `name: "x" suffixes: ".x" argv: "$FILE" ` + tt.descriptor})
			_, err := l.Resolve(sourceOf(put(t, l, nil), "m.x", ""))
			var e *Error
			if !errors.As(err, &e) || e.Code != failedPrecondition || e.Reason != "RUNTIME_UNAVAILABLE" || !strings.Contains(e.Message, tt.want) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(map[string]string{"step": "runtime", "runtime": "x"}, e.Meta); diff != "" {
				t.Errorf("meta (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTooManyMounts(t *testing.T) {
	if entries, err := os.ReadDir("/usr/bin"); err != nil || len(entries) <= maxMounts {
		t.Skip("the host has too few programs")
	}
	l := withRuntimes(t, map[string]string{"x.textproto": `name: "x" suffixes: ".x" argv: "$FILE" program: "/bin/sh" mounts: "/usr/bin/*"`})
	_, err := l.Resolve(sourceOf(put(t, l, nil), "m.x", ""))
	var e *Error
	if !errors.As(err, &e) || e.Reason != "TOO_MANY_MOUNTS" || e.Meta["step"] != "mounts" || e.Meta["limit"] != "200" {
		t.Errorf("got %v", err)
	}
}

// TestMountsLeaveClosedDirectories: a pattern that is a link to where the sandbox has
// a file system of its own is there under its own path only.
func TestMountsLeaveClosedDirectories(t *testing.T) {
	tried := 0
	for _, p := range []string{"/etc/mtab", "/var/lock"} {
		if real, err := filepath.EvalSymlinks(p); err != nil || !isClosed(real) {
			continue
		}
		tried++
		l := withRuntimes(t, map[string]string{"x.textproto": fmt.Sprintf(`name: "x" suffixes: ".x" argv: "$FILE" program: "/bin/sh" mounts: %q`, p)})
		code, err := l.Resolve(sourceOf(put(t, l, nil), "m.x", ""))
		must(t, err)
		found := false
		for _, m := range code.Mounts {
			found = found || m.Target == p
			if isClosed(m.Target) {
				t.Errorf("%s is mounted for %s", m.Target, p)
			}
		}
		if !found {
			t.Errorf("%s is not mounted: %v", p, code.Mounts)
		}
	}
	if tried == 0 {
		t.Skip("the host has no such link")
	}
}
