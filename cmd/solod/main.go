// Command solod is Solo's first process: it starts the kernel and the launcher, opens
// the API's listeners and ends everything it started. See package root.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/solo-os/solo/kernel/root"
)

// version is set by the build.
var version = "unknown"

func main() {
	o := root.Options{Version: version}
	flag.StringVar(&o.StateDir, "state-dir", "/var/lib/solo", "`directory` of state, artefacts, certificates and root's token")
	flag.StringVar(&o.RunDir, "run-dir", "/run/solo", "`directory` of api.sock and metrics.sock")
	flag.StringVar(&o.Listen, "listen", "", "TCP `address` of the API, such as 127.0.0.1:50051; needs certificates (default none)")
	flag.StringVar(&o.CgroupRoot, "cgroup-root", "", "cgroup `path` below which everything runs (default the unit's under systemd, else /solo- and a hash of the state directory)")
	flag.Uint64Var(&o.IDBase, "id-base", 0, "first host `id` for sandboxes, a multiple of 65536 (default a free one from 536870912 on)")
	flag.StringVar(&o.Config, "config", "", "`file` with the operator's settings, in protobuf's text format")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse() // exits 2 for wrong usage
	err := o.Validate()
	if flag.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	switch {
	case *show:
		fmt.Println("solod", version)
	case err != nil:
		fmt.Fprintln(os.Stderr, "solod:", err)
		os.Exit(2)
	default:
		os.Exit(root.Run(o))
	}
}
