package ctl_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
)

// eachCommand calls f for solo-ctl and all that is below it.
func eachCommand(t *testing.T, f func(*cobra.Command)) {
	t.Helper()
	n := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		n++
		f(cmd)
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(ctl.Commands())
	if n < 20 {
		t.Errorf("solo-ctl has only %d commands", n)
	}
}

// TestHelp: every command has a manual page with all its parts.
func TestHelp(t *testing.T) {
	f := start(t)
	eachCommand(t, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		for what, text := range map[string]string{"Short": cmd.Short, "Long": cmd.Long, "Example": cmd.Example} {
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s has no %s", path, what)
			}
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.Contains(line, path) && cmd.HasParent() {
				t.Errorf("%s: the example is of another command: %s", path, line)
			}
		}
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			if flag.Usage == "" {
				t.Errorf("%s: --%s is not explained", path, flag.Name)
			}
		})
		words := strings.Fields(path)[1:]
		r := f.ctl(t, append(words, "--help")...)
		if r.status != 0 || r.stderr != "" {
			t.Errorf("%s --help: %+v", path, r)
		}
		var sections []string
		for line := range strings.Lines(r.stdout) {
			if line = strings.TrimRight(line, "\n"); line != "" && !strings.HasPrefix(line, " ") {
				sections = append(sections, line)
			}
			if len(line) > 120 {
				t.Errorf("%s: the manual page has a line of %d characters: %s", path, len(line), line)
			}
		}
		want := []string{"NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "GLOBAL OPTIONS", "EXIT STATUS", "EXAMPLES"}
		want = slices.DeleteFunc(want, func(s string) bool {
			return s == "COMMANDS" && !cmd.HasSubCommands()
		})
		if !slices.Equal(sections, want) {
			t.Errorf("%s --help has the sections %q, want %q", path, sections, want)
		}
		if same := f.ctl(t, append([]string{"help"}, words...)...); same != r {
			t.Errorf("solo-ctl help %s and %s --help differ", strings.Join(words, " "), path)
		}
	})
	if n := len(f.requests); n > 0 {
		t.Errorf("help sent %d requests", n)
	}
}
