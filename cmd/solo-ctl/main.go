// Command solo-ctl is the command line client of Solo.
package main

import (
	"os"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/ctl"
)

func main() { os.Exit(ctl.Main(os.Args[1:], ctl.System())) }
