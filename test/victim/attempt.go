package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syscaller is one system call as an attempt. Each attempt ends with nil only if it
// was allowed.
func syscaller(trap uintptr, args ...uintptr) func() error {
	return func() error {
		a := [6]uintptr{}
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func opener(path string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
}

var (
	ringParams [120]byte
	perfAttr   = [128]byte{4: 128} // size, the rest 0: count cycles of hardware
	newline    = []byte("\n")
)

// attempts are what no service may do.
func attempts() map[string]func() error {
	return map[string]func() error{
		"mount":           func() error { return unix.Mount("x", "/tmp", "tmpfs", 0, "") },
		"umount":          func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
		"open_tree":       syscaller(unix.SYS_OPEN_TREE, 0, 0, 0),
		"unshare user":    syscaller(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"unshare net":     syscaller(unix.SYS_UNSHARE, unix.CLONE_NEWNET),
		"clone user":      syscaller(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
		"setns":           syscaller(unix.SYS_SETNS, 0, 0),
		"setuid 0":        syscaller(unix.SYS_SETUID, 0),
		"setgid 0":        syscaller(unix.SYS_SETGID, 0),
		"chroot":          func() error { return unix.Chroot("/tmp") },
		"chown root":      chownTmp,
		"kill pid 1":      func() error { return unix.Kill(1, unix.SIGKILL) },
		"ptrace pid 1":    syscaller(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1),
		"ptrace me":       syscaller(unix.SYS_PTRACE, unix.PTRACE_TRACEME),
		"prlimit pid 1":   func() error { return unix.Prlimit(1, unix.RLIMIT_NOFILE, nil, new(unix.Rlimit)) },
		"pid 1 memory":    opener("/proc/1/mem", unix.O_RDWR),
		"pid 1 environ":   opener("/proc/1/environ", unix.O_RDONLY),
		"pid 1 root":      opener("/proc/1/root/etc", unix.O_RDONLY),
		"pid 1 files":     opener("/proc/1/fd", unix.O_RDONLY),
		"pid 1 vm":        syscaller(unix.SYS_PROCESS_VM_READV, 1),
		"bpf":             syscaller(unix.SYS_BPF),
		"keyctl":          syscaller(unix.SYS_KEYCTL),
		"add_key":         syscaller(unix.SYS_ADD_KEY),
		"userfaultfd":     syscaller(unix.SYS_USERFAULTFD),
		"perf_event_open": syscaller(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&perfAttr)), 0, ^uintptr(0), ^uintptr(0)),
		"io_uring":        syscaller(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&ringParams))),
		"open_by_handle":  syscaller(unix.SYS_OPEN_BY_HANDLE_AT),
		"modify_ldt":      syscaller(unix.SYS_MODIFY_LDT),
		"sethostname":     func() error { return unix.Sethostname([]byte("victim")) },
		"settimeofday":    syscaller(unix.SYS_SETTIMEOFDAY),
		"push input":      syscaller(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&newline[0]))),
		"dumpable code":   writableCode,
		"write /":         opener("/victim", unix.O_WRONLY|unix.O_CREAT),
		"write /etc":      opener("/etc/victim", unix.O_WRONLY|unix.O_CREAT),
		"write /dev":      opener("/dev/victim", unix.O_WRONLY|unix.O_CREAT),
		"write /run":      opener("/run/victim", unix.O_WRONLY|unix.O_CREAT),
		"remove notify":   func() error { return unix.Unlink("/run/notify") },
		"read /sys":       opener("/sys/kernel", unix.O_RDONLY),
		"sysrq":           opener("/proc/sysrq-trigger", unix.O_WRONLY),
		"sysctl":          opener("/proc/sys/kernel/hostname", unix.O_WRONLY),
		"kmsg":            opener("/dev/kmsg", unix.O_RDONLY),
		"host's memory":   opener("/dev/mem", unix.O_RDONLY),
		"raw socket":      syscaller(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		"packet socket":   syscaller(unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW, 0),
		"netlink socket":  syscaller(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0),
		"vsock socket":    syscaller(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"device":          func() error { return unix.Mknod("/tmp/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"exec in /tmp":    execTmp,
		"map /tmp":        mapTmp,
	}
}

// deadly are system calls that end a process; each is tried by a child.
func deadly() map[string]func() error {
	return map[string]func() error{
		"reboot":      syscaller(unix.SYS_REBOOT),
		"kexec_load":  syscaller(unix.SYS_KEXEC_LOAD),
		"init_module": syscaller(unix.SYS_INIT_MODULE),
		"swapon":      syscaller(unix.SYS_SWAPON),
		"32 bit":      func() error { int80(); return nil },
		"x32":         syscaller(unix.SYS_GETPID | 0x40000000),
	}
}

// int80 asks for the process id by the gate of 32-bit programs.
func int80()

// execTmp tries to run what a service could have written itself.
func execTmp() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	const path = "/tmp/victim"
	if err := os.WriteFile(path, self, 0o755); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	return exec.Command(path, "exit", "0").Run()
}

// mapTmp tries the same with mmap.
func mapTmp() error {
	f, err := os.Create("/tmp/code")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(make([]byte, os.Getpagesize())); err != nil {
		return err
	}
	_, err = unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	return err
}

func writableCode() error {
	_, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return err
}

func chownTmp() error {
	const path = "/tmp/mine"
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return unix.Chown(path, 0, 0)
}

const allowed = "ALLOWED"

// attempt prints the errno's name for each attempt, the signal's for a deadly one,
// and "ALLOWED" for one that was.
func attempt(string) error {
	results := make(map[string]string)
	for name, try := range attempts() {
		results[name] = outcome(try())
	}
	for name := range deadly() {
		cmd := exec.Command("/proc/self/exe", "deadly", name)
		err := cmd.Run()
		ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch {
		case ok && ws.Signaled():
			results[name] = unix.SignalName(ws.Signal())
		default:
			results[name] = outcome(err)
		}
	}
	return say(results)
}

func outcome(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return allowed
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// die makes one deadly call itself.
func die(name string) error {
	try, ok := deadly()[name]
	if !ok {
		return errors.New("no such call")
	}
	// A Go program that gets a signal prints where it was; this one has nothing to say.
	debug.SetTraceback("none")
	if err := try(); err != nil {
		return err
	}
	return say(allowed)
}

// dial prints how a connection attempt ended; "@name" is an abstract Unix socket.
func dial(addr string) error {
	network := "tcp"
	if addr[0] == '@' || addr[0] == '/' {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err == nil {
		_ = c.Close()
	}
	return say(map[string]string{"dial": addr, "result": outcome(err)})
}

// greeting is solo.control.v1.FromService{hello{protocol: 1}}.
var greeting = []byte{0x0a, 0x02, 0x08, 0x01}

// hello greets the kernel and waits for an answer.
func hello(string) error {
	if err := control(greeting); err != nil {
		return err
	}
	fd, err := await(unix.POLLIN)
	if err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	return say(map[string]int{"answer": n})
}

func greet(n string) error {
	count, err := strconv.Atoi(n)
	for i := 0; i < count && err == nil; i++ {
		err = control(greeting)
	}
	return err
}

// garbage sends a record that is not protobuf to the kernel.
func garbage(string) error { return control([]byte("\xff\xff\xff\xffthis is no message")) }

// overlong sends a record over the limit of one.
func overlong(string) error { return control(slices.Repeat([]byte{0}, 65<<10)) }

// lie asks for what only solo-gateway may ask for.
func lie(string) error {
	// solo.control.v1.FromService{request{id: 1}}
	return control([]byte{0x12, 0x02, 0x08, 0x01})
}

// control sends one record to the kernel, and waits while it takes none.
func control(record []byte) error {
	fd, err := await(unix.POLLOUT)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, record)
	if err == nil && n != len(record) {
		err = unix.EMSGSIZE
	}
	return err
}

// await waits for the control connection.
func await(events int16) (int, error) {
	fd, err := strconv.Atoi(os.Getenv("SOLO_CONTROL"))
	if err != nil {
		return -1, err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// smuggle sends descriptors where none belong.
func smuggle(string) error {
	fd, err := await(unix.POLLOUT)
	if err != nil {
		return err
	}
	return unix.Sendmsg(fd, greeting, unix.UnixRights(0, 1, 2), nil, 0)
}
