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
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
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
	try("open /proc/1/mem", open("/proc/1/mem", O_RDONLY));
	try("open /proc/1/root/", open("/proc/1/root/", O_RDONLY));
	try("open /proc/1/fd", open("/proc/1/fd", O_RDONLY));
	try("open /proc/1/environ", open("/proc/1/environ", O_RDONLY));
	try("write /", open("/made", O_WRONLY | O_CREAT, 0644));
	try("write /etc/passwd", open("/etc/passwd", O_WRONLY));
	try("open /proc/sys", open("/proc/sys", O_RDONLY));
	try("open /proc/meminfo", open("/proc/meminfo", O_RDONLY));
	try("open /sys", open("/sys", O_RDONLY));
	try("mount", mount("none", "/tmp", "tmpfs", 0, ""));
	try("umount /proc", umount2("/proc", MNT_DETACH));
	try("unshare user", unshare(CLONE_NEWUSER));
	try("ptrace 1", ptrace(PTRACE_ATTACH, 1, 0, 0));
	try("kill 1", kill(1, SIGKILL));
	try("setuid 0", setuid(0));
	try("setgroups", syscall(SYS_setgroups, 0, 0));
	try("chroot", chroot("/"));
	struct rlimit r;
	try("prlimit 1", prlimit(1, RLIMIT_NOFILE, NULL, &r));
	try("mknod", mknod("/tmp/null", S_IFCHR | 0666, 0x103));
	try("raise nofile", setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}));
	try("sethostname", sethostname("x", 1));
	try("write dev shm root", open("/dev/made", O_WRONLY | O_CREAT, 0644));
}

static void tmp(void)
{
	int fd = open("/tmp/x", O_WRONLY | O_CREAT, 0755);
	try("write /tmp", fd);
	char *argv[] = {"/tmp/x", NULL};
	close(fd);
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
	else if (!strcmp(mode, "serve"))
		serve(atoi(arg));
	else if (!strcmp(mode, "notify"))
		notify(arg);
	else if (!strcmp(mode, "hostile"))
		hostile();
	else if (!strcmp(mode, "burn"))
		for (volatile long i = 0; i < 300000000; i++)
			;
	else if (!strcmp(mode, "echo")) {
		char buf[64];
		ssize_t n = read(0, buf, sizeof buf);
		if (n > 0 && write(1, buf, (size_t)n) != n)
			return 1;
	} else if (!strcmp(mode, "daemon")) { // the main process hands its role over
		pid_t p = fork();
		if (p == 0) {
			sleep(1);
			_exit(9);
		}
		printf("%d\n", p);
		fflush(stdout);
		pause();
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
