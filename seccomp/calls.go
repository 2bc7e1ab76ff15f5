package seccomp

import (
	"cmp"
	"slices"
)

// Number is the x86_64 number of a call.
func Number(name string) (nr uint32, ok bool) {
	nr, ok = numbers[name]
	return nr, ok
}

// Name is the name of an x86_64 call, "" if the number is in no table.
func Name(nr uint32) string {
	for name, n := range numbers {
		if n == nr {
			return name
		}
	}
	return ""
}

// Call is one known call and the rules of a profile that name it, in file order.
type Call struct {
	Name   string
	Number uint32
	Rules  []Rule
}

// Mixed tells whether the rules have different actions, so that their order counts.
func (c Call) Mixed() bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.Action != c.Rules[0].Action })
}

// Calls lists the calls that the profile has rules for, by number.
func (p *Profile) Calls() []Call {
	var calls []Call
	for name, rules := range p.byName() {
		nr, ok := numbers[name]
		if !ok {
			continue
		}
		c := Call{Name: name, Number: nr}
		for _, i := range rules {
			c.Rules = append(c.Rules, p.Rules[i])
		}
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b Call) int { return cmp.Compare(a.Number, b.Number) })
	return calls
}

// Range is the numbers from First to Last.
type Range struct {
	First, Last uint32
}

// Known lists the ranges of numbers that have a call, ascending and not touching.
func Known() []Range {
	all := make([]uint32, 0, len(numbers))
	for _, nr := range numbers {
		all = append(all, nr)
	}
	slices.Sort(all)
	var ranges []Range
	for _, nr := range all {
		if n := len(ranges); n > 0 && nr <= ranges[n-1].Last+1 {
			ranges[n-1].Last = nr
			continue
		}
		ranges = append(ranges, Range{nr, nr})
	}
	return ranges
}
