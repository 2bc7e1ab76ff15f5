// A service that reports what it sees and tries what it must not: victim MODE [ARG].
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void try(const char *what, long r)
{
	printf("%s=%d\n", what, r >= 0 ? 0 : errno);
}

static void dump(const char *path)
{
	char buf[8192];
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		printf("%s: %s\n", path, strerror(errno));
	while (fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0)
		fwrite(buf, 1, (size_t)n, stdout);
	if (fd >= 0)
		close(fd);
}

static void hello(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		printf("arg %s\n", argv[i]);
	for (char **e = environ; *e; e++)
		printf("env %s\n", *e);
	char cwd[256];
	printf("cwd %s\n", getcwd(cwd, sizeof cwd));
	printf("pid %d ppid %d sid %d uid %d gid %d groups %d\n", getpid(), getppid(), getsid(0), getuid(), getgid(), getgroups(0, NULL));
}

static void forbidden(void)
{
	struct rlimit r;
	int ns = open("/proc/self/ns/net", O_RDONLY), v = 1;
	char c;
	struct iovec io = {&c, 1};

	// Pid 1.
	try("open /proc/1/mem", open("/proc/1/mem", O_RDONLY));
	try("open /proc/1/root/", open("/proc/1/root/", O_RDONLY));
	try("open /proc/1/fd", open("/proc/1/fd", O_RDONLY));
	try("open /proc/1/environ", open("/proc/1/environ", O_RDONLY));
	try("open /proc/1/ns/mnt", open("/proc/1/ns/mnt", O_RDONLY));
	try("ptrace 1", ptrace(PTRACE_ATTACH, 1, 0, 0));
	try("process_vm_readv 1", syscall(SYS_process_vm_readv, 1, &io, 1, &io, 1, 0));
	try("kill 1", kill(1, SIGKILL));
	try("prlimit 1", prlimit(1, RLIMIT_NOFILE, NULL, &r));
	// Files.
	try("write /", open("/made", O_WRONLY | O_CREAT, 0644));
	try("write /etc/passwd", open("/etc/passwd", O_WRONLY));
	try("write /app/victim", open("/app/victim", O_WRONLY));
	try("write /dev", open("/dev/made", O_WRONLY | O_CREAT, 0644));
	try("unlink /run/notify", unlink("/run/notify"));
	try("open /proc/sys", open("/proc/sys", O_RDONLY));
	try("open /proc/meminfo", open("/proc/meminfo", O_RDONLY));
	try("open /sys", open("/sys", O_RDONLY));
	try("open /dev/kmsg", open("/dev/kmsg", O_RDONLY));
	try("mknod", mknod("/tmp/null", S_IFCHR | 0666, 0x103));
	try("chroot", chroot("/"));
	try("pivot_root", syscall(SYS_pivot_root, "/", "/"));
	try("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, &v, 0));
	// Mounts and namespaces.
	try("mount", mount("none", "/tmp", "tmpfs", 0, ""));
	try("remount /", mount("", "/", "", MS_REMOUNT | MS_BIND, ""));
	try("umount /proc", umount2("/proc", MNT_DETACH));
	try("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	try("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
	long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	try("clone user", child);
	try("unshare user", unshare(CLONE_NEWUSER));
	try("unshare net", unshare(CLONE_NEWNET));
	try("clone3", syscall(SYS_clone3, NULL, 0));
	try("setns", setns(ns, 0));
	// Identity.
	try("setuid 0", setuid(0));
	try("setgid 0", setgid(0));
	try("setgroups", syscall(SYS_setgroups, 0, 0));
	try("sethostname", sethostname("x", 1));
	try("raise nofile", setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}));
	try("raise priority", setpriority(PRIO_PROCESS, 0, -1));
	// Interfaces of the kernel.
	try("bpf", syscall(SYS_bpf, 0, NULL, 0));
	try("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
	try("userfaultfd", syscall(SYS_userfaultfd, 0));
	try("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
	try("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
	try("personality", syscall(SYS_personality, 0x0040000));
	try("mmap writable and executable", syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	try("netlink socket", socket(AF_NETLINK, SOCK_RAW, 0));
	try("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
	try("raw socket", socket(AF_INET, SOCK_RAW, 1));
	try("TIOCSTI", ioctl(0, TIOCSTI, "x"));
}

// peek runs outside the sandbox, as root: it becomes what is closest to solo-init, uid
// 0 of its user namespace with the capabilities that it starts with, and opens its memory.
static void peek(const char *pid)
{
	struct { unsigned version; int pid; } head = {0x20080522, 0};
	unsigned keep = 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 21; // KILL, SETGID, SETUID, SETPCAP, SYS_ADMIN
	struct { unsigned effective, permitted, inheritable; } data[2] = {{keep, keep, 0}, {0, 0, 0}};
	char path[64];

	snprintf(path, sizeof path, "/proc/%s/ns/user", pid);
	int ns = open(path, O_RDONLY), proc;
	snprintf(path, sizeof path, "/proc/%s", pid);
	proc = open(path, O_PATH | O_DIRECTORY);
	try("setns", setns(ns, CLONE_NEWUSER));
	try("setgid", setresgid(0, 0, 0));
	try("setuid", setresuid(0, 0, 0));
	try("capset", syscall(SYS_capset, &head, data));
	try("open mem", openat(proc, "mem", O_RDWR));
}

static void tmp(void)
{
	int fd = open("/tmp/x", O_WRONLY | O_CREAT, 0755);
	try("write /tmp", fd);
	close(fd);
	char *argv[] = {"/tmp/x", NULL};
	try("exec /tmp", execv("/tmp/x", argv));
}

static void descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
			printf("fd %s\n", e->d_name);
	d = opendir("/proc");
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] >= '0' && e->d_name[0] <= '9')
			printf("process %s\n", e->d_name);
		else if (e->d_name[0] != '.')
			printf("entry %s\n", e->d_name);
	d = opendir("/");
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.')
			printf("root %s\n", e->d_name);
}

static void serve(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(s, (struct sockaddr *)&a, sizeof a) < 0 || listen(s, 8) < 0) {
		printf("listen %s\n", strerror(errno));
		exit(1);
	}
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int c = accept(s, NULL, NULL);
		dprintf(c, "served");
		close(c);
	}
}

static void notify(const char *text)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "/run/notify"};
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);
	try("notify", sendto(s, text, strlen(text), 0, (struct sockaddr *)&a, sizeof a));
}

static void leave(int sig)
{
	_exit(sig == SIGUSR1 ? 9 : 1);
}

// hostile does what wears out a careless pid 1, and then ends orderly.
static void hostile(void)
{
	signal(SIGTERM, SIG_IGN);
	for (int i = 0; i < 500; i++) {
		pid_t p = fork();
		if (p == 0) {
			if (fork() == 0)
				_exit(0);
			_exit(0);
		}
		waitpid(p, NULL, 0);
	}
	pid_t p = fork();
	if (p == 0) { // outlives its parent, in a session of its own
		setsid();
		if (fork() == 0)
			for (;;)
				pause();
		_exit(0);
	}
	waitpid(p, NULL, 0);
	p = fork();
	if (p == 0) {
		raise(SIGSTOP);
		_exit(0);
	}
	kill(-1, SIGTERM);
	exit(7);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";

	if (!strcmp(mode, "hello"))
		hello(argc, argv);
	else if (!strcmp(mode, "cat"))
		for (int i = 2; i < argc; i++)
			dump(argv[i]);
	else if (!strcmp(mode, "read"))
		for (int i = 2; i < argc; i++) {
			char what[256];
			snprintf(what, sizeof what, "read %s", argv[i]);
			try(what, open(argv[i], O_RDONLY));
		}
	else if (!strcmp(mode, "readable"))
		return open(arg, O_RDONLY) < 0 ? errno : 0;
	else if (!strcmp(mode, "exit"))
		return atoi(arg);
	else if (!strcmp(mode, "signal"))
		raise(atoi(arg));
	else if (!strcmp(mode, "forbidden"))
		forbidden();
	else if (!strcmp(mode, "tmp"))
		tmp();
	else if (!strcmp(mode, "descriptors"))
		descriptors();
	else if (!strcmp(mode, "peek"))
		peek(arg);
	else if (!strcmp(mode, "serve"))
		serve(atoi(arg));
	else if (!strcmp(mode, "notify"))
		notify(arg);
	else if (!strcmp(mode, "hostile"))
		hostile();
	else if (!strcmp(mode, "burn")) // this many milliseconds of CPU
		while (clock() < atoi(arg) * (CLOCKS_PER_SEC / 1000))
			;
	else if (!strcmp(mode, "deadly")) // no capability for it, should no filter end us
		syscall(SYS_delete_module, "none", 0);
	else if (!strcmp(mode, "echo")) {
		char buf[64];
		ssize_t n = read(0, buf, sizeof buf);
		if (n > 0 && write(1, buf, (size_t)n) != n)
			return 1;
	} else if (!strcmp(mode, "daemon")) { // one of its children is to be the main process
		pid_t p = fork();
		if (p == 0) {
			signal(SIGUSR1, leave);
			for (;;)
				pause();
		}
		printf("%d\n", p);
		fflush(stdout);
		for (;;)
			pause();
	} else if (!strcmp(mode, "family")) {
		for (int i = 0; i < 3; i++)
			if (fork() == 0)
				for (;;)
					pause();
		printf("ready\n");
		fflush(stdout);
		while (wait(NULL) > 0)
			;
		return 3;
	} else if (!strcmp(mode, "wait")) {
		printf("ready\n");
		fflush(stdout);
		for (;;)
			pause();
	} else
		return 64;
	fflush(stdout);
	return 0;
}
