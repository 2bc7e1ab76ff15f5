package filesystem

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/prototext"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const maxTimeoutMs = 600_000

var (
	runtimeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	suffix      = regexp.MustCompile(`^\.[A-Za-z0-9._-]{1,32}$`)
	baseName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}$`)
	variable    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}=`)
	minor       = regexp.MustCompile(`\.[0-9]+$`)
)

// profiles are the seccomp profiles that a runtime may have.
var profiles = []string{profile, "jit"}

// runtimes are the descriptors by what recognises them; immutable.
type runtimes struct {
	names        []string
	byName       map[string]*controlv1.Runtime
	suffixes     map[string]*controlv1.Runtime
	interpreters map[string]*controlv1.Runtime
}

// loadRuntimes takes the descriptors in the order in which the kernel read them. A
// name that is there twice is the later's, so that an operator can replace what Solo
// brings.
func loadRuntimes(files []*controlv1.RuntimeFile) (*runtimes, error) {
	rs := &runtimes{
		byName: map[string]*controlv1.Runtime{}, suffixes: map[string]*controlv1.Runtime{}, interpreters: map[string]*controlv1.Runtime{},
	}
	for _, f := range files {
		r, err := parseDescriptor(f.GetText())
		if err != nil {
			return nil, fmt.Errorf("runtime descriptor %s: %w", f.GetPath(), err)
		}
		rs.byName[r.GetName()] = r
	}
	return rs, rs.index()
}

// parseDescriptor reads one descriptor; its errors name the field.
func parseDescriptor(text []byte) (*controlv1.Runtime, error) {
	r := &controlv1.Runtime{}
	if err := prototext.Unmarshal(text, r); err != nil {
		return nil, err
	}
	if r.GetSeccompProfile() == "" {
		r.SeccompProfile = profile
	}
	if err := checkDescriptor(r); err != nil {
		return nil, err
	}
	return r, nil
}

func checkDescriptor(r *controlv1.Runtime) error {
	switch n := r.GetName(); {
	case n == "":
		return errors.New("name: is required")
	case !runtimeName.MatchString(n) || n == binaryRuntime:
		return fmt.Errorf("name: %q cannot be a runtime's name", n)
	case len(r.GetProgram()) == 0:
		return errors.New("program: is required")
	case len(r.GetArgv()) == 0:
		return errors.New("argv: is required")
	case !slices.Contains(r.GetArgv(), "$FILE"):
		return errors.New("argv: lacks $FILE")
	case !slices.Contains(profiles, r.GetSeccompProfile()):
		return fmt.Errorf("seccomp_profile: %q is no profile for services (%s)", r.GetSeccompProfile(), list(profiles))
	case r.GetStartupTimeoutMs() > maxTimeoutMs:
		return fmt.Errorf("startup_timeout_ms: %d is over the limit of %d", r.GetStartupTimeoutMs(), maxTimeoutMs)
	}
	return errors.Join(
		each("suffixes", r.GetSuffixes(), func(s string) string {
			return unless(suffix.MatchString(s), `is not "." and a few letters`)
		}),
		each("interpreters", r.GetInterpreters(), func(s string) string {
			return unless(baseName.MatchString(s), "is not a plain file name")
		}),
		each("program", r.GetProgram(), checkPath),
		each("argv", r.GetArgv(), func(s string) string {
			return unless(!strings.ContainsRune(s, 0), "contains a NUL byte")
		}),
		each("mounts", r.GetMounts(), checkPattern),
		each("env", r.GetEnv(), checkVariable),
	)
}

// each names the element that is wrong.
func each(field string, values []string, check func(string) string) error {
	for i, v := range values {
		if why := check(v); why != "" {
			return fmt.Errorf("%s[%d]: %q %s", field, i, v, why)
		}
	}
	return nil
}

func unless(ok bool, why string) string {
	if ok {
		return ""
	}
	return why
}

// checkPattern wants a path whose last element may hold one star.
func checkPattern(p string) string {
	dir, last := path.Split(p)
	switch why := checkPath(p); {
	case why != "":
		return why
	case strings.Contains(dir, "*"):
		return "has a * before its last element"
	case strings.Count(last, "*") > 1:
		return "has more than one *"
	case last == "":
		return "is the root directory"
	case isClosed(inside(p)) || below(inside(p), appDir):
		return "lies in a directory of the sandbox's own"
	}
	return ""
}

func checkVariable(kv string) string {
	name, _, _ := strings.Cut(kv, "=")
	switch {
	case !variable.MatchString(kv):
		return "is not NAME=value"
	case strings.ContainsRune(kv, 0):
		return "contains a NUL byte"
	case strings.HasPrefix(name, "SOLO_") || strings.HasPrefix(name, "LISTEN_") || name == "NOTIFY_SOCKET":
		return "is set by Solo"
	}
	return ""
}

// index refuses what two runtimes claim.
func (rs *runtimes) index() error {
	for name := range rs.byName {
		rs.names = append(rs.names, name)
	}
	slices.Sort(rs.names)
	for _, name := range rs.names {
		r := rs.byName[name]
		claim := func(table map[string]*controlv1.Runtime, field string, values []string) error {
			for _, v := range values {
				if other := table[v]; other != nil && other != r {
					return fmt.Errorf("runtime %s: %s: %q belongs to the runtime %s", name, field, v, other.GetName())
				}
				table[v] = r
			}
			return nil
		}
		if err := claim(rs.suffixes, "suffixes", r.GetSuffixes()); err != nil {
			return err
		}
		if err := claim(rs.interpreters, "interpreters", r.GetInterpreters()); err != nil {
			return err
		}
	}
	return nil
}

// bySuffix finds the runtime with the longest suffix of a file's name.
func (rs *runtimes) bySuffix(file string) *controlv1.Runtime {
	for i := 1; i < len(file); i++ {
		if file[i] == '.' {
			if r := rs.suffixes[file[i:]]; r != nil {
				return r
			}
		}
	}
	return nil
}

// byInterpreter knows python3.11 as python3, if only that is claimed.
func (rs *runtimes) byInterpreter(name string) *controlv1.Runtime {
	for name != "" {
		if r := rs.interpreters[name]; r != nil {
			return r
		}
		shorter := minor.ReplaceAllString(name, "")
		if shorter == name {
			break
		}
		name = shorter
	}
	return nil
}

// interpreterName is the base name of the interpreter in a "#!" line, looked for
// behind env(1) and its options; empty if there is none.
func interpreterName(head []byte) string {
	line, ok := strings.CutPrefix(string(head), "#!")
	if !ok || !utf8.ValidString(line[:lineEnd(line)]) {
		return ""
	}
	words := strings.Fields(line[:lineEnd(line)])
	if len(words) == 0 {
		return ""
	}
	if name := path.Base(words[0]); name != "env" {
		return name
	}
	for _, w := range words[1:] {
		// env splits what follows -S, also without a space.
		w = strings.TrimPrefix(w, "-S")
		if w != "" && !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return path.Base(w)
		}
	}
	return ""
}

func lineEnd(s string) int {
	if i := strings.IndexAny(s, "\n\x00"); i >= 0 {
		return i
	}
	return len(s)
}

// list names things in a message.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
