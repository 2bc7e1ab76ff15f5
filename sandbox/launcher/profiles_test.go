package launcher_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/seccomp"
	"github.com/solo-os/solo/seccomp/profiles"
)

// compile lets the launcher compile a shipped profile.
func (r *rig) compile(name string) []byte {
	r.t.Helper()
	text, err := profiles.Read(name)
	must(r.t, err)
	report, files := r.order(&controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Compile{Compile: &controlv1.Compile{Profile: text}}})
	if len(files) > 0 || report.GetCompiled() == nil {
		files.Close()
		r.t.Fatalf("compile %s: %v with %d descriptors", name, report, len(files))
	}
	return report.GetCompiled().GetProgram()
}

// shipped caches the floor and the default profile for tests that are not about
// compiling.
var shipped struct {
	sync.Once
	floor, application []byte
}

// confine puts the floor and the default profile that Solo ships into a lease.
func (r *rig) confine(l *lease) {
	r.t.Helper()
	shipped.Do(func() { shipped.floor, shipped.application = r.compile("floor"), r.compile("default") })
	l.Floor, l.Filter = shipped.floor, shipped.application
}

// maxFilters is what floor and filter of one lease may take: a record has 64 KiB, of
// which argv, environment, paths and rules get the rest.
const maxFilters = 24 << 10

func TestEveryShippedProfileCompilesAndFitsALease(t *testing.T) {
	r := newRig(t)
	floor := r.compile("floor")
	for _, name := range profiles.Names() {
		program := r.compile(name)
		list, err := seccomp.Decode(program)
		if err != nil || len(list) == 0 || len(list) > 4096 {
			t.Errorf("%s: %d instructions, %v", name, len(list), err)
		}
		t.Logf("%s: %d instructions", name, len(list))
		if len(floor)+len(program) > maxFilters {
			t.Errorf("floor and %s take %d bytes of a lease, more than %d", name, len(floor)+len(program), maxFilters)
		}
	}
}

// TestLargestLeaseFits sends 40 KiB of arguments and environment beside the filters.
func TestLargestLeaseFits(t *testing.T) {
	r := newRig(t)
	s := r.prepare()
	l := s.newLease("hello")
	r.confine(l)
	entry := make([]byte, 1000)
	for i := range entry {
		entry[i] = 'x'
	}
	for range 20 {
		l.Argv = append(l.Argv, entry)
		l.Env = append(l.Env, append([]byte("A="), entry...))
	}
	out, _ := s.start(l).finish()
	if len(out) < 40_000 {
		t.Errorf("the program saw %d bytes of arguments and environment", len(out))
	}
}

// refusal is a LaunchFailed without its text.
type refusal struct {
	Step  string
	Errno int32
}

func TestCompileRefuses(t *testing.T) {
	r := newRig(t)
	huge := make([]byte, ipc.MaxMessage-64)
	for i := range huge {
		huge[i] = ' '
	}
	for name, text := range map[string][]byte{
		"nothing":      nil,
		"no JSON":      []byte("{"),
		"other fields": []byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"more":1}`),
		"unknown call": []byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["frobnicate"],"action":"SCMP_ACT_ERRNO"}]}`),
		"64 KiB":       huge,
	} {
		report, files := r.order(&controlv1.LauncherOrder{Order: &controlv1.LauncherOrder_Compile{Compile: &controlv1.Compile{Profile: text}}})
		files.Close()
		f := report.GetFailed()
		if diff := cmp.Diff(refusal{"compile", 0}, refusal{f.GetStep(), f.GetErrno()}); diff != "" || f.GetMessage() == "" {
			t.Errorf("%s: %v", name, report)
		}
	}
	r.prepare() // and goes on
}
