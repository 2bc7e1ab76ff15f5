//go:build seccomp

// solo-launcher makes shells and compiles seccomp profiles on the kernel's order. It
// runs as root, started by solod in a mount namespace of its own, with its control
// connection as descriptor 3 and the program solo-init as descriptor 4.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/sandbox/launcher"
	"github.com/solo-os/solo/seccomp/bpf"
)

// The main thread belongs to main alone, which only waits. libcontainer opens mount
// sources on a thread that it moves into the sandbox's mount namespace and throws away
// (process_linux.go, goCreateMountSources); Go cannot end the main thread, which would
// stay in there for good and keep the namespace with all its mounts.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		// libcontainer's second stage: this process becomes solo-init.
		libcontainer.Init()
		return
	}
	// Executed from a memfd, the process would be called by a number (proc_pid_comm(5)).
	_ = os.WriteFile("/proc/self/comm", []byte("solo-launcher"), 0)
	ended := make(chan error)
	go func() { ended <- run() }()
	if err := <-ended; err != nil {
		fmt.Fprintln(os.Stderr, "solo-launcher:", err)
		os.Exit(1)
	}
}

func run() error {
	state := flag.String("state", "/run", "directory over which the launcher mounts its own tmpfs, in its own mount namespace")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	conn, err := ipc.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	l := &launcher.Launcher{
		Conn:     conn,
		Init:     os.NewFile(4, "solo-init"),
		StateDir: *state,
		Compile:  bpf.Compile,
	}
	return l.Serve()
}
