package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitNote is the annotation of a command whose exit status says more than usual.
const exitNote = "solo.exit"

const exitUsual = `0 success; 1 error; 2 wrong usage; 3 denied: no token, a wrong one, or one
without the right.`

// helpText is a command's manual page.
func helpText(cmd *cobra.Command) string {
	cmd.InitDefaultHelpFlag() // as cobra does for the command that runs
	var b strings.Builder
	section := func(title, text string) {
		if text = strings.Trim(text, "\n"); text == "" {
			return
		}
		fmt.Fprintf(&b, "%s\n", title)
		for line := range strings.SplitSeq(text, "\n") {
			fmt.Fprintf(&b, "%s\n", strings.TrimRight("  "+line, " "))
		}
		b.WriteByte('\n')
	}
	section("NAME", cmd.CommandPath()+" - "+cmd.Short)
	section("SYNOPSIS", synopsis(cmd))
	section("DESCRIPTION", cmd.Long)
	section("COMMANDS", subcommands(cmd))
	section("OPTIONS", unindent(cmd.LocalNonPersistentFlags().FlagUsages()))
	if cmd.HasParent() {
		section("GLOBAL OPTIONS", unindent(cmd.InheritedFlags().FlagUsages()))
	} else {
		section("GLOBAL OPTIONS", unindent(cmd.PersistentFlags().FlagUsages()))
	}
	exit := exitUsual
	if note := cmd.Annotations[exitNote]; note != "" {
		exit += "\n" + note
	}
	section("EXIT STATUS", exit)
	section("EXAMPLES", unindent(cmd.Example))
	return strings.TrimSuffix(b.String(), "\n")
}

func synopsis(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " COMMAND [flags]"
	}
	return cmd.UseLine()
}

func subcommands(cmd *cobra.Command) string {
	var rows [][]string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			rows = append(rows, []string{c.Name(), c.Short})
		}
	}
	if len(rows) == 0 {
		return ""
	}
	return table(rows)
}

// unindent takes off the two blanks that cobra's blocks begin with; a section adds
// its own.
func unindent(text string) string {
	return strings.TrimPrefix(strings.ReplaceAll(text, "\n  ", "\n"), "  ")
}

// help is the command; cobra's own ends with success also for what there is not.
func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Show the manual page of a command",
		Long:    "Help shows what a command does, its options, exit status and examples, as COMMAND\n--help does. Without COMMAND it shows all commands.",
		Example: "  solo-ctl help deploy\n  solo-ctl help audit tail",
		RunE: func(cmd *cobra.Command, list []string) error {
			found, rest, err := cmd.Root().Find(list)
			if err != nil || len(rest) > 0 {
				return usagef("help: there is no command %q; see solo-ctl help", strings.Join(list, " "))
			}
			return a.write([]byte(helpText(found)))
		},
	}
}
