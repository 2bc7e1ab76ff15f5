// Command solo-gateway serves Solo's API over gRPC. It is a system service:
// solo-kernel starts it in a sandbox and gives it its listeners and its control
// connection. It has no options.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/solo-os/solo/system/gateway"
)

const tlsDir = "/etc/solo/tls"

func main() {
	// One call is a hand-over between two sockets: more parallelism only adds
	// wake-ups across cores (a factor of two in latency).
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	config, err := gateway.Inherit(os.Getenv, tlsDir)
	if err == nil {
		err = gateway.Serve(context.Background(), config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "solo-gateway:", err)
		os.Exit(1)
	}
}
