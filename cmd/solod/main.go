// Command solod is Solo's first process: it starts the kernel and the launcher, opens
// the API's listeners and ends everything it started. See package root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/solo-os/solo/kernel/root"
)

// version is set by the build.
var version = "unknown"

func main() { os.Exit(run()) }

func run() int {
	o := root.Options{Version: version}
	flags := flag.NewFlagSet("solod", flag.ContinueOnError)
	flags.StringVar(&o.StateDir, "state-dir", "/var/lib/solo", "`directory` of state, artefacts, certificates and root's token")
	flags.StringVar(&o.RunDir, "run-dir", "/run/solo", "`directory` of api.sock and metrics.sock")
	flags.StringVar(&o.Listen, "listen", "", "TCP `address` of the API, such as 127.0.0.1:50051; needs certificates (default none)")
	flags.StringVar(&o.CgroupRoot, "cgroup-root", "", "cgroup `path` below which everything runs (default the unit's under systemd, else /solo- and a hash of the state directory)")
	flags.Uint64Var(&o.IDBase, "id-base", 0, "first host `id` for sandboxes, a multiple of 65536 (default a free one from 536870912 on)")
	flags.StringVar(&o.Config, "config", "", "`file` with the operator's settings, in protobuf's text format")
	show := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "solod: unexpected argument %q\n", flags.Arg(0))
		return 2
	case *show:
		fmt.Println("solod", version)
		return 0
	}
	if err := o.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, "solod:", err)
		return 2
	}
	return root.Run(o)
}
