// Command solo-monitor stores logs and events, and serves metrics. The kernel starts
// it in a sandbox; it is of no use by hand. See package monitor.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/system/monitor"
)

func main() {
	os.Exit(control.Main("solo-monitor", func(ctx context.Context, c *control.Conn) error {
		return monitor.Serve(ctx, c, monitor.Config{Dir: "/data"})
	}))
}
