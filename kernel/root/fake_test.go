package root

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// programs is a directory with copies of the test binary under the names of Solo's
// programs: which one a process then is, its first argument tells.
var programs string

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "solod":
		os.Exit(solod())
	case "solo-kernel":
		fakeExit(fakeKernel())
	case "solo-launcher":
		fakeExit(fakeLauncher())
	}
	var err error
	if programs, err = install(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := testenv.CheckMain(m)
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

func install() (string, error) {
	dir, err := os.MkdirTemp("", "solo-root-test-")
	if err != nil {
		return "", err
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "solod"), exe, 0o755)
	}
	for _, name := range []string{"solo-kernel", "solo-launcher", "solo-init"} {
		err = errors.Join(err, os.Link(filepath.Join(dir, "solod"), filepath.Join(dir, name)))
	}
	return dir, err
}

// fakeExit ends a fake without the race detector's wait of a second.
func fakeExit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

// solod is the real one, with flags that the tests need. A short grace is the only
// difference.
func solod() int {
	o := Options{Version: "v1.2.3-test"}
	f := flag.NewFlagSet("solod", flag.ContinueOnError)
	f.StringVar(&o.StateDir, "state-dir", "", "")
	f.StringVar(&o.RunDir, "run-dir", "", "")
	f.StringVar(&o.Listen, "listen", "", "")
	f.StringVar(&o.CgroupRoot, "cgroup-root", "", "")
	f.Uint64Var(&o.IDBase, "id-base", 0, "")
	f.StringVar(&o.Config, "config", "", "")
	f.DurationVar(&o.grace, "grace", 0, "")
	if err := f.Parse(os.Args[1:]); err != nil {
		return 2
	}
	if err := o.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, "solod:", err)
		return 2
	}
	return Run(o)
}

// fakeLauncher answers each order with its pid until its connection ends. Descriptor 4
// must be a program.
func fakeLauncher() error {
	conn, err := ipc.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	magic := make([]byte, 4)
	if _, err := os.NewFile(4, "solo-init").ReadAt(magic, 0); err != nil || string(magic) != "\x7fELF" {
		return fmt.Errorf("descriptor 4 begins with %q: %w", magic, err)
	}
	for {
		m := &controlv1.LauncherOrder{}
		if _, _, err := conn.Receive(m); err != nil {
			return nil
		}
		if err := conn.Send(&controlv1.LauncherReport{Id: m.GetId(), Report: &controlv1.LauncherReport_Prepared{
			Prepared: &controlv1.Prepared{Pid: int32(os.Getpid())},
		}}); err != nil {
			return nil
		}
	}
}

// fake is a kernel that does what <state-dir>/script says and appends what happens to
// <state-dir>/journal, a line at a time.
type fake struct {
	conn   *ipc.Conn
	boot   *controlv1.Boot
	script []string
	// launchers keeps the connections open, which a finalizer would close.
	launchers []*ipc.Conn
}

func fakeKernel() error {
	conn, err := ipc.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	// Before anything is opened here; the runtime's own are left out.
	open, err := descriptors()
	if err != nil {
		return err
	}
	m := &controlv1.RootOrder{}
	files, _, err := conn.Receive(m)
	if err != nil {
		return err
	}
	k := &fake{conn: conn, boot: m.GetBoot()}
	text, _ := os.ReadFile(filepath.Join(k.boot.GetStateDir(), "script"))
	k.script = strings.Fields(string(text))
	data, err := proto.Marshal(k.boot)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(k.boot.GetStateDir(), "boot"), data, 0o600); err != nil {
		return err
	}
	k.note("open %v", open)
	k.note("args %q env %q", os.Args, os.Environ())
	k.note("kernel %d", os.Getpid())
	if err := k.take(files); err != nil {
		return err
	}
	if err := k.act(); err != nil {
		return err
	}
	return k.obey()
}

// descriptors are what this process has from 3 on, by kind.
func descriptors() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		runtime := strings.Contains(target, "anon_inode") || strings.HasPrefix(target, "/sys/fs/cgroup/cpu")
		if err != nil || len(e.Name()) == 1 && e.Name() < "3" || runtime {
			continue
		}
		kind, _, _ := strings.Cut(target, ":[")
		open = append(open, kind)
	}
	return open, err
}

// note appends one line to the journal.
func (k *fake) note(format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(k.boot.GetStateDir(), "journal"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = fmt.Fprintf(f, format+"\n", args...)
		_ = f.Close()
	}
}

// take uses each descriptor of the boot message.
func (k *fake) take(files ipc.Files) error {
	if len(files) != len(k.boot.GetNames()) {
		return fmt.Errorf("%d descriptors for %q", len(files), k.boot.GetNames())
	}
	for i, name := range k.boot.GetNames() {
		if name == "launcher" {
			if err := k.greet(files[i]); err != nil {
				return err
			}
			continue
		}
		go serve(name, files[i])
	}
	return nil
}

// greet asks a launcher for its pid.
func (k *fake) greet(f *os.File) error {
	conn, err := ipc.FileConn(f)
	if err != nil {
		return err
	}
	k.launchers = append(k.launchers, conn)
	m := &controlv1.LauncherReport{}
	err = conn.Send(&controlv1.LauncherOrder{Id: 7, Order: &controlv1.LauncherOrder_Compile{Compile: &controlv1.Compile{}}})
	if err == nil {
		_, _, err = conn.Receive(m)
	}
	if err != nil {
		k.note("launcher: %v", err)
		return nil
	}
	k.note("launcher %d", m.GetPrepared().GetPid())
	return nil
}

// serve says its name to everybody who connects.
func serve(name string, f *os.File) {
	for {
		fd, _, err := unix.Accept(int(f.Fd()))
		if err != nil {
			return
		}
		_, _ = unix.Write(fd, []byte(name))
		_ = unix.Close(fd)
	}
}

// act does what the script says before the kernel takes orders.
func (k *fake) act() error {
	told := func(word string) bool { return slices.Contains(k.script, word) }
	switch {
	case told("boot-failed"):
		return k.conn.Send(&controlv1.RootReport{Report: &controlv1.RootReport_BootFailed{
			BootFailed: &controlv1.BootFailed{Message: "store: bad\nand worse"},
		}})
	case told("die"):
		return errors.New("died by script")
	case told("orphan"):
		// The shell ends and leaves a child of nobody.
		out, err := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").Output()
		if err != nil {
			return err
		}
		k.note("orphan %s", strings.TrimSpace(string(out)))
	}
	if err := k.conn.Send(&controlv1.RootReport{Report: &controlv1.RootReport_Running{Running: &controlv1.Running{}}}); err != nil {
		return err
	}
	switch {
	case told("hang-up"):
		_ = k.conn.Close()
		time.Sleep(time.Hour)
	case told("garbage"):
		// A message of another kind.
		return k.conn.Send(&controlv1.Boot{Names: []string{"x"}, StateDir: "/", Version: "1"})
	case told("shutdown"):
		return k.conn.Send(&controlv1.RootReport{Report: &controlv1.RootReport_ShutdownWanted{
			ShutdownWanted: &controlv1.ShutdownWanted{TimeoutMs: 1234},
		}})
	}
	return nil
}

// obey takes orders until Stop.
func (k *fake) obey() error {
	for {
		m := &controlv1.RootOrder{}
		files, _, err := k.conn.Receive(m)
		if err != nil {
			k.note("solod gone: %v", err)
			return err
		}
		switch o := m.GetOrder().(type) {
		case *controlv1.RootOrder_NewLauncher:
			if len(files) != 1 {
				return fmt.Errorf("new launcher with %d descriptors", len(files))
			}
			if err := k.greet(files[0]); err != nil {
				return err
			}
		case *controlv1.RootOrder_Stop:
			k.note("stop %d", o.Stop.GetTimeoutMs())
			switch {
			case slices.Contains(k.script, "ignore-stop"):
			case slices.Contains(k.script, "fail-stop"):
				return errors.New("cannot stop")
			default:
				return nil
			}
		case *controlv1.RootOrder_Boot, nil:
			return fmt.Errorf("unexpected order %v", o)
		}
	}
}
