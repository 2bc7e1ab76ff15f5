package model

import (
	"encoding/binary"
	"fmt"

	"github.com/solo-os/solo/seccomp"
)

// dataBytes is the size of struct seccomp_data. The opcodes below are classic BPF's as
// seccomp takes it: linux/bpf_common.h, seccomp_check_filter in kernel/seccomp.c.
const dataBytes = 64

// Simulate runs a filter as the kernel would and returns its answer. Any bytes are
// safe: jumps only go forward, so it ends.
func Simulate(program []byte, arch seccomp.Arch, nr uint32, args [6]uint64) (seccomp.Action, error) {
	list, err := seccomp.Decode(program)
	if err != nil {
		return 0, err
	}
	return Run(list, arch, nr, args)
}

// Run is Simulate for a program that is already decoded.
func Run(list []seccomp.Instruction, arch seccomp.Arch, nr uint32, args [6]uint64) (seccomp.Action, error) {
	m := machine{data: seccompData(arch, nr, args)}
	for pc := 0; pc < len(list); pc++ {
		i := list[pc]
		switch i.Code & 7 {
		case 0x06: // BPF_RET
			if i.Code == 0x16 { // the accumulator
				return seccomp.Action(m.a), nil
			}
			if i.Code != 0x06 {
				return 0, illegal(pc, i)
			}
			return seccomp.Action(i.K), nil
		case 0x05: // BPF_JMP
			skip, ok := m.jump(i)
			if !ok || skip >= uint64(len(list)-pc) {
				return 0, illegal(pc, i)
			}
			pc += int(skip)
		default:
			if !m.step(i) {
				return 0, illegal(pc, i)
			}
		}
	}
	return 0, fmt.Errorf("%w: no answer at the end", seccomp.ErrProgram)
}

func illegal(pc int, i seccomp.Instruction) error {
	return fmt.Errorf("%w: instruction %d (%+v)", seccomp.ErrProgram, pc, i)
}

// seccompData lays out a struct seccomp_data.
func seccompData(arch seccomp.Arch, nr uint32, args [6]uint64) (d [dataBytes]byte) {
	binary.LittleEndian.PutUint32(d[0:], nr)
	binary.LittleEndian.PutUint32(d[4:], uint32(arch))
	for i, a := range args {
		binary.LittleEndian.PutUint64(d[16+8*i:], a)
	}
	return d
}

type machine struct {
	a, x uint32
	mem  [16]uint32
	data [dataBytes]byte
}

// jump tells how many instructions are skipped.
func (m *machine) jump(i seccomp.Instruction) (skip uint64, ok bool) {
	operand := i.K
	if i.Code&0x08 != 0 {
		operand = m.x
	}
	var taken bool
	switch i.Code &^ 0x08 {
	case 0x05:
		return uint64(i.K), i.Code == 0x05
	case 0x15:
		taken = m.a == operand
	case 0x25:
		taken = m.a > operand
	case 0x35:
		taken = m.a >= operand
	case 0x45:
		taken = m.a&operand != 0
	default:
		return 0, false
	}
	if taken {
		return uint64(i.JT), true
	}
	return uint64(i.JF), true
}

// step runs an instruction that neither jumps nor returns.
func (m *machine) step(i seccomp.Instruction) bool {
	switch i.Code {
	case 0x20: // ld [k]
		if i.K%4 != 0 || i.K >= dataBytes {
			return false
		}
		m.a = binary.LittleEndian.Uint32(m.data[i.K:])
	case 0x80, 0x81: // ld len, ldx len
		m.set(i.Code == 0x81, dataBytes)
	case 0x00, 0x01: // ld #k, ldx #k
		m.set(i.Code == 0x01, i.K)
	case 0x60, 0x61, 0x02, 0x03: // ld M[k], ldx M[k], st, stx
		if i.K >= uint32(len(m.mem)) {
			return false
		}
		switch i.Code {
		case 0x02:
			m.mem[i.K] = m.a
		case 0x03:
			m.mem[i.K] = m.x
		default:
			m.set(i.Code == 0x61, m.mem[i.K])
		}
	case 0x07: // tax
		m.x = m.a
	case 0x87: // txa
		m.a = m.x
	default:
		return i.Code&7 == 0x04 && m.alu(i)
	}
	return true
}

func (m *machine) set(x bool, v uint32) {
	if x {
		m.x = v
	} else {
		m.a = v
	}
}

func (m *machine) alu(i seccomp.Instruction) bool {
	operand := i.K
	if i.Code&0x08 != 0 {
		operand = m.x
	}
	switch i.Code &^ 0x08 {
	case 0x04:
		m.a += operand
	case 0x14:
		m.a -= operand
	case 0x24:
		m.a *= operand
	case 0x34:
		if operand == 0 {
			return false
		}
		m.a /= operand
	case 0x44:
		m.a |= operand
	case 0x54:
		m.a &= operand
	case 0x64:
		m.a <<= operand & 31
	case 0x74:
		m.a >>= operand & 31
	case 0x84:
		m.a = -m.a
	case 0xa4:
		m.a ^= operand
	default:
		return false
	}
	return true
}
