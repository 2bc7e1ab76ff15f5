package ctl_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestErrors: text, JSON and exit status of what the server refuses.
func TestErrors(t *testing.T) {
	f := start(t)
	for _, test := range []struct {
		args   string
		status int
		text   string
		json   map[string]any
	}{
		{"status denied", 3, `solo-ctl: PERMISSION_DENIED: the token has no right
  denied by: capability
  asked for: status of denied
  missing right: status
  to get it: ask the holder\x1b[2J
`, map[string]any{"code": "PERMISSION_DENIED", "reason": "PERMISSION_DENIED", "message": "the token has no right",
			"denial": map[string]any{"layer": "capability", "asked": "status of denied", "missing_right": "status", "how_to_request": "ask the holder\x1b[2J"}}},
		{"kill missing", 1, "solo-ctl: NOT_FOUND SERVICE_NOT_FOUND: there is no service missing\n",
			map[string]any{"code": "NOT_FOUND", "reason": "SERVICE_NOT_FOUND", "message": "there is no service missing"}},
		{"start wrong", 1, "solo-ctl: INVALID_ARGUMENT INVALID_MANIFEST: the manifest is wrong\n  resources.max_processes: 40000 is over 32768\n",
			map[string]any{"code": "INVALID_ARGUMENT", "reason": "INVALID_MANIFEST", "message": "the manifest is wrong",
				"violations": []any{map[string]any{"field": "resources.max_processes", "description": "40000 is over 32768"}}}},
	} {
		if r := f.ctl(t, strings.Fields(test.args)...); r != (result{test.status, "", test.text}) {
			t.Errorf("%s: %+v, want %d %q", test.args, r, test.status, test.text)
		}
		r := f.ctl(t, strings.Fields(test.args+" -o json")...)
		if diff := cmp.Diff(map[string]any{"error": test.json}, document(t, r.stdout)); diff != "" || r.status != test.status || r.stderr != "" {
			t.Errorf("%s -o json: exit status %d, %q, document (-want +got):\n%s", test.args, r.status, r.stderr, diff)
		}
	}
}

// TestTokens: which token is sent, and that none and a wrong one are denials.
func TestTokens(t *testing.T) {
	f := start(t)
	dir := write(t, map[string]string{"good": token + "\n", "forged": "solo_forged", "two": token + "\n" + token, "long": strings.Repeat("x", 5000), "empty": ""})
	for _, test := range []struct {
		name, file, variable string
		status               int
		want                 string
	}{
		{"variable", "", token, 0, ""},
		{"variable with blanks", "", " " + token + "\n", 0, ""},
		{"file", "good", "", 0, ""},
		{"file before variable", "good", "solo_forged", 0, ""},
		{"forged file before variable", "forged", token, 3, "UNAUTHENTICATED"},
		{"forged", "", "solo_forged", 3, "UNAUTHENTICATED"},
		{"empty file", "empty", "", 3, "UNAUTHENTICATED"},
		{"two in a file", "two", "", 1, "characters that no token has"},
		{"header in the variable", "", "a\r\nx-evil: b", 1, "characters that no token has"},
		{"long file", "long", "", 1, "no token"},
		{"no such file", "none", "", 1, "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"status", "web"}
			if test.file != "" {
				args = append(args, "--token-file", filepath.Join(dir, test.file))
			}
			r := f.with(t, ctl.Env{Getenv: func(name string) string {
				return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": test.variable}[name]
			}}, args...)
			if r.status != test.status || !strings.Contains(r.stderr, test.want) || strings.Contains(r.stderr, "forged\n") {
				t.Errorf("%+v, want %d %q", r, test.status, test.want)
			}
		})
	}
}

// TestNoToken: without any token the server is asked, and refuses.
func TestNoToken(t *testing.T) {
	if _, err := os.Stat("/var/lib/solo/root.token"); err == nil {
		t.Skip("this host has a Solo, whose token would be used")
	}
	f := start(t)
	r := f.with(t, ctl.Env{Getenv: func(string) string { return "" }}, "list", "--addr", "unix://"+f.gateway.Socket)
	if r.status != 3 || !strings.Contains(r.stderr, "to get it: set SOLO_TOKEN") {
		t.Errorf("%+v", r)
	}
}

// TestUsage: mistakes in the line have exit status 2, also in JSON, and ask nobody.
func TestUsage(t *testing.T) {
	f := start(t)
	for _, line := range []string{
		"", "nonsense", "kernel", "kernel nonsense", "certs", "audit", "audit nonsense", "status", "status a b", "kill", "start", "restart a b", "delete",
		"list a b", "logs", "logs a b", "logs --since yesterday a", "watch --kinds log,smell", "watch --since -1", "watch a b", "upload", "upload a b", "run",
		"run --time-limit 1us x", "run --timeout-ms -1 x", "shutdown now", "shutdown --grace -1s", "version x", "help nonsense", "help kernel nonsense",
		"status a --bogus", "status a --timeout -1s", "status a --timeout soon", "status a -o xml", "audit tail --after -1", "audit tail x",
		"certs init x", "certs init --host a_b", "list --addr localhost:1", "list --addr nonsense", "list --addr unix:relative", "list --ca x",
	} {
		if r := f.ctl(t, strings.Fields(line)...); r.status != 2 || r.stdout != "" || !strings.HasPrefix(r.stderr, "solo-ctl: ") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("solo-ctl %s: %+v", line, r)
		}
		if strings.Contains(line, "-o xml") {
			continue
		}
		r := f.ctl(t, append([]string{"-o", "json"}, strings.Fields(line)...)...)
		if r.status != 2 || r.stderr != "" {
			t.Errorf("solo-ctl -o json %s: %+v", line, r)
			continue
		}
		if e, ok := document(t, r.stdout)["error"].(map[string]any); !ok || e["code"] != "USAGE" {
			t.Errorf("solo-ctl -o json %s: %s", line, r.stdout)
		}
	}
	if n := len(f.requests); n > 0 {
		t.Errorf("%d requests reached the kernel", n)
	}
	for _, form := range []string{"status --bogus -o json", "status --bogus --output=json", "status --bogus -ojson", "status --bogus --output json"} {
		if r := f.ctl(t, strings.Fields(form)...); r.status != 2 || !strings.Contains(r.stdout, "USAGE") {
			t.Errorf("%s: %+v", form, r)
		}
	}
	if r := f.ctl(t, "status", "--bogus", "--", "-o", "json"); r.status != 2 || r.stdout != "" {
		t.Errorf("an -o json behind --: %+v", r)
	}
}

// TestTimeout: --timeout ends a call that is not answered.
func TestTimeout(t *testing.T) {
	f := fixture{newCanned(t), gatewaytest.Start(t, func(*gatewaytest.Kernel, *controlv1.Request, ipc.Files) {}, nil)}
	r := f.ctl(t, "--timeout", "50ms", "kill", "web")
	if r.status != 1 || !strings.Contains(r.stderr, "DEADLINE_EXCEEDED") {
		t.Errorf("%+v", r)
	}
	select {
	case <-f.gateway.Kernel.Cancelled:
	case <-t.Context().Done():
		t.Error("the kernel was not told")
	}
}

// closed is an output that nobody reads.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestUnwritable: an output that cannot be written is an error, not success.
func TestUnwritable(t *testing.T) {
	f := start(t)
	for _, args := range [][]string{{"status", "web"}, {"-o", "json", "status", "web"}, {"logs", "web"}, {"help"}} {
		var told strings.Builder
		status := ctl.Main(args, ctl.Env{Stdin: strings.NewReader(""), Stdout: closed{}, Stderr: &told, Getenv: func(name string) string {
			return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": token}[name]
		}})
		if status != 1 || !strings.Contains(told.String(), "write output") {
			t.Errorf("%v: %d %s", args, status, fmt.Sprintf("%q", told.String()))
		}
	}
}
