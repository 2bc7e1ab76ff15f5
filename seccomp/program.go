package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrProgram is returned for bytes that are no valid seccomp filter.
var ErrProgram = errors.New("not a seccomp filter")

// Bounds of classic BPF as seccomp takes it: linux/bpf_common.h.
const (
	instructionBytes = 8
	maxInstructions  = 4096
)

// Instruction is a struct sock_filter.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// Decode takes a program apart (little endian). The length is bounded as the kernel
// bounds it; the instructions are not checked.
func Decode(program []byte) ([]Instruction, error) {
	n := len(program) / instructionBytes
	if n == 0 || n > maxInstructions || len(program)%instructionBytes != 0 {
		return nil, fmt.Errorf("%w: %d bytes", ErrProgram, len(program))
	}
	list := make([]Instruction, n)
	for i := range list {
		b := program[i*instructionBytes:]
		list[i] = Instruction{
			Code: binary.LittleEndian.Uint16(b), JT: b[2], JF: b[3], K: binary.LittleEndian.Uint32(b[4:]),
		}
	}
	return list, nil
}

// Encode is the reverse of Decode.
func Encode(list []Instruction) []byte {
	program := make([]byte, 0, len(list)*instructionBytes)
	for _, i := range list {
		program = binary.LittleEndian.AppendUint16(program, i.Code)
		program = append(program, i.JT, i.JF)
		program = binary.LittleEndian.AppendUint32(program, i.K)
	}
	return program
}
