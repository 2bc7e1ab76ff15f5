package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// ran is how a one-shot run ended.
type ran struct {
	Stdout, Stderr string
	Status         int32
	Reason         string
}

// once runs a program to its end. The context is the client's.
func (x *tester) once(ctx context.Context, start *solov1.RunStart, stdin string) (ran, error) {
	x.Helper()
	stream, err := x.client.Lifecycle.Run(ctx)
	if err != nil {
		return ran{}, err
	}
	if err := stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return ran{}, err
	}
	if stdin != "" {
		_ = stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Stdin{Stdin: []byte(stdin)}}) // Recv says what is wrong
	}
	_ = stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_CloseStdin{CloseStdin: true}})
	var r ran
	for {
		m, err := stream.Recv()
		if err != nil {
			return r, err
		}
		switch item := m.GetItem().(type) {
		case *solov1.RunResponse_Stdout:
			r.Stdout += string(item.Stdout)
		case *solov1.RunResponse_Stderr:
			r.Stderr += string(item.Stderr)
		case *solov1.RunResponse_Exit:
			r.Status, r.Reason = item.Exit.GetExitStatus(), item.Exit.GetReason()
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				x.Errorf("after the exit came %v", err)
			}
			return r, nil
		}
	}
}

// unnamed is a request for a run, which has no readiness or restart.
func (x *tester) unnamed(req *solov1.DeployRequest) *solov1.RunStart {
	x.Helper()
	if req.GetResources() == nil {
		req.Resources = &solov1.Resources{}
	}
	req.Resources.StartupTimeoutMs = uint32(testenv.Scale(patience).Milliseconds())
	return &solov1.RunStart{Manifest: req, TimeoutMs: uint32(testenv.Scale(patience).Milliseconds())}
}

// TestRun: input, output, errors and exit status of a one-shot.
func TestRun(t *testing.T) {
	x := shared(t)
	before := x.list("")
	for _, test := range []struct {
		name  string
		req   *solov1.DeployRequest
		stdin string
		want  ran
	}{
		{"output", x.victim("print out , complain err"), "", ran{"out\n", "err\n", 0, "exit:0"}},
		{"exit status", x.victim("print out , exit 7"), "", ran{"out\n", "", 7, "exit:7"}},
		{"signal", x.victim("signal 9"), "", ran{"", "", 137, "signal:9"}},
		{"input", x.victim("cat"), "one\ntwo\n", ran{"one\ntwo\n", "", 0, "exit:0"}},
		{"input that nobody reads", x.victim("exit 0"), strings.Repeat("x", 1<<20), ran{"", "", 0, "exit:0"}},
		{"shell", source("a.sh", "read line; echo \"$1 $line\"; exit 3", "got"), "hello\n", ran{"got hello\n", "", 3, "exit:3"}},
		{"host program", host("/usr/bin/sha256sum"), "", ran{"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -\n", "", 0, "exit:0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := x.on(t)
			got, err := x.once(x.ctx(), x.unnamed(test.req), test.stdin)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
		})
	}
	if after := x.list(""); len(after) != len(before) {
		t.Errorf("runs left services: %v", after)
	}
}

// TestRunMuch: a lot of output comes whole, also when it ends at once.
func TestRunMuch(t *testing.T) {
	x := shared(t)
	n := times(20) * 1000
	got, err := x.once(x.ctx(), x.unnamed(x.victim("log "+jsonOf(n))), "")
	if err != nil || got.Status != 0 {
		t.Fatalf("run: %+v, %v", got.Status, err)
	}
	if len(got.Stdout) != n*100 || !strings.HasSuffix(got.Stdout, "x\n") {
		t.Errorf("%d bytes came of %d", len(got.Stdout), n*100)
	}
}

func jsonOf(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// TestRunPython feeds a script, as agents do most.
func TestRunPython(t *testing.T) {
	testenv.Require(t, testenv.Python)
	x := shared(t)
	start := x.unnamed(source("sum.py", "import sys\nprint(sum(int(l) for l in sys.stdin))"))
	got, err := x.once(x.ctx(), start, "1\n2\n39\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ran{"42\n", "", 0, "exit:0"}, got); diff != "" {
		t.Errorf("run (-want +got):\n%s", diff)
	}
}

// TestRunTimeLimit: the program is killed when its time is over.
func TestRunTimeLimit(t *testing.T) {
	x := shared(t)
	start := x.unnamed(x.victim("print before , sleep 1h"))
	start.TimeoutMs = 500
	if testenv.VM() {
		start.TimeoutMs = 3000
	}
	got, err := x.once(x.ctx(), start, "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Reason != "timeout" || got.Status == 0 || got.Stdout != "before\n" {
		t.Errorf("run: %+v", got)
	}
}

// TestRunLimits: limits hold for runs too.
func TestRunLimits(t *testing.T) {
	x := shared(t)
	req := x.victim("memory 134217728")
	req.Resources = &solov1.Resources{MaxMemoryBytes: 64 << 20}
	got, err := x.once(x.ctx(), x.unnamed(req), "")
	if err != nil || got.Reason != "oom" || got.Status == 0 {
		t.Errorf("run: %+v, %v", got, err)
	}
}

// TestRunCancelled: when the client goes, the program does.
func TestRunCancelled(t *testing.T) {
	x := shared(t)
	ctx, cancel := context.WithCancel(x.ctx())
	defer cancel()
	before := groupPIDs(x.group() + "/user")
	done := make(chan error, 1)
	go func() {
		_, err := x.once(ctx, x.unnamed(x.victim("fork 3 , sleep 1h")), "")
		done <- err
	}()
	testenv.Eventually(t, patience, "the run's processes", func() bool { return len(groupPIDs(x.group()+"/user")) >= len(before)+4 })
	cancel()
	if err := <-done; err == nil {
		t.Error("a cancelled run ended well")
	}
	testenv.Eventually(t, patience, "the run's processes to end", func() bool { return len(groupPIDs(x.group()+"/user")) <= len(before)+1 })
}

// TestRunRefused: what a run must not ask for.
func TestRunRefused(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	for field, change := range map[string]func(*solov1.DeployRequest){
		"restart":    func(r *solov1.DeployRequest) { r.Restart = "permanent" },
		"replicas":   func(r *solov1.DeployRequest) { r.Replicas = 2 },
		"ready":      func(r *solov1.DeployRequest) { r.Ready = notifyReady() },
		"request_id": func(r *solov1.DeployRequest) { r.RequestId = "x" },
	} {
		t.Run(field, func(t *testing.T) {
			x := x.on(t)
			start := x.unnamed(x.victim("exit 0"))
			change(start.GetManifest())
			_, err := x.once(x.ctx(), start, "")
			x.refuses(err, invalid("", field))
		})
	}
}

// TestCtlRun is the command line of it.
func TestCtlRun(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	file := filepath.Join(t.TempDir(), "upper.sh")
	if err := os.WriteFile(file, []byte("tr a-z A-Z; echo done >&2; exit $1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"SOLO_ADDR=" + x.addr()}
	ctl := filepath.Join(x.bin, "solo-ctl")
	timeout := "--startup-timeout=" + testenv.Scale(patience).String()
	got := x.program(env, "hello\n", ctl, "--token-file", x.tokenFile(), "run", timeout, file, "5")
	want := outcome{"HELLO\n", "done\n", 5}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("run (-want +got):\n%s", diff)
	}
	got = x.program(env, "hello\n", ctl, "--token-file", x.tokenFile(), "-o", "json", "run", timeout, file, "0")
	var doc struct {
		Stdout     string `json:"stdout"`
		ExitStatus int    `json:"exit_status"`
		Reason     string `json:"reason"`
	}
	if err := json.Unmarshal([]byte(got.stdout), &doc); err != nil || got.status != 0 || doc.Stdout != "HELLO\n" || doc.Reason != "exit:0" {
		t.Errorf("run -o json: %+v", got)
	}
}
