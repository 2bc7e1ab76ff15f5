// solo-init is pid 1 of every sandbox. It starts with the capabilities it needs in
// its own user namespace, waits on its control connection (descriptor 3) for a
// lease, builds the sandbox, gives the privileges up, starts the program, and then
// forwards signals, reaps, makes sockets and runs probes on the kernel's order. It
// trusts the kernel's orders to be well meant but not to be well formed, and nothing
// that the service does. It is single-threaded and allocates nothing.
//
// States: waiting -lease-> leased -release-> released -execve-> running. Every
// failure before running ends in Failed and exit, which ends the namespace.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "control.h"
#include "order.h"
#include "setup.h"
#include "sockets.h"
#include "sys.h"

enum { MAX_PROBES = 8, REAP_AT_ONCE = 256 };

static enum { WAITING, LEASED, RELEASED, RUNNING } state;

static struct lease lease;
static struct started program = {0, -1, -1};
static int ruleset = -1;
static int main_pidfd = -1; // of a main process that is no child of ours (yet)
static int connected = 1;

static struct probe {
	pid_t pid; // 0: free
	uint64_t id;
	int64_t deadline;
	int timed_out;
} probes[MAX_PROBES];

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// report sends; a kernel that is gone is not an error, one that does not read is.
static void report(enum report_kind kind, const struct pb_out *body, const int *fds, size_t n)
{
	int err = connected ? control_send(kind, body, fds, n) : 0;

	if (err == -ETIMEDOUT || (err < 0 && state < RUNNING))
		_exit(1);
}

static void fail(const struct step *s)
{
	struct pb_out out = {.len = 0};

	pb_put_text(&out, 1, s->name);
	pb_put_varint(&out, 2, (uint64_t)s->errnum);
	control_send(REPORT_FAILED, &out, NULL, 0);
	_exit(1);
}

_Noreturn static void protocol_error(const char *what)
{
	errno = EPROTO;
	die(what, NULL);
}

static void refuse(uint64_t id, const struct step *s)
{
	struct pb_out out = {.len = 0};

	pb_put_varint(&out, 1, id);
	pb_put_text(&out, 2, s->name);
	pb_put_varint(&out, 3, (uint64_t)s->errnum);
	report(REPORT_REFUSED, &out, NULL, 0);
}

// take_lease does all of pid 1's part. Its descriptors are closed on the way.
static void take_lease(const int *fds, size_t n)
{
	const int *mounts = fds + 3, *files = mounts + lease.n_mounts, *descriptors = files + lease.n_files;

	if (n != 3 + lease.n_mounts + lease.n_files + lease.descriptors)
		protocol_error("lease descriptors");
	int notify = setup_root(&lease, mounts, files);
	for (const int *fd = mounts; fd < descriptors; fd++)
		close(*fd);
	setup_privileges(&lease.floor);
	int exe = open(lease.program, O_PATH | O_CLOEXEC);
	if (exe < 0)
		die("open", lease.program);
	ruleset = setup_landlock(&lease, exe);
	report(REPORT_LEASED, NULL, &notify, 1);
	close(notify);
	program = child_start(&lease, fds, descriptors, exe, ruleset);
	close(exe);
	for (size_t i = 0; i < 3; i++)
		close(fds[i]);
	for (size_t i = 0; i < lease.descriptors; i++)
		close(descriptors[i]);
	state = LEASED;
}

static void release(void)
{
	char go = 1;

	if (state != LEASED)
		protocol_error("release");
	state = RELEASED;
	// A child that is gone already shows on its status pipe.
	if (write(program.release, &go, 1) < 0 && errno != EPIPE)
		protocol_error("release");
	close(program.release);
	program.release = -1;
}

static void forward(const struct order *o)
{
	if (state == WAITING)
		protocol_error("signal");
	if (o->all)
		kill(-1, o->signal); // kill(2): not to pid 1 itself
	else if (main_pidfd >= 0)
		syscall(SYS_pidfd_send_signal, main_pidfd, o->signal, NULL, 0);
	else
		kill(program.pid, o->signal); // unreaped, so the number is still its own
}

static void make_sockets(const struct order *o)
{
	struct pb_out out = {.len = 0};
	int fds[MAX_SOCKETS];
	struct step s;

	if (sockets_make(o, fds, &s) < 0) {
		refuse(o->id, &s);
		return;
	}
	pb_put_varint(&out, 1, o->id);
	pb_put_varint(&out, 2, o->n);
	report(REPORT_SOCKETS, &out, fds, o->n);
	for (uint32_t i = 0; i < o->n; i++)
		close(fds[i]);
}

static void make_listener(const struct order *o)
{
	struct pb_out out = {.len = 0};
	struct step s;
	int fd = sockets_listen(o, &s);

	if (fd < 0) {
		refuse(o->id, &s);
		return;
	}
	pb_put_varint(&out, 1, o->id);
	report(REPORT_LISTENING, &out, &fd, 1);
	close(fd);
}

static void start_probe(const struct order *o)
{
	struct probe *p = probes;
	struct step s;

	while (p < probes + MAX_PROBES && p->pid)
		p++;
	errno = EAGAIN;
	if (state == RUNNING && p < probes + MAX_PROBES) {
		pid_t pid = child_probe(&lease, o->argv, ruleset);
		if (pid > 0) {
			*p = (struct probe){pid, o->id, now_ms() + o->timeout_ms, 0};
			return;
		}
	}
	step_fail(&s, "exec", NULL);
	refuse(o->id, &s);
}

// move_main gives the role of the main process to another one of this namespace. A
// wrong number changes nothing: it comes from the service.
static void move_main(pid_t pid)
{
	if (state != RUNNING || pid == program.pid)
		return;
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (main_pidfd >= 0)
		close(main_pidfd);
	main_pidfd = fd;
	program.pid = pid;
}

static void obey(const struct order *o, const int *fds, size_t n)
{
	if (o->kind == ORDER_LEASE) {
		if (state != WAITING)
			protocol_error("second lease");
		take_lease(fds, n);
		return;
	}
	if (n)
		protocol_error("descriptors");
	switch (o->kind) {
	case ORDER_RELEASE:
		release();
		break;
	case ORDER_SIGNAL:
		forward(o);
		break;
	case ORDER_MAKE_SOCKETS:
		make_sockets(o);
		break;
	case ORDER_LISTEN:
		make_listener(o);
		break;
	case ORDER_EXEC:
		start_probe(o);
		break;
	case ORDER_MAIN_PID:
		move_main(o->pid);
		break;
	default:
		protocol_error("order");
	}
}

static void receive(void)
{
	static uint8_t record[MAX_RECORD];
	static struct order order;
	int fds[MAX_FDS];
	size_t n;
	int len = control_receive(record, sizeof record, fds, &n);

	if (len == -EAGAIN)
		return;
	if (len == 0) {
		// The kernel is gone for good. A service lives on; what never ran does not.
		if (state < RUNNING)
			_exit(0);
		connected = 0;
		return;
	}
	if (len < 0 || order_decode(record, (size_t)len, &order, &lease) < 0)
		protocol_error("malformed order");
	obey(&order, fds, n);
}

// follow_start reads what the program's process says on its way to execve. An end of
// file after "executing" is the success of a close-on-exec descriptor.
static void follow_start(void)
{
	static int executing;
	struct child_report r;
	ssize_t n = read(program.status, &r, sizeof r);

	if (n < 0 && errno == EINTR)
		return;
	if (n == sizeof r && r.executing) {
		executing = 1;
		return;
	}
	if (n == sizeof r)
		fail(&r.failed);
	if (!executing) {
		siginfo_t si = {0};
		waitid(P_PID, (id_t)program.pid, &si, WEXITED | WNOWAIT);
		protocol_error(si.si_code == CLD_EXITED ? "start: process exited"
			       : si.si_status == SIGSYS ? "start: killed by its seccomp filter"
							: "start: process killed");
	}
	close(program.status);
	program.status = -1;
	state = RUNNING;
	report(REPORT_STARTED, NULL, NULL, 0);
}

_Noreturn static void finish(int code, int status, uint64_t cpu_usec)
{
	struct pb_out out = {.len = 0};

	pb_put_varint(&out, 1, (uint64_t)(int64_t)code);
	pb_put_varint(&out, 2, (uint64_t)(int64_t)status);
	pb_put_varint(&out, 3, cpu_usec);
	report(REPORT_EXIT, &out, NULL, 0);
	_exit(0); // pid_namespaces(7): and every other process with it
}

static void probe_ended(struct probe *p, const siginfo_t *si)
{
	struct pb_out out = {.len = 0};

	pb_put_varint(&out, 1, p->id);
	pb_put_varint(&out, 2, (uint64_t)(int64_t)si->si_code);
	pb_put_varint(&out, 3, (uint64_t)(int64_t)si->si_status);
	pb_put_varint(&out, 4, (uint64_t)p->timed_out);
	p->pid = 0;
	report(REPORT_PROBE_RESULT, &out, NULL, 0);
}

static uint64_t usec(const struct timeval *t)
{
	return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec;
}

// reap collects ended children, at most so many at once that a service that floods
// cannot keep pid 1 from the control connection. It tells whether more may be left.
static int reap(void)
{
	for (int i = 0; i < REAP_AT_ONCE; i++) {
		siginfo_t si = {0};
		struct rusage ru;
		// The system call fills in the usage too, unlike waitid(3).
		if (syscall(SYS_waitid, P_ALL, 0, &si, WEXITED | WNOHANG | __WALL, &ru) < 0 || si.si_pid == 0)
			return 0;
		if (si.si_pid == program.pid && state == RUNNING)
			finish(si.si_code, si.si_status, usec(&ru.ru_utime) + usec(&ru.ru_stime));
		for (struct probe *p = probes; p < probes + MAX_PROBES; p++)
			if (p->pid == si.si_pid)
				probe_ended(p, &si);
	}
	return 1;
}

// main_ended is for a main process that somebody else is the parent of: its parent,
// not we, learns the status. Reported as si_code 0 unless it is ours by now.
static void main_ended(void)
{
	siginfo_t si = {0};
	struct rusage ru;

	if (syscall(SYS_waitid, P_PID, program.pid, &si, WEXITED | WNOHANG | __WALL, &ru) == 0 && si.si_pid)
		finish(si.si_code, si.si_status, usec(&ru.ru_utime) + usec(&ru.ru_stime));
	finish(0, 0, 0);
}

// expire kills probes that took too long, and returns how long to wait for the next.
static int expire(void)
{
	int64_t now = now_ms(), next = -1;

	for (struct probe *p = probes; p < probes + MAX_PROBES; p++) {
		if (!p->pid || p->timed_out)
			continue;
		if (p->deadline <= now) {
			p->timed_out = 1;
			kill(-p->pid, SIGKILL);
			kill(p->pid, SIGKILL);
		} else if (next < 0 || p->deadline - now < next) {
			next = p->deadline - now;
		}
	}
	return next > 1 << 30 ? 1 << 30 : (int)next;
}

// children_signal makes all signals default, whatever whoever started Solo ignored, and
// returns a descriptor that tells of ended children. The system call itself: a C library
// keeps some numbers for its own and leaves them alone.
static int children_signal(void)
{
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} dfl = {SIG_DFL, 0, NULL, 0}; // rt_sigaction(2), struct kernel_sigaction
	sigset_t set;

	for (int sig = 1; sig < 65; sig++)
		syscall(SYS_rt_sigaction, sig, &dfl, NULL, sizeof dfl.mask);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGPIPE);
	sigprocmask(SIG_SETMASK, &set, NULL);
	sigdelset(&set, SIGPIPE);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(void)
{
	syscall(SYS_close_range, CONTROL + 1, ~0U, 0); // 4 is our own program
	int children = children_signal(), more = 0;

	on_death = fail;
	fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
	umask(022);
	if (children < 0)
		return 1;
	report(REPORT_WAITING, NULL, NULL, 0);
	for (;;) {
		struct pollfd p[4] = {
			{connected ? CONTROL : -1, POLLIN, 0},
			// Not before execve has succeeded: until then the status pipe tells
			// how the program's process ended, and Started comes before Exit.
			{state == RUNNING ? children : -1, POLLIN, 0},
			{program.status, POLLIN, 0},
			{main_pidfd, POLLIN, 0},
		};
		int wait = expire();
		if (poll(p, 4, more ? 0 : wait) < 0 && errno != EINTR)
			return 1;
		if (p[2].revents)
			follow_start();
		if (p[1].revents || more) {
			struct signalfd_siginfo drop[8];
			while (read(children, drop, sizeof drop) == sizeof drop)
				;
			more = reap();
		}
		if (p[3].revents)
			main_ended();
		if (p[0].revents)
			receive();
	}
}
