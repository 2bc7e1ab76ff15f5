package ctl_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// jsonCases are all commands with one document each, and some of its fields.
var jsonCases = map[string]struct {
	args []string // APP stands for a source file, DIR for an empty directory
	want map[string]any
}{
	"solo-ctl deploy":      {[]string{"deploy", "APP"}, map[string]any{"service_id": "id-1", "version": "1", "state": "ready", "startup_ms": 2.5}},
	"solo-ctl run":         {[]string{"run", "--env", "OUTPUT=out", "--env", "ERRORS=err", "APP"}, map[string]any{"stdout": "out", "stderr": "err", "exit_status": 0.0, "reason": "exit:0", "cpu_usec": 1500.0, "wall_ms": 2.5, "truncated": false}},
	"solo-ctl upload":      {[]string{"upload", "APP"}, map[string]any{"digest": digest("print(1)"), "size": "9"}},
	"solo-ctl list":        {[]string{"list"}, map[string]any{"next_page_token": ""}},
	"solo-ctl status":      {[]string{"status", "web"}, map[string]any{"name": "web", "state": "ready", "reason": "exit:3", "restarts": 2.0, "version": "4", "startup_path": "blank"}},
	"solo-ctl kill":        {[]string{"kill", "web"}, map[string]any{"state": "stopped", "reason": "killed"}},
	"solo-ctl start":       {[]string{"start", "--wait", "web"}, map[string]any{"state": "ready", "reason": ""}},
	"solo-ctl restart":     {[]string{"restart", "web"}, map[string]any{"state": "ready", "reason": ""}},
	"solo-ctl delete":      {[]string{"delete", "web"}, map[string]any{}},
	"solo-ctl shutdown":    {[]string{"shutdown", "--grace", "5s"}, map[string]any{}},
	"solo-ctl kernel info": {[]string{"kernel", "info"}, map[string]any{"pid": 7.0, "version": "v1", "uptime_ms": "61000", "generation": "3"}},
	"solo-ctl certs init":  {[]string{"certs", "init", "--dir", "DIR"}, map[string]any{"dir": "DIR", "hosts": []any{"localhost", "127.0.0.1", "::1"}}},
	"solo-ctl version":     {[]string{"version"}, map[string]any{}},
}

// streamed are the commands that print a document a line, or a manual page.
var streamed = map[string]bool{"solo-ctl logs": true, "solo-ctl watch": true, "solo-ctl audit tail": true, "solo-ctl help": true}

func TestJSON(t *testing.T) {
	for name, test := range jsonCases {
		t.Run(name, func(t *testing.T) {
			app := filepath.Join(write(t, map[string]string{"app.py": "print(1)\n"}), "app.py")
			dir := filepath.Join(t.TempDir(), "certs")
			args := []string{"-o", "json"}
			for _, a := range test.args {
				args = append(args, strings.NewReplacer("APP", app, "DIR", dir).Replace(a))
			}
			f := start(t)
			r := f.ctl(t, args...)
			if r.status != 0 || r.stderr != "" {
				t.Fatalf("exit status %d: %s%s", r.status, r.stderr, r.stdout)
			}
			doc := document(t, r.stdout)
			for field, want := range test.want {
				if want == "DIR" {
					want = dir
				}
				if diff := cmp.Diff(want, doc[field]); diff != "" {
					t.Errorf("field %s (-want +got):\n%s", field, diff)
				}
			}
			// The same command without the server is one document too, or needs none.
			dead := ctl.Env{Getenv: func(string) string { return "" }}
			r = f.with(t, dead, append(args, "--addr", "unix:///nonexistent/solo/api.sock")...)
			if strings.HasPrefix(name, "solo-ctl certs") || name == "solo-ctl version" || name == "solo-ctl run" {
				return // run hands what follows FILE to the program
			}
			doc = document(t, r.stdout)
			if e, ok := doc["error"].(map[string]any); !ok || e["code"] != "UNAVAILABLE" || r.status != 1 || r.stderr != "" {
				t.Errorf("without a server: %+v", r)
			}
		})
	}
}

// TestJSONIsForAll: no command is forgotten above.
func TestJSONIsForAll(t *testing.T) {
	eachCommand(t, func(cmd *cobra.Command) {
		if _, ok := jsonCases[cmd.CommandPath()]; !ok && !streamed[cmd.CommandPath()] && !cmd.HasSubCommands() {
			t.Errorf("%s has no test of its JSON", cmd.CommandPath())
		}
	})
}

// TestStatusJSON: outside programs rely on these names.
func TestStatusJSON(t *testing.T) {
	r := start(t).ctl(t, "status", "web", "-o", "json")
	doc := document(t, r.stdout)
	for _, field := range []string{"state", "reason", "restarts", "version", "startup_path"} {
		if _, ok := doc[field]; !ok {
			t.Errorf("there is no %s", field)
		}
	}
	instances, _ := doc["instances"].([]any)
	if len(instances) != 1 {
		t.Fatalf("instances: %v", doc["instances"])
	}
	want := map[string]any{"id": "i-1", "pid": 4711.0, "state": "ready", "started_at": "1970-01-01T00:00:02Z", "startup_ms": 1.5,
		"memory_bytes": "3145728", "cpu_usec": "1500", "processes": 2.0}
	if diff := cmp.Diff(want, instances[0]); diff != "" {
		t.Errorf("instance (-want +got):\n%s", diff)
	}
	var back solov1.ServiceStatus
	if err := protojson.Unmarshal([]byte(r.stdout), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(service("web"), &back, protocmp.Transform()); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// TestEmptyStatusJSON: fields are there also when nothing is in them.
func TestEmptyFieldsJSON(t *testing.T) {
	doc := document(t, start(t).ctl(t, "start", "web", "-o", "json").stdout)
	if diff := cmp.Diff(map[string]any{"state": "ready", "reason": ""}, doc); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

func TestStatusText(t *testing.T) {
	r := start(t).ctl(t, "status", "web")
	for _, want := range []string{
		"name:          web\n", "state:         ready\n", "reason:        exit:3\n", "version:       4\n", "restarts:      2\n", "startup path:  blank\n",
		"memory:        3 MiB of 4 GiB\n", "cpu:           2ms\n", "ports:         127.0.0.1:8080\n",
		`status:        serving\x1b]0;owned\x07` + "\n", "INSTANCE  STATE  PID   STARTED", "4711",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the status has no %q:\n%s", want, r.stdout)
		}
	}
	if r.status != 0 || strings.ContainsAny(r.stdout, "\x1b\x07") {
		t.Errorf("exit status %d, control characters in %q", r.status, r.stdout)
	}
}

// TestList follows the pages to their end.
func TestList(t *testing.T) {
	f := start(t)
	r := f.ctl(t, "list", "team-a/", "--system")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.status != 0 || len(lines) != 3 || !strings.HasPrefix(lines[1], "a ") || !strings.HasPrefix(lines[2], "b ") {
		t.Errorf("exit status %d:\n%s", r.status, r.stdout)
	}
	var got []*solov1.ListRequest
	for len(f.requests) > 0 {
		got = append(got, (<-f.requests).GetList())
	}
	want := []*solov1.ListRequest{{Filter: "team-a/", System: true}, {Filter: "team-a/", System: true, PageToken: "more"}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	doc := document(t, f.ctl(t, "list", "-o", "json").stdout)
	if services, ok := doc["services"].([]any); !ok || len(services) != 2 {
		t.Errorf("services: %v", doc["services"])
	}
}

func TestSteering(t *testing.T) {
	for _, test := range []struct {
		args   string
		status int
		want   string
		check  func(asked) bool
	}{
		{"kill web", 0, "web stopped (killed)\n", func(a asked) bool { return a.GetKill().GetService() == "web" && !a.GetKill().GetForce() }},
		{"kill --force web", 0, "web stopped (killed)\n", func(a asked) bool { return a.GetKill().GetForce() }},
		{"start web", 0, "web ready\n", func(a asked) bool { return a.GetStart().GetService() == "web" && !a.GetStart().GetWait() }},
		{"start --wait failing", 1, "failing failed (exit:1)\n", func(a asked) bool { return a.GetStart().GetWait() }},
		{"start failing", 0, "failing failed (exit:1)\n", func(a asked) bool { return !a.GetStart().GetWait() }},
		{"restart --wait web", 0, "web ready\n", func(a asked) bool { return a.GetRestart().GetWait() }},
		{"restart --wait failing", 1, "failing failed (exit:1)\n", func(a asked) bool { return a.GetRestart().GetService() == "failing" }},
		{"delete web", 0, "web deleted\n", func(a asked) bool { return a.GetDelete().GetService() == "web" }},
		{"shutdown --grace 1500ms", 0, "shutdown has begun\n", func(a asked) bool { return a.GetShutdown().GetTimeoutMs() == 1500 }},
		{"kernel info", 0, "version:       v1\npid:           7\nuptime:        1m1s\ngeneration:    3\nservices:      0\nshells waiting: 0\ncgroup mode:   v2\n",
			func(a asked) bool { return a.GetInfo() != nil }},
	} {
		f := start(t)
		if r := f.ctl(t, strings.Fields(test.args)...); r != (result{test.status, test.want, ""}) {
			t.Errorf("%s: %+v, want %d %q", test.args, r, test.status, test.want)
		}
		if a := f.only(t); !test.check(a) {
			t.Errorf("%s: the kernel got %v", test.args, a.Request)
		}
	}
}
