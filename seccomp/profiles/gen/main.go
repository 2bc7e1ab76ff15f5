// Command gen writes the profiles' JSON files into a directory (go generate). The
// lists are in sets.go and services.go; nothing is composed when Solo runs.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen DIRECTORY")
		os.Exit(2)
	}
	for name, p := range all() {
		text, err := p.text()
		if err == nil {
			err = os.WriteFile(filepath.Join(os.Args[1], name+".json"), text, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "write profile %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// profile and rule are the OCI JSON.
type profile struct {
	DefaultAction   string   `json:"defaultAction"`
	DefaultErrnoRet *uint    `json:"defaultErrnoRet,omitempty"`
	Architectures   []string `json:"architectures"`
	Syscalls        []rule   `json:"syscalls"`
}

type rule struct {
	Names    []string `json:"names"`
	Action   string   `json:"action"`
	ErrnoRet *uint    `json:"errnoRet,omitempty"`
	Args     []arg    `json:"args,omitempty"`
}

type arg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo,omitempty"`
	Op       string `json:"op"`
}

// text is the file: one rule a line, so that a diff shows what changed.
func (p profile) text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n  \"defaultAction\": %q,\n", p.DefaultAction)
	if p.DefaultErrnoRet != nil {
		fmt.Fprintf(&b, "  \"defaultErrnoRet\": %d,\n", *p.DefaultErrnoRet)
	}
	fmt.Fprintf(&b, "  \"architectures\": [%q],\n  \"syscalls\": [", p.Architectures[0])
	for i, r := range p.Syscalls {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		b.Write(line)
	}
	b.WriteString("\n  ]\n}\n")
	return b.Bytes(), nil
}

const (
	eperm        = 1
	enosys       = 38
	eafnosupport = 97
)

// allowList starts a profile that refuses with EPERM what is not named. Death for
// what only an attack calls, and ENOSYS for clone3 (its flags are behind a pointer;
// programs fall back to clone), are in every one.
func allowList(rules ...[]rule) profile {
	n := uint(eperm)
	p := profile{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: &n, Architectures: []string{"SCMP_ARCH_X86_64"}}
	p.Syscalls = slices.Concat(rules...)
	p.Syscalls = append(p.Syscalls, rule{Names: hostile, Action: "SCMP_ACT_KILL_PROCESS"}, errno(enosys, "clone3"))
	return p
}

func allow(names ...string) rule {
	return rule{Names: names, Action: "SCMP_ACT_ALLOW"}
}

func errno(n uint, names ...string) rule {
	return rule{Names: names, Action: "SCMP_ACT_ERRNO", ErrnoRet: &n}
}

func (r rule) when(args ...arg) rule {
	r.Args = args
	return r
}

// is compares an int argument: only its low 32 bits count in the kernel.
func is(index uint, value uint32) arg {
	return masked(index, 0xffffffff, uint64(value))
}

// masked is argument&mask == value.
func masked(index uint, mask, value uint64) arg {
	return arg{Index: index, Value: mask, ValueTwo: value, Op: "SCMP_CMP_MASKED_EQ"}
}
