package main

// all lists the profiles by name.
func all() map[string]profile {
	return map[string]profile{
		"floor":   floor(),
		"default": allowList(application, writeXorExec),
		"jit":     allowList(application, anyMemory),
		"gateway": allowList(start, goRuntime, writeXorExec[:2], socketUse,
			[]rule{allow("memfd_create", "ftruncate", "pwrite64", "fsync")}),
		"audit":   allowList(start, goRuntime, writeXorExec[:2], socketUse, fileWrites),
		"monitor": allowList(start, goRuntime, writeXorExec[:2], socketUse, fileWrites),
		"fs": allowList(start, goRuntime, writeXorExec[:2],
			[]rule{allow("statfs", "fstatfs", "getsockopt", "setsockopt", "shutdown")}),
		"net": allowList(start, goRuntime, writeXorExec[:2], socketUse, families("socket"),
			[]rule{allow("connect", "bind", "listen", "splice", "tee", "sendfile")}),
		"kernel": allowList(kernelStart, goRuntime, writeXorExec[:2], socketUse, fileWrites, kernel),
	}
}

// application is for programs of users: static, dynamic, Go, Python, shell, servers.
var application = concat(
	[]rule{
		allow( // descriptors
			"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
			"lseek", "close", "close_range", "dup", "dup2", "dup3", "flock", "fsync", "fdatasync",
			"sync", "syncfs", "sync_file_range", "ftruncate", "truncate", "fallocate", "fadvise64", "readahead",
			"sendfile", "splice", "tee", "vmsplice", "copy_file_range", "pipe", "pipe2", "select", "pselect6",
			"poll", "ppoll", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
			"eventfd", "eventfd2", "signalfd", "signalfd4", "timerfd_create", "timerfd_settime", "timerfd_gettime",
			"inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "memfd_create",
			"io_setup", "io_submit", "io_getevents", "io_pgetevents", "io_cancel", "io_destroy", "cachestat"),
		allow( // files
			"open", "openat", "openat2", "creat", "stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat",
			"faccessat2", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "rename", "renameat", "renameat2",
			"mkdir", "mkdirat", "rmdir", "link", "linkat", "unlink", "unlinkat", "symlink", "symlinkat", "readlink",
			"readlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "umask",
			"utime", "utimes", "utimensat", "futimesat", "mknod", "mknodat", "statfs", "fstatfs",
			"getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat",
			"setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr",
			"removexattrat", "file_getattr"),
		allow( // memory
			"munmap", "mremap", "madvise", "mincore", "msync", "mlock", "mlock2", "munlock", "mlockall",
			"munlockall", "brk", "membarrier", "mseal", "pkey_alloc", "pkey_free", "get_mempolicy", "map_shadow_stack"),
		allow( // processes and threads
			"fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid",
			"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal",
			"getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid",
			"getpriority", "setpriority", "ioprio_get", "ioprio_set", "sched_yield", "sched_getaffinity",
			"sched_setaffinity", "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
			"sched_getattr", "sched_setattr", "sched_get_priority_max", "sched_get_priority_min",
			"sched_rr_get_interval", "arch_prctl", "set_tid_address", "set_robust_list", "get_robust_list",
			"futex", "futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "rseq", "rseq_slice_yield",
			"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait",
			"sigaltstack", "pause", "restart_syscall", "getrusage", "times", "uname", "sysinfo", "getcpu",
			"getrlimit", "setrlimit", "prlimit64", "getrandom"),
		allow( // identities: without a capability only what one has
			"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setuid", "setgid",
			"setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capget", "capset"),
		allow( // time
			"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "alarm",
			"getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete"),
		allow( // IPC, in the sandbox's own namespace
			"shmget", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl",
			"mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr"),
		allow( // sockets
			"bind", "listen", "connect", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt",
			"sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "shutdown"),
		// A program may confine itself further.
		allow("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
		allow("clone").when(masked(0, cloneNew, 0)),
		allow("personality").when(is(0, 0)),
		allow("personality").when(is(0, 0xffffffff)),
		allow("fcntl"),
		errno(eperm, "ioctl").when(is(1, tiocsti)),
		errno(eperm, "ioctl").when(is(1, tioclinux)),
		allow("ioctl"),
	},
	families("socket", "socketpair"),
	prctls(
		1, 2, 3, 4, 7, 8, // PDEATHSIG, DUMPABLE, KEEPCAPS
		13, 14, 15, 16, 21, 22, 23, 24, // TIMING, NAME, SECCOMP, CAPBSET
		25, 26, 27, 28, 29, 30, // TSC, SECUREBITS, TIMERSLACK
		36, 37, 38, 39, 40, 41, 42, 47, // SUBREAPER, NO_NEW_PRIVS, TID_ADDRESS, THP, CAP_AMBIENT
		52, 53, 65, 66, // SPECULATION_CTRL, MDWE
		0x53564d41, 0x59616d61, // VMA, PTRACER
	),
)

// kernelStart is start without what begins another program: the kernel loads its
// filter itself and forks nothing.
var kernelStart = []rule{
	allow("exit", "exit_group", "read", "write", "close", "close_range", "dup3", "fcntl", "recvmsg",
		"poll", "ppoll"),
	allow("sendmsg").when(masked(2, msgFastOpen, 0)),
}

// kernel is what solo-kernel does to hosts: groups, detached mounts, signals.
var kernel = concat([]rule{
	allow("mount", "umount2", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
		"mount_setattr", "statmount", "listmount"),
	allow("pidfd_open", "pidfd_send_signal", "kill", "waitid", "wait4"),
	allow("memfd_create", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "socketpair", "timerfd_create",
		"timerfd_settime", "timerfd_gettime", "signalfd4"),
	allow("fchown", "fchownat", "symlinkat", "getxattr", "fgetxattr", "setxattr", "fsetxattr", "msync", "mlock",
		"munlock", "mremap", "splice", "getpriority", "setpriority", "ioprio_set", "capget", "capset"),
	errno(eperm, "ioctl").when(is(1, tiocsti)),
	errno(eperm, "ioctl").when(is(1, tioclinux)),
	allow("ioctl"),
}, prctls(3, 4, 8, 23, 24, 27, 28, 38, 39, 47)) // DUMPABLE, KEEPCAPS, CAPBSET, SECUREBITS, NO_NEW_PRIVS, CAP_AMBIENT

// prctls allows prctl with these options.
func prctls(options ...uint32) []rule {
	var rules []rule
	for _, o := range options {
		rules = append(rules, allow("prctl").when(is(0, o)))
	}
	return rules
}

func concat(sets ...[]rule) []rule {
	var rules []rule
	for _, s := range sets {
		rules = append(rules, s...)
	}
	return rules
}
