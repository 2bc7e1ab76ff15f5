package seccomp

import (
	"errors"
	"fmt"
)

// Validate finds rules that are wrong. The error has all mistakes, each with its rule.
// Rules that are well formed and decide nothing are for package lint to find.
func (p *Profile) Validate() error {
	var errs []error
	total := 0
	for i, r := range p.Rules {
		report := func(problem string, args ...any) {
			errs = append(errs, fmt.Errorf("%w: rule %d: %s", ErrProfile, i, fmt.Sprintf(problem, args...)))
		}
		if len(r.Names) == 0 {
			report("names no call")
		}
		total += len(r.Names)
		for _, name := range r.Names {
			if _, ok := numbers[name]; !ok {
				report("unknown call %q on x86_64", name)
			}
		}
		seen := map[uint]bool{}
		for _, a := range r.Args {
			if problem := a.problem(); problem != "" {
				report("argument %d: %s", a.Index, problem)
			}
			if seen[a.Index] {
				report("argument %d is compared twice in one rule; libseccomp cannot express it", a.Index)
			}
			seen[a.Index] = true
		}
	}
	if total > maxRules {
		errs = append(errs, fmt.Errorf("%w: %d rules, at most %d", ErrProfile, total, maxRules))
	}
	return errors.Join(errs...)
}

// problem says what is wrong with the comparison, "" if nothing is.
func (a Arg) problem() string {
	if a.Index > 5 {
		return "there are 0 to 5"
	}
	if a.ValueTwo != 0 && a.Op != MaskedEqual {
		return "valueTwo has no meaning for " + string(a.Op)
	}
	lowest, highest := a.Value == 0, a.Value == ^uint64(0)
	var never, always bool
	switch a.Op {
	case MaskedEqual:
		never, always = a.ValueTwo&^a.Value != 0, a.Value == 0
	case Less:
		never = lowest
	case Greater:
		never = highest
	case LessEqual:
		always = highest
	case GreaterEqual:
		always = lowest
	case Equal, NotEqual:
	default:
		return fmt.Sprintf("unknown op %q", string(a.Op))
	}
	switch {
	case never:
		return "never true"
	case always:
		return "always true"
	}
	return ""
}
