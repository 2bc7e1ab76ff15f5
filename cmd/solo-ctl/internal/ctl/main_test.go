package ctl_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
	"github.com/solo-os/solo/test/testenv"
)

const token = "solo_test"

// checked looks for leaks after the tests of a program that is also solo-ctl.
type checked struct{ *testing.M }

func (c checked) Run() int { return testenv.CheckMain(c.M) }

func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){
		"solo-ctl": func() { os.Exit(ctl.Main(os.Args[1:], ctl.System())) },
	})
}

// asked is a request as it reached the kernel, with the contents that came along.
type asked struct {
	*controlv1.Request
	contents []string
}

// canned is a kernel with prepared answers. What it does to a service is in the name:
// "denied", "missing", "wrong" and "failing" are what they say.
type canned struct {
	t        testing.TB
	requests chan asked
}

func newCanned(t testing.TB) *canned { return &canned{t: t, requests: make(chan asked, 1000)} }

// only takes the requests so far and returns the one that is no upload.
func (c *canned) only(t *testing.T) asked {
	t.Helper()
	var found []asked
	for len(c.requests) > 0 {
		r := <-c.requests
		if r.GetAuthorizeUpload() == nil && r.GetStoreArtifact() == nil {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d requests reached the kernel, want one", len(found))
	}
	return found[0]
}

func (c *canned) handle(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
	a := asked{Request: proto.CloneOf(req)}
	for _, f := range files {
		b, err := io.ReadAll(f)
		if err != nil {
			c.t.Errorf("read: %v", err)
		}
		a.contents = append(a.contents, string(b))
	}
	files.Close()
	c.requests <- a
	var err error
	switch {
	case req.GetToken() != token:
		err = k.Fail(req, &controlv1.Error{Code: uint32(codes.Unauthenticated), Message: "no token", Reason: "UNAUTHENTICATED",
			Denial: &solov1.Denial{Layer: "capability", Asked: "anything", MissingRight: "a token", HowToRequest: "set SOLO_TOKEN"}})
	case req.GetRun() != nil:
		err = c.run(k, req)
	case req.GetWatch() != nil || req.GetAuditTail() != nil:
		err = c.stream(k, req)
	default:
		if e := refusal(subject(req)); e != nil {
			err = k.Fail(req, e)
		} else {
			err = k.Respond(req, c.answer(req, a.contents))
		}
	}
	// The gateway may have ended with the test, and a reader of a stream with it.
	if err != nil && !errors.Is(err, syscall.EPIPE) && !strings.Contains(err.Error(), "closed file") {
		c.t.Errorf("respond: %v", err)
	}
}

// subject is the service that a request is about.
func subject(req *controlv1.Request) string {
	for _, name := range []string{req.GetDeploy().GetRequest().GetName(), req.GetStatus().GetService(), req.GetKill().GetService(), req.GetStart().GetService(),
		req.GetRestart().GetService(), req.GetDelete().GetService(), req.GetWatch().GetService(), req.GetList().GetFilter()} {
		if name != "" {
			return name
		}
	}
	return ""
}

func refusal(service string) *controlv1.Error {
	switch service {
	case "denied":
		return &controlv1.Error{Code: uint32(codes.PermissionDenied), Message: "the token has no right", Reason: "PERMISSION_DENIED",
			Denial: &solov1.Denial{Layer: "capability", Asked: "status of denied", MissingRight: "status", HowToRequest: "ask the holder\x1b[2J"}}
	case "missing":
		return &controlv1.Error{Code: uint32(codes.NotFound), Message: "there is no service missing", Reason: "SERVICE_NOT_FOUND"}
	case "wrong":
		return &controlv1.Error{Code: uint32(codes.InvalidArgument), Message: "the manifest is wrong", Reason: "INVALID_MANIFEST",
			Violations: []*controlv1.Violation{{Field: "resources.max_processes", Description: "40000 is over 32768"}}}
	}
	return nil
}

func service(name string) *solov1.ServiceStatus {
	return &solov1.ServiceStatus{
		Name: name, ServiceId: "id-1", State: "ready", Reason: "exit:3", Version: 4, MemoryBytes: 3 << 20, CpuUsec: 1500, Restarts: 2,
		StartupPath: "blank", StatusText: "serving\x1b]0;owned\x07", Runtime: "python", CodeDigest: "sha256:ab", Ports: []string{"127.0.0.1:8080"},
		Resources: &solov1.Resources{MaxMemoryBytes: 4 << 30}, DeployedAt: &timestamppb.Timestamp{Seconds: 1}, Restart: "permanent", Replicas: 1, Tier: "user",
		Instances: []*solov1.InstanceStatus{{Id: "i-1", Pid: 4711, State: "ready", StartedAt: &timestamppb.Timestamp{Seconds: 2}, StartupMs: 1.5,
			MemoryBytes: 3 << 20, CpuUsec: 1500, Processes: 2}},
	}
}

func (c *canned) answer(req *controlv1.Request, contents []string) *controlv1.Response {
	state, reason := "ready", ""
	if subject(req) == "failing" {
		state, reason = "failed", "exit:1"
	}
	switch op := req.GetOp().(type) {
	case *controlv1.Request_Deploy:
		r := &solov1.DeployResponse{ServiceId: "id-1", Version: 1, State: state, Reason: reason, StartupMs: 2.5}
		if op.Deploy.GetRequest().GetValidateOnly() {
			r = &solov1.DeployResponse{Plan: &solov1.Plan{Name: op.Deploy.GetRequest().GetName(), Runtime: "binary", Program: "/usr/bin/sleep", Argv: []string{"sleep", "6 0"}}}
		}
		return &controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: r}}
	case *controlv1.Request_Status:
		return &controlv1.Response{Result: &controlv1.Response_Status{Status: &solov1.StatusResponse{Service: service(op.Status.GetService())}}}
	case *controlv1.Request_List:
		page := &solov1.ListResponse{Services: []*solov1.ServiceStatus{service("a")}, NextPageToken: "more"}
		if op.List.GetPageToken() == "more" {
			page = &solov1.ListResponse{Services: []*solov1.ServiceStatus{service("b")}}
		}
		return &controlv1.Response{Result: &controlv1.Response_List{List: page}}
	case *controlv1.Request_Kill:
		return &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{State: "stopped", Reason: "killed"}}}
	case *controlv1.Request_Start:
		return &controlv1.Response{Result: &controlv1.Response_Start{Start: &solov1.StartResponse{State: state, Reason: reason}}}
	case *controlv1.Request_Restart:
		return &controlv1.Response{Result: &controlv1.Response_Restart{Restart: &solov1.RestartResponse{State: state, Reason: reason}}}
	case *controlv1.Request_Delete:
		return &controlv1.Response{Result: &controlv1.Response_Delete{Delete: &solov1.DeleteResponse{}}}
	case *controlv1.Request_Shutdown:
		return &controlv1.Response{Result: &controlv1.Response_Shutdown{Shutdown: &solov1.ShutdownResponse{}}}
	case *controlv1.Request_Info:
		return &controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{Pid: 7, Version: "v1", UptimeMs: 61_000, Generation: 3, CgroupMode: "v2"}}}
	case *controlv1.Request_AuthorizeUpload:
		return &controlv1.Response{Result: &controlv1.Response_UploadAuthorized{UploadAuthorized: &controlv1.UploadAuthorized{}}}
	case *controlv1.Request_StoreArtifact:
		return &controlv1.Response{Result: &controlv1.Response_Stored{Stored: &solov1.UploadResponse{Digest: digest(contents[0]), Size: op.StoreArtifact.GetSize()}}}
	}
	c.t.Errorf("no answer to %T", req.GetOp())
	return &controlv1.Response{}
}

// digest stands for the real one, and can be read.
func digest(content string) string { return fmt.Sprintf("sha256:%x", content[:min(8, len(content))]) }

// fixture is a gateway with a canned kernel.
type fixture struct {
	*canned
	gateway *gatewaytest.Gateway
}

func start(t testing.TB) fixture {
	c := newCanned(t)
	return fixture{c, gatewaytest.Start(t, c.handle, nil)}
}

// result is what one run of solo-ctl left.
type result struct {
	status         int
	stdout, stderr string
}

// ctl runs solo-ctl in this process.
func (f fixture) ctl(t testing.TB, args ...string) result {
	t.Helper()
	return f.with(t, ctl.Env{}, args...)
}

// with runs solo-ctl with what env says about terminals and standard input.
func (f fixture) with(t testing.TB, env ctl.Env, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	env.Stdout, env.Stderr = &stdout, &stderr
	if env.Getenv == nil {
		env.Getenv = func(name string) string {
			return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": token}[name]
		}
	}
	status := ctl.Main(args, env)
	return result{status, stdout.String(), stderr.String()}
}

// document decodes the only JSON document of an output.
func document(t testing.TB, text string) map[string]any {
	t.Helper()
	var doc map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	if err := dec.Decode(&doc); err != nil {
		t.Fatalf("the output is no JSON document: %v\n%s", err, text)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("the output is more than one JSON document:\n%s", text)
	}
	if !strings.HasSuffix(text, "}\n") {
		t.Errorf("the output does not end with a newline: %q", text)
	}
	return doc
}

// write makes files below a new directory and returns it.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
