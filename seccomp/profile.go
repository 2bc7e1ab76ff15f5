// Package seccomp reads and checks seccomp profiles in the JSON of the OCI runtime
// specification (config-linux.md, "Seccomp").
//
// Trust: pure functions over bytes. A profile may come from an operator and is
// treated as untrusted: it is decoded strictly, bounded in size, and every mistake
// is an error that names the rule. Nothing here loads a filter.
//
// Meaning of a profile. For one system call, in this order:
//
//  1. another architecture than x86_64, or an x32 number: KILL_PROCESS
//  2. a number that is in no table when the profile is compiled: ERRNO(ENOSYS)
//  3. the first rule in file order that names the call and whose arguments all match
//  4. the profile's default action
package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxProfileBytes is the longest profile that Parse reads; one must fit into a
	// control message.
	MaxProfileBytes = 60 << 10
	// maxRules bounds the rules of one profile, each counted once per name.
	maxRules = 4096
	// maxErrno is the highest errno the kernel passes on from a filter, seccomp(2).
	maxErrno = 4095
)

// Arch is an AUDIT_ARCH_ value as in struct seccomp_data, seccomp(2).
type Arch uint32

const (
	ArchX86_64  Arch = 0xc000003e
	ArchX86     Arch = 0x40000003
	ArchAarch64 Arch = 0xc00000b7
)

// Profile is a checked profile; Parse makes it. It must not be changed.
type Profile struct {
	Default Action
	Rules   []Rule
}

// Rule decides calls with any of Names whose arguments match all of Args.
type Rule struct {
	Names  []string
	Action Action
	Args   []Arg
}

// Op compares an argument. The values are those of the profile.
type Op string

const (
	NotEqual     Op = "SCMP_CMP_NE"
	Less         Op = "SCMP_CMP_LT"
	LessEqual    Op = "SCMP_CMP_LE"
	Equal        Op = "SCMP_CMP_EQ"
	GreaterEqual Op = "SCMP_CMP_GE"
	Greater      Op = "SCMP_CMP_GT"
	MaskedEqual  Op = "SCMP_CMP_MASKED_EQ"
)

// Arg compares argument Index (0 to 5), all 64 bits, with Value. For MaskedEqual the
// condition is argument&Value == ValueTwo. An int argument of a call has only 32
// bits that count: compare it by mask 0xffffffff, or the upper half is a way around
// a deny rule.
type Arg struct {
	Index    uint
	Value    uint64
	ValueTwo uint64
	Op       Op
}

// ErrProfile is what every *ProfileError is.
var ErrProfile = errors.New("seccomp profile")

// ProfileError is a mistake in a profile.
type ProfileError struct {
	// Rule is the index in "syscalls", or -1 for the profile itself.
	Rule int
	// Call is the call concerned, if one is.
	Call    string
	Problem string
}

func (e *ProfileError) Error() string {
	switch {
	case e.Rule < 0:
		return "seccomp profile: " + e.Problem
	case e.Call == "":
		return fmt.Sprintf("seccomp profile: rule %d: %s", e.Rule, e.Problem)
	default:
		return fmt.Sprintf("seccomp profile: rule %d (%s): %s", e.Rule, e.Call, e.Problem)
	}
}

func (e *ProfileError) Is(target error) bool { return target == ErrProfile }

// file and the types below are the OCI JSON.
type file struct {
	DefaultAction   string     `json:"defaultAction"`
	DefaultErrnoRet *uint      `json:"defaultErrnoRet"`
	Architectures   []string   `json:"architectures"`
	Syscalls        []fileRule `json:"syscalls"`
}

type fileRule struct {
	Names    []string  `json:"names"`
	Action   string    `json:"action"`
	ErrnoRet *uint     `json:"errnoRet"`
	Args     []fileArg `json:"args"`
}

type fileArg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       Op     `json:"op"`
}

// Parse decodes and checks a profile. All mistakes found are returned, joined, each a
// *ProfileError.
func Parse(text []byte) (*Profile, error) {
	if len(text) > MaxProfileBytes {
		return nil, &ProfileError{Rule: -1, Problem: fmt.Sprintf("%d bytes, at most %d", len(text), MaxProfileBytes)}
	}
	var f file
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, &ProfileError{Rule: -1, Problem: "decode: " + err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &ProfileError{Rule: -1, Problem: "text after the profile"}
	}
	var errs []error
	report := func(rule int, call, problem string, args ...any) {
		errs = append(errs, &ProfileError{Rule: rule, Call: call, Problem: fmt.Sprintf(problem, args...)})
	}
	if len(f.Architectures) == 0 {
		report(-1, "", "architectures are missing: SCMP_ARCH_X86_64")
	}
	for _, a := range f.Architectures {
		if a != "SCMP_ARCH_X86_64" {
			report(-1, "", "architecture %q is not the native one; only SCMP_ARCH_X86_64", a)
		}
	}
	p := &Profile{}
	var err error
	if p.Default, err = parseAction(f.DefaultAction, f.DefaultErrnoRet); err != nil {
		report(-1, "", "defaultAction: %v", err)
	}
	for i, r := range f.Syscalls {
		rule := Rule{Names: r.Names}
		if rule.Action, err = parseAction(r.Action, r.ErrnoRet); err != nil {
			report(i, "", "%v", err)
		}
		for _, a := range r.Args {
			rule.Args = append(rule.Args, Arg(a))
		}
		p.Rules = append(p.Rules, rule)
	}
	if errs == nil {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, errors.Join(errs...)
}
