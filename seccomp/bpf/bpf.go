// Package bpf compiles seccomp profiles into BPF programs with libseccomp.
//
// Trust: runs as root in the launcher; the profile's text is untrusted and goes
// through seccomp.Parse. The package only makes bytes: no filter is ever loaded into
// this process (libseccomp's load would filter all of it).
//
// libseccomp builds a binary tree over the call numbers. Three things it cannot
// express stand before that tree, see prologue.go: ENOSYS for numbers in no table,
// death for every x32 number, and calls whose rules have different actions, where
// the first match counts.
package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/seccomp"
)

// maxInstructions is BPF_MAXINSNS, linux/bpf_common.h.
const maxInstructions = 4096

// ErrTooLong says that the program would exceed what the kernel takes.
var ErrTooLong = fmt.Errorf("the program is longer than %d instructions", maxInstructions)

// Compile turns an OCI profile (JSON) into an array of struct sock_filter that means
// what model.Decide says. It does not block. Errors name the step that failed, or are those
// of seccomp.Parse. Only x86_64 hosts are supported; elsewhere the error is
// errors.ErrUnsupported.
func Compile(profile []byte) ([]byte, error) {
	p, err := seccomp.Parse(profile)
	if err != nil {
		return nil, err
	}
	program, err := CompileProfile(p)
	if err != nil {
		return nil, fmt.Errorf("seccomp compile: %w", err)
	}
	return program, nil
}

// CompileProfile is Compile for a profile that is parsed and validated.
func CompileProfile(p *seccomp.Profile) ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("architecture %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	head, err := prologue(p)
	if err != nil {
		return nil, err
	}
	body, err := tree(p)
	if err != nil {
		return nil, err
	}
	program := append(seccomp.Encode(head), body...)
	if list, err := seccomp.Decode(program); err != nil || len(list) > maxInstructions {
		return nil, ErrTooLong
	}
	return program, nil
}

// tree lets libseccomp compile the calls whose rules all have one action.
func tree(p *seccomp.Profile) ([]byte, error) {
	filter, err := libseccomp.NewFilter(scmpAction(p.Default))
	if err != nil {
		return nil, fmt.Errorf("new filter: %w", err)
	}
	defer filter.Release()
	if err := filter.SetBadArchAction(libseccomp.ActKillProcess); err != nil {
		return nil, fmt.Errorf("set bad architecture action: %w", err)
	}
	// Level 2 is the binary tree; libseccomp 2.5 and later.
	if err := filter.SetOptimize(2); err != nil {
		return nil, fmt.Errorf("set optimize: %w", err)
	}
	for _, c := range p.Calls() {
		if c.Mixed() {
			continue
		}
		for _, r := range c.Rules {
			if err := addRule(filter, c.Number, r); err != nil {
				return nil, fmt.Errorf("add rule %s: %w", c.Name, err)
			}
		}
	}
	return export(filter)
}

// addRule works by number: names newer than the library resolve all the same.
func addRule(filter *libseccomp.ScmpFilter, nr uint32, r seccomp.Rule) error {
	var conds []libseccomp.ScmpCondition
	for _, a := range r.Args {
		values := []uint64{a.Value}
		if a.Op == seccomp.MaskedEqual {
			values = append(values, a.ValueTwo)
		}
		c, err := libseccomp.MakeCondition(a.Index, scmpOps[a.Op], values...)
		if err != nil {
			return err
		}
		conds = append(conds, c)
	}
	call := libseccomp.ScmpSyscall(nr)
	if len(conds) == 0 {
		return filter.AddRuleExact(call, scmpAction(r.Action))
	}
	return filter.AddRuleConditionalExact(call, scmpAction(r.Action), conds)
}

var scmpOps = map[seccomp.Op]libseccomp.ScmpCompareOp{
	seccomp.NotEqual:     libseccomp.CompareNotEqual,
	seccomp.Less:         libseccomp.CompareLess,
	seccomp.LessEqual:    libseccomp.CompareLessOrEqual,
	seccomp.Equal:        libseccomp.CompareEqual,
	seccomp.GreaterEqual: libseccomp.CompareGreaterEqual,
	seccomp.Greater:      libseccomp.CompareGreater,
	seccomp.MaskedEqual:  libseccomp.CompareMaskedEqual,
}

func scmpAction(a seccomp.Action) libseccomp.ScmpAction {
	if n, ok := a.IsErrno(); ok {
		return libseccomp.ActErrno.SetReturnCode(int16(n))
	}
	switch a {
	case seccomp.Allow:
		return libseccomp.ActAllow
	case seccomp.Log:
		return libseccomp.ActLog
	case seccomp.Trap:
		return libseccomp.ActTrap
	case seccomp.KillThread:
		return libseccomp.ActKillThread
	default:
		return libseccomp.ActKillProcess
	}
}

// export reads the program back through a memfd: libseccomp 2.5 cannot export to
// memory.
func export(filter *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "seccomp")
	defer func() { _ = f.Close() }()
	if err := filter.ExportBPF(f); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return io.ReadAll(f)
}
