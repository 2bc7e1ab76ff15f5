package ctl_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func src(s *solov1.Source) *solov1.DeployRequest_Source {
	return &solov1.DeployRequest_Source{Source: s}
}

func bin(b *solov1.Binary) *solov1.DeployRequest_Binary {
	return &solov1.DeployRequest_Binary{Binary: b}
}

// TestDeployForms: what each form of the command line becomes. DIR stands for the
// directory of the files.
func TestDeployForms(t *testing.T) {
	const elf = "\x7fELF and so on"
	digested := digest(elf)
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"app.py": "print(1)\n", "My Web_App.sh": "#!/bin/sh\n", "server": elf, "empty.py": "", "conf/hello.conf": "greet", "big.py": strings.Repeat("# comment\n", 200_000),
		"binary.dat": "\xff\xfe no text",
		"m.yaml": `name: hello
source: {language: python, file: app.py, args: [a]}
files: [{path: /etc/hello.conf, from: conf/hello.conf, mode: "0400"}]
env: {GREETING: hi}
replicas: 2
restart: transient
resources: {max_memory_bytes: 134217728, max_processes: 16}
ready: {tcp: 8080}
uses:
  - port: {listen: "127.0.0.1:8080", to: 8080, http: true}
`,
		"up.yml":   "name: up\nbinary: {file: server, args: [x]}\n",
		"host.yml": "name: h\nbinary: {path: " + sleep + "}\nready: {exec: [/bin/true, now]}\n",
		"code.yml": "name: c\nsource: {language: sh, code: 'echo hi'}\n",
	}
	for _, test := range []struct {
		name     string
		args     []string
		stdin    string
		want     *solov1.DeployRequest
		contents []string // code first, then files
	}{
		{"source", []string{"DIR/app.py"}, "",
			&solov1.DeployRequest{Name: "app", Code: src(&solov1.Source{File: "app.py"})}, []string{"print(1)\n"}},
		{"source with arguments", []string{"DIR/app.py", "--", "one", "--two"}, "",
			&solov1.DeployRequest{Name: "app", Code: src(&solov1.Source{File: "app.py", Args: []string{"one", "--two"}})}, []string{"print(1)\n"}},
		{"a name is made", []string{"DIR/My Web_App.sh"}, "",
			&solov1.DeployRequest{Name: "my-web-app", Code: src(&solov1.Source{File: "My Web_App.sh"})}, []string{"#!/bin/sh\n"}},
		{"source of a language", []string{"--language", "sh", "--name", "x", "DIR/app.py"}, "",
			&solov1.DeployRequest{Name: "x", Code: src(&solov1.Source{File: "app.py", Language: "sh"})}, []string{"print(1)\n"}},
		{"long source", []string{"DIR/big.py"}, "",
			&solov1.DeployRequest{Name: "big", Code: src(&solov1.Source{File: "big.py", Artifact: digest("# comment")})}, nil},
		{"what is no text", []string{"DIR/binary.dat"}, "",
			&solov1.DeployRequest{Name: "binary", Code: src(&solov1.Source{File: "binary.dat", Artifact: digest("\xff\xfe no text")})}, nil},
		{"standard input", []string{"--name", "in", "-"}, "echo in\n",
			&solov1.DeployRequest{Name: "in", Code: src(&solov1.Source{})}, []string{"echo in\n"}},
		{"a program of the host", []string{"--name", "nap", "--wait", "/bin/sleep", "--", "60"}, "",
			&solov1.DeployRequest{Name: "nap", Wait: true, Code: bin(&solov1.Binary{Path: sleep, Args: []string{"60"}})}, nil},
		{"one that is not here", []string{"/usr/bin/solo-no-such-program"}, "",
			&solov1.DeployRequest{Name: "solo-no-such-program", Code: bin(&solov1.Binary{Path: "/usr/bin/solo-no-such-program"})}, nil},
		{"an ELF file", []string{"DIR/server", "--", "-v"}, "",
			&solov1.DeployRequest{Name: "server", Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: digested, File: "server", Args: []string{"-v"}}}}, nil},
		{"a manifest", []string{"DIR/m.yaml"}, "", &solov1.DeployRequest{
			Name: "hello", Code: src(&solov1.Source{Language: "python", File: "app.py", Args: []string{"a"}}),
			Files: []*solov1.File{{Path: "/etc/hello.conf", Mode: "0400"}}, Env: map[string]string{"GREETING": "hi"}, Replicas: 2, Restart: "transient",
			Resources: &solov1.Resources{MaxMemoryBytes: 128 << 20, MaxProcesses: 16}, Ready: &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: 8080}},
			Uses: []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:8080", To: 8080, Http: true}}}},
		}, []string{"print(1)\n", "greet"}},
		{"flags go before the manifest", []string{"DIR/m.yaml", "--name", "n", "--env", "GREETING=ho=ho", "--env", "X=", "--replicas", "1", "--restart", "temporary",
			"--memory", "64M", "--cpu-shares", "512", "--startup-timeout", "5s", "--ready", "http:81/ok", "--port", "127.0.0.1:80:81/http", "--file", "/a=DIR/app.py",
			"--request-id", "r", "--wait", "--", "b", "c"}, "", &solov1.DeployRequest{
			Name: "n", Code: src(&solov1.Source{Language: "python", File: "app.py", Args: []string{"b", "c"}}), RequestId: "r", Wait: true,
			Files: []*solov1.File{{Path: "/etc/hello.conf", Mode: "0400"}, {Path: "/a"}}, Env: map[string]string{"GREETING": "ho=ho", "X": ""}, Replicas: 1, Restart: "temporary",
			Resources: &solov1.Resources{MaxMemoryBytes: 64 << 20, MaxProcesses: 16, CpuShares: 512, StartupTimeoutMs: 5000},
			Ready:     &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: 81, Path: "/ok"}}},
			Uses: []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:8080", To: 8080, Http: true}}},
				{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:80", To: 81, Http: true}}}},
		}, []string{"print(1)\n", "greet", "print(1)\n"}},
		{"a manifest that uploads", []string{"DIR/up.yml"}, "",
			&solov1.DeployRequest{Name: "up", Code: bin(&solov1.Binary{Artifact: digested, Argv0: "server", Args: []string{"x"}})}, nil},
		{"a manifest of the host", []string{"DIR/host.yml"}, "",
			&solov1.DeployRequest{Name: "h", Code: bin(&solov1.Binary{Path: sleep}),
				Ready: &solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: []string{"/bin/true", "now"}}}}}, nil},
		{"a manifest with code", []string{"DIR/code.yml"}, "",
			&solov1.DeployRequest{Name: "c", Code: src(&solov1.Source{Language: "sh"})}, []string{"echo hi"}},
		{"validate only", []string{"--validate-only", "DIR/app.py"}, "",
			&solov1.DeployRequest{Name: "app", ValidateOnly: true, Code: src(&solov1.Source{File: "app.py"})}, []string{"print(1)\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := write(t, files)
			f := start(t)
			args := []string{"deploy"}
			for _, a := range test.args {
				args = append(args, strings.ReplaceAll(a, "DIR", dir))
			}
			r := f.with(t, ctl.Env{Stdin: strings.NewReader(test.stdin)}, args...)
			if r.status != 0 || r.stderr != "" {
				t.Fatalf("exit status %d: %s", r.status, r.stderr)
			}
			got := f.only(t)
			if diff := cmp.Diff(test.want, got.GetDeploy().GetRequest(), protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.contents, got.contents); diff != "" {
				t.Errorf("contents (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeployLinks: the server follows no links, so the client does, and keeps the
// name by which the program was called.
func TestDeployLinks(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "redis-server")
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, link); err != nil {
		t.Fatal(err)
	}
	f := start(t)
	if r := f.ctl(t, "deploy", link); r.status != 0 {
		t.Fatal(r.stderr)
	}
	want := &solov1.DeployRequest{Name: "redis-server", Code: bin(&solov1.Binary{Path: sleep, Argv0: "redis-server"})}
	if diff := cmp.Diff(want, f.only(t).GetDeploy().GetRequest(), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestDeployRefuses: what is found before the server is asked, and says what it is.
func TestDeployRefuses(t *testing.T) {
	dir := write(t, map[string]string{
		"app.py": "x", "empty.py": "", "bad.yaml": "name: a\nresources:\n  max_proceses: 3\n", "gone.yaml": "name: a\nsource: {file: none.py}\n",
		"both.yaml": "name: a\nbinary: {file: app.py, path: /bin/true}\n", "from.yaml": "name: a\nsource: {file: app.py}\nfiles: [{path: /x, from: app.py, content: y}]\n",
		"nofrom.yaml": "name: a\nsource: {file: app.py}\nfiles: [{path: /x, from: none}]\n", "noprogram.yaml": "name: a\n", "long.yaml": strings.Repeat("# x\n", 300_000),
	})
	for _, test := range []struct {
		args   string
		status int
		want   string
	}{
		{"deploy", 2, "needs one FILE"},
		{"deploy DIR/app.py b", 2, "needs one FILE"},
		{"deploy -- DIR/app.py", 2, "needs one FILE"},
		{"deploy -", 2, "needs --name"},
		{"deploy --name a -", 1, "standard input is empty"},
		{"deploy DIR/none.py", 1, "no such file"},
		{"deploy DIR", 1, "not a regular file"},
		{"deploy DIR/empty.py", 1, "is empty"},
		{"deploy DIR/bad.yaml", 1, "bad.yaml: line 3: resources.max_proceses: there is no such field"},
		{"deploy DIR/gone.yaml", 1, "source.file"},
		{"deploy DIR/both.yaml", 1, "binary: has file and path"},
		{"deploy DIR/from.yaml", 1, "files[0]: has from and content"},
		{"deploy DIR/nofrom.yaml", 1, "files[0].from"},
		{"deploy DIR/long.yaml", 1, "over the limit"},
		{"deploy DIR/noprogram.yaml -- x", 2, "no program"},
		{"deploy DIR/app.py --env X", 2, "NAME=VALUE"},
		{"deploy DIR/app.py --env =X", 2, "NAME=VALUE"},
		{"deploy DIR/app.py --file x", 2, "PATH=LOCAL"},
		{"deploy DIR/app.py --file /x=DIR/none", 1, "no such file"},
		{"deploy DIR/app.py --port 8080", 2, "ADDRESS:PORT:TO"},
		{"deploy DIR/app.py --port 8080:80", 2, "not ADDRESS:PORT"},
		{"deploy DIR/app.py --port 127.0.0.1:80:99999", 2, "is not a port"},
		{"deploy DIR/app.py --ready soon", 2, "--ready soon"},
		{"deploy DIR/app.py --memory lots", 2, "is not a size"},
		{"deploy DIR/app.py --startup-timeout 1us", 2, "out of range"},
		{"deploy DIR/app.py --replicas -1", 2, "--replicas"},
		{"deploy --language sh /bin/sleep", 2, "not source text"},
	} {
		t.Run(test.args, func(t *testing.T) {
			f := start(t)
			r := f.ctl(t, strings.Fields(strings.ReplaceAll(test.args, "DIR", dir))...)
			if r.status != test.status || !strings.Contains(r.stderr, test.want) || r.stdout != "" {
				t.Errorf("exit status %d, want %d: %q, want %q; output %q", r.status, test.status, r.stderr, test.want, r.stdout)
			}
			if n := len(f.requests); n > 0 {
				t.Errorf("%d requests reached the kernel", n)
			}
		})
	}
}

func TestDeployOutput(t *testing.T) {
	dir := write(t, map[string]string{"app.py": "x"})
	app := filepath.Join(dir, "app.py")
	f := start(t)
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"deploy", "--wait", app}, 0, "app ready after 2.5 ms, version 1, id id-1\n"},
		{[]string{"deploy", "--name", "failing", "--wait", app}, 1, "failing failed (exit:1) after 2.5 ms, version 1, id id-1\n"},
		{[]string{"deploy", "--name", "failing", app}, 0, "failing failed (exit:1) after 2.5 ms, version 1, id id-1\n"},
	} {
		if r := f.ctl(t, test.args...); r.status != test.status || r.stdout != test.want || r.stderr != "" {
			t.Errorf("%v: %+v, want %d %q", test.args[1:], r, test.status, test.want)
		}
	}
	r := f.ctl(t, "deploy", "--validate-only", app)
	for _, want := range []string{"runtime:       binary", "program:       /usr/bin/sleep", `argv:          ["sleep" "6 0"]`} {
		if !strings.Contains(r.stdout, want+"\n") || r.status != 0 {
			t.Errorf("the plan has no %q (exit status %d):\n%s", want, r.status, r.stdout)
		}
	}
}

func TestUpload(t *testing.T) {
	content := bytes.Repeat([]byte("abcdefgh"), 300_000)
	path := filepath.Join(write(t, map[string]string{"f": string(content)}), "f")
	for _, name := range []string{path, "-"} {
		f := start(t)
		r := f.with(t, ctl.Env{Stdin: bytes.NewReader(content)}, "upload", name)
		if r.status != 0 || r.stdout != digest("abcdefgh")+"\n" {
			t.Fatalf("upload %s: %+v", name, r)
		}
		var stored []string
		for len(f.requests) > 0 {
			if a := <-f.requests; a.GetStoreArtifact() != nil {
				stored = append(stored, a.contents...)
			}
		}
		if len(stored) != 1 || stored[0] != string(content) {
			t.Errorf("upload %s: %d files were stored", name, len(stored))
		}
	}
	if r := start(t).ctl(t, "upload", t.TempDir()); r.status != 1 || !strings.Contains(r.stderr, "not a regular file") {
		t.Errorf("a directory: %+v", r)
	}
}

// TestUploadDenied: a refusal that comes while a manifest is prepared is one of the
// token, and says what it was for.
func TestUploadDenied(t *testing.T) {
	dir := write(t, map[string]string{"m.yaml": "name: a\nbinary: {file: x}\n", "x": "\x7fELF"})
	f := start(t)
	r := f.with(t, ctl.Env{Getenv: func(name string) string {
		return map[string]string{"SOLO_ADDR": "unix://" + f.gateway.Socket, "SOLO_TOKEN": "forged"}[name]
	}}, "deploy", filepath.Join(dir, "m.yaml"))
	if r.status != 3 || !strings.Contains(r.stderr, "m.yaml: binary.file: no token\n") {
		t.Errorf("%+v", r)
	}
	if got := <-f.requests; got.GetOp().(*controlv1.Request_AuthorizeUpload) == nil || len(f.requests) > 0 {
		t.Errorf("the kernel got %v and %d more", got, len(f.requests))
	}
}
