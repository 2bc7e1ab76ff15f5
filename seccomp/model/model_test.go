package model

import (
	"errors"
	"fmt"
	"testing"

	"github.com/solo-os/solo/seccomp"
)

func TestDecide(t *testing.T) {
	p, err := seccomp.Parse([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967295,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]},
		{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97},{"names":["init_module"],"action":"SCMP_ACT_KILL_PROCESS"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		arch seccomp.Arch
		nr   uint32
		arg0 uint64
		want seccomp.Action
	}{
		{seccomp.ArchX86_64, 41, 1, seccomp.Allow},
		{seccomp.ArchX86_64, 41, 1 << 40 << 1, seccomp.Errno(97)},
		{seccomp.ArchX86_64, 41, 1<<40 | 1, seccomp.Allow},
		{seccomp.ArchX86_64, 0, 0, seccomp.Errno(seccomp.EPERM)},
		{seccomp.ArchX86_64, 175, 0, seccomp.KillProcess},
		{seccomp.ArchX86_64, 400, 0, seccomp.Errno(seccomp.ENOSYS)},
		{seccomp.ArchX86_64, 100000, 0, seccomp.Errno(seccomp.ENOSYS)},
		{seccomp.ArchX86_64, x32Bit | 41, 1, seccomp.KillProcess},
		{seccomp.ArchX86_64, 0xffffffff, 1, seccomp.KillProcess},
		{ArchX86, 41, 1, seccomp.KillProcess},
		{ArchAarch64, 41, 1, seccomp.KillProcess},
	} {
		if got := Decide(p, c.arch, c.nr, [6]uint64{c.arg0}); got != c.want {
			t.Errorf("Decide(%#x, %d, %#x) = %#x, want %#x", c.arch, c.nr, c.arg0, got, c.want)
		}
	}
}

func TestSimulateRefuses(t *testing.T) {
	ret := seccomp.Instruction{Code: 0x06, K: uint32(seccomp.Allow)}
	for name, list := range map[string][]seccomp.Instruction{
		"no end":          {{Code: 0x20}},
		"jump out":        {{Code: 0x05, K: 1}, ret},
		"jump far out":    {{Code: 0x05, K: 0xffffffff}, ret},
		"branch out":      {{Code: 0x15, JT: 1, JF: 1}, ret},
		"load outside":    {{Code: 0x20, K: 64}, ret},
		"load unaligned":  {{Code: 0x20, K: 2}, ret},
		"memory outside":  {{Code: 0x60, K: 16}, ret},
		"divide by 0":     {{Code: 0x34}, ret},
		"unknown opcode":  {{Code: 0x28}, ret},
		"unknown return":  {{Code: 0x0e}},
		"unknown in jump": {{Code: 0x55}, ret},
	} {
		if a, err := Run(list, seccomp.ArchX86_64, 0, [6]uint64{}); !errors.Is(err, seccomp.ErrProgram) {
			t.Errorf("%s: %#x, %v", name, a, err)
		}
	}
	for _, n := range []int{0, 7, 9, 4097 * 8} {
		if _, err := Simulate(make([]byte, n), seccomp.ArchX86_64, 0, [6]uint64{}); !errors.Is(err, seccomp.ErrProgram) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzSimulate(f *testing.F) {
	f.Add(seccomp.Encode([]seccomp.Instruction{{Code: 0x20}, {Code: 0x15, JT: 0, JF: 1, K: 3}, {Code: 6}, {Code: 0x16}}), uint32(3))
	f.Fuzz(func(t *testing.T, program []byte, nr uint32) {
		if _, err := Simulate(program, seccomp.ArchX86_64, nr, [6]uint64{1, 2, 3}); err != nil && !errors.Is(err, seccomp.ErrProgram) {
			t.Fatal(fmt.Sprint("untyped: ", err))
		}
	})
}
