package seccomp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wrap makes a profile of these rules.
func wrap(rules string) string {
	return `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[` + rules + `]}`
}

func TestParse(t *testing.T) {
	p, err := Parse([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"architectures":["SCMP_ARCH_X86_64"],
		"syscalls":[{"names":["read","cachestat"],"action":"SCMP_ACT_ALLOW"},
		{"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":255,"valueTwo":16,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Profile{Default: Errno(13), Rules: []Rule{
		{Names: []string{"read", "cachestat"}, Action: Allow},
		{Names: []string{"socket"}, Action: KillProcess, Args: []Arg{{Index: 0, Value: 255, ValueTwo: 16, Op: MaskedEqual}}},
	}}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
}

func TestParseRefuses(t *testing.T) {
	allowRead := `{"names":["read"],"action":"SCMP_ACT_ALLOW"}`
	withArgs := func(args string) string {
		return wrap(`{"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[` + args + `]}`)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {``, "decode"},
		"not an object":   {`[]`, "decode"},
		"trailing":        {wrap(allowRead) + `{}`, "text after the profile"},
		"unknown field":   {wrap(`{"names":["read"],"action":"SCMP_ACT_ALLOW","comment":"x"}`), "unknown field"},
		"too long":        {wrap(strings.Repeat(" ", MaxProfileBytes)), "at most"},
		"no architecture": {`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + allowRead + `]}`, "architectures are []"},
		"foreign":         {`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"]}`, `["SCMP_ARCH_X86_64" "SCMP_ARCH_X86"], not only the native`},
		"no default":      {`{"architectures":["SCMP_ARCH_X86_64"]}`, `defaultAction: action "" is unknown`},
		"unknown action":  {wrap(`{"names":["read"],"action":"ALLOW"}`), `rule 0: action "ALLOW" is unknown`},
		"notify":          {wrap(`{"names":["read"],"action":"SCMP_ACT_NOTIFY"}`), "or not supported"},
		"errno without":   {wrap(`{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}`), "errnoRet with action"},
		"errno 0":         {wrap(`{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":0}`), "1 to 4095"},
		"errno too high":  {wrap(`{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}`), "1 to 4095"},
		"unknown call":    {wrap(allowRead + `,{"names":["read2"],"action":"SCMP_ACT_ALLOW"}`), `rule 1: unknown call "read2"`},
		"foreign call":    {wrap(`{"names":["socketcall"],"action":"SCMP_ACT_ALLOW"}`), `rule 0: unknown call "socketcall"`},
		"no names":        {wrap(`{"names":[],"action":"SCMP_ACT_ALLOW"}`), "rule 0: names no call"},
		"index 6":         {withArgs(`{"index":6,"value":1,"op":"SCMP_CMP_EQ"}`), "argument 6: there are 0 to 5"},
		"index negative":  {withArgs(`{"index":-1,"value":1,"op":"SCMP_CMP_EQ"}`), "decode"},
		"index twice":     {withArgs(`{"index":1,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_NE"}`), "compared twice"},
		"op":              {withArgs(`{"index":1,"value":1,"op":"="}`), `unknown op "="`},
		"mask":            {withArgs(`{"index":1,"value":1,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ"}`), "never true"},
		"mask 0":          {withArgs(`{"index":1,"value":0,"op":"SCMP_CMP_MASKED_EQ"}`), "always true"},
		"valueTwo":        {withArgs(`{"index":1,"value":1,"valueTwo":2,"op":"SCMP_CMP_EQ"}`), "valueTwo has no meaning"},
		"less than 0":     {withArgs(`{"index":1,"value":0,"op":"SCMP_CMP_LT"}`), "never true"},
		"from 0":          {withArgs(`{"index":1,"value":0,"op":"SCMP_CMP_GE"}`), "always true"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(c.text))
			if p != nil || !errors.Is(err, ErrProfile) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", p, err, c.want)
			}
		})
	}
}

func TestParseReportsEveryMistake(t *testing.T) {
	_, err := Parse([]byte(wrap(`{"names":["nope"],"action":"SCMP_ACT_ALLOW"},{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}`)))
	for _, want := range []string{`rule 0: unknown call "nope"`, "rule 1: argument 9"} {
		if !errors.Is(err, ErrProfile) || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, n := range []int{0, 7, 9, (maxInstructions + 1) * 8} {
		if _, err := Decode(make([]byte, n)); !errors.Is(err, ErrProgram) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestEncodeDecode(t *testing.T) {
	want := []Instruction{{Code: 0x1234, JT: 5, JF: 6, K: 0xdeadbeef}, {Code: 6}}
	got, err := Decode(Encode(want))
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestKnown(t *testing.T) {
	in := map[uint32]bool{}
	for _, r := range Known() {
		if r.Last < r.First || in[r.First-1] {
			t.Errorf("range %+v is empty or touches the one before", r)
		}
		for nr := r.First; nr <= r.Last; nr++ {
			in[nr] = true
		}
	}
	for name, nr := range Numbers() {
		if !in[nr] {
			t.Errorf("%s (%d) is in no range", name, nr)
		}
		delete(in, nr)
	}
	if len(in) > 0 {
		t.Errorf("numbers of no call, or of two: %v", in)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(wrap(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":1,"op":"SCMP_CMP_EQ"}]}`)))
	f.Add([]byte(wrap(``)))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if err != nil {
			if !errors.Is(err, ErrProfile) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatal("accepted what is no JSON")
		}
		for _, c := range p.Calls() {
			if nr, ok := numbers[c.Name]; !ok || nr != c.Number || len(c.Rules) == 0 {
				t.Fatalf("call %+v", c)
			}
		}
	})
}
