package bpf

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/seccomp"
	"github.com/solo-os/solo/seccomp/lint"
	"github.com/solo-os/solo/seccomp/model"
	"github.com/solo-os/solo/seccomp/profiles"
)

// shipped returns a profile of ours and its program.
func shipped(t *testing.T, name string) (*seccomp.Profile, []seccomp.Instruction) {
	t.Helper()
	text, err := profiles.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := seccomp.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	program, err := Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	list, err := seccomp.Decode(program)
	if err != nil {
		t.Fatal(err)
	}
	return p, list
}

// boundary lists values around everything a rule compares with, in both halves.
func boundary(p *seccomp.Profile) []uint64 {
	values := []uint64{0, 1, 0xffffffff, 1 << 32, ^uint64(0)}
	seen := map[uint64]bool{}
	for _, r := range p.Rules {
		for _, a := range r.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				values = append(values, v, v-1, v+1, v|1<<32, v|0xdead<<48)
			}
		}
	}
	unique := values[:0:0]
	for _, v := range values {
		if !seen[v] {
			seen[v] = true
			unique = append(unique, v)
		}
	}
	return unique
}

func agree(t interface{ Fatalf(string, ...any) }, p *seccomp.Profile, list []seccomp.Instruction, arch seccomp.Arch, nr uint32, args [6]uint64) {
	got, err := model.Run(list, arch, nr, args)
	if want := model.Decide(p, arch, nr, args); err != nil || got != want {
		t.Fatalf("arch %#x, call %d (%s), %#x: program %#x (%v), profile %#x", arch, nr, model.Name(nr), args, got, err, want)
	}
}

// TestShippedProgramsMeanTheirProfiles goes over all numbers, and all boundary values
// of the calls that have argument rules.
func TestShippedProgramsMeanTheirProfiles(t *testing.T) {
	for _, name := range profiles.Names() {
		t.Run(name, func(t *testing.T) {
			p, list := shipped(t, name)
			for _, arch := range []seccomp.Arch{seccomp.ArchX86_64, model.ArchX86, model.ArchAarch64, 0} {
				for nr := uint32(0); nr < 600; nr++ {
					agree(t, p, list, arch, nr, [6]uint64{})
					agree(t, p, list, arch, nr|0x40000000, [6]uint64{})
				}
				for _, nr := range []uint32{0x3fffffff, 0x7fffffff, 0x80000000, 0xffffffff} {
					agree(t, p, list, arch, nr, [6]uint64{})
				}
			}
			values := boundary(p)
			for _, c := range p.Calls() {
				used := map[uint]bool{}
				for _, r := range c.Rules {
					for _, a := range r.Args {
						used[a.Index] = true
					}
				}
				var indexes []uint
				for i := range used {
					indexes = append(indexes, i)
				}
				if len(indexes) == 0 || len(indexes) > 2 {
					continue
				}
				for _, v := range values {
					for _, w := range values {
						var args [6]uint64
						args[indexes[len(indexes)-1]] = w
						args[indexes[0]] = v
						agree(t, p, list, seccomp.ArchX86_64, c.Number, args)
						if len(indexes) == 1 {
							break
						}
					}
				}
			}
			t.Logf("%d instructions", len(list))
		})
	}
}

// TestNumbersAreLibseccomps compares our table with the library's, as far as that goes.
func TestNumbersAreLibseccomps(t *testing.T) {
	resolved := 0
	for _, r := range seccomp.Known() {
		for nr := r.First; nr <= r.Last; nr++ {
			got, err := libseccomp.GetSyscallFromName(model.Name(nr))
			if err != nil {
				continue
			}
			resolved++
			if got != libseccomp.ScmpSyscall(nr) {
				t.Errorf("%s: %d, libseccomp %d", model.Name(nr), nr, got)
			}
		}
	}
	if resolved < 350 {
		t.Errorf("libseccomp knows only %d of the names", resolved)
	}
}

// TestAnyProfile compiles made-up profiles and compares them with the model.
func TestAnyProfile(t *testing.T) {
	names := []string{"read", "ioctl", "socket", "clone", "cachestat", "listns", "prctl"}
	actions := []seccomp.Action{seccomp.Allow, seccomp.KillProcess, seccomp.Trap, seccomp.Log, seccomp.Errno(1), seccomp.Errno(97)}
	ops := []seccomp.Op{seccomp.NotEqual, seccomp.Less, seccomp.LessEqual, seccomp.Equal, seccomp.GreaterEqual, seccomp.Greater, seccomp.MaskedEqual}
	edges := []uint64{0, 1, 2, 0x5412, 0xffffffff, 1 << 32, 1<<32 | 1, ^uint64(0) - 1, ^uint64(0)}
	tried := 0
	rapid.Check(t, func(t *rapid.T) {
		p := &seccomp.Profile{Default: rapid.SampledFrom(actions).Draw(t, "default")}
		for range rapid.IntRange(0, 8).Draw(t, "rules") {
			r := seccomp.Rule{Names: []string{rapid.SampledFrom(names).Draw(t, "name")}, Action: rapid.SampledFrom(actions).Draw(t, "action")}
			for _, i := range rapid.SliceOfNDistinct(rapid.UintRange(0, 5), 0, 3, rapid.ID[uint]).Draw(t, "indexes") {
				a := seccomp.Arg{Index: i, Op: rapid.SampledFrom(ops).Draw(t, "op"), Value: rapid.SampledFrom(edges).Draw(t, "value")}
				if a.Op == seccomp.MaskedEqual {
					a.ValueTwo = a.Value & rapid.SampledFrom(edges).Draw(t, "two")
				}
				r.Args = append(r.Args, a)
			}
			p.Rules = append(p.Rules, r)
			if p.Validate() != nil {
				p.Rules = p.Rules[:len(p.Rules)-1]
			}
		}
		program, err := CompileProfile(p)
		if err != nil && lint.Check(p) != nil {
			return // libseccomp may refuse what decides nothing
		}
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		tried++
		list, err := seccomp.Decode(program)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			nr, _ := model.Number(rapid.SampledFrom(names).Draw(t, "call"))
			var args [6]uint64
			for i := range args {
				args[i] = rapid.SampledFrom(edges).Draw(t, "arg")
			}
			agree(t, p, list, seccomp.ArchX86_64, nr, args)
		}
	})
	if tried == 0 {
		t.Error("no profile was compiled")
	}
}

func TestCompileRefuses(t *testing.T) {
	if p, err := Compile([]byte(`{}`)); p != nil || !errors.Is(err, seccomp.ErrProfile) {
		t.Errorf("%v, %v", p, err)
	}
	p := &seccomp.Profile{Default: seccomp.Allow}
	for i := range 60 {
		p.Rules = append(p.Rules, seccomp.Rule{Names: []string{"ioctl"}, Action: seccomp.Errno(uint16(1 + i)),
			Args: []seccomp.Arg{{Index: 1, Value: uint64(i), Op: seccomp.Equal}}})
	}
	if _, err := CompileProfile(p); !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "ioctl") {
		t.Errorf("60 mixed rules: %v", err)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, name := range profiles.Names() {
		b.Run(name, func(b *testing.B) {
			text, err := profiles.Read(name)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := Compile(text); err != nil {
					b.Fatal(fmt.Errorf("compile: %w", err))
				}
			}
		})
	}
}
