package library

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const minimal = `name: "x" program: "/bin/x" argv: "$FILE"`

func descriptors(t *testing.T, dir string, texts map[string]string) string {
	t.Helper()
	for name, text := range texts {
		write(t, filepath.Join(dir, name), []byte(text), 0o644)
	}
	return dir
}

func TestShippedRuntimes(t *testing.T) {
	rs := library(t).runtimes
	if diff := cmp.Diff([]string{"bash", "python", "sh"}, rs.names); diff != "" {
		t.Errorf("runtimes (-want +got):\n%s", diff)
	}
	for file, want := range map[string]string{"a.py": "python", "a.sh": "sh", "a.bash": "bash"} {
		if got := rs.bySuffix(file).GetName(); got != want {
			t.Errorf("%s is of %q, want %q", file, got, want)
		}
	}
	for name, want := range map[string]string{"python": "python", "python3": "python", "python3.11": "python", "python2": "", "python2.7": "", "sh": "sh", "dash": "sh", "bash": "bash", "zsh": ""} {
		if got := rs.byInterpreter(name).GetName(); got != want {
			t.Errorf("interpreter %s is of %q, want %q", name, got, want)
		}
	}
}

// TestDescriptorRefusals name the field, or the place of what is no value of its type.
func TestDescriptorRefusals(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{``, "name: is required"},
		{`program: "/x" argv: "$FILE"`, "name: is required"},
		{`name: "Upper" program: "/x" argv: "$FILE"`, `name: "Upper"`},
		{`name: "binary" program: "/x" argv: "$FILE"`, `name: "binary"`},
		{`name: "../x" program: "/x" argv: "$FILE"`, `name: "../x"`},
		{`name: "x" argv: "$FILE"`, "program: is required"},
		{`name: "x" program: "/x"`, "argv: is required"},
		{`name: "x" program: "/x" argv: "x"`, "argv: lacks $FILE"},
		{`name: "x" program: "x" argv: "$FILE"`, `program[0]: "x" is not absolute`},
		{`name: "x" program: "/x" program: "/a/../x" argv: "$FILE"`, `program[1]: "/a/../x" is not a clean path`},
		{minimal + ` argv: "\000"`, "argv[1]:"},
		{minimal + ` suffixes: "py"`, `suffixes[0]: "py"`},
		{minimal + ` suffixes: ".a/b"`, "suffixes[0]:"},
		{minimal + ` suffixes: "."`, "suffixes[0]:"},
		{minimal + ` interpreters: "/bin/x"`, "interpreters[0]:"},
		{minimal + ` interpreters: ""`, "interpreters[0]:"},
		{minimal + ` mounts: "usr"`, "mounts[0]:"},
		{minimal + ` mounts: "/usr/" `, "mounts[0]:"},
		{minimal + ` mounts: "/"`, "is the root directory"},
		{minimal + ` mounts: "/usr/*/lib"`, "before its last element"},
		{minimal + ` mounts: "/usr/*lib*"`, "more than one *"},
		{minimal + ` mounts: "/tmp/x"`, "the sandbox's own"},
		{minimal + ` mounts: "/proc"`, "the sandbox's own"},
		{minimal + ` mounts: "/app/x"`, "the sandbox's own"},
		{minimal + ` env: "X"`, "env[0]:"},
		{minimal + ` env: "1X=1"`, "env[0]:"},
		{minimal + ` env: "X=1" env: "SOLO_X=1"`, `env[1]: "SOLO_X=1" is set by Solo`},
		{minimal + ` env: "NOTIFY_SOCKET=/x"`, "is set by Solo"},
		{minimal + ` env: "X=\000"`, "NUL"},
		{minimal + ` seccomp_profile: "../default"`, "seccomp_profile:"},
		{minimal + ` startup_timeout_ms: 600001`, "startup_timeout_ms: 600001"},
		{minimal + ` startup_timeout_ms: -1`, "(line 1:63)"},
		{minimal + ` colour: "red"`, "colour"},
		{minimal + ` name: "y"`, "name"},
		{minimal + ` libraries: maybe`, "(line 1:54)"},
		{minimal + ` mounts: "/usr" # ` + strings.Repeat("x", maxDescriptor), "larger than 65536 bytes"},
		{"\xff", "syntax error"},
	} {
		dir := descriptors(t, t.TempDir(), map[string]string{"it.textproto": tt.text})
		_, err := Open(t.TempDir(), &controlv1.Config{RuntimePaths: []string{dir}}, "")
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Join(dir, "it.textproto")) {
			t.Errorf("%.100s: %v; want %q and the file", tt.text, err, tt.want)
		}
	}
}

// TestDescriptorDirectories: which are read, in which order, and which may be missing.
func TestDescriptorDirectories(t *testing.T) {
	named := func(name, program, more string) string {
		return fmt.Sprintf(`name: %q program: %q argv: "$FILE" %s`, name, program, more)
	}
	first := descriptors(t, t.TempDir(), map[string]string{
		"a.textproto": named("a", "/1", `suffixes: ".x"`), "b.textproto": named("b", "/1", ""), "README": "not a descriptor", "c.textproto.bak": "neither",
	})
	second := descriptors(t, t.TempDir(), map[string]string{"z.textproto": named("a", "/2", `suffixes: ".x"`)})
	open := func(programDir string, dirs ...string) (*Library, error) {
		return Open(t.TempDir(), &controlv1.Config{RuntimePaths: dirs}, programDir)
	}
	for _, tt := range []struct {
		dirs []string
		want string
	}{{[]string{first, second}, "/2"}, {[]string{second, first}, "/1"}} {
		l, err := open("", tt.dirs...)
		must(t, err)
		if got := l.runtimes.byName["a"].GetProgram()[0]; got != tt.want || !slices.Equal(l.Runtimes(), []string{"a", "b"}) {
			t.Errorf("%v: program %s, runtimes %v", tt.dirs, got, l.Runtimes())
		}
	}
	if _, err := open("", first, filepath.Join(first, "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing directory of the configuration: %v", err)
	}
	programs := t.TempDir()
	l, err := open(programs)
	must(t, err)
	none := l.Runtimes()
	descriptors(t, filepath.Join(programs, "runtimes"), map[string]string{"beside.textproto": named("beside", "/x", "")})
	l, err = open(programs)
	must(t, err)
	if got := l.Runtimes(); !slices.Contains(got, "beside") || slices.Contains(none, "beside") {
		t.Errorf("default directories: %v, then %v", none, got)
	}
	descriptors(t, first, map[string]string{"d.textproto": named("d", "/1", `suffixes: ".y" interpreters: "i"`), "e.textproto": named("e", "/1", `interpreters: "i"`)})
	if _, err := open("", first); err == nil || !strings.Contains(err.Error(), `runtime e: interpreters: "i" belongs to the runtime d`) {
		t.Errorf("two for one interpreter: %v", err)
	}
	descriptors(t, first, map[string]string{"e.textproto": named("e", "/1", `suffixes: ".x"`)})
	if _, err := open("", first); err == nil || !strings.Contains(err.Error(), `runtime e: suffixes: ".x" belongs to the runtime a`) {
		t.Errorf("two for one suffix: %v", err)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, p := range []string{"usr", "/usr/", "/usr/../etc", "/usr/\x00", ""} {
		if _, err := Open(t.TempDir(), &controlv1.Config{BinaryPaths: []string{"/usr", p}}, ""); err == nil || !strings.Contains(err.Error(), "binary_paths") {
			t.Errorf("binary path %q: %v", p, err)
		}
	}
}

// FuzzRuntime holds what the rest relies on for every descriptor that is accepted.
func FuzzRuntime(f *testing.F) {
	files, err := filepath.Glob("../../runtimes/*.textproto")
	must(f, err)
	for _, file := range files {
		b, err := os.ReadFile(file)
		must(f, err)
		f.Add(b)
	}
	f.Add([]byte(minimal))
	f.Add([]byte(minimal + ` mounts: "/usr/lib/*" env: "A=b=c" suffixes: ".tar.gz"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseDescriptor(text)
		if err != nil {
			return
		}
		for _, p := range slices.Concat(r.GetProgram(), r.GetMounts()) {
			if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsRune(p, 0) {
				t.Errorf("path %q", p)
			}
		}
		for _, p := range r.GetMounts() {
			if strings.Contains(path.Dir(p), "*") || strings.Count(p, "*") > 1 || isClosed(p) || p == "/" {
				t.Errorf("pattern %q", p)
			}
		}
		for _, s := range slices.Concat(r.GetSuffixes(), r.GetInterpreters(), []string{r.GetName(), r.GetSeccompProfile()}) {
			if s == "" || strings.ContainsAny(s, "/\x00\n ") {
				t.Errorf("name %q", s)
			}
		}
		if len(r.GetProgram()) == 0 || !slices.Contains(r.GetArgv(), "$FILE") || r.GetStartupTimeoutMs() > maxTimeoutMs {
			t.Errorf("accepted: %v", r)
		}
		b, err := prototext.Marshal(r)
		must(t, err)
		again, err := parseDescriptor(b)
		if err != nil || !proto.Equal(r, again) {
			t.Errorf("%v is not itself when written and read: %v", r, err)
		}
	})
}

func TestInterpreterName(t *testing.T) {
	for line, want := range map[string]string{
		"#!/bin/sh":                          "sh",
		"#!/bin/sh\n":                        "sh",
		"#! /bin/sh -e\n":                    "sh",
		"#!\t/bin/sh\n":                      "sh",
		"#!/bin/sh\r\n":                      "sh",
		"#!/usr/bin/env python3":             "python3",
		"#!/usr/bin/env -S python3 -u\n":     "python3",
		"#!/usr/bin/env -Spython3 -u\n":      "python3",
		"#!/usr/bin/env -i A=b python3.11\n": "python3.11",
		"#!/usr/bin/env /opt/x/python3\n":    "python3",
		"#!env python3\n":                    "python3",
		"#!python3\n":                        "python3",
		"#!/usr/bin/env\n":                   "",
		"#!/usr/bin/env -i\n":                "",
		"#!":                                 "",
		"#!\n/bin/sh":                        "",
		"#! \n":                              "",
		" #!/bin/sh":                         "",
		"/bin/sh":                            "",
		"":                                   "",
		"#!/bin/\xff\xfe\n":                  "",
		"#!/bin/sh\x00garbage":               "sh",
		"#!/":                                "/",
	} {
		if got := interpreterName([]byte(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// TestInterpreterProperty: whatever way it is written, it is found.
func TestInterpreterProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._+-]{0,20}`).Draw(t, "name")
		if name == "env" {
			t.Skip()
		}
		dir := rapid.SampledFrom([]string{"/bin/", "/usr/local/bin/", ""}).Draw(t, "dir")
		space := rapid.SampledFrom([]string{"", " ", "\t "}).Draw(t, "space")
		env := rapid.SampledFrom([]string{"", "/usr/bin/env ", "/bin/env -S ", "/usr/bin/env -i X=y  "}).Draw(t, "env")
		rest := rapid.SampledFrom([]string{"", "\n", " -x -y\nmore", "\r\n", "\n\xff\xff"}).Draw(t, "rest")
		if got := interpreterName([]byte("#!" + space + env + dir + name + rest)); got != name {
			t.Fatalf("got %q", got)
		}
	})
}

// TestSuffixProperty compares with looking at every suffix of every runtime.
func TestSuffixProperty(t *testing.T) {
	part := rapid.StringMatching(`\.[a-c.]{1,3}`)
	rapid.Check(t, func(t *rapid.T) {
		rs := &runtimes{byName: map[string]*controlv1.Runtime{}, suffixes: map[string]*controlv1.Runtime{}, interpreters: map[string]*controlv1.Runtime{}}
		for i, s := range rapid.SliceOfNDistinct(part, 0, 8, rapid.ID).Draw(t, "suffixes") {
			name := fmt.Sprintf("r%d", i)
			rs.byName[name] = &controlv1.Runtime{Name: name, Suffixes: []string{s}}
		}
		if err := rs.index(); err != nil {
			t.Fatal(err)
		}
		file := rapid.StringMatching(`[a-c.]{0,3}(\.[a-c.]{0,3}){0,3}`).Draw(t, "file")
		longest := ""
		for s := range rs.suffixes {
			if strings.HasSuffix(file, s) && len(s) < len(file) && len(s) > len(longest) {
				longest = s
			}
		}
		if got := rs.bySuffix(file); got != rs.suffixes[longest] {
			t.Fatalf("%q is of %v, want that of %q", file, got, longest)
		}
	})
}
