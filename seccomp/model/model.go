// Package model says what a seccomp profile means, and runs compiled filters on paper.
// It is the measure for what package bpf compiles, and for what a live filter does; the
// launcher does not link it.
//
// Trust: pure functions over values; any profile and any program is safe.
package model

import (
	"slices"
	"sync"

	"github.com/solo-os/solo/seccomp"
)

// Architectures that are not the native one.
const (
	ArchX86     seccomp.Arch = 0x40000003
	ArchAarch64 seccomp.Arch = 0xc00000b7
)

// x32Bit marks the numbers of the x32 ABI, which share ArchX86_64.
const x32Bit = 0x40000000

// Decide is what the profile answers to one system call: the meaning that a compiled
// filter must have. See package seccomp.
func Decide(p *seccomp.Profile, arch seccomp.Arch, nr uint32, args [6]uint64) seccomp.Action {
	if arch != seccomp.ArchX86_64 || nr >= x32Bit {
		return seccomp.KillProcess
	}
	name := Name(nr)
	if name == "" {
		return seccomp.Errno(seccomp.ENOSYS)
	}
	for _, r := range p.Rules {
		if slices.Contains(r.Names, name) && matches(r, args) {
			return r.Action
		}
	}
	return p.Default
}

var numbers = sync.OnceValue(seccomp.Numbers)

var names = sync.OnceValue(func() map[uint32]string {
	names := map[uint32]string{}
	for name, nr := range numbers() {
		names[nr] = name
	}
	return names
})

// Number is the x86_64 number of a call.
func Number(name string) (nr uint32, ok bool) {
	nr, ok = numbers()[name]
	return nr, ok
}

// Name is the name of an x86_64 call, "" if the number is in no table.
func Name(nr uint32) string { return names()[nr] }

func matches(r seccomp.Rule, args [6]uint64) bool {
	return !slices.ContainsFunc(r.Args, func(a seccomp.Arg) bool { return a.Index > 5 || !match(a, args[a.Index]) })
}

// match tells whether v satisfies the condition.
func match(a seccomp.Arg, v uint64) bool {
	switch a.Op {
	case seccomp.NotEqual:
		return v != a.Value
	case seccomp.Less:
		return v < a.Value
	case seccomp.LessEqual:
		return v <= a.Value
	case seccomp.Equal:
		return v == a.Value
	case seccomp.GreaterEqual:
		return v >= a.Value
	case seccomp.Greater:
		return v > a.Value
	case seccomp.MaskedEqual:
		return v&a.Value == a.ValueTwo
	default:
		return false
	}
}
