package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

const pythonGreets = `
import sys, time
print("hello from python", *sys.argv[1:])
time.sleep(3600)
`

const shellGreets = "#!/bin/sh\necho hello from sh \"$@\"\nexec sleep 3600\n"

// TestDeployKinds deploys each kind of code and looks at it with Status and List.
func TestDeployKinds(t *testing.T) {
	x := shared(t)
	for _, test := range []struct {
		name string
		req  func(x *tester) *solov1.DeployRequest
		want *solov1.ServiceStatus
		says string
		need testenv.Need
	}{
		{
			name: "host path with arguments",
			req:  func(*tester) *solov1.DeployRequest { return host("/usr/bin/sleep", "3600") },
			want: &solov1.ServiceStatus{Runtime: "binary"},
		},
		{
			name: "uploaded ELF",
			req:  func(x *tester) *solov1.DeployRequest { return x.victim("print hello , sleep 1h") },
			want: &solov1.ServiceStatus{Runtime: "binary"},
			says: "hello",
		},
		{
			name: "artifact that Solo recognises",
			req: func(x *tester) *solov1.DeployRequest {
				x.victim("")
				return &solov1.DeployRequest{Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{
					Digest: x.digest, Args: []string{"print", "recognised", ",", "sleep", "1h"},
				}}}
			},
			want: &solov1.ServiceStatus{Runtime: "binary"},
			says: "recognised",
		},
		{
			name: "python source",
			req:  func(*tester) *solov1.DeployRequest { return source("app.py", pythonGreets, "one", "two") },
			want: &solov1.ServiceStatus{Runtime: "python"},
			says: "hello from python one two",
			need: testenv.Python,
		},
		{
			name: "python source by its language",
			req: func(*tester) *solov1.DeployRequest {
				r := source("app", pythonGreets)
				r.GetSource().Language = "python"
				return r
			},
			want: &solov1.ServiceStatus{Runtime: "python"},
			says: "hello from python",
			need: testenv.Python,
		},
		{
			name: "shell source",
			req:  func(*tester) *solov1.DeployRequest { return source("hello.sh", shellGreets, "one") },
			want: &solov1.ServiceStatus{Runtime: "sh"},
			says: "hello from sh one",
		},
		{
			name: "source by its first line",
			req:  func(*tester) *solov1.DeployRequest { return source("hello", shellGreets) },
			want: &solov1.ServiceStatus{Runtime: "sh"},
			says: "hello from sh",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.need != "" {
				testenv.Require(t, test.need)
			}
			x := x.on(t)
			req := test.req(x)
			req.Resources = &solov1.Resources{MaxMemoryBytes: 256 << 20, MaxProcesses: 50}
			name := x.deploy(req)
			got := x.status(name)
			test.want.Name, test.want.State, test.want.Version, test.want.StartupPath = name, "ready", 1, "blank"
			test.want.Restart, test.want.Replicas, test.want.Tier = "permanent", 1, "user"
			test.want.Instances = []*solov1.InstanceStatus{{State: "ready"}}
			if diff := cmp.Diff(test.want, got, protocmp.Transform(),
				protocmp.IgnoreFields(got, "service_id", "memory_bytes", "cpu_usec", "code_digest", "resources", "deployed_at"),
				protocmp.IgnoreFields(&solov1.InstanceStatus{}, "id", "pid", "started_at", "startup_ms", "memory_bytes", "cpu_usec", "processes"),
			); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if got.GetServiceId() == "" || got.GetDeployedAt() == nil || !strings.HasPrefix(got.GetCodeDigest(), "sha256:") {
				t.Errorf("status lacks its id, time or digest: %v", got)
			}
			if r := got.GetResources(); r.GetMaxMemoryBytes() != 256<<20 || r.GetMaxProcesses() != 50 || r.GetCpuShares() != 1024 {
				t.Errorf("resources are %v", r)
			}
			i := got.GetInstances()[0]
			if i.GetId() == "" || !alive(int(i.GetPid())) || i.GetStartedAt() == nil || i.GetStartupMs() <= 0 {
				t.Errorf("the instance lacks something: %v", i)
			}
			if test.says != "" {
				if got := x.awaitLog(name, test.says[:5]); got != test.says {
					t.Errorf("it said %q, want %q", got, test.says)
				}
			}
			if !slices.ContainsFunc(x.list(name), func(s *solov1.ServiceStatus) bool { return s.GetName() == name }) {
				t.Errorf("%s is not in the list", name)
			}
		})
	}
}

// list is List with a filter, all pages.
func (x *tester) list(filter string) []*solov1.ServiceStatus {
	x.Helper()
	var all []*solov1.ServiceStatus
	req := &solov1.ListRequest{Filter: filter}
	for {
		r, err := x.client.Solo.List(x.ctx(), req)
		if err != nil {
			x.Fatalf("list: %v", err)
		}
		all = append(all, r.GetServices()...)
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return all
		}
	}
}

// TestManifest deploys a YAML manifest with files of its own by solo-ctl.
func TestManifest(t *testing.T) {
	x := shared(t)
	dir := t.TempDir()
	name := x.name()
	for file, text := range map[string]string{
		"m.yaml": fmt.Sprintf(`name: %s
source: {language: sh, file: app.sh, args: [one]}
files: [{path: /etc/hello.conf, from: hello.conf, mode: "0444"}]
env: {GREETING: hi}
restart: transient
resources: {max_memory_bytes: 134217728, max_processes: 16, cpu_shares: 512, startup_timeout_ms: 60000}
ready: {exec: [/usr/bin/cat, /tmp/ready]}
`, name),
		"app.sh":     "echo $GREETING $1; cat /etc/hello.conf; : >/tmp/ready; exec sleep 1000",
		"hello.conf": "the configuration\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { x.forget(name) })
	out := x.ctl("deploy", "--wait", "-o", "json", filepath.Join(dir, "m.yaml"))
	var r struct{ State, Reason string }
	if err := json.Unmarshal([]byte(out.stdout), &r); err != nil || out.status != 0 || r.State != "ready" {
		t.Fatalf("solo-ctl ended with %+v", out)
	}
	x.awaitLog(name, "the configuration")
	want := []line{{"stdout", "hi one"}, {"stdout", "the configuration"}}
	if diff := cmp.Diff(want, x.logs(name)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if s := x.status(name); s.GetRestart() != "transient" || s.GetResources().GetCpuShares() != 512 {
		t.Errorf("status is %v", s)
	}
}

// TestLifecycle goes through kill, start, restart and delete.
func TestLifecycle(t *testing.T) {
	x := shared(t)
	ctx := x.ctx()
	name := x.deploy(x.victim("ready , sleep 1h"))
	first := x.pid(name)

	killed, err := x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&solov1.KillResponse{State: "stopped", Reason: "killed"}, killed, protocmp.Transform()); diff != "" {
		t.Errorf("kill (-want +got):\n%s", diff)
	}
	if alive(first) {
		t.Errorf("process %d lives on", first)
	}
	s := x.status(name)
	if s.GetState() != "stopped" || s.GetReason() != "killed" || len(s.GetInstances()) != 0 || s.GetMemoryBytes() != 0 {
		t.Errorf("after kill: %v", s)
	}
	// Again is no error: it is stopped.
	if again, err := x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name, Force: true}); err != nil || again.GetState() != "stopped" {
		t.Errorf("kill again: %v, %v", again, err)
	}

	started, err := x.client.Lifecycle.Start(ctx, &solov1.StartRequest{Service: name, Wait: true})
	if err != nil || started.GetState() != "ready" {
		t.Fatalf("start: %v, %v", started, err)
	}
	second := x.pid(name)
	if again, err := x.client.Lifecycle.Start(ctx, &solov1.StartRequest{Service: name, Wait: true}); err != nil || again.GetState() != "ready" {
		t.Errorf("start again: %v, %v", again, err)
	}
	if now := x.pid(name); now != second {
		t.Errorf("starting what runs replaced process %d by %d", second, now)
	}

	restarted, err := x.client.Lifecycle.Restart(ctx, &solov1.RestartRequest{Service: name, Wait: true})
	if err != nil || restarted.GetState() != "ready" {
		t.Fatalf("restart: %v, %v", restarted, err)
	}
	if third := x.pid(name); third == second || alive(second) {
		t.Errorf("after restart: process %d, before %d", third, second)
	}

	last := x.pid(name)
	if _, err := x.client.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if alive(last) {
		t.Errorf("process %d lives on after delete", last)
	}
	missing := refusal{Code: codes.NotFound, Reason: "SERVICE_NOT_FOUND"}
	_, err = x.client.Solo.Status(ctx, &solov1.StatusRequest{Service: name})
	x.refuses(err, missing)
	_, err = x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name})
	x.refuses(err, missing)
	_, err = x.client.Lifecycle.Start(ctx, &solov1.StartRequest{Service: name})
	x.refuses(err, missing)
	_, err = x.client.Lifecycle.Restart(ctx, &solov1.RestartRequest{Service: name})
	x.refuses(err, missing)
	_, err = x.client.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name})
	x.refuses(err, missing)

	// The name is free again.
	req := x.victim("ready , sleep 1h")
	req.Name = name
	x.deploy(req)
}

// TestRequestID: a repeated call answers like the first and does nothing.
func TestRequestID(t *testing.T) {
	x := shared(t)
	req := x.victim("sleep 1h")
	req.RequestId = x.name()
	first, err := x.try(req)
	if err != nil {
		t.Fatal(err)
	}
	pid := x.pid(req.GetName())
	again, err := x.client.Solo.Deploy(x.ctx(), req)
	if err != nil {
		t.Fatalf("the same request again: %v", err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform(), protocmp.IgnoreFields(again, "startup_ms", "plan")); diff != "" {
		t.Errorf("answers (-first +again):\n%s", diff)
	}
	if now := x.pid(req.GetName()); now != pid {
		t.Errorf("the repeated request replaced process %d by %d", pid, now)
	}
}

// TestPlan compares the plan of a manifest whole; it names nothing that changes.
func TestPlan(t *testing.T) {
	x := shared(t)
	req := x.victim("print hello")
	req.Name = "team/plan"
	req.Env = map[string]string{"A": "secret"}
	req.Files = []*solov1.File{{Path: "/etc/a.conf", Content: []byte("a")}, {Path: "/opt/run", Mode: "0555"}}
	req.Uses = []*solov1.Use{
		{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:18080", To: 80, FdName: "web"}}},
		{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:18081"}}},
	}
	req.Resources = &solov1.Resources{MaxMemoryBytes: 64 << 20}
	req.Ready = &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: 80}}}
	req.ValidateOnly = true
	before := x.list("")
	r, err := x.client.Solo.Deploy(x.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := &solov1.Plan{
		Name: "team/plan", Runtime: "binary", CodeDigest: x.digest,
		Argv:   []string{"print", "hello"},
		Env:    []string{"A", "HOME", "LANG", "LISTEN_FDNAMES", "LISTEN_FDS", "NOTIFY_SOCKET", "PATH", "TMPDIR"},
		Files:  []string{"0444 /etc/a.conf", "0555 /opt/run"},
		Mounts: []string{"/app/program"},
		Ports:  []string{"127.0.0.1:18080 -> 80", "127.0.0.1:18081 -> 18081"},
		Resources: &solov1.Resources{
			MaxMemoryBytes: 64 << 20, MaxProcesses: 100, CpuShares: 1024, MaxOpenFiles: 1024, MaxTmpBytes: 64 << 20,
			LogRate: 1 << 20, MessageQueueLimit: 10_000, StartupTimeoutMs: 100, ShutdownTimeoutMs: 30_000, LimitExceededAction: "kill",
		},
		Restart: "permanent", Ready: "http:80/", Replicas: 1, SeccompProfile: "default", StartupPath: "blank",
	}
	got := r.GetPlan()
	// argv[0] and the program's place are the kernel's choice.
	if n := len(got.GetArgv()); n != 3 || got.GetProgram() == "" {
		t.Fatalf("argv %q, program %q", got.GetArgv(), got.GetProgram())
	}
	got.Argv = got.GetArgv()[1:]
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "program")); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	again, err := x.client.Solo.Deploy(x.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	got.Argv = again.GetPlan().GetArgv()
	if diff := cmp.Diff(got, again.GetPlan(), protocmp.Transform()); diff != "" {
		t.Errorf("the second plan differs:\n%s", diff)
	}
	names := func(list []*solov1.ServiceStatus) []string {
		var out []string
		for _, s := range list {
			out = append(out, s.GetName())
		}
		return out
	}
	if diff := cmp.Diff(names(before), names(x.list("")), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("validate_only changed the services:\n%s", diff)
	}
}

// TestListPages reads a list in pages.
func TestListPages(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	prefix := x.name()
	var want []string
	for i := range 5 {
		req := x.victim("sleep 1h")
		req.Name = fmt.Sprintf("%s/s%d", prefix, i)
		want = append(want, x.deploy(req))
	}
	other := x.deploy(x.victim("sleep 1h"))
	var got []string
	req := &solov1.ListRequest{Filter: prefix + "/", PageSize: 2}
	for pages := 1; ; pages++ {
		r, err := x.client.Solo.List(x.ctx(), req)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(r.GetServices()); n > 2 {
			t.Fatalf("a page has %d services", n)
		}
		for _, s := range r.GetServices() {
			got = append(got, s.GetName())
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			if pages != 3 {
				t.Errorf("5 services came in %d pages", pages)
			}
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if slices.Contains(got, other) {
		t.Errorf("the filter let %s through", other)
	}
}

// TestReplicas deploys several instances of one service.
func TestReplicas(t *testing.T) {
	x := shared(t)
	req := x.victim("sleep 1h")
	req.Replicas = 3
	name := x.deploy(req)
	s := x.await(name, "three instances", func(s *solov1.ServiceStatus) bool {
		ready := 0
		for _, i := range s.GetInstances() {
			if i.GetState() == "ready" && alive(int(i.GetPid())) {
				ready++
			}
		}
		return ready == 3
	})
	pids := map[int32]bool{}
	for _, i := range s.GetInstances() {
		pids[i.GetPid()] = true
	}
	if len(pids) != 3 {
		t.Errorf("the instances share processes: %v", s.GetInstances())
	}
}
