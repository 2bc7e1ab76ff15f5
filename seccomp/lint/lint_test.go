package lint

import (
	"errors"
	"strings"
	"testing"

	"github.com/solo-os/solo/seccomp"
)

// wrap makes a profile of these rules.
func wrap(rules string) string {
	return `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[` + rules + `]}`
}

func TestCheck(t *testing.T) {
	allowRead := `{"names":["read"],"action":"SCMP_ACT_ALLOW"}`
	for name, c := range map[string]struct{ text, want string }{
		"fine":              {wrap(allowRead + `,{"names":["write"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},{"names":["write"],"action":"SCMP_ACT_ALLOW"}`), ""},
		"default before":    {wrap(`{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},` + allowRead), ""},
		"same as default":   {wrap(`{"names":["read"],"action":"SCMP_ACT_ERRNO"}`), "rule 0 (read): has no effect"},
		"twice":             {wrap(allowRead + `,` + allowRead), "rule 1 (read): is never reached"},
		"twice in one":      {wrap(`{"names":["read","read"],"action":"SCMP_ACT_ALLOW"}`), "rule 0 (read): is never reached"},
		"after all":         {wrap(allowRead + `,{"names":["read"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}`), "rule 1 (read): is never reached: rule 0"},
		"default after all": {wrap(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},{"names":["read"],"action":"SCMP_ACT_ERRNO"}`), "rule 1 (read): has no effect"},
		"same args turned": {wrap(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
			{"names":["read"],"action":"SCMP_ACT_TRAP","args":[{"index":1,"value":2,"op":"SCMP_CMP_EQ"},{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}`), "the same condition as rule 0"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := seccomp.Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			err = Check(p)
			if c.want == "" && err == nil {
				return
			}
			if c.want == "" || !errors.Is(err, seccomp.ErrProfile) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want an error with %q", err, c.want)
			}
		})
	}
}
