package ctl

import "github.com/spf13/cobra"

// Commands is solo-ctl with all its commands, to be looked at.
func Commands() *cobra.Command { return (&app{}).root() }
