package ctl_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func appFile(t *testing.T) string {
	return filepath.Join(write(t, map[string]string{"app.sh": "cat\n"}), "app.sh")
}

// TestRun: input, output, errors and exit status are the program's.
func TestRun(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, test := range []struct {
		name  string
		flags []string
		stdin string
		want  result
	}{
		{"a program that copies", nil, "in\n", result{0, "in\n", ""}},
		{"both outputs", []string{"--env", "OUTPUT=out ", "--env", "ERRORS=err"}, "in", result{0, "out in", "err"}},
		{"much", nil, string(big), result{0, string(big), ""}},
		{"no input", []string{"-n"}, "not read", result{0, "", ""}},
		{"exit status", []string{"--env", "STATUS=3"}, "", result{3, "", ""}},
		{"exit status 2", []string{"--env", "STATUS=2"}, "", result{2, "", ""}},
		{"a signal", []string{"--env", "STATUS=137", "--env", "REASON=oom"}, "", result{137, "", "solo-ctl: the program was ended: oom\n"}},
		{"the time limit", []string{"--env", "STATUS=137", "--env", "REASON=timeout"}, "", result{137, "", "solo-ctl: the program was ended: timeout\n"}},
		{"a status that is none", []string{"--env", "STATUS=256"}, "", result{1, "", ""}},
		{"a refusal", []string{"--env", "REFUSE=missing"}, "in", result{1, "", "solo-ctl: NOT_FOUND SERVICE_NOT_FOUND: there is no service missing\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := start(t)
			args := append(append([]string{"run"}, test.flags...), appFile(t))
			if r := f.with(t, ctl.Env{Stdin: strings.NewReader(test.stdin)}, args...); r != test.want {
				t.Errorf("got %d, %d bytes, %q, want %d, %d bytes, %q", r.status, len(r.stdout), r.stderr, test.want.status, len(test.want.stdout), test.want.stderr)
			}
		})
	}
}

// TestRunForms: what a line becomes.
func TestRunForms(t *testing.T) {
	app := appFile(t)
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	code := []string{"cat\n"}
	for _, test := range []struct {
		args     []string
		stdin    string
		want     *controlv1.RunOp
		contents []string
		out      string
	}{
		{[]string{app, "a", "--b", "-o"}, "in", runOp(src(&solov1.Source{File: "app.sh", Args: []string{"a", "--b", "-o"}}), 0), code, "in"},
		{[]string{app, "--", "--", "x"}, "", runOp(src(&solov1.Source{File: "app.sh", Args: []string{"--", "x"}}), 0), code, ""},
		{[]string{"--language", "sh", "--time-limit", "2s", "-"}, "echo program", runOp(src(&solov1.Source{Language: "sh"}), 2000), []string{"echo program"}, ""},
		{[]string{"--timeout-ms", "7", "/bin/sleep", "--", "60"}, "", runOp(bin(&solov1.Binary{Path: sleep, Args: []string{"60"}}), 7), nil, ""},
	} {
		f := start(t)
		r := f.with(t, ctl.Env{Stdin: strings.NewReader(test.stdin)}, append([]string{"run"}, test.args...)...)
		if r != (result{0, test.out, ""}) {
			t.Errorf("run %v: %+v", test.args, r)
		}
		got := f.only(t)
		test.want.Deploy.HasCode = test.contents != nil
		if diff := cmp.Diff(test.want, got.GetRun(), protocmp.Transform()); diff != "" {
			t.Errorf("run %v: request (-want +got):\n%s", test.args, diff)
		}
		if diff := cmp.Diff(test.contents, got.contents); diff != "" {
			t.Errorf("run %v: contents (-want +got):\n%s", test.args, diff)
		}
	}
}

// runOp is a run of code; the manifest's code is one of the two kinds used here.
func runOp(code any, timeoutMs uint32) *controlv1.RunOp {
	req := &solov1.DeployRequest{}
	switch code := code.(type) {
	case *solov1.DeployRequest_Source:
		req.Code = code
	case *solov1.DeployRequest_Binary:
		req.Code = code
	}
	return &controlv1.RunOp{Deploy: &controlv1.DeployOp{Request: req}, TimeoutMs: timeoutMs}
}

// TestRunJSON: one document, and still the program's exit status.
func TestRunJSON(t *testing.T) {
	f := start(t)
	binary := "\xff\x00\xfe"
	r := f.with(t, ctl.Env{Stdin: strings.NewReader(binary)}, "run", "-o", "json", "--env", "STATUS=4", "--env", "ERRORS=ü", appFile(t))
	want := map[string]any{"stdout_base64": base64.StdEncoding.EncodeToString([]byte(binary)), "stderr": "ü", "truncated": false,
		"exit_status": 4.0, "reason": "exit:4", "cpu_usec": 1500.0, "wall_ms": 2.5}
	if diff := cmp.Diff(want, document(t, r.stdout)); diff != "" || r.status != 4 || r.stderr != "" {
		t.Errorf("exit status %d, %q, document (-want +got):\n%s", r.status, r.stderr, diff)
	}
	r = f.ctl(t, "run", "-o", "json", "--env", "REFUSE=denied", appFile(t))
	if e, ok := document(t, r.stdout)["error"].(map[string]any); !ok || e["code"] != "PERMISSION_DENIED" || r.status != 3 {
		t.Errorf("a denial: %+v", r)
	}
}

// TestRunInterrupted: SIGINT kills the program and ends solo-ctl.
func TestRunInterrupted(t *testing.T) {
	f := start(t)
	stdin, hold := io.Pipe() // an input that does not end
	defer func() { _ = hold.Close() }()
	go func() {
		<-f.requests // by now Main takes signals
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGINT)
	}()
	r := f.with(t, ctl.Env{Stdin: stdin}, "run", appFile(t))
	if r.status != 130 || !strings.Contains(r.stderr, "CANCELLED") {
		t.Errorf("%+v", r)
	}
	select {
	case <-f.gateway.Kernel.Cancelled:
	case <-t.Context().Done():
		t.Error("the kernel was not told")
	}
}
