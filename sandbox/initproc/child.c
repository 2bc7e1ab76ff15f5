#define _GNU_SOURCE
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control.h"
#include "sys.h"

// Descriptors that the child needs until it execs, in the places where `place` puts
// them: right behind the program's own.
enum { KEEP_CONTROL, KEEP_STATUS, KEEP_RELEASE, KEEP_PROGRAM, KEEP };

// place moves src[i] to descriptor i, and keep[k] behind them close-on-exec, and
// closes everything else. Sources and targets may overlap: all are first copied out
// of the way.
static int place(const int *src, int n, int keep[KEEP])
{
	int copies[MAX_FDS + KEEP];
	int above = n + KEEP;

	for (int i = 0; i < n + KEEP; i++) {
		copies[i] = fcntl(i < n ? src[i] : keep[i - n], F_DUPFD_CLOEXEC, above);
		if (copies[i] < 0)
			return -1;
	}
	for (int i = 0; i < n; i++)
		if (dup2(copies[i], i) < 0)
			return -1;
	for (int k = 0; k < KEEP; k++)
		if (dup3(copies[n + k], keep[k] = n + k, O_CLOEXEC) < 0)
			return -1;
	return (int)syscall(SYS_close_range, above, ~0U, 0);
}

// unblock_signals lets every signal through; solo-init has made them all default.
static void unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void set_rlimits(const struct lease *l)
{
	for (size_t i = 0; i < l->n_rlimits; i++) {
		struct rlimit r = {l->rlimits[i].soft, l->rlimits[i].hard};
		char name[16];
		snprintf(name, sizeof name, "%u", l->rlimits[i].resource);
		if (setrlimit((int)l->rlimits[i].resource, &r) < 0)
			die("setrlimit", name);
	}
}

// become gives up uid 0 and with it every capability (capabilities(7), "Effect of
// user ID changes").
static void become(const struct lease *l)
{
	const char *cwd = l->cwd && *l->cwd ? l->cwd : "/";

	unblock_signals();
	if (setsid() < 0)
		die("setsid", NULL);
	if (setgroups(0, NULL) < 0)
		die("setgroups", NULL);
	if (setresgid(l->gid, l->gid, l->gid) < 0)
		die("setresgid", NULL);
	if (setresuid(l->uid, l->uid, l->uid) < 0)
		die("setresuid", NULL);
	if (chdir(cwd) < 0)
		die("chdir", cwd);
}

// confine is the rest of what a service is under, with its descriptors in their places.
static void confine(const struct lease *l, int ruleset, const int *fds, int n, int keep[KEEP])
{
	if (ruleset >= 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		die("landlock_restrict_self", NULL);
	if (place(fds, n, keep) < 0)
		die("place descriptors", NULL);
	// Only now: a low RLIMIT_NOFILE forbids the copies made above.
	set_rlimits(l);
	load_filter(&l->filter, "service filter");
}

static void add_listen_pid(struct lease *l)
{
	static char entry[32];

	if (l->listen_fds == 0)
		return;
	snprintf(entry, sizeof entry, "LISTEN_PID=%d", (int)getpid());
	l->env[l->n_env] = entry;
	l->env[l->n_env + 1] = NULL;
}

static const int *status; // where the child tells of itself; place changes its number

static void tell(const struct step *s)
{
	struct child_report r = {0, *s};

	if (write(*status, &r, sizeof r) < 0)
		_exit(125);
	_exit(125);
}

_Noreturn static void run(struct lease *l, const int *fds, int n, int keep[KEEP], int ruleset)
{
	struct child_report executing = {.executing = 1};
	ssize_t got;
	char go;

	status = &keep[KEEP_STATUS];
	on_death = tell;
	become(l);
	add_listen_pid(l);
	confine(l, ruleset, fds, n, keep);
	// CONTROL is the program's own descriptor 3 by now.
	if (control_send_empty(keep[KEEP_CONTROL], REPORT_ARMED) < 0)
		die("armed", NULL);
	do
		got = read(keep[KEEP_RELEASE], &go, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1 || write(*status, &executing, sizeof executing) != sizeof executing)
		_exit(125);
	syscall(SYS_execveat, keep[KEEP_PROGRAM], "", l->argv, l->env, AT_EMPTY_PATH);
	die("execveat", l->program);
}

struct started child_start(const struct lease *l, const int *stdio, const int *descriptors, int program, int ruleset)
{
	int tells[2], release[2], fds[MAX_FDS], n = 3 + (int)l->descriptors;

	if (pipe2(tells, O_CLOEXEC) < 0 || pipe2(release, O_CLOEXEC) < 0)
		die("pipe", NULL);
	memcpy(fds, stdio, 3 * sizeof *fds);
	memcpy(fds + 3, descriptors, l->descriptors * sizeof *fds);
	pid_t pid = fork();
	if (pid < 0)
		die("fork", NULL);
	if (pid == 0) {
		int keep[KEEP] = {CONTROL, tells[1], release[0], program};
		run((struct lease *)l, fds, n, keep, ruleset);
	}
	close(tells[1]);
	close(release[0]);
	return (struct started){pid, tells[0], release[1]};
}

// probe_env is the service's environment without what names its descriptors, which
// a probe does not have.
static char **probe_env(const struct lease *l)
{
	static char *env[MAX_STRINGS + 1];
	size_t n = 0;

	for (size_t i = 0; i < l->n_env; i++)
		if (strncmp(l->env[i], "LISTEN_", 7) && strncmp(l->env[i], "SOLO_CONTROL=", 13))
			env[n++] = l->env[i];
	env[n] = NULL;
	return env;
}

static void not_executed(const struct step *s)
{
	(void)s;
	_exit(127);
}

pid_t child_probe(const struct lease *l, char *const *argv, int ruleset)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	on_death = not_executed;
	become(l);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int program = open(argv[0], O_PATH | O_CLOEXEC);
	if (null < 0 || program < 0)
		die("open", argv[0]);
	int fds[3] = {null, null, null}, keep[KEEP] = {null, null, null, program};
	confine(l, ruleset, fds, 3, keep);
	syscall(SYS_execveat, keep[KEEP_PROGRAM], "", argv, probe_env(l), AT_EMPTY_PATH);
	die("execveat", argv[0]);
}
