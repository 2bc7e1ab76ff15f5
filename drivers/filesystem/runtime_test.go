package filesystem

import (
	"fmt"
	"maps"
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

// descriptors are files in the order of their names.
func descriptors(texts map[string]string) []*controlv1.RuntimeFile {
	var out []*controlv1.RuntimeFile
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		out = append(out, &controlv1.RuntimeFile{Path: name, Text: []byte(texts[name])})
	}
	return out
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
		{minimal + ` seccomp_profile: "kernel"`, `"kernel" is no profile for services (default, jit)`},
		{minimal + ` startup_timeout_ms: 600001`, "startup_timeout_ms: 600001"},
		{minimal + ` startup_timeout_ms: -1`, "(line 1:63)"},
		{minimal + ` colour: "red"`, "colour"},
		{minimal + ` name: "y"`, "name"},
		{minimal + ` libraries: maybe`, "(line 1:54)"},
		{"\xff", "syntax error"},
	} {
		_, err := loadRuntimes(descriptors(map[string]string{"/etc/it.textproto": tt.text}))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "runtime descriptor /etc/it.textproto: ") {
			t.Errorf("%.100s: %v; want %q and the file", tt.text, err, tt.want)
		}
	}
}

// TestDescriptorOrder: the later of two with one name counts, and two names cannot
// claim the same.
func TestDescriptorOrder(t *testing.T) {
	named := func(name, program, more string) string {
		return fmt.Sprintf(`name: %q program: %q argv: "$FILE" %s`, name, program, more)
	}
	first := descriptors(map[string]string{"a": named("a", "/1", `suffixes: ".x"`), "b": named("b", "/1", "")})
	second := descriptors(map[string]string{"z": named("a", "/2", `suffixes: ".x"`)})
	for _, tt := range []struct {
		files []*controlv1.RuntimeFile
		want  string
	}{{slices.Concat(first, second), "/2"}, {slices.Concat(second, first), "/1"}} {
		rs, err := loadRuntimes(tt.files)
		must(t, err)
		if got := rs.byName["a"].GetProgram()[0]; got != tt.want || !slices.Equal(rs.names, []string{"a", "b"}) {
			t.Errorf("%v: program %s, runtimes %v", tt.files, got, rs.names)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{named("e", "/1", `suffixes: ".x"`), `runtime e: suffixes: ".x" belongs to the runtime a`},
		{named("e", "/1", `interpreters: "i"`), `runtime e: interpreters: "i" belongs to the runtime d`},
	} {
		more := descriptors(map[string]string{"d": named("d", "/1", `suffixes: ".y" interpreters: "i"`), "e": tt.text})
		if _, err := loadRuntimes(slices.Concat(first, more)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v; want %q", err, tt.want)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, p := range []string{"usr", "/usr/", "/usr/../etc", "/usr/\x00", ""} {
		if _, err := newHost("/", &controlv1.FilesystemConfig{BinaryPaths: []string{"/usr", p}}, nil); err == nil || !strings.Contains(err.Error(), "binary_paths") {
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
