package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Main is the frame of a system service's main: it opens the control connection of
// the environment, runs serve until the kernel or SIGTERM stops it, and returns the
// exit status. The end of the kernel is an orderly end too.
func Main(name string, serve func(ctx context.Context, c *Conn) error) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	c, err := FromEnvironment(os.Getenv)
	if err == nil {
		err = serve(ctx, c)
		_ = c.Close()
	}
	if err == nil || errors.Is(err, ErrKernelGone) {
		return 0
	}
	fmt.Fprintln(os.Stderr, name+": "+strings.ReplaceAll(err.Error(), "\n", " "))
	return 1
}
