package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Validate finds rules that are wrong or have no effect. All mistakes are returned,
// joined, each a *ProfileError that names the rule.
func (p *Profile) Validate() error {
	var errs []*ProfileError
	report := func(rule int, call, problem string, args ...any) {
		errs = append(errs, &ProfileError{Rule: rule, Call: call, Problem: fmt.Sprintf(problem, args...)})
	}
	total := 0
	for i, r := range p.Rules {
		if len(r.Names) == 0 {
			report(i, "", "names no call")
		}
		total += len(r.Names)
		for _, name := range r.Names {
			if _, ok := numbers[name]; !ok {
				report(i, name, "unknown call on x86_64")
			}
		}
		checkArgs(r.Args, func(problem string) { report(i, "", "%s", problem) })
	}
	if total > maxRules {
		report(-1, "", "%d rules, at most %d", total, maxRules)
	}
	if errs != nil {
		return join(errs)
	}
	for name, rules := range p.byName() {
		p.lint(name, rules, report)
	}
	slices.SortFunc(errs, func(x, y *ProfileError) int {
		return cmp.Or(cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.Call, y.Call))
	})
	return join(errs)
}

func join(list []*ProfileError) error {
	errs := make([]error, len(list))
	for i, e := range list {
		errs[i] = e
	}
	return errors.Join(errs...)
}

func checkArgs(args []Arg, report func(string)) {
	seen := map[uint]bool{}
	for _, a := range args {
		if a.Index > 5 {
			report(fmt.Sprintf("argument index %d: 0 to 5", a.Index))
		}
		if seen[a.Index] {
			report(fmt.Sprintf("argument %d is compared twice in one rule; libseccomp cannot express it", a.Index))
		}
		seen[a.Index] = true
		switch a.Op {
		case MaskedEqual:
			if a.ValueTwo&^a.Value != 0 {
				report(fmt.Sprintf("argument %d: valueTwo has bits outside the mask: never true", a.Index))
			}
			if a.Value == 0 {
				report(fmt.Sprintf("argument %d: mask 0: always true", a.Index))
			}
		case NotEqual, Less, LessEqual, Equal, GreaterEqual, Greater:
			if a.ValueTwo != 0 {
				report(fmt.Sprintf("argument %d: valueTwo has no meaning for %s", a.Index, a.Op))
			}
			if a.Op == Less && a.Value == 0 || a.Op == Greater && a.Value == ^uint64(0) {
				report(fmt.Sprintf("argument %d: never true", a.Index))
			}
			if a.Op == GreaterEqual && a.Value == 0 || a.Op == LessEqual && a.Value == ^uint64(0) {
				report(fmt.Sprintf("argument %d: always true", a.Index))
			}
		default:
			report(fmt.Sprintf("argument %d: unknown op %q", a.Index, string(a.Op)))
		}
	}
}

// lint finds the rules of one call that decide nothing.
func (p *Profile) lint(name string, rules []int, report func(int, string, string, ...any)) {
	all := -1
	for k, i := range rules {
		r := p.Rules[i]
		if all >= 0 {
			report(i, name, "is never reached: rule %d takes every call", all)
			continue
		}
		for _, j := range rules[:k] {
			if equalArgs(p.Rules[j].Args, r.Args) {
				report(i, name, "is never reached: the same condition as rule %d", j)
			}
		}
		if len(r.Args) == 0 {
			all = i
		}
		if r.Action == p.Default && !p.differs(rules[k+1:]) {
			report(i, name, "has no effect: %v is the default", r.Action)
		}
	}
}

// differs tells whether one of the rules has another action than the default.
func (p *Profile) differs(rules []int) bool {
	return slices.ContainsFunc(rules, func(i int) bool { return p.Rules[i].Action != p.Default })
}

func equalArgs(a, b []Arg) bool {
	byIndex := func(x, y Arg) int { return int(x.Index) - int(y.Index) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, byIndex)
	slices.SortFunc(b, byIndex)
	return slices.Equal(a, b)
}

// byName lists the rules of each call, in file order.
func (p *Profile) byName() map[string][]int {
	m := map[string][]int{}
	for i, r := range p.Rules {
		for _, name := range r.Names {
			m[name] = append(m[name], i)
		}
	}
	return m
}
