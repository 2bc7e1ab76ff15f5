package main

// Flags and options that rules compare with, from the UAPI headers.
const (
	cloneThread = 0x00010000
	// cloneNew is CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
	cloneNew = 0x7e020000
	// cloneSignal is the part of clone's flags that holds the exit signal.
	cloneSignal = 0xff

	protWrite   = 2
	protExec    = 4
	shmExec     = 0x8000
	msgFastOpen = 0x20000000

	sigsys = 31

	tiocsti   = 0x5412
	tioclinux = 0x541c

	fSetSig = 10

	prSetPdeathsig  = 1
	prSetMM         = 35
	prSyscallUserDs = 59
)

// hostile are calls that no service has any use for.
var hostile = []string{
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
	"create_module", "query_module", "get_kernel_syms", "reboot", "swapon", "swapoff",
}

// start is what solo-init's child needs between loading the filter and execve, and
// what every program needs to end.
var start = []rule{
	allow("execveat", "exit", "exit_group", "read", "write", "close", "close_range",
		"dup3", "fcntl", "recvmsg", "poll", "ppoll"),
	allow("sendmsg").when(masked(2, msgFastOpen, 0)),
}

// goRuntime is what the Go runtime and package os need in any program. Threads are
// the only thing it may clone.
var goRuntime = []rule{
	allow("futex", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "pipe2",
		"munmap", "madvise", "mincore", "brk", "membarrier",
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "sigaltstack", "tgkill",
		"sched_yield", "sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime",
		"clock_getres", "gettimeofday", "time", "timer_create", "timer_settime", "timer_gettime",
		"timer_delete", "timer_getoverrun", "setitimer", "getrandom", "gettid", "getpid", "getppid",
		"getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid",
		"getrlimit", "setrlimit", "prlimit64", "getrusage", "arch_prctl", "set_tid_address",
		"set_robust_list", "get_robust_list", "rseq", "restart_syscall", "uname", "sysinfo", "getcpu",
		"openat", "openat2", "readlinkat", "fstat", "newfstatat", "statx", "lseek", "pread64",
		"readv", "writev", "getcwd", "getdents64", "faccessat", "faccessat2"),
	allow("clone").when(masked(0, cloneNew|cloneThread, cloneThread)),
	// PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
	allow("prctl").when(is(0, 15)),
	allow("prctl").when(is(0, 16)),
	allow("prctl").when(is(0, 0x53564d41)),
}

// writeXorExec allows memory that is writable or executable, never both at once.
var writeXorExec = []rule{
	allow("mmap", "mprotect", "pkey_mprotect").when(masked(2, protWrite, 0)),
	allow("mmap", "mprotect", "pkey_mprotect").when(masked(2, protExec, 0)),
	allow("shmat").when(masked(2, shmExec, 0)),
}

// anyMemory is for runtimes that write code and run it.
var anyMemory = []rule{allow("mmap", "mprotect", "pkey_mprotect", "shmat")}

// fileWrites is what a Go service that keeps files uses beside goRuntime.
var fileWrites = []rule{
	allow("pwrite64", "pwritev", "preadv", "fsync", "fdatasync", "sync_file_range", "ftruncate",
		"fallocate", "fadvise64", "flock", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat",
		"fchmod", "fchmodat", "fchmodat2", "utimensat", "umask", "statfs", "fstatfs", "copy_file_range", "sendfile"),
}

// socketUse is what may be done with a socket one has: nothing that gives it a new
// peer. TCP Fast Open connects in sendmsg and is excluded, and so are addresses in
// sendto (sendmsg's are behind a pointer, and reach only sockets without a peer).
var socketUse = []rule{
	allow("accept4", "recvfrom", "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown"),
	allow("sendto").when(masked(3, msgFastOpen, 0), arg{Index: 4, Value: 0, Op: "SCMP_CMP_EQ"}),
}

// floor is below every program of a sandbox, solo-init included: it denies what no
// sandboxed program may do whatever its own profile says.
func floor() profile {
	p := profile{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64"}}
	p.Syscalls = append(p.Syscalls,
		rule{Names: hostile, Action: "SCMP_ACT_KILL_PROCESS"},
		errno(enosys, "clone3"),
		// Mounts and roots, old and new calls.
		errno(eperm, "mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
			"fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount", "listmount"),
		// Namespaces.
		errno(eperm, "setns", "unshare", "listns"),
	)
	for bit := uint64(1); bit <= cloneNew; bit <<= 1 {
		if cloneNew&bit != 0 {
			p.Syscalls = append(p.Syscalls, errno(eperm, "clone").when(masked(0, bit, bit)))
		}
	}
	p.Syscalls = append(p.Syscalls,
		errno(eperm, "clone").when(masked(0, cloneSignal, sigsys)),
		// Other processes.
		errno(eperm, "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp",
			"process_madvise", "process_mrelease", "migrate_pages", "move_pages"),
		// Interfaces with a history of holes, or that pass filters by.
		errno(eperm, "bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter",
			"io_uring_register", "fanotify_init", "fanotify_mark", "add_key", "keyctl", "request_key",
			"open_by_handle_at", "name_to_handle_at", "lookup_dcookie", "vhangup", "uselib", "_sysctl",
			"remap_file_pages", "modify_ldt", "memfd_secret", "lsm_set_self_attr"),
		// The host's administration.
		errno(eperm, "quotactl", "quotactl_fd", "acct", "syslog", "nfsservctl", "ioperm", "iopl",
			"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
		allow("personality").when(is(0, 0)),
		allow("personality").when(is(0, 0xffffffff)),
		errno(eperm, "personality"),
		// PR_SET_MM rewrites what others see of a process; syscall user dispatch
		// makes SIGSYS without a filter.
		errno(eperm, "prctl").when(is(0, prSetMM)),
		errno(eperm, "prctl").when(is(0, prSyscallUserDs)),
		errno(eperm, "prctl").when(is(0, prSetPdeathsig), is(1, sigsys)),
		errno(eperm, "fcntl").when(is(1, fSetSig), is(2, sigsys)),
		// Input into, and control of, somebody else's terminal.
		errno(eperm, "ioctl").when(is(1, tiocsti)),
		errno(eperm, "ioctl").when(is(1, tioclinux)),
	)
	p.Syscalls = append(p.Syscalls, families("socket", "socketpair")...)
	p.Syscalls = append(p.Syscalls,
		// So that a death by SIGSYS comes from a filter.
		errno(eperm, "kill", "tkill", "rt_sigqueueinfo", "pidfd_send_signal").when(is(1, sigsys)),
		errno(eperm, "tgkill", "rt_tgsigqueueinfo").when(is(2, sigsys)),
	)
	return p
}

// families allows AF_UNIX, AF_INET and AF_INET6 and answers to any other as a kernel
// that lacks it. That includes AF_NETLINK: glibc and Go resolve names without it.
func families(calls ...string) []rule {
	return []rule{
		allow(calls...).when(is(0, 1)),
		allow(calls...).when(is(0, 2)),
		allow(calls...).when(is(0, 10)),
		errno(eafnosupport, calls...),
	}
}
