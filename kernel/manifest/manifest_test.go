package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const anyDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// minimal is the least that is valid: a host's binary with a name.
func minimal() *solov1.DeployRequest {
	return &solov1.DeployRequest{Name: "a", Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/true"}}}
}

func source(s *solov1.Source) *solov1.DeployRequest_Source {
	return &solov1.DeployRequest_Source{Source: s}
}

func artifact(digest, file string) *solov1.DeployRequest_Artifact {
	return &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: digest, File: file}}
}

func port(p *solov1.PortUse) *solov1.Use { return &solov1.Use{Use: &solov1.Use_Port{Port: p}} }

func listen(text string) *solov1.Use { return port(&solov1.PortUse{Listen: text, To: 80}) }

func httpProbe(port uint32, path string) *solov1.Ready {
	return &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: port, Path: path}}}
}

func execProbe(words ...string) *solov1.Ready {
	return &solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: words}}}
}

// fields are the names of what is wrong, in order.
func fields(found []Violation) []string {
	var names []string
	for _, v := range found {
		names = append(names, v.Field)
	}
	return names
}

// refusal is one change of a valid manifest and the fields that are then wrong.
type refusal struct {
	name string
	do   func(*solov1.DeployRequest)
	want []string
}

// TestLimits goes to both sides of each edge.
func TestLimits(t *testing.T) {
	type req = solov1.DeployRequest
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	paths := func(n int) []*solov1.File {
		var fs []*solov1.File
		for i := range n {
			fs = append(fs, &solov1.File{Path: fmt.Sprintf("/etc/f%d", i)})
		}
		return fs
	}
	ports := func(n int) []*solov1.Use {
		var us []*solov1.Use
		for i := range n {
			us = append(us, listen(fmt.Sprintf("127.0.0.1:%d", 1000+i)))
		}
		return us
	}
	env := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("V%d", i)] = ""
		}
		return m
	}
	args := func(n int, s string) *solov1.DeployRequest_Binary {
		return &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/true", Args: slices.Repeat([]string{s}, n)}}
	}
	path := func(n int) string {
		p := many(n/100, "/"+many(99, "x"))
		return p + "/" + many(n-len(p)-1, "y")
	}
	for _, c := range []struct {
		field   string
		in, out func(*req)
	}{
		{"name", func(m *req) { m.Name = many(63, "a") }, func(m *req) { m.Name = many(64, "a") }},
		{"name", func(m *req) { m.Name = "a/b/c/d" }, func(m *req) { m.Name = "a/b/c/d/e" }},
		{"request_id", func(m *req) { m.RequestId = many(MaxRequestID, "r") }, func(m *req) { m.RequestId = many(MaxRequestID+1, "r") }},
		{"replicas", func(m *req) { m.Replicas = MaxReplicas }, func(m *req) { m.Replicas = MaxReplicas + 1 }},
		{"args", func(m *req) { m.Code = args(MaxArgs, "") }, func(m *req) { m.Code = args(MaxArgs+1, "") }},
		{"env", func(m *req) { m.Env = env(MaxEnv) }, func(m *req) { m.Env = env(MaxEnv + 1) }},
		{"env", func(m *req) { m.Env = map[string]string{"A": many(MaxEnvArgBytes-3, "x")} },
			func(m *req) { m.Env = map[string]string{"A": many(MaxEnvArgBytes-2, "x")} }},
		{"env", func(m *req) { m.Code = args(1, many(MaxEnvArgBytes-1, "x")) }, func(m *req) { m.Code = args(1, many(MaxEnvArgBytes, "x")) }},
		{"env", func(m *req) { m.Env = map[string]string{many(128, "A"): ""} }, func(m *req) { m.Env = map[string]string{many(129, "A"): ""} }},
		{"binary.path", func(m *req) { m.GetBinary().Path = path(MaxPath) }, func(m *req) { m.GetBinary().Path = path(MaxPath + 1) }},
		{"binary.path", func(m *req) { m.GetBinary().Path = "/" + many(MaxComponent, "x") }, func(m *req) { m.GetBinary().Path = "/" + many(MaxComponent+1, "x") }},
		{"source.file", func(m *req) { m.Code = source(&solov1.Source{Artifact: anyDigest, File: many(128, "f")}) },
			func(m *req) { m.Code = source(&solov1.Source{Artifact: anyDigest, File: many(129, "f")}) }},
		{"source.language", func(m *req) { m.Code = source(&solov1.Source{Artifact: anyDigest, Language: many(32, "l")}) },
			func(m *req) { m.Code = source(&solov1.Source{Artifact: anyDigest, Language: many(33, "l")}) }},
		{"artifact.file", func(m *req) { m.Code = artifact(anyDigest, many(128, "f")) }, func(m *req) { m.Code = artifact(anyDigest, many(129, "f")) }},
		{"files", func(m *req) { m.Files = paths(MaxFiles) }, func(m *req) { m.Files = paths(MaxFiles + 1) }},
		{"files[0].mode", func(m *req) { m.Files = []*solov1.File{{Path: "/a", Mode: "777"}} }, func(m *req) { m.Files = []*solov1.File{{Path: "/a", Mode: "1000"}} }},
		{"uses", func(m *req) { m.Uses = ports(MaxUses) }, func(m *req) { m.Uses = ports(MaxUses + 1) }},
		{"uses[0].port.to", func(m *req) { m.Uses = []*solov1.Use{port(&solov1.PortUse{Listen: "127.0.0.1:1", To: 65535})} },
			func(m *req) { m.Uses = []*solov1.Use{port(&solov1.PortUse{Listen: "127.0.0.1:1", To: 65536})} }},
		{"uses[0].port.listen", func(m *req) { m.Uses = []*solov1.Use{listen("127.0.0.1:65535")} }, func(m *req) { m.Uses = []*solov1.Use{listen("127.0.0.1:65536")} }},
		{"uses[0].port.listen", func(m *req) { m.Uses = []*solov1.Use{listen("127.255.255.255:1")} }, func(m *req) { m.Uses = []*solov1.Use{listen("128.0.0.0:1")} }},
		{"uses[0].port.fd_name", func(m *req) {
			m.Uses = []*solov1.Use{port(&solov1.PortUse{Listen: "127.0.0.1:1", FdName: many(64, "n")})}
		}, func(m *req) {
			m.Uses = []*solov1.Use{port(&solov1.PortUse{Listen: "127.0.0.1:1", FdName: many(65, "n")})}
		}},
		{"ready.tcp", func(m *req) { m.Ready = &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: 65535}} }, func(m *req) { m.Ready = &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: 65536}} }},
		{"ready.http.port", func(m *req) { m.Ready = httpProbe(1, "") }, func(m *req) { m.Ready = httpProbe(0, "") }},
		{"ready.http.path", func(m *req) { m.Ready = httpProbe(1, "/"+many(MaxPath-1, "x")) }, func(m *req) { m.Ready = httpProbe(1, "/"+many(MaxPath, "x")) }},
		{"ready.exec.command", func(m *req) { m.Ready = execProbe(slices.Repeat([]string{"/a"}, MaxProbeArgs)...) },
			func(m *req) { m.Ready = execProbe(slices.Repeat([]string{"/a"}, MaxProbeArgs+1)...) }},
		{"ready.exec.command", func(m *req) { m.Ready = execProbe("/a", many(MaxEnvArgBytes-4, "x")) }, func(m *req) { m.Ready = execProbe("/a", many(MaxEnvArgBytes-3, "x")) }},
	} {
		m := minimal()
		c.in(m)
		if _, found := Validate(m, Contents{}); found != nil {
			t.Errorf("%s at its edge: %v", c.field, found)
		}
		m = minimal()
		c.out(m)
		_, found := Validate(m, Contents{})
		if diff := cmp.Diff([]string{c.field}, fields(found)); diff != "" {
			t.Errorf("%s over its edge (-want +got):\n%s%v", c.field, diff, found)
		}
	}
}

// TestResources goes to both edges of each number, and to its default.
func TestResources(t *testing.T) {
	for _, c := range []struct {
		field        string
		or, min, max uint64
	}{
		{"max_memory_bytes", 4 << 30, 1 << 20, 1 << 50},
		{"max_processes", 100, 1, 32768},
		{"cpu_shares", 1024, 2, 262144},
		{"cpu_quota_millis", 0, 10, 1_024_000},
		{"max_open_files", 1024, 16, 20000},
		{"max_tmp_bytes", 64 << 20, 64 << 10, 64 << 30},
		{"log_rate", 1 << 20, 1 << 10, 1 << 30},
		{"message_queue_limit", 10_000, 1, 1_000_000},
		{"startup_timeout_ms", 0, 1, 600_000},
		{"shutdown_timeout_ms", 30_000, 1, 600_000},
	} {
		for _, v := range []struct {
			value uint64
			ok    bool
			then  uint64
		}{
			{0, true, c.or}, {c.min, true, c.min}, {c.max, true, c.max}, {c.min - 1, c.min == 1, c.or}, {c.max + 1, false, 0},
		} {
			m := minimal()
			m.Resources = &solov1.Resources{}
			setNumber(m.Resources, c.field, v.value)
			got, found := Validate(m, Contents{})
			switch {
			case (found == nil) != v.ok:
				t.Errorf("%s = %d: %v", c.field, v.value, found)
			case v.ok && number(got.GetResources(), c.field) != v.then:
				t.Errorf("%s = %d became %d, not %d", c.field, v.value, number(got.GetResources(), c.field), v.then)
			case !v.ok && !cmp.Equal(fields(found), []string{"resources." + c.field}):
				t.Errorf("%s = %d: %v", c.field, v.value, found)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	type req = solov1.DeployRequest
	file := func(p string) func(*req) { return func(m *req) { m.Files = []*solov1.File{{Path: p}} } }
	both := func(a, b string) func(*req) { return func(m *req) { m.Files = []*solov1.File{{Path: a}, {Path: b}} } }
	program := func(p string) func(*req) { return func(m *req) { m.GetBinary().Path = p } }
	name := func(n string) func(*req) { return func(m *req) { m.Name = n } }
	variable := func(k, v string) func(*req) { return func(m *req) { m.Env = map[string]string{k: v} } }
	uses := func(us ...*solov1.Use) func(*req) { return func(m *req) { m.Uses = us } }
	ready := func(r *solov1.Ready) func(*req) { return func(m *req) { m.Ready = r } }
	src := func(s *solov1.Source) func(*req) { return func(m *req) { m.Code = source(s) } }
	action := func(a string) func(*req) {
		return func(m *req) { m.Resources = &solov1.Resources{LimitExceededAction: a} }
	}
	cases := []refusal{
		{"no code", func(m *req) { m.Code = nil }, []string{"code"}},
		{"bytecode", func(m *req) { m.Code = &solov1.DeployRequest_Bytecode{Bytecode: &solov1.Bytecode{}} }, []string{"bytecode"}},
		{"restart", func(m *req) { m.Restart = "always" }, []string{"restart"}},
		{"throttle", action("throttle"), []string{"resources.limit_exceeded_action"}},
		{"warn", action("warn"), []string{"resources.limit_exceeded_action"}},
		{"no such action", action("reboot"), []string{"resources.limit_exceeded_action"}},
		{"no binary", func(m *req) { *m.GetBinary() = solov1.Binary{} }, []string{"binary"}},
		{"binary twice", func(m *req) { m.GetBinary().Artifact = anyDigest }, []string{"binary"}},
		{"binary of the client", func(m *req) { m.GetBinary().File = "x" }, []string{"binary.file"}},
		{"no source", src(&solov1.Source{}), []string{"source"}},
		{"source inside", src(&solov1.Source{Code: "x"}), []string{"source.code"}},
		{"source twice", src(&solov1.Source{Code: "x", Artifact: anyDigest}), []string{"source.code", "source"}},
		{"language", src(&solov1.Source{Artifact: anyDigest, Language: "Python 3"}), []string{"source.language"}},
		{"a file of a source in a directory", src(&solov1.Source{Artifact: anyDigest, File: "a/b.py"}), []string{"source.file"}},
		{"a file of a source above", src(&solov1.Source{Artifact: anyDigest, File: ".."}), []string{"source.file"}},
		{"an option as file of a source", src(&solov1.Source{Artifact: anyDigest, File: "-c"}), []string{"source.file"}},
		{"no digest", func(m *req) { m.Code = artifact("", "") }, []string{"artifact.digest"}},
		{"NUL in an argument", func(m *req) { m.GetBinary().Args = []string{"a", "b\x00c"} }, []string{"args[1]"}},
		{"NUL in a variable", variable("A", "\x00"), []string{"env.A"}},
		{"no name of a variable", variable("", ""), []string{"env"}},
		{"= in the name of a variable", variable("A=B", ""), []string{"env"}},
		{"Solo's variable", variable("SOLO_CONTROL", "3"), []string{"env.SOLO_CONTROL"}},
		{"systemd's variable", variable("LISTEN_FDS", "3"), []string{"env.LISTEN_FDS"}},
		{"the socket's variable", variable("NOTIFY_SOCKET", "/x"), []string{"env.NOTIFY_SOCKET"}},
		{"a file of the client", func(m *req) { m.Files = []*solov1.File{{Path: "/a", From: "a"}} }, []string{"files[0].from"}},
		{"a file's content inside", func(m *req) { m.Files = []*solov1.File{{Path: "/a", Content: []byte("x")}} }, []string{"files[0].content"}},
		{"a file's artifact", func(m *req) { m.Files = []*solov1.File{{Path: "/a", Artifact: "x"}} }, []string{"files[0].artifact"}},
		{"a mode in words", func(m *req) { m.Files = []*solov1.File{{Path: "/a", Mode: "r--"}} }, []string{"files[0].mode"}},
		{"a mode with setuid", func(m *req) { m.Files = []*solov1.File{{Path: "/a", Mode: "04755"}} }, []string{"files[0].mode"}},
		{"a file twice", both("/etc/a", "/etc/a"), []string{"files[1].path"}},
		{"a file twice by a link", both("/usr/lib/a", "/lib/a"), []string{"files[1].path"}},
		{"a file in a file", both("/etc/a", "/etc/a/b"), []string{"files[1].path"}},
		{"a file as directory", both("/etc/a/b", "/etc/a"), []string{"files[1].path"}},
		{"a use of nothing", uses(&solov1.Use{}), []string{"uses[0]"}},
		{"a volume", uses(&solov1.Use{Use: &solov1.Use_Volume{Volume: &solov1.VolumeUse{}}}), []string{"uses[0].volume"}},
		{"a service", uses(&solov1.Use{Use: &solov1.Use_Service{Service: &solov1.ServiceUse{}}}), []string{"uses[0].service"}},
		{"egress", uses(&solov1.Use{Use: &solov1.Use_Egress{Egress: &solov1.EgressUse{}}}), []string{"uses[0].egress"}},
		{"a port and no address", uses(port(&solov1.PortUse{})), []string{"uses[0].port.listen"}},
		{"a port twice", uses(listen("127.0.0.1:80"), listen("127.0.0.1:80")), []string{"uses[1].port.listen"}},
		{"a port twice in two ways", uses(listen("127.0.0.1:80"), listen("[::ffff:127.0.0.1]:80")), []string{"uses[1].port.listen"}},
		{"every address", uses(listen("0.0.0.0:80")), []string{"uses[0].port.listen"}},
		{"port 0", uses(listen("127.0.0.1:0")), []string{"uses[0].port.listen"}},
		{"a name for an address", uses(listen("localhost:80")), []string{"uses[0].port.listen"}},
		{"an address with a zone", uses(listen("[::1%lo]:80")), []string{"uses[0].port.listen"}},
		{"a name of a descriptor with :", uses(port(&solov1.PortUse{Listen: "127.0.0.1:1", FdName: "a:b"})), []string{"uses[0].port.fd_name"}},
		{"a name of a descriptor twice", uses(
			port(&solov1.PortUse{Listen: "127.0.0.1:1", FdName: "a"}), port(&solov1.PortUse{Listen: "127.0.0.1:2", FdName: "a"}),
		), []string{"uses[1].port.fd_name"}},
		{"two sockets on one port", uses(
			port(&solov1.PortUse{Listen: "127.0.0.1:1", To: 80, FdName: "a"}), port(&solov1.PortUse{Listen: "127.0.0.1:2", To: 80, FdName: "b"}),
		), []string{"uses[1].port.to"}},
		{"a probe of port 0", ready(&solov1.Ready{Probe: &solov1.Ready_Tcp{}}), []string{"ready.tcp"}},
		{"a probe's path", ready(httpProbe(80, "x")), []string{"ready.http.path"}},
		{"a probe's path with a second request", ready(httpProbe(80, "/ HTTP/1.1\r\nHost: x")), []string{"ready.http.path"}},
		{"a probe's path beyond ASCII", ready(httpProbe(80, "/ä")), []string{"ready.http.path"}},
		{"a probe of no command", ready(execProbe()), []string{"ready.exec.command"}},
		{"a probe of a name", ready(execProbe("true")), []string{"ready.exec.command[0]"}},
		{"a probe with NUL", ready(execProbe("/bin/true", "\x00")), []string{"ready.exec.command[1]"}},
		{"a probe of an endpoint", ready(&solov1.Ready{Probe: &solov1.Ready_Endpoint{Endpoint: "x"}}), []string{"ready.endpoint"}},
	}
	for _, p := range []string{"x", "./x", "../x", "/", "//x", "/x/", "/x//y", "/x/.", "/../x", "/x/../y", "/x\x00y", "/x\ny", "/x\x7f"} {
		cases = append(cases,
			refusal{fmt.Sprintf("program %q", p), program(p), []string{"binary.path"}},
			refusal{fmt.Sprintf("file %q", p), file(p), []string{"files[0].path"}})
	}
	cases = append(cases, refusal{"no path of a file", file(""), []string{"files[0].path"}})
	for _, dir := range closed {
		cases = append(cases, refusal{"in " + dir, file(dir + "/x"), []string{"files[0].path"}}, refusal{dir, file(dir), []string{"files[0].path"}})
	}
	for _, dir := range made {
		cases = append(cases, refusal{"for " + dir, file(dir), []string{"files[0].path"}})
	}
	for _, n := range []string{"", "A", "a_b", "-a", "a-", "/a", "a/", "a//b", ".", "..", "a/../b", "a b", "a\n", "ä", "a\x00"} {
		cases = append(cases, refusal{fmt.Sprintf("name %q", n), name(n), []string{"name"}})
	}
	for _, d := range []string{"x", "sha256:", anyDigest + "0", anyDigest[:len(anyDigest)-1], strings.ToUpper(anyDigest), "sha512" + anyDigest[6:], anyDigest + "\n"} {
		cases = append(cases, refusal{fmt.Sprintf("digest %q", d), src(&solov1.Source{Artifact: d}), []string{"source.artifact"}})
	}
	for _, c := range cases {
		m := minimal()
		c.do(m)
		got, found := Validate(m, Contents{})
		if diff := cmp.Diff(c.want, fields(found)); diff != "" || got != nil {
			t.Errorf("%s (-want +got):\n%s%v", c.name, diff, found)
		}
		for _, v := range found {
			if v.Description == "" {
				t.Errorf("%s: %s without words", c.name, v.Field)
			}
		}
	}
}

func TestContents(t *testing.T) {
	two := func(m *solov1.DeployRequest) {
		m.Files = []*solov1.File{{Path: "/a"}, {Path: "/b", Artifact: anyDigest}}
	}
	for _, c := range []struct {
		name string
		do   func(*solov1.DeployRequest)
		with Contents
		want []string
	}{
		{"a source by descriptor", func(m *solov1.DeployRequest) { m.Code = source(&solov1.Source{}) }, Contents{Code: true}, nil},
		{"a source by descriptor and artifact", func(m *solov1.DeployRequest) { m.Code = source(&solov1.Source{Artifact: anyDigest}) }, Contents{Code: true}, []string{"source"}},
		{"a source for a binary", func(*solov1.DeployRequest) {}, Contents{Code: true}, []string{"code"}},
		{"a file by descriptor", two, Contents{Files: map[int]bool{0: true}}, nil},
		{"a file by descriptor and artifact", two, Contents{Files: map[int]bool{1: true}}, []string{"files[1]"}},
		{"files that are not there", two, Contents{Files: map[int]bool{2: true, -1: true, 9: true}}, []string{"files", "files", "files"}},
	} {
		m := minimal()
		c.do(m)
		_, found := Validate(m, c.with)
		if diff := cmp.Diff(c.want, fields(found)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestAllIsSaid: what is wrong is listed completely and in one order, up to a bound.
func TestAllIsSaid(t *testing.T) {
	m := &solov1.DeployRequest{
		Restart: "x", Replicas: 99, Env: map[string]string{"SOLO_C": "", "SOLO_A": "", "SOLO_B": ""},
		Resources: &solov1.Resources{CpuShares: 1, MaxOpenFiles: 1}, Ready: &solov1.Ready{Probe: &solov1.Ready_Tcp{}},
		Uses: []*solov1.Use{{}}, Files: []*solov1.File{{}}, RequestId: strings.Repeat("x", 200),
	}
	want := []string{"name", "request_id", "code", "files[0].path", "env.SOLO_A", "env.SOLO_B", "env.SOLO_C", "uses[0]", "ready.tcp",
		"resources.cpu_shares", "resources.max_open_files", "restart", "replicas"}
	for range 10 {
		_, found := Validate(m, Contents{})
		if diff := cmp.Diff(want, fields(found)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
	if _, found := Validate(nil, Contents{}); !cmp.Equal(fields(found), []string{"name", "code"}) {
		t.Errorf("no request at all: %v", found)
	}
	m = minimal()
	m.Env = map[string]string{}
	for i := range 3 * MaxViolations {
		m.Env[fmt.Sprintf("SOLO_%d", i)] = ""
	}
	_, found := Validate(m, Contents{})
	last := Violation{Field: "*", Description: fmt.Sprintf("and %d more", 2*MaxViolations)}
	if len(found) != MaxViolations+1 || found[MaxViolations] != last {
		t.Errorf("%d violations, the last %v", len(found), found[len(found)-1])
	}
}

func TestNormalForm(t *testing.T) {
	defaults := &solov1.Resources{MaxMemoryBytes: 4 << 30, MaxProcesses: 100, CpuShares: 1024, MaxOpenFiles: 1024, MaxTmpBytes: 64 << 20,
		LogRate: 1 << 20, MessageQueueLimit: 10_000, ShutdownTimeoutMs: 30_000, LimitExceededAction: "kill"}
	in := &solov1.DeployRequest{
		Name: "team-a/x", Code: source(&solov1.Source{Artifact: anyDigest, Args: []string{"-v"}}),
		Files: []*solov1.File{{Path: "/etc/x"}, {Path: "/etc/y", Mode: "0000644"}},
		Uses:  []*solov1.Use{port(&solov1.PortUse{Listen: "[::ffff:127.0.0.1]:8080"}), port(&solov1.PortUse{Listen: "[0:0::1]:443", To: 80, FdName: "web"})},
		Ready: httpProbe(8080, ""), Env: map[string]string{"A": "b"}, Wait: true, ValidateOnly: true, RequestId: "r",
	}
	want := proto.CloneOf(in)
	want.GetSource().File = "main"
	want.Files[0].Mode, want.Files[1].Mode = "0444", "0644"
	want.Uses[0].GetPort().Listen, want.Uses[0].GetPort().To = "127.0.0.1:8080", 8080
	want.Uses[1].GetPort().Listen = "[::1]:443"
	want.Ready.GetHttp().Path = "/"
	want.Resources, want.Restart, want.Replicas = defaults, "permanent", 1
	got, found := Validate(in, Contents{})
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%v (-want +got):\n%s", found, diff)
	}
	for _, r := range []*solov1.Ready{nil, {}, {Probe: &solov1.Ready_Notify{}}} {
		m := minimal()
		m.Ready = r
		if got, found := Validate(m, Contents{}); found != nil || got.GetReady() != nil {
			t.Errorf("ready %v became %v, %v", r, got.GetReady(), found)
		}
	}
}
