package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// tester is a test and the solod that it uses.
type tester struct {
	*testing.T
	*solo
}

func newTester(t *testing.T, s *solo) *tester {
	x := &tester{T: t, solo: s}
	from := 0
	if s.output != nil {
		from = len(s.output.text())
	}
	t.Cleanup(func() {
		if t.Failed() && s.output != nil {
			text := s.output.text()
			t.Logf("solod said:\n%s", text[min(from, len(text)):])
		}
	})
	return x
}

// on is the same for a subtest.
func (x *tester) on(t *testing.T) *tester { return newTester(t, x.solo) }

// boot starts the solod of an own tester.
func (x *tester) boot() {
	x.Helper()
	if err := x.start(); err != nil {
		x.Fatal(err)
	}
}

// halt stops it in good order.
func (x *tester) halt() {
	x.Helper()
	problems := x.stop()
	for _, p := range problems {
		x.Error(p)
	}
	if len(problems) > 0 {
		x.FailNow()
	}
}

// ctx ends with the test, or when it hangs.
func (x *tester) ctx() context.Context {
	ctx, cancel := context.WithTimeout(x.Context(), testenv.Scale(2*patience))
	x.Cleanup(cancel)
	return ctx
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

var named atomic.Uint32

// name is a service name that no other test has.
func (x *tester) name() string {
	base := strings.Trim(notName.ReplaceAllString(strings.ToLower(strings.TrimPrefix(x.Name(), "Test")), "-"), "-")
	return fmt.Sprintf("%s-%d", strings.Trim(base[:min(len(base), 50)], "-"), named.Add(1))
}

// victim is a request for test/victim with acts such as "ready , sleep 1h".
func (x *tester) victim(acts string) *solov1.DeployRequest {
	x.Helper()
	if x.digest == "" {
		f, err := os.Open(testenv.Victim(x.T))
		if err != nil {
			x.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		r, err := x.client.Upload(x.ctx(), f)
		if err != nil {
			x.Fatalf("upload the victim: %v", err)
		}
		x.digest = r.GetDigest()
	}
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{
		Artifact: x.digest, Args: strings.Fields(acts),
	}}}
}

// source is a request for a source text.
func source(file, code string, args ...string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{File: file, Code: code, Args: args}}}
}

// host is a request for a program of the host.
func host(path string, args ...string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: path, Args: args}}}
}

// generous gives a request a name, and a start-up timeout that a busy machine meets,
// unless it has them.
func (x *tester) generous(req *solov1.DeployRequest) *solov1.DeployRequest {
	if req.GetName() == "" {
		req.Name = x.name()
	}
	if req.GetResources() == nil {
		req.Resources = &solov1.Resources{}
	}
	if req.GetResources().GetStartupTimeoutMs() == 0 {
		req.Resources.StartupTimeoutMs = uint32(testenv.Scale(patience).Milliseconds())
	}
	return req
}

// try deploys and waits; the service is deleted at the test's end.
func (x *tester) try(req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	x.Helper()
	req.Wait = true
	x.generous(req)
	x.Cleanup(func() {
		if x.client != nil {
			x.forget(req.GetName())
		}
	})
	return x.client.Solo.Deploy(x.ctx(), req)
}

// forget deletes a service if it is there.
func (x *tester) forget(name string) {
	x.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Scale(2*patience))
	defer cancel()
	// Without its grace, which a test may have made long.
	_, _ = x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name, Force: true})
	_, err := x.client.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name})
	if err != nil && status.Code(err) != codes.NotFound {
		x.Errorf("delete %s: %v", name, err)
	}
}

// deploy deploys what must become ready, and returns its name.
func (x *tester) deploy(req *solov1.DeployRequest) string {
	x.Helper()
	r, err := x.try(req)
	if err != nil {
		x.Fatalf("deploy %s: %v", req.GetName(), err)
	}
	if r.GetState() != "ready" {
		x.Fatalf("deploy %s: state %s, reason %q\n%s", req.GetName(), r.GetState(), r.GetReason(), x.allLogs(req.GetName()))
	}
	return req.GetName()
}

// status is a service's status.
func (x *tester) status(name string) *solov1.ServiceStatus {
	x.Helper()
	r, err := x.client.Solo.Status(x.ctx(), &solov1.StatusRequest{Service: name})
	if err != nil {
		x.Fatalf("status of %s: %v", name, err)
	}
	return r.GetService()
}

// await waits for a status.
func (x *tester) await(name, what string, ok func(*solov1.ServiceStatus) bool) *solov1.ServiceStatus {
	x.Helper()
	deadline := time.Now().Add(testenv.Scale(patience))
	for {
		s := x.status(name)
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			x.Fatalf("waited %v for %s of %s; it is %v", testenv.Scale(patience), what, name, s)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitState waits for a state and a reason.
func (x *tester) awaitState(name, state, reason string) *solov1.ServiceStatus {
	x.Helper()
	return x.await(name, state+" "+reason, func(s *solov1.ServiceStatus) bool {
		return s.GetState() == state && s.GetReason() == reason
	})
}

// pid is the host's process id of a service's only instance.
func (x *tester) pid(name string) int {
	x.Helper()
	s := x.status(name)
	if len(s.GetInstances()) != 1 || s.GetInstances()[0].GetPid() <= 0 {
		x.Fatalf("%s has no one instance with a pid: %v", name, s)
	}
	return int(s.GetInstances()[0].GetPid())
}

// killPID ends a process of this solod's without warning.
func (x *tester) killPID(pid int) {
	x.Helper()
	if !slices.Contains(groupPIDs(x.group()), pid) {
		x.Fatalf("process %d is not in %s", pid, x.group())
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		x.Fatalf("kill process %d: %v", pid, err)
	}
}

// line is one line of a service's log.
type line struct{ Stream, Text string }

// logs is what is kept of a service's log.
func (x *tester) logs(name string) []line {
	x.Helper()
	var list []line
	for _, m := range x.kept(&solov1.WatchRequest{Service: name, Kinds: []string{"log"}}) {
		list = append(list, line{m.GetLog().GetStream(), string(m.GetLog().GetText())})
	}
	return list
}

// allLogs is the log as text, for messages.
func (x *tester) allLogs(name string) string {
	x.Helper()
	var b strings.Builder
	for _, l := range x.logs(name) {
		fmt.Fprintf(&b, "%s | %s\n", l.Stream, l.Text)
	}
	return b.String()
}

// kept reads what a watch has from its start to now.
func (x *tester) kept(req *solov1.WatchRequest) []*solov1.WatchResponse {
	x.Helper()
	req.Since, req.NoFollow = "start", true
	stream, err := x.client.Solo.Watch(x.ctx(), req)
	if err != nil {
		x.Fatalf("watch: %v", err)
	}
	var list []*solov1.WatchResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			x.Fatalf("watch %v: %v", req, err)
		}
		list = append(list, m)
	}
}

// awaitLog waits for a line of standard output that begins so, and returns it.
func (x *tester) awaitLog(name, prefix string) string {
	x.Helper()
	var found string
	deadline := time.Now().Add(testenv.Scale(patience))
	for found == "" {
		for _, l := range x.logs(name) {
			if l.Stream == "stdout" && strings.HasPrefix(l.Text, prefix) {
				return l.Text
			}
		}
		if time.Now().After(deadline) {
			x.Fatalf("waited %v for a line %q of %s in:\n%s", testenv.Scale(patience), prefix, name, x.allLogs(name))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return found
}

// said decodes the first JSON line of a service.
func (x *tester) said(name string, v any) {
	x.Helper()
	text := x.awaitLog(name, "{")
	if err := json.Unmarshal([]byte(text), v); err != nil {
		x.Fatalf("%s said %q: %v", name, text, err)
	}
}

// refusal is what programs read of an error.
type refusal struct {
	Code    codes.Code
	Reason  string
	Fields  []string
	Problem string // what is wrong with a program or a source, in a word
}

func refusalOf(err error) refusal {
	st := status.Convert(err)
	r := refusal{Code: st.Code()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			r.Reason, r.Problem = d.GetReason(), d.GetMetadata()["problem"]
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				r.Fields = append(r.Fields, v.GetField())
			}
		}
	}
	return r
}

// denialOf is the structured denial of an error, or nil.
func denialOf(err error) *solov1.Denial {
	for _, d := range status.Convert(err).Details() {
		if d, ok := d.(*solov1.Denial); ok {
			return d
		}
	}
	return nil
}

// refuses checks an error that must have come.
func (x *tester) refuses(err error, want refusal) {
	x.Helper()
	if diff := cmp.Diff(want, refusalOf(err)); diff != "" {
		x.Errorf("refusal (-want +got):\n%s%v", diff, err)
	}
}

// outcome is how a program of the host ended.
type outcome struct {
	stdout, stderr string
	status         int
}

// ctl runs solo-ctl with root's token over the socket.
func (x *tester) ctl(args ...string) outcome {
	x.Helper()
	return x.program(nil, "", filepath.Join(x.bin, "solo-ctl"), append([]string{"--addr", x.addr(), "--token-file", x.tokenFile()}, args...)...)
}

// program runs a program to its end.
func (x *tester) program(env []string, stdin, path string, args ...string) outcome {
	x.Helper()
	cmd := exec.CommandContext(x.ctx(), path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		x.Fatalf("run %s: %v", path, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}
