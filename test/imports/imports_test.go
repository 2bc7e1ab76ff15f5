// Package imports holds the tree to the import directions of ARCHITECTURE.md.
//
// depguard, in the lint list, checks what a file names; these tests check what a
// program or package links, through everything it imports. The programs that run
// with privileges are compared with lists in allow/: a new line there is a new
// piece of trusted code and is reviewed as such. `go test ./test/imports -update`
// writes them anew.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/test/testenv"
)

const module = "github.com/solo-os/solo"

var update = flag.Bool("update", false, "write the allow lists")

// listed is what `go list -json` says of one package.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
	Error      *struct{ Err string }
}

// golist runs go list at the module's root.
func golist(t *testing.T, cgo bool, args ...string) []listed {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"list", "-e", "-tags=seccomp,netgo,osusergo",
		"-json=ImportPath,Dir,Standard,GoFiles,CgoFiles,Imports,Error"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v: %s", args, err, &stderr)
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// own are the module's packages, by path relative to it.
func own(t *testing.T) map[string]listed {
	t.Helper()
	m := make(map[string]listed)
	for _, p := range golist(t, true, "./...") {
		if p.Error != nil {
			t.Errorf("%s: %s", p.ImportPath, p.Error.Err)
		}
		m[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
	return m
}

// within reports whether path is the package or directory dir, or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func withinAny(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return within(path, d) })
}

// inModule makes paths of ours full import paths.
func inModule(dirs ...string) []string {
	full := make([]string, len(dirs))
	for i, d := range dirs {
		full[i] = module + "/" + d
	}
	return full
}

// pure are the packages that decide and touch nothing.
var pure = []string{"kernel/manifest", "kernel/capability", "kernel/supervision", "kernel/rollout"}

// rule forbids the packages in from to link those in to.
type rule struct {
	name   string
	from   []string
	except []string // of from
	to     []string
	// via may import what is forbidden: it needs it for something else.
	via []string
	// direct looks at what the source names only: a pure package may use a library
	// of the standard library that itself links os.
	direct bool
}

func rules() []rule {
	grpc := []string{"google.golang.org/grpc"}
	libcontainer := []string{"github.com/opencontainers/runc"}
	return []rule{
		{
			name: "pure packages name nothing of the host", from: pure, direct: true,
			to: []string{"os", "os/exec", "os/signal", "net", "net/http", "syscall", "golang.org/x/sys", "log", "log/slog", "io/ioutil", "runtime"},
		},
		{
			name: "pure packages link only pure ones and protocols", from: pure,
			to: inModule("ipc", "cgroups", "seccomp", "sandbox", "drivers", "system", "kernel/store", "kernel/control", "kernel/root"),
		},
		{
			name: "the kernel knows services by protocol only", from: []string{"kernel", "cmd/solo-kernel", "cmd/solod"},
			to: slices.Concat(inModule("drivers", "system", "sdk", "sandbox/launcher", "proto/solo/v1/api"), grpc, libcontainer),
		},
		{
			name: "the kernel parses protobuf only", from: []string{"kernel", "cmd/solo-kernel", "cmd/solod"},
			to: []string{"net/http", "crypto/tls", "encoding/json", "encoding/xml", "encoding/gob", "go.yaml.in/yaml", "gopkg.in/yaml.v3"},
			// For the deprecated UnmarshalJSON of proto2's enums, which we have none of.
			via: []string{"google.golang.org/protobuf/internal/impl"},
		},
		{
			name: "the kernel opens no connections", from: []string{"kernel", "cmd/solo-kernel"},
			except: []string{"kernel/root"},
			to:     []string{"net", "os/exec", "plugin"},
			via:    []string{},
		},
		{
			name: "cgroups is a leaf", from: []string{"cgroups"},
			to: inModule("ipc", "seccomp", "sandbox", "kernel", "drivers", "system", "proto"),
		},
		{
			name: "seccomp is a leaf", from: []string{"seccomp"},
			to: inModule("ipc", "cgroups", "sandbox", "kernel", "drivers", "system"),
		},
		{
			name: "ipc is a leaf", from: []string{"ipc"},
			to: inModule("cgroups", "seccomp", "sandbox", "kernel", "drivers", "system"),
		},
		{
			name: "services are not the kernel", from: []string{"drivers", "system", "sdk", "cmd/solo-gateway", "cmd/solo-audit", "cmd/solo-monitor", "cmd/solo-fs", "cmd/solo-net", "cmd/solo-ctl"},
			to: slices.Concat(inModule("kernel", "sandbox", "cgroups"), libcontainer),
		},
		{
			name: "libcontainer belongs to the launcher", from: []string{"."}, direct: true,
			except: []string{"sandbox/launcher", "cmd/solo-launcher"},
			to:     libcontainer,
		},
		{
			name: "libseccomp belongs to the launcher", from: []string{"."}, direct: true,
			except: []string{"sandbox/launcher", "cmd/solo-launcher", "seccomp/bpf"},
			to:     []string{"github.com/seccomp/libseccomp-golang"},
		},
	}
}

func TestDirections(t *testing.T) {
	graph := make(map[string]listed)
	for _, p := range golist(t, true, "-deps", "./...") {
		graph[p.ImportPath] = p
	}
	packages := own(t)
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for path, p := range packages {
				ours := withinAny(path, r.from) || slices.Contains(r.from, ".")
				if ours && !withinAny(path, r.except) {
					for _, edge := range r.broken(p, graph) {
						t.Errorf("%s links %s", path, edge)
					}
				}
			}
		})
	}
}

// broken lists the imports that lead from p to something that the rule forbids.
func (r rule) broken(p listed, graph map[string]listed) []string {
	var edges []string
	seen := make(map[string]bool)
	var walk func(importer listed)
	walk = func(importer listed) {
		for _, to := range importer.Imports {
			switch {
			case r.forbids(to):
				if !slices.Contains(r.via, importer.ImportPath) {
					edges = append(edges, to+", imported by "+importer.ImportPath)
				}
			case !r.direct && !seen[to]:
				seen[to] = true
				walk(graph[to])
			}
		}
	}
	walk(p)
	return edges
}

// forbids reports whether a package is forbidden. A package of the standard library
// is only itself: net/netip is not net.
func (r rule) forbids(pkg string) bool {
	return slices.ContainsFunc(r.to, func(dir string) bool {
		if !strings.Contains(dir, ".") {
			return pkg == dir
		}
		return within(pkg, dir)
	})
}

// TestCgo keeps C out of every program but the launcher.
func TestCgo(t *testing.T) {
	allowed := []string{"sandbox/launcher", "cmd/solo-launcher", "seccomp/bpf"}
	for path, p := range own(t) {
		if withinAny(path, allowed) {
			continue
		}
		if len(p.CgoFiles) > 0 || slices.Contains(p.Imports, "C") {
			t.Errorf("%s uses cgo", path)
		}
	}
}

// TestAllowLists compares what the privileged programs link with what was reviewed.
func TestAllowLists(t *testing.T) {
	for _, program := range []struct {
		name, pkg string
		cgo       bool
	}{
		{"kernel", "./cmd/solo-kernel", false},
		{"launcher", "./cmd/solo-launcher", true},
		{"solod", "./cmd/solod", false},
	} {
		t.Run(program.name, func(t *testing.T) {
			var links []string
			for _, p := range golist(t, program.cgo, "-deps", program.pkg) {
				if p.Error != nil {
					t.Fatalf("%s: %s", p.ImportPath, p.Error.Err)
				}
				// What is below the standard library's own packages changes with every
				// release of Go and says nothing.
				if inner := p.Standard && (within(p.ImportPath, "internal") || within(p.ImportPath, "vendor") ||
					strings.Contains(p.ImportPath, "/internal/")); !inner {
					links = append(links, p.ImportPath)
				}
			}
			slices.Sort(links)
			file := filepath.Join("allow", program.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(strings.Join(links, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields(string(data)), links); diff != "" {
				t.Errorf("%s links other packages than %s allows (-allowed +linked):\n%s", program.pkg, file, diff)
			}
		})
	}
}

// TestRulesBite makes sure that a rule finds what it forbids, and only that.
func TestRulesBite(t *testing.T) {
	graph := map[string]listed{
		"a":       {ImportPath: "a", Imports: []string{"b", "net/netip"}},
		"b":       {ImportPath: "b", Imports: []string{"net", "x.org/y/z"}},
		"x.org/y": {ImportPath: "x.org/y"},
	}
	for _, c := range []struct {
		name string
		rule rule
		want []string
	}{
		{"transitive", rule{to: []string{"net"}}, []string{"net, imported by b"}},
		{"direct", rule{to: []string{"net"}, direct: true}, nil},
		{"via", rule{to: []string{"net"}, via: []string{"b"}}, nil},
		{"module", rule{to: []string{"x.org/y"}}, []string{"x.org/y/z, imported by b"}},
		{"other module", rule{to: []string{"x.org/y/zz"}}, nil},
	} {
		if got := c.rule.broken(graph["a"], graph); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// The API's package does link gRPC: the kernel's rule has something to find.
	var linked []string
	for _, p := range golist(t, false, "-deps", "./proto/solo/v1/api") {
		linked = append(linked, p.ImportPath)
	}
	if !slices.Contains(linked, "google.golang.org/grpc") {
		t.Errorf("go list does not see that proto/solo/v1/api links gRPC: %v", linked)
	}
}
