// Command init is pid 1 of the test VM: it makes a Linux host out of a kernel and a
// disk, runs the test binaries it finds there one after the other, and ends the VM
// with its verdict.
//
// It is the initramfs' only program. It loads the modules, switches to the disk
// (pivot_root(2) refuses the initramfs as an old root), mounts what systemd would,
// and reaps whatever the tests leave.
//
// On the console each test is framed by lines that the harness reads:
//
//	@@ run NAME
//	… output …
//	@@ done NAME ok|failed SECONDS
//	@@ end
//
// Trust: none; it runs as root of a machine that lives for minutes.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is what the harness puts at /plan.json of the disk.
type Plan struct {
	// Limit ends a VM whose harness is gone.
	Limit time.Duration
	Env   []string
	Tests []Test
}

// Test is one test binary with its arguments and directory.
type Test struct {
	Name string
	Path string
	Args []string
	Dir  string
}

func main() {
	ok, err := run()
	if err != nil {
		fmt.Printf("@@ error %v\n", err)
	}
	fmt.Println("@@ end")
	time.Sleep(100 * time.Millisecond) // the serial port drains
	unix.Sync()
	exit(ok && err == nil)
}

// outb writes v to an I/O port.
func outb(port uint16, v byte)

// exit writes n to the isa-debug-exit device: qemu ends with status 2n+1.
func exit(ok bool) {
	n := byte(0x10)
	if !ok {
		n = 0x20
	}
	runtime.LockOSThread() // iopl(2) is of a thread
	if _, _, errno := unix.RawSyscall(unix.SYS_IOPL, 3, 0, 0); errno == 0 {
		outb(0xf4, n)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() (bool, error) {
	if err := boot(); err != nil {
		return false, err
	}
	data, err := os.ReadFile("/plan.json")
	if err != nil {
		return false, err
	}
	var plan Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return false, fmt.Errorf("read the plan: %w", err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return false, err
	}
	fmt.Printf("@@ up Linux %s\n", bytes.TrimSpace(release))
	if plan.Limit > 0 {
		time.AfterFunc(plan.Limit, func() { exit(false) })
	}
	ok := true
	for _, t := range plan.Tests {
		start := time.Now()
		fmt.Printf("@@ run %s\n", t.Name)
		verdict := "ok"
		if err := test(t, plan.Env); err != nil {
			fmt.Printf("%s: %v\n", t.Name, err)
			verdict, ok = "failed", false
		}
		fmt.Printf("@@ done %s %s %.1f\n", t.Name, verdict, time.Since(start).Seconds())
	}
	return ok, nil
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

func boot() error {
	early := []mount{
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	}
	for _, m := range early {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := switchRoot("/dev/vda", "/disk"); err != nil {
		return err
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	late := []mount{
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"proc", "/proc", "proc", quiet, ""},
		{"sys", "/sys", "sysfs", quiet, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate,memory_recursiveprot"},
		{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	}
	for _, m := range late {
		if err := m.do(); err != nil {
			return err
		}
	}
	// As systemd does: what is mounted here propagates to other namespaces.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	limit := unix.Rlimit{Cur: 20000, Max: 20000}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("set RLIMIT_NOFILE: %w", err)
	}
	if err := unix.Sethostname([]byte("solo-vm")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return loopbackUp()
}

// loadModules loads what /modules/order lists, dependencies first.
func loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// switchRoot makes the disk the root of this process and of all its children.
func switchRoot(device, at string) error {
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := unix.Mount(device, at, "ext4", unix.MS_NOATIME, "")
		if err == nil {
			break
		}
		// The driver finds the disk some time after it was loaded.
		if time.Now().After(deadline) {
			return fmt.Errorf("mount %s: %w", device, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := os.Chdir(at); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the disk to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// verdict passes output on and remembers what the testing package said.
type verdict struct {
	out    io.Writer
	line   []byte
	pass   bool
	noTest bool
}

func (v *verdict) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' {
			v.line = append(v.line, c)
			continue
		}
		switch string(v.line) {
		case "PASS":
			v.pass = true
		case "testing: warning: no tests to run":
			v.noTest = true
		}
		v.line = v.line[:0]
	}
	return v.out.Write(p)
}

// test runs one binary. It passed when it says so, and exits with 0.
func test(t Test, env []string) error {
	v := &verdict{out: os.Stdout}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(t.Path, t.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = t.Dir, env, w, w
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = w.Close()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			_, _ = v.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	status, err := reap(cmd.Process.Pid)
	if err != nil {
		return err
	}
	left := killRest()
	<-copied // nothing is left that could hold the pipe
	_ = r.Close()
	switch {
	case status.Signaled():
		return fmt.Errorf("ended by %v", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	case !v.pass:
		return fmt.Errorf("ended without saying PASS")
	case v.noTest:
		return fmt.Errorf("has no test to run")
	case len(left) > 0:
		return fmt.Errorf("left processes behind: %s", strings.Join(left, ", "))
	}
	return nil
}

// reap waits for pid, and for every orphan that ends before it.
func reap(pid int) (unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case got == pid:
			return ws, nil
		}
	}
}

// killRest ends every process but this one and the kernel's threads, and names them.
func killRest() []string {
	var left []string
	for {
		pids := others()
		if len(pids) == 0 {
			return left
		}
		for pid, name := range pids {
			left = append(left, name)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for {
			if got, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || got <= 0 {
				break
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func others() map[int]string {
	pids := make(map[int]string)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return pids
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		name, rest, found := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		// proc_pid_stat(5): state, ppid, … ; kthreadd and its children are the kernel's.
		if !found || len(fields) < 2 || fields[0] == "Z" || fields[1] == "2" || pid == 2 {
			continue
		}
		pids[pid] = name + ")"
	}
	return pids
}
