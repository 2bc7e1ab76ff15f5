package ctl_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestLogs: what a service wrote comes out as it was written, but not on a terminal.
func TestLogs(t *testing.T) {
	f := start(t)
	raw := "hello \x1b[31mred\x9b\n" + strings.Repeat("x", 20) + "yy\n[solo] 3 lines dropped\n"
	if r := f.ctl(t, "logs", "web"); r != (result{0, raw, ""}) {
		t.Errorf("%+v, want %q", r, raw)
	}
	r := f.with(t, ctl.Env{StdoutTerminal: true}, "logs", "web")
	if want := strings.Replace(raw, "\x1b[31mred\x9b", `\x1b[31mred\x9b`, 1); r != (result{0, want, ""}) {
		t.Errorf("on a terminal: %+v, want %q", r, want)
	}
	for _, want := range []*solov1.WatchRequest{
		{Service: "web", Kinds: []string{"log"}, Since: "start", NoFollow: true}, {Service: "web", Kinds: []string{"log"}, Since: "start", NoFollow: true}} {
		if diff := cmp.Diff(want, (<-f.requests).GetWatch(), protocmp.Transform()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
	if r := f.ctl(t, "logs", "missing"); r.status != 1 || !strings.Contains(r.stderr, "NOT_FOUND") {
		t.Errorf("a service that is not there: %+v", r)
	}
}

// lines decodes an output of one JSON document a line.
func lines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var docs []map[string]any
	for line := range strings.Lines(text) {
		var doc map[string]any
		if err := json.Unmarshal([]byte(line), &doc); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("line %q: %v", line, err)
		}
		docs = append(docs, doc)
	}
	return docs
}

func TestWatch(t *testing.T) {
	f := start(t)
	r := f.ctl(t, "watch", "--no-follow")
	want := `- web stdout | hello \x1b[31mred\x9b
- web stderr | xxxxxxxxxxxxxxxxxxxx
- web stderr | yy
- web solo | 3 lines dropped
- web metric | memory 1 MiB, cpu 2ms, processes 3
- web event | exited backoff signal:9: at\x1b[2J once
`
	if diff := cmp.Diff(result{0, want, ""}, r, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("watch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&solov1.WatchRequest{Since: "now", NoFollow: true}, f.only(t).GetWatch(), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	r = f.ctl(t, "watch", "--no-follow", "--kinds", "event,log", "--since", "4", "web", "-o", "json")
	docs := lines(t, r.stdout)
	if len(docs) != len(stored) || r.status != 0 {
		t.Fatalf("%+v", r)
	}
	first, _ := docs[0]["log"].(map[string]any)
	if docs[0]["sequence"] != "1" || first["text"] != base64.StdEncoding.EncodeToString(stored[0].GetLog().GetText()) {
		t.Errorf("the first line is %v", docs[0])
	}
	event, _ := docs[5]["event"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"type": "exited", "state": "backoff", "reason": "signal:9", "detail": "at\x1b[2J once", "version": "0"}, event); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&solov1.WatchRequest{Service: "web", Kinds: []string{"event", "log"}, Since: "4", NoFollow: true}, f.only(t).GetWatch(), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestAuditTail(t *testing.T) {
	f := start(t)
	for _, args := range [][]string{{"audit", "tail", "--after", "7"}, {"audit", "tail", "--after", "7", "-o", "json"}} {
		r := f.ctl(t, args...)
		if docs := lines(t, r.stdout); len(docs) != 2 || docs[1]["what"] != "kill" || r.status != 0 || r.stderr != "" {
			t.Errorf("%v: %+v", args, r)
		}
		if diff := cmp.Diff(&solov1.TailRequest{After: 7}, f.only(t).GetAuditTail(), protocmp.Transform()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
}

// watched is an output that says when something has come.
type watched struct {
	strings.Builder
	lines int
	came  func(lines int)
}

func (w *watched) Write(p []byte) (int, error) {
	w.lines += strings.Count(string(p), "\n")
	w.came(w.lines)
	return w.Builder.Write(p)
}

// TestFollowInterrupted: what follows shows what comes, and ends without a word when
// it is interrupted.
func TestFollowInterrupted(t *testing.T) {
	for _, test := range []struct {
		args  []string
		lines int
	}{
		{[]string{"logs", "-f", "web"}, 3},
		{[]string{"watch"}, 6},
		{[]string{"watch", "-o", "json"}, 6},
		{[]string{"audit", "tail", "-f"}, 2},
	} {
		f := start(t)
		out := &watched{came: func(n int) {
			if n == test.lines {
				_ = syscall.Kill(syscall.Getpid(), syscall.SIGINT)
			}
		}}
		var told strings.Builder
		status := ctl.Main(test.args, ctl.Env{Stdin: strings.NewReader(""), Stdout: out, Stderr: &told, Getenv: func(name string) string {
			return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": token}[name]
		}})
		if status != 130 || told.String() != "" || strings.Count(out.String(), "\n") != test.lines {
			t.Errorf("%v: exit status %d, %q, %q", test.args, status, told.String(), out.String())
		}
	}
}

// TestFollowEnds: the end of Solo ends it with an error, on one line in JSON.
func TestFollowEnds(t *testing.T) {
	f := start(t)
	out := &watched{came: func(n int) {
		if n == 6 {
			f.gateway.Kernel.Close()
		}
	}}
	status := ctl.Main([]string{"watch", "-o", "json"}, ctl.Env{Stdin: strings.NewReader(""), Stdout: out, Stderr: &strings.Builder{}, Getenv: func(name string) string {
		return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": token}[name]
	}})
	docs := lines(t, out.String())
	if e, ok := docs[len(docs)-1]["error"].(map[string]any); status != 1 || len(docs) != 7 || !ok || e["code"] != "UNAVAILABLE" {
		t.Errorf("exit status %d, output %q", status, out.String())
	}
}
