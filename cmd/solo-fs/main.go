// Command solo-fs finds out what code needs of the host. The kernel starts it in a
// sandbox; it is of no use by hand. See package filesystem.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/drivers/filesystem"
	"github.com/solo-os/solo/system/control"
)

func main() {
	os.Exit(control.Main("solo-fs", func(ctx context.Context, c *control.Conn) error {
		return filesystem.Serve(ctx, c, filesystem.Root)
	}))
}
