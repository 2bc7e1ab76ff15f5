package bpf

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/seccomp"
)

// Offsets in struct seccomp_data, seccomp(2).
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

const (
	x32Bit    = 0x40000000
	load      = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	ret       = unix.BPF_RET | unix.BPF_K
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpAbove = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpFrom  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// prologue is what runs before libseccomp's tree. It falls through to the tree for
// every call that it does not decide:
//
//	arch is not x86_64             -> KILL_PROCESS
//	nr in no table                 -> ENOSYS, or KILL_PROCESS with the x32 bit
//	nr of a call with mixed rules  -> first match, else the default
func prologue(p *seccomp.Profile) ([]seccomp.Instruction, error) {
	list := []seccomp.Instruction{
		{Code: load, K: offArch},
		{Code: jumpEqual, JT: 1, K: uint32(seccomp.ArchX86_64)},
		{Code: ret, K: uint32(seccomp.KillProcess)},
		{Code: load, K: offNr},
	}
	known := seccomp.Known()
	enosys := uint32(seccomp.Errno(seccomp.ENOSYS))
	list = append(list,
		seccomp.Instruction{Code: jumpAbove, JF: 3, K: known[len(known)-1].Last},
		seccomp.Instruction{Code: jumpFrom, JF: 1, K: x32Bit},
		seccomp.Instruction{Code: ret, K: uint32(seccomp.KillProcess)},
		seccomp.Instruction{Code: ret, K: enosys},
	)
	for i := 1; i < len(known); i++ {
		list = append(list,
			seccomp.Instruction{Code: jumpAbove, JF: 2, K: known[i-1].Last},
			seccomp.Instruction{Code: jumpFrom, JT: 1, K: known[i].First},
			seccomp.Instruction{Code: ret, K: enosys},
		)
	}
	for _, c := range p.Calls() {
		if !c.Mixed() {
			continue
		}
		block := decide(c, p.Default)
		if len(block) > 255 {
			return nil, fmt.Errorf("rules of %s with different actions: %w, %d of 255 for one call", c.Name, ErrTooLong, len(block))
		}
		list = append(list, seccomp.Instruction{Code: jumpEqual, JF: uint8(len(block)), K: c.Number})
		list = append(list, block...)
	}
	return list, nil
}

// decide compiles the rules of one call in order; every path returns.
func decide(c seccomp.Call, otherwise seccomp.Action) []seccomp.Instruction {
	var list []seccomp.Instruction
	for _, r := range c.Rules {
		list = append(list, rule(r)...)
		if len(r.Args) == 0 {
			return list
		}
	}
	return append(list, seccomp.Instruction{Code: ret, K: uint32(otherwise)})
}

// rule compiles one rule: it returns on a match and falls off its end otherwise.
func rule(r seccomp.Rule) []seccomp.Instruction {
	list := []seccomp.Instruction{{Code: ret, K: uint32(r.Action)}}
	// Built from the end: what follows a comparison that fails is skipped.
	for i := len(r.Args) - 1; i >= 0; i-- {
		list = append(compare(r.Args[i], len(list)), list...)
	}
	return list
}

// compare falls off its end if the condition holds and otherwise skips rest more
// instructions: at most six conditions of six instructions each, so a jump fits its byte.
// A 64-bit comparison is one of the upper halves, then of the lower.
func compare(a seccomp.Arg, rest int) []seccomp.Instruction {
	lo, hi := offArgs+8*uint32(a.Index), offArgs+8*uint32(a.Index)+4
	yes, no := uint8(0), uint8(rest)
	if a.Op == seccomp.NotEqual || a.Op == seccomp.Less || a.Op == seccomp.LessEqual {
		// The opposite of Equal, GreaterEqual, Greater.
		yes, no = no, yes
	}
	mask, value := ^uint64(0), a.Value
	if a.Op == seccomp.MaskedEqual {
		mask, value = a.Value, a.ValueTwo
	}
	vlo, vhi := uint32(value), uint32(value>>32)
	switch a.Op {
	case seccomp.MaskedEqual, seccomp.Equal, seccomp.NotEqual:
		return []seccomp.Instruction{
			{Code: load, K: hi},
			{Code: and, K: uint32(mask >> 32)},
			{Code: jumpEqual, JF: no + 3, K: vhi},
			{Code: load, K: lo},
			{Code: and, K: uint32(mask)},
			{Code: jumpEqual, JT: yes, JF: no, K: vlo},
		}
	default:
		code := uint16(jumpFrom)
		if a.Op == seccomp.Greater || a.Op == seccomp.LessEqual {
			code = jumpAbove
		}
		return []seccomp.Instruction{
			{Code: load, K: hi},
			{Code: jumpAbove, JT: yes + 3, K: vhi},
			{Code: jumpEqual, JF: no + 2, K: vhi},
			{Code: load, K: lo},
			{Code: code, JT: yes, JF: no, K: vlo},
		}
	}
}
