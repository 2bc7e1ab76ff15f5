// solo-kernel owns Solo's state. solod starts it in an empty network namespace, with
// its control connection as descriptor 3; it is of no use by hand. See package kernel.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

func main() {
	// Executed from a memfd, the process would be called by a number (proc_pid_comm(5)).
	_ = os.WriteFile("/proc/self/comm", []byte("solo-kernel"), 0)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "solo-kernel:", err)
		os.Exit(1)
	}
}

func run() error {
	root, err := ipc.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return fmt.Errorf("%w; solo-kernel is started by solod", err)
	}
	order := &controlv1.RootOrder{}
	files, _, err := root.Receive(order)
	if err != nil {
		return fmt.Errorf("first order: %w", err)
	}
	if order.GetBoot() == nil {
		files.Close()
		return &ipc.ProtocolError{What: "the first order is not boot"}
	}
	k, err := kernel.Start(root, order.GetBoot(), files)
	if err == nil {
		err = k.Run()
		var boot *kernel.BootError
		if !errors.As(err, &boot) {
			return err
		}
	}
	_ = root.Send(&controlv1.RootReport{Report: &controlv1.RootReport_BootFailed{BootFailed: &controlv1.BootFailed{Message: err.Error()}}})
	return err
}
