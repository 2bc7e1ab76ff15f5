// Package lint finds the rules of a seccomp profile that decide nothing: mistakes of who
// wrote it, which change no answer. The tests hold the profiles that Solo ships to it; the
// launcher, which compiles them, does not link it.
//
// Trust: pure functions over values.
package lint

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/solo-os/solo/seccomp"
)

// Check finds rules that are never reached or have no effect, in a profile that
// seccomp.Parse took. The error has all of them; each is a seccomp.ErrProfile.
func Check(p *seccomp.Profile) error {
	byName := map[string][]int{}
	for i, r := range p.Rules {
		for _, name := range r.Names {
			byName[name] = append(byName[name], i)
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		check(p, byName[name], func(rule int, problem string, args ...any) {
			errs = append(errs, fmt.Errorf("%w: rule %d (%s): %s", seccomp.ErrProfile, rule, name, fmt.Sprintf(problem, args...)))
		})
	}
	return errors.Join(errs...)
}

// check looks at the rules of one call, in file order.
func check(p *seccomp.Profile, rules []int, report func(int, string, ...any)) {
	all := -1
	for k, i := range rules {
		r := p.Rules[i]
		if all >= 0 {
			report(i, "is never reached: rule %d takes every call", all)
			continue
		}
		for _, j := range rules[:k] {
			if equalArgs(p.Rules[j].Args, r.Args) {
				report(i, "is never reached: the same condition as rule %d", j)
			}
		}
		if len(r.Args) == 0 {
			all = i
		}
		differs := func(i int) bool { return p.Rules[i].Action != p.Default }
		if !differs(i) && !slices.ContainsFunc(rules[k+1:], differs) {
			report(i, "has no effect: the default does the same")
		}
	}
}

func equalArgs(a, b []seccomp.Arg) bool {
	byIndex := func(x, y seccomp.Arg) int { return int(x.Index) - int(y.Index) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, byIndex)
	slices.SortFunc(b, byIndex)
	return slices.Equal(a, b)
}
