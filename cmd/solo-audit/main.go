// Command solo-audit stores the audit log. The kernel starts it in a sandbox; it is
// of no use by hand. See package audit.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/system/audit"
	"github.com/solo-os/solo/system/control"
)

func main() {
	os.Exit(control.Main("solo-audit", func(ctx context.Context, c *control.Conn) error {
		return audit.Serve(ctx, c, audit.Config{Dir: "/data"})
	}))
}
