package ctl

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"plain ü 語":             "plain ü 語",
		"tab\there":             "tab\there",
		"a\nb":                  `a\x0ab`,
		"\x1b[2J":               `\x1b[2J`,
		"\xff\xfe":              `\xff\xfe`,
		"\u009b1m":              `\u009b1m`,
		"right\u202eleft":       `right\u202eleft`,
		"\U000e0041tag":         `\U000e0041tag`,
		"\ufffd":                `\ufffd`,
		"zero\u200bwidth\u2028": `zero\u200bwidth\u2028`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
}

// TestCleanIsSafe: whatever goes in, only printable text comes out, and text that is
// printable comes out as it was.
func TestCleanIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "text") {
			in = rapid.String().Draw(t, "in")
		}
		out := clean(in)
		printable := true
		for _, r := range out {
			if r != '\t' && !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				t.Fatalf("clean(%q) is %q, which has %U", in, out, r)
			}
		}
		for _, r := range in {
			printable = printable && (r == '\t' || unicode.IsPrint(r) && r != unicode.ReplacementChar)
		}
		if printable && out != in {
			t.Fatalf("clean(%q) is %q", in, out)
		}
		if again := clean(out); again != out {
			t.Fatalf("clean(%q) is %q", out, again)
		}
	})
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"1": 1, "4096": 4096, "64M": 64 << 20, "1G": 1 << 30, "1g": 1 << 30, "2GiB": 2 << 30, "8kB": 8 << 10, "8 ": 8, "1T": 1 << 40, "16777215T": 16777215 << 40,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "M", "1.5G", "1X", "16777216T", "99999999999999999999", "1GG", "i", "B"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1 << 20: "1 MiB", 4 << 30: "4 GiB", math.MaxUint64: "16777216 TiB",
	} {
		if got := size(in); got != want {
			t.Errorf("size(%d) is %q, want %q", in, got, want)
		}
	}
}

func TestParseReady(t *testing.T) {
	http := func(port uint32, path string) *solov1.Ready {
		return &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: port, Path: path}}}
	}
	for in, want := range map[string]*solov1.Ready{
		"notify":          {Probe: &solov1.Ready_Notify{Notify: true}},
		"tcp:80":          {Probe: &solov1.Ready_Tcp{Tcp: 80}},
		"http:80":         http(80, ""),
		"http:80/":        http(80, "/"),
		"http:80/a/b?c=d": http(80, "/a/b?c=d"),
		"exec:/bin/x  -y": {Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: []string{"/bin/x", "-y"}}}},
	} {
		got, err := parseReady(in)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("parseReady(%q): %v (-want +got):\n%s", in, err, diff)
		}
	}
	for _, in := range []string{"", "notify:", "notify:x", "tcp", "tcp:", "tcp:0", "tcp:65536", "http:", "http:/x", "exec:", "exec: ", "endpoint:x"} {
		if got, err := parseReady(in); err == nil {
			t.Errorf("parseReady(%q) = %v, want an error", in, got)
		}
	}
}

func TestParsePort(t *testing.T) {
	for in, want := range map[string]*solov1.PortUse{
		"127.0.0.1:8080:80": {Listen: "127.0.0.1:8080", To: 80},
		"[::1]:1:2/http":    {Listen: "[::1]:1", To: 2, Http: true},
		"localhost:0:65535": {Listen: "localhost:0", To: 65535},
	} {
		got, err := parsePort(in)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("parsePort(%q): %v (-want +got):\n%s", in, err, diff)
		}
	}
	for _, in := range []string{"", "80", "8080:80", "::1:1:2", "127.0.0.1:80:", "127.0.0.1:80:0", "127.0.0.1:80:65536", "127.0.0.1:80:80/https"} {
		if got, err := parsePort(in); err == nil {
			t.Errorf("parsePort(%q) = %v, want an error", in, got)
		}
	}
}

func TestNameOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := nameOf(rapid.String().Draw(t, "path"))
		if len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.Trim(name, "-") != name {
			t.Fatalf("the name %q is none", name)
		}
	})
	for in, want := range map[string]string{"/a/My App.v2.py": "my-app-v2", "x": "x", "..": "", "__init__.py": "init"} {
		if got := nameOf(in); got != want {
			t.Errorf("nameOf(%q) is %q, want %q", in, got, want)
		}
	}
}

// TestProgress: a terminal shows what takes long, and is clean again afterwards.
func TestProgress(t *testing.T) {
	for _, test := range []struct {
		name     string
		terminal bool
		takes    time.Duration
		want     string
	}{
		{"quick", true, progressAfter / 2, ""},
		{"slow", true, 2*progressAfter + progressAfter/2, "\r\x1b[Kbell\\x07 … 1 s\r\x1b[Kbell\\x07 … 2 s\r\x1b[K"},
		{"no terminal", false, 2*progressAfter + progressAfter/2, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told bytes.Buffer
			a := &app{Env: Env{Stderr: &told, StderrTerminal: test.terminal}}
			err := a.progress("bell\x07", func() error { time.Sleep(test.takes); return errPassed })
			if !errors.Is(err, errPassed) || told.String() != test.want {
				t.Errorf("%s: told %q, %v, want %q", test.name, told.String(), err, test.want)
			}
		})
	}
}

var errPassed = errors.New("as it was")
