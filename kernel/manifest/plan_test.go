package manifest

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

var update = flag.Bool("update", false, "write the golden plans anew")

// planned is what holds of every plan: the same again, and nothing of the host in it.
func planned(t interface{ Fatalf(string, ...any) }, m *solov1.DeployRequest, code Code) Plan {
	p, found := Make(proto.CloneOf(m), code)
	for range 3 {
		again, more := Make(proto.CloneOf(m), code)
		if diff := cmp.Diff(p, again, protocmp.Transform()) + cmp.Diff(found, more); diff != "" {
			t.Fatalf("two plans of one manifest:\n%s", diff)
		}
	}
	if len(found) == 0 {
		// A plan's manifest gives the same plan: what is stored can be planned anew.
		again, more := Make(proto.CloneOf(p.Manifest), code)
		if diff := cmp.Diff(p, again, protocmp.Transform()); diff != "" || more != nil {
			t.Fatalf("the plan of a plan's manifest:\n%s%v", diff, more)
		}
		if _, err := proto.Marshal(p.Proto()); err != nil {
			t.Fatalf("a plan that cannot be sent: %v", err)
		}
	}
	return p
}

// shown is what a golden file holds: the plan as the API shows it, and what it leaves out.
type shown struct {
	Plan   *solov1.Plan
	Env    []string
	Mounts []Mount
	Listen []string
}

func TestGoldenPlans(t *testing.T) {
	python := Code{
		Runtime: "python", Digest: anyDigest, Program: "/usr/bin/python3", Argv: []string{"python3", "-u", "$FILE", "$ARGS"},
		File: "/app/main.py", Env: []string{"PYTHONDONTWRITEBYTECODE=1", "PATH=/usr/bin"}, Profile: "default", StartupTimeoutMs: 5000,
		Mounts: []Mount{
			{Target: "/app/main.py", Artifact: true}, {Source: "/usr/lib/python3.11", Target: "/usr/lib/python3.11", Directory: true},
			{Source: "/usr/bin/python3.11", Target: "/usr/bin/python3"}, {Source: "/usr/lib/python3.11/os.py", Target: "/usr/lib/python3.11/os.py"},
			{Source: "/lib/x86_64-linux-gnu", Target: "/usr/lib/x86_64-linux-gnu", Directory: true}, {Source: "/lib/x86_64-linux-gnu/libc.so.6", Target: "/usr/lib/x86_64-linux-gnu/libc.so.6"},
		},
	}
	binary := Code{Runtime: "binary", Digest: anyDigest, Program: "/usr/bin/sleep", Argv: []string{"sleep", "$ARGS"}, Profile: "default",
		Mounts: []Mount{{Source: "/usr/bin/sleep", Target: "/usr/bin/sleep"}}}
	for _, c := range []struct {
		name string
		m    *solov1.DeployRequest
		code Code
	}{
		{"binary", &solov1.DeployRequest{Name: "sleeper", Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/sleep", Args: []string{"60", "$FILE", ""}}}}, binary},
		{"source", &solov1.DeployRequest{
			Name: "team-a/web", Code: source(&solov1.Source{Artifact: anyDigest, File: "main.py", Args: []string{"--port", "8080"}}),
			Files: []*solov1.File{{Path: "/etc/web.conf", Mode: "440"}, {Path: "/app/templates/index.html"}},
			Env:   map[string]string{"TZ": "UTC", "GREETING": "a=b c", "LANG": "C"}, Replicas: 3, Restart: "transient",
			Uses: []*solov1.Use{
				port(&solov1.PortUse{Listen: "127.0.0.1:8080", FdName: "web", Http: true}), listen("[::1]:9090"),
				port(&solov1.PortUse{Listen: "127.0.0.1:8081", FdName: "admin"}),
			},
			Ready: httpProbe(8080, "/healthz"), Resources: &solov1.Resources{MaxMemoryBytes: 128 << 20, CpuQuotaMillis: 500},
		}, python},
		{"probe", &solov1.DeployRequest{
			Name: "checked", Code: source(&solov1.Source{Artifact: anyDigest, File: "main.py"}), Ready: execProbe("/usr/bin/test", "-e", "/tmp/up"),
			Resources: &solov1.Resources{StartupTimeoutMs: 60, ShutdownTimeoutMs: 1},
		}, python},
	} {
		m, found := Validate(c.m, Contents{})
		if found != nil {
			t.Fatalf("%s: %v", c.name, found)
		}
		p := planned(t, m, c.code)
		s := shown{Plan: p.Proto(), Env: p.Env, Mounts: p.Mounts}
		for _, l := range p.Listen {
			s.Listen = append(s.Listen, l.GetFdName())
		}
		got, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("testdata", c.name+".plan.json")
		if *update {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, got, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v: go test -update makes it", err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got), go test -update writes it anew:\n%s", file, diff)
		}
	}
}

func TestStartupTimeout(t *testing.T) {
	for _, c := range []struct{ asked, runtime, want uint32 }{
		{0, 0, DefaultTimeout}, {0, 5000, 5000}, {0, 50, DefaultTimeout}, {7, 5000, 7}, {600_000, 1, 600_000},
	} {
		m := minimal()
		m.Resources = &solov1.Resources{StartupTimeoutMs: c.asked}
		m, found := Validate(m, Contents{})
		if found != nil {
			t.Fatal(found)
		}
		p, _ := Make(m, Code{StartupTimeoutMs: c.runtime})
		if got := p.Manifest.GetResources().GetStartupTimeoutMs(); got != c.want {
			t.Errorf("asked for %d of a runtime with %d: %d, not %d", c.asked, c.runtime, got, c.want)
		}
	}
}

func TestPlanConflicts(t *testing.T) {
	code := Code{Program: "/usr/bin/python3", File: "/app/main.py", Mounts: []Mount{
		{Source: "/lib/x86_64-linux-gnu", Target: "/usr/lib/x86_64-linux-gnu", Directory: true}, {Source: "/usr/bin/awk", Target: "/usr/bin/awk"}, {Source: "/etc/ssl/certs", Target: "/etc/ssl/certs", Directory: true},
	}}
	for _, c := range []struct {
		path, want string
	}{
		{"/etc/x", ""},
		{"/app/main.pyc", ""},
		{"/usr/lib/x86_64-linux-gnu.conf", ""},
		{"/usr/bin/aw", ""},
		{"/usr/lib/x86_64-linux-gnu/libc.so.6", "lies in /usr/lib/x86_64-linux-gnu, which is mounted read-only"},
		{"/lib/x86_64-linux-gnu/libc.so.6", "lies in /usr/lib/x86_64-linux-gnu, which is mounted read-only"},
		{"/bin/awk", "lies in /usr/bin/awk, which is mounted read-only"},
		{"/usr/bin/awk/x", "lies in /usr/bin/awk, which is mounted read-only"},
		{"/etc/ssl", "is a directory, in which /etc/ssl/certs is mounted"},
		{"/app/main.py", "is in the way of /app/main.py, the code"},
		{"/app/main.py/x", "is in the way of /app/main.py, the code"},
		{"/bin/python3", "is in the way of /usr/bin/python3, the code"},
	} {
		m := minimal()
		m.Files = []*solov1.File{{Path: "/etc/first"}, {Path: c.path}}
		m, found := Validate(m, Contents{})
		if found != nil {
			t.Fatalf("%s: %v", c.path, found)
		}
		p, found := Make(m, code)
		switch {
		case c.want == "" && found != nil:
			t.Errorf("%s: %v", c.path, found)
		case c.want != "" && (len(found) != 1 || found[0].Field != "files[1].path" || !strings.HasSuffix(found[0].Description, c.want) || p.Manifest != nil):
			t.Errorf("%s: %v, not %q", c.path, found, c.want)
		}
	}
}

// TestDedupe: whatever the order of what the host offers, the mounts are sorted, each
// target is there once, nothing lies in a mounted directory, and nothing is lost.
func TestDedupe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Mount {
			return Mount{
				Source:    rapid.SampledFrom([]string{"/s", "/t"}).Draw(t, "source"),
				Target:    rapid.SampledFrom([]string{"/a", "/a/b", "/a/b/c", "/a-b", "/a.b/c", "/b", "/b/c"}).Draw(t, "target"),
				Directory: rapid.Bool().Draw(t, "directory"),
			}
		}), 0, 12).Draw(t, "mounts")
		before := slices.Clone(in)
		out := dedupe(in)
		if diff := cmp.Diff(before, in); diff != "" {
			t.Fatalf("the argument was changed:\n%s", diff)
		}
		shuffled := rapid.Permutation(in).Draw(t, "another order")
		if diff := cmp.Diff(out, dedupe(shuffled)); diff != "" {
			t.Fatalf("another order, another answer:\n%s", diff)
		}
		if diff := cmp.Diff(out, dedupe(out)); diff != "" {
			t.Fatalf("not done at once:\n%s", diff)
		}
		if !slices.IsSortedFunc(out, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) }) {
			t.Fatalf("not sorted: %v", out)
		}
		for i, a := range out {
			if !slices.Contains(in, a) {
				t.Fatalf("%v comes from nowhere", a)
			}
			for j, b := range out {
				if i != j && (a.Target == b.Target || b.Directory && below(a.Target, b.Target)) {
					t.Fatalf("%v is there beside %v", a, b)
				}
			}
		}
		for _, m := range in {
			if !slices.ContainsFunc(out, func(o Mount) bool { return o.Target == m.Target || o.Directory && below(m.Target, o.Target) }) {
				t.Fatalf("%v is lost: %v", m, out)
			}
		}
	})
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, found := Validate(request(t), Contents{})
		if found != nil {
			return
		}
		planned(t, m, Code{Program: "/usr/bin/x", Argv: []string{"x", "$ARGS"}, Env: []string{"A=runtime", "no equals sign"}})
	})
}

func TestReadiness(t *testing.T) {
	for want, r := range map[string]*solov1.Ready{
		"started":    nil,
		"notify":     {Probe: &solov1.Ready_Notify{Notify: true}},
		"tcp:80":     {Probe: &solov1.Ready_Tcp{Tcp: 80}},
		"http:80/up": httpProbe(80, "/up"),
		"exec:curl":  execProbe("/usr/bin/curl", "x"),
	} {
		if got := Readiness(r); got != want {
			t.Errorf("%v is %q, not %q", r, got, want)
		}
	}
}
