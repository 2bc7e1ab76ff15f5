// Command solo-net publishes ports of services on the host's loopback. The kernel
// starts it in a sandbox; it is of no use by hand. See package network.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/drivers/network"
	"github.com/solo-os/solo/system/control"
)

func main() {
	os.Exit(control.Main("solo-net", func(ctx context.Context, c *control.Conn) error {
		return network.Serve(ctx, c, network.Limits{Stock: 8})
	}))
}
