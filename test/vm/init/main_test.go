package main

import (
	"bytes"
	"testing"
)

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		out          string
		pass, noTest bool
	}{
		{"", false, false},
		{"--- PASS: TestX\nPASS\n", true, false},
		{"testing: warning: no tests to run\nPASS\n", true, true},
		{"PASS", false, false}, // not a line
		{" PASS\nPASSED\n", false, false},
		{"FAIL\n", false, false},
		{"a line of its own\nPASS\nand another", true, false},
	} {
		// However the pipe cuts it.
		for size := 1; size <= len(c.out)+1; size++ {
			var out bytes.Buffer
			v := &verdict{out: &out}
			for rest := []byte(c.out); len(rest) > 0; {
				n := min(size, len(rest))
				if k, err := v.Write(rest[:n]); k != n || err != nil {
					t.Fatalf("Write: %d, %v", k, err)
				}
				rest = rest[n:]
			}
			if v.pass != c.pass || v.noTest != c.noTest || out.String() != c.out {
				t.Errorf("%q by %d bytes: pass %v, no test %v, passed on %q", c.out, size, v.pass, v.noTest, out.String())
			}
		}
	}
}
