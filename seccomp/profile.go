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
	"slices"
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

const ArchX86_64 Arch = 0xc000003e

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

// ErrProfile is wrapped by every error about a profile, beside where in it and what.
var ErrProfile = errors.New("seccomp profile")

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

// Parse decodes and checks a profile. The error has all mistakes found.
func Parse(text []byte) (*Profile, error) {
	if len(text) > MaxProfileBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrProfile, len(text), MaxProfileBytes)
	}
	var f file
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: decode: %w", ErrProfile, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: text after the profile", ErrProfile)
	}
	var errs []error
	if !slices.Equal(f.Architectures, []string{"SCMP_ARCH_X86_64"}) {
		errs = append(errs, fmt.Errorf("%w: architectures are %q, not only the native SCMP_ARCH_X86_64", ErrProfile, f.Architectures))
	}
	p := &Profile{}
	var err error
	if p.Default, err = parseAction(f.DefaultAction, f.DefaultErrnoRet); err != nil {
		errs = append(errs, fmt.Errorf("%w: defaultAction: %w", ErrProfile, err))
	}
	for i, r := range f.Syscalls {
		rule := Rule{Names: r.Names}
		if rule.Action, err = parseAction(r.Action, r.ErrnoRet); err != nil {
			errs = append(errs, fmt.Errorf("%w: rule %d: %w", ErrProfile, i, err))
		}
		for _, a := range r.Args {
			rule.Args = append(rule.Args, Arg(a))
		}
		p.Rules = append(p.Rules, rule)
	}
	if err := errors.Join(append(errs, p.Validate())...); err != nil {
		return nil, err
	}
	return p, nil
}
