package root

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// The test binary is copied beside itself under the names of Solo's programs; which
// one it then is, its first argument tells.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "solod":
		os.Exit(fakeMain())
	case "solo-kernel":
		os.Exit(status("solo-kernel", fakeKernel()))
	case "solo-launcher":
		os.Exit(status("solo-launcher", fakeLauncher()))
	}
	os.Exit(testenv.CheckMain(m))
}

func status(name string, err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	return 0
}

// fakeMain is solod itself, without cmd/solod's texts.
func fakeMain() int {
	o := Options{Version: "v1.2.3-test"}
	f := flag.NewFlagSet("solod", flag.ContinueOnError)
	f.StringVar(&o.StateDir, "state-dir", "", "")
	f.StringVar(&o.RunDir, "run-dir", "", "")
	f.StringVar(&o.Listen, "listen", "", "")
	f.StringVar(&o.CgroupRoot, "cgroup-root", "", "")
	f.Uint64Var(&o.IDBase, "id-base", 0, "")
	f.StringVar(&o.Config, "config", "", "")
	if err := f.Parse(os.Args[1:]); err != nil {
		return 2
	}
	if err := o.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, "solod:", err)
		return 2
	}
	return Run(o)
}

// fakeLauncher answers each order with its pid, and whether descriptor 4 is what it
// should be, until its connection ends.
func fakeLauncher() error {
	conn, err := ipc.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	program := make([]byte, 4)
	if _, err := os.NewFile(4, "solo-init").ReadAt(program, 0); err != nil {
		return err
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
// <state-dir>/journal, one line at a time.
type fake struct {
	conn   *ipc.Conn
	boot   *controlv1.Boot
	script string
}

func fakeKernel() error {
	conn, err := ipc.FileConn(os.NewFile(3, "control"))
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
	k.script = string(text)
	if err := k.save(files); err != nil {
		return err
	}
	if err := k.act(); err != nil {
		return err
	}
	for {
		m := &controlv1.RootOrder{}
		files, _, err := conn.Receive(m)
		if err != nil {
			k.note("root gone")
			return err
		}
		switch o := m.GetOrder().(type) {
		case *controlv1.RootOrder_NewLauncher:
			if len(files) != 1 {
				return fmt.Errorf("new launcher with %d descriptors", len(files))
			}
			if err := k.greet("launcher", files[0]); err != nil {
				return err
			}
		case *controlv1.RootOrder_Stop:
			k.note("stop %d", o.Stop.GetTimeoutMs())
			if strings.Contains(k.script, "ignore stop") {
				continue
			}
			if strings.Contains(k.script, "fail stop") {
				return fmt.Errorf("stopping did not work")
			}
			return nil
		case *controlv1.RootOrder_Boot, nil:
			return fmt.Errorf("unexpected order %v", o)
		}
	}
}

// note appends one line to the journal.
func (k *fake) note(format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(k.boot.GetStateDir(), "journal"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = fmt.Fprintf(f, format+"\n", args...)
		_ = f.Close()
	}
}

// save keeps the Boot message for the test and tries each descriptor.
func (k *fake) save(files ipc.Files) error {
	data, err := proto.Marshal(k.boot)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(k.boot.GetStateDir(), "boot"), data, 0o600); err != nil {
		return err
	}
	k.note("kernel %d", os.Getpid())
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	var all []string
	for _, e := range open {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(target, "anon_inode") && !strings.Contains(target, "/fd") {
			kind, _, _ := strings.Cut(target, ":[")
			all = append(all, kind)
		}
	}
	k.note("open %s", strings.Join(all, " "))
	k.note("env %d args %q", len(os.Environ()), os.Args)
	for i, name := range k.boot.GetNames() {
		if i >= len(files) {
			return fmt.Errorf("no descriptor for %s", name)
		}
		if name == "launcher" {
			if err := k.greet(name, files[i]); err != nil {
				return err
			}
			continue
		}
		go k.serve(name, files[i])
	}
	return nil
}

// greet asks a launcher for its pid.
func (k *fake) greet(name string, f *os.File) error {
	conn, err := ipc.FileConn(f)
	if err != nil {
		return err
	}
	if err := conn.Send(&controlv1.LauncherOrder{Id: 7, Order: &controlv1.LauncherOrder_Compile{Compile: &controlv1.Compile{}}}); err != nil {
		k.note("%s gone", name)
		return nil
	}
	m := &controlv1.LauncherReport{}
	if _, _, err := conn.Receive(m); err != nil {
		k.note("%s gone", name)
		return nil
	}
	k.note("%s %d", name, m.GetPrepared().GetPid())
	kept = append(kept, conn)
	return nil
}

// kept holds the launchers' connections, which a finalizer would close.
var kept []*ipc.Conn

// serve says its name to everybody who connects.
func (k *fake) serve(name string, f *os.File) {
	for {
		fd, _, err := unix.Accept(int(f.Fd()))
		if err != nil {
			k.note("accept on %s: %v", name, err)
			return
		}
		_, _ = unix.Write(fd, []byte(name))
		_ = unix.Close(fd)
	}
}

// act does what the script says before the kernel listens to orders.
func (k *fake) act() error {
	say := func(m *controlv1.RootReport) error { return k.conn.Send(m) }
	switch {
	case strings.Contains(k.script, "boot failed"):
		return say(&controlv1.RootReport{Report: &controlv1.RootReport_BootFailed{BootFailed: &controlv1.BootFailed{Message: "store: bad\nvery bad"}}})
	case strings.Contains(k.script, "die"):
		return fmt.Errorf("died by script")
	}
	if strings.Contains(k.script, "spawn") {
		if err := k.spawn(); err != nil {
			return err
		}
	}
	if err := say(&controlv1.RootReport{Report: &controlv1.RootReport_Running{Running: &controlv1.Running{}}}); err != nil {
		return err
	}
	if strings.Contains(k.script, "hang up") {
		_ = k.conn.Close()
		time.Sleep(time.Hour)
	}
	if strings.Contains(k.script, "shutdown") {
		return say(&controlv1.RootReport{Report: &controlv1.RootReport_ShutdownWanted{ShutdownWanted: &controlv1.ShutdownWanted{TimeoutMs: 1234}}})
	}
	return nil
}

// spawn starts a shell that leaves an orphan in a group of its own below user/.
func (k *fake) spawn() error {
	out, err := exec.Command("/bin/sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		return err
	}
	k.note("orphan %d", pid)
	return nil
}

var _ = syscall.SIGKILL
