package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// everything is a manifest with every field that there is, and what it means.
const everything = `# A comment
name: team/hello
source:
  language: python
  file: app.py
  args: [--verbose, "8080"]
files:
  - {path: /etc/hello.conf, from: hello.conf, mode: "0444"}
  - path: /etc/inline
    content: |
      two
      lines
  - {path: /etc/raw, content: !!binary "AP8="}
env: {GREETING: hi, "1": one}
replicas: 0x2
restart: transient
resources:
  max_memory_bytes: 134217728
  max_processes: 16
  cpu_shares: 512
  log_rate: 18446744073709551615
  limit_exceeded_action: kill
ready: {http: {port: 8080, path: /ok}}
uses:
  - port: {listen: "127.0.0.1:8080", to: 8080, http: true}
  - volume: {name: data, path: /data, rights: [read, write]}
  - service: {name: db, rights: [call]}
  - egress: {allow: ["example.org:443"]}
request_id: r
wait: true
validate_only: FALSE
`

func TestDecode(t *testing.T) {
	ready := func(r *solov1.Ready) *solov1.DeployRequest { return &solov1.DeployRequest{Ready: r} }
	for _, test := range []struct {
		name, text string
		want       *solov1.DeployRequest
	}{
		{"everything", everything, &solov1.DeployRequest{
			Name: "team/hello", Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Language: "python", File: "app.py", Args: []string{"--verbose", "8080"}}},
			Files: []*solov1.File{{Path: "/etc/hello.conf", From: "hello.conf", Mode: "0444"}, {Path: "/etc/inline", Content: []byte("two\nlines\n")},
				{Path: "/etc/raw", Content: []byte{0, 0xff}}},
			Env: map[string]string{"GREETING": "hi", "1": "one"}, Replicas: 2, Restart: "transient",
			Resources: &solov1.Resources{MaxMemoryBytes: 128 << 20, MaxProcesses: 16, CpuShares: 512, LogRate: 1<<64 - 1, LimitExceededAction: "kill"},
			Ready:     &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: 8080, Path: "/ok"}}},
			Uses: []*solov1.Use{
				{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: "127.0.0.1:8080", To: 8080, Http: true}}},
				{Use: &solov1.Use_Volume{Volume: &solov1.VolumeUse{Name: "data", Path: "/data", Rights: []string{"read", "write"}}}},
				{Use: &solov1.Use_Service{Service: &solov1.ServiceUse{Name: "db", Rights: []string{"call"}}}},
				{Use: &solov1.Use_Egress{Egress: &solov1.EgressUse{Allow: []string{"example.org:443"}}}},
			},
			RequestId: "r", Wait: true,
		}},
		{"JSON", `{"name": "a", "binary": {"path": "/bin/true", "args": ["x"]}}`,
			&solov1.DeployRequest{Name: "a", Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/true", Args: []string{"x"}}}}},
		{"bytecode", "bytecode: {language: wasm, file: a.wasm}", &solov1.DeployRequest{Code: &solov1.DeployRequest_Bytecode{Bytecode: &solov1.Bytecode{Language: "wasm", File: "a.wasm"}}}},
		{"artifact", "artifact: {digest: 'sha256:1'}", &solov1.DeployRequest{Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: "sha256:1"}}}},
		{"notify", "ready: {notify: true}", ready(&solov1.Ready{Probe: &solov1.Ready_Notify{Notify: true}})},
		{"tcp", "ready: {tcp: 8080}", ready(&solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: 8080}})},
		{"exec as a list", "ready: {exec: [/bin/test, -f, /tmp/x]}", ready(&solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: []string{"/bin/test", "-f", "/tmp/x"}}}})},
		{"exec as the API has it", "ready: {exec: {command: [/bin/true]}}", ready(&solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: []string{"/bin/true"}}}})},
		{"endpoint", "ready: {endpoint: main}", ready(&solov1.Ready{Probe: &solov1.Ready_Endpoint{Endpoint: "main"}})},
		{"one document with marks", "---\nname: a\n...\n", &solov1.DeployRequest{Name: "a"}},
		{"an empty mapping", "{}", &solov1.DeployRequest{}},
		{"a string that looks like a number", `name: "12"`, &solov1.DeployRequest{Name: "12"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Decode([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDecodeRefuses: each mistake is named with its line and field.
func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct {
		name, text string
		line       int
		field      string
		what       string // part of the text
	}{
		{"unknown field", "name: a\nnames: b\n", 2, "names", "no such field; here are: artifact, binary, bytecode"},
		{"unknown field inside", "resources:\n  max_memory: 1\n", 2, "resources.max_memory", "no such field"},
		{"unknown field in a list", "uses:\n- port: {to: 1}\n- port:\n    too: 1\n", 4, "uses[1].port.too", "no such field"},
		{"the API's JSON names", "validateOnly: true", 1, "validateOnly", "no such field"},
		{"number for string", "name: 12\n", 1, "name", `is a number, not a string; write it in quotes: "12"`},
		{"octal for string", "files:\n- {path: /a, mode: 0444}\n", 2, "files[0].mode", `write it in quotes: "0444"`},
		{"bool for string", "env: {DEBUG: true}", 1, "env.DEBUG", "is true or false, not a string"},
		{"number for string key", "env: {1: x}", 1, "env key", "is a number, not a string"},
		{"date for string", "name: 2001-01-01", 1, "name", "not a string"},
		{"empty string", "name:\n", 1, "name", "is empty, not a string"},
		{"string for number", "replicas: two", 1, "replicas", "is a string, not a whole number"},
		{"quoted number", `replicas: "2"`, 1, "replicas", "is a string, not a whole number"},
		{"fraction", "replicas: 1.5", 1, "replicas", "is a number, not a whole number"},
		{"negative", "replicas: -1", 1, "replicas", "-1 is not a whole number from 0 to 4294967295"},
		{"over 32 bits", "replicas: 4294967296", 1, "replicas", "is not a whole number"},
		{"over 64 bits", "resources: {max_memory_bytes: 18446744073709551616}", 1, "resources.max_memory_bytes", "whole number"},
		{"string for bool", "wait: yes", 1, "wait", "is a string, not true or false"},
		{"a tag that lies", "wait: !!bool maybe", 1, "wait", "not true or false"},
		{"a tag that lies about numbers", "replicas: !!int two", 1, "replicas", "whole number"},
		{"another tag", "name: !secret x", 1, "name", "is of type !secret, not a string"},
		{"not base64", "files: [{content: !!binary '%'}]", 1, "files[0].content", "is not base64"},
		{"list for mapping", "source: [a]", 1, "source", "is a list, not a mapping with args, artifact, code, file, language"},
		{"mapping for list", "files: {path: /a}", 1, "files", "is a mapping, not a list"},
		{"string for list", "source: {args: x}", 1, "source.args", "is a string, not a list"},
		{"list in list", "source: {args: [[x]]}", 1, "source.args[0]", "is a list, not a string"},
		{"string for message", "ready: notify", 1, "ready", "is a string, not a mapping with endpoint, exec, http, notify, tcp"},
		{"list for another message", "source: {args: []}\nready: {http: [80]}", 2, "ready.http", "is a list, not a mapping"},
		{"list for map", "env: [A]", 1, "env", "is a list, not a mapping"},
		{"nested map", "env: {A: {B: c}}", 1, "env.A", "is a mapping, not a string"},
		{"two codes", "source: {code: x}\nbinary: {path: /x}", 2, "binary", "excludes source"},
		{"two probes", "ready: {tcp: 1, notify: true}", 1, "ready.notify", "excludes tcp"},
		{"two uses in one", "uses: [{port: {}, volume: {}}]", 1, "uses[0].volume", "excludes port"},
		{"a field twice", "name: a\nwait: true\nname: b", 3, "name", "is there twice"},
		{"a variable twice", "env: {A: a, B: b, A: c}", 1, "env.A", "is there twice"},
		{"anchor", "name: &a x", 1, "name", "anchors and aliases"},
		{"alias", "env: &e {A: a}\nfiles: *e", 1, "env", "anchors and aliases"},
		{"anchored document", "&a {name: x}", 1, "", "anchors and aliases"},
		{"merge", "name: a\n<<: {wait: true}", 2, "", "not a field name"},
		{"number as key", "1: a", 1, "", "not a field name"},
		{"mapping as key", "? {a: b}\n: c", 1, "", "not a field name"},
		{"no mapping", "hello", 0, "", "is a string, not a mapping"},
		{"two documents", "name: a\n---\nname: b\n", 0, "", "is one YAML document"},
		{"nothing", "", 0, "", "is empty"},
		{"comments only", "# nothing\n", 0, "", "is empty"},
		{"no YAML", "name: a\nsource: {file: [}\n", 0, "", ""},
		{"no YAML behind it", "name: a\n--- ]\n", 0, "", ""},
		{"tab", "name: a\nsource:\n\tfile: x\n", 3, "", "cannot start any token"},
		{"control character", "name: \"a\x00\"", 0, "", "control characters"},
		{"not UTF-8", "name: \xff\xfe", 0, "", "UTF-8"},
		{"too long", strings.Repeat("#", MaxBytes+1), 0, "", "over the limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Decode([]byte(test.text))
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, %v, want an Error", got, err)
			}
			if bad.Field != test.field || !strings.Contains(bad.What, test.what) || test.line != 0 && bad.Line != test.line {
				t.Errorf("got line %d, field %q: %s; want line %d, field %q: %s", bad.Line, bad.Field, bad.What, test.line, test.field, test.what)
			}
			if strings.Contains(bad.Error(), "yaml:") {
				t.Errorf("the text names the parser: %v", bad)
			}
		})
	}
}

// TestExamples: the manifests that we show are manifests.
func TestExamples(t *testing.T) {
	n := 0
	err := filepath.WalkDir("../../../../docs/examples", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		n++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if req, err := Decode(text); err != nil || req.GetName() == "" {
			t.Errorf("%s: %v, name %q", path, err, req.GetName())
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Errorf("%d examples, %v", n, err)
	}
}

// TestLimit: the largest manifest that is allowed is read.
func TestLimit(t *testing.T) {
	text := "name: a\n"
	text += strings.Repeat("#", MaxBytes-len(text))
	if got, err := Decode([]byte(text)); err != nil || got.GetName() != "a" {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestBombs: what would grow, or go deep, ends soon and with an error.
func TestBombs(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("env: &a0 {x: lol}\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&laughs, "k%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1, i-1)
	}
	deep := strings.Repeat("[", 400_000)
	for name, text := range map[string]string{
		"laughs": laughs.String(), "deep list": "files: " + deep, "deep mapping": strings.Repeat("{a: ", 100_000), "deep list, closed": "files: " + deep + strings.Repeat("]", 400_000),
		"deep blocks": strings.Repeat("- ", 400_000), "itself": "&a [*a]", "long name": strings.Repeat("x", MaxBytes-10) + ": 1",
	} {
		_, err := Decode([]byte(text))
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}
