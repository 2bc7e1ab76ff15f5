package seccomp

import (
	"cmp"
	"maps"
	"slices"
)

// Numbers is the table of the calls of x86_64; the caller owns it.
func Numbers() map[string]uint32 { return maps.Clone(numbers) }

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
	byName := map[string]Call{}
	for _, r := range p.Rules {
		for _, name := range r.Names {
			byName[name] = Call{Name: name, Number: numbers[name], Rules: append(byName[name].Rules, r)}
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Call) int { return cmp.Compare(a.Number, b.Number) })
}

// Range is the numbers from First to Last.
type Range struct {
	First, Last uint32
}

// Known lists the ranges of numbers that have a call, ascending and not touching.
func Known() []Range {
	var ranges []Range
	for _, nr := range slices.Sorted(maps.Values(numbers)) {
		if n := len(ranges); n > 0 && nr <= ranges[n-1].Last+1 {
			ranges[n-1].Last = nr
			continue
		}
		ranges = append(ranges, Range{nr, nr})
	}
	return ranges
}
