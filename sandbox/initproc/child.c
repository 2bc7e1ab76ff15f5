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

static int set_rlimits(const struct lease *l, struct step *s)
{
	for (size_t i = 0; i < l->n_rlimits; i++) {
		struct rlimit r = {l->rlimits[i].soft, l->rlimits[i].hard};
		char name[16];
		snprintf(name, sizeof name, "%u", l->rlimits[i].resource);
		if (setrlimit((int)l->rlimits[i].resource, &r) < 0)
			return step_fail(s, "setrlimit", name);
	}
	return 0;
}

// become gives up uid 0 and with it every capability (capabilities(7), "Effect of
// user ID changes").
static int become(const struct lease *l, struct step *s)
{
	const char *cwd = l->cwd && *l->cwd ? l->cwd : "/";

	unblock_signals();
	if (setsid() < 0)
		return step_fail(s, "setsid", NULL);
	if (setgroups(0, NULL) < 0)
		return step_fail(s, "setgroups", NULL);
	if (setresgid(l->gid, l->gid, l->gid) < 0)
		return step_fail(s, "setresgid", NULL);
	if (setresuid(l->uid, l->uid, l->uid) < 0)
		return step_fail(s, "setresuid", NULL);
	if (chdir(cwd) < 0)
		return step_fail(s, "chdir", cwd);
	return 0;
}

static int restrict_self(int ruleset, struct step *s)
{
	if (ruleset >= 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		return step_fail(s, "landlock_restrict_self", NULL);
	return 0;
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

_Noreturn static void run(struct lease *l, const int *fds, int n, int keep[KEEP], int ruleset)
{
	struct child_report r = {0};
	int status = keep[KEEP_STATUS];
	char go;

	if (become(l, &r.failed) < 0 || restrict_self(ruleset, &r.failed) < 0)
		goto fail;
	if (place(fds, n, keep) < 0) {
		step_fail(&r.failed, "place descriptors", NULL);
		goto fail;
	}
	status = keep[KEEP_STATUS];
	add_listen_pid(l);
	// Only now: a low RLIMIT_NOFILE forbids the copies made above.
	if (set_rlimits(l, &r.failed) < 0)
		goto fail;
	if (load_filter(&l->filter, "service filter", &r.failed) < 0)
		goto fail;
	// CONTROL is the program's own descriptor 3 by now.
	if (control_send_empty(keep[KEEP_CONTROL], REPORT_ARMED) < 0) {
		step_fail(&r.failed, "armed", NULL);
		goto fail;
	}
	ssize_t got;
	do
		got = read(keep[KEEP_RELEASE], &go, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1)
		_exit(125);
	r.executing = 1;
	if (write(status, &r, sizeof r) != sizeof r)
		_exit(125);
	syscall(SYS_execveat, keep[KEEP_PROGRAM], "", l->argv, l->env, AT_EMPTY_PATH);
	step_fail(&r.failed, "execveat", l->program);
	r.executing = 0;
fail:
	if (write(status, &r, sizeof r) < 0)
		_exit(125);
	_exit(125);
}

int child_start(const struct lease *l, const int *stdio, const int *descriptors, int program, int ruleset,
		struct started *out, struct step *s)
{
	int status[2], release[2], fds[MAX_FDS], n = 3 + (int)l->descriptors;

	if (pipe2(status, O_CLOEXEC) < 0)
		return step_fail(s, "pipe", NULL);
	if (pipe2(release, O_CLOEXEC) < 0) {
		step_fail(s, "pipe", NULL);
		close(status[0]);
		close(status[1]);
		return -1;
	}
	memcpy(fds, stdio, 3 * sizeof *fds);
	memcpy(fds + 3, descriptors, l->descriptors * sizeof *fds);
	pid_t pid = fork();
	if (pid == 0) {
		int keep[KEEP] = {CONTROL, status[1], release[0], program};
		run((struct lease *)l, fds, n, keep, ruleset);
	}
	if (pid < 0)
		step_fail(s, "fork", NULL);
	close(status[1]);
	close(release[0]);
	if (pid < 0) {
		close(status[0]);
		close(release[1]);
		return -1;
	}
	*out = (struct started){pid, status[0], release[1]};
	return 0;
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

pid_t child_probe(const struct lease *l, char *const *argv, int ruleset)
{
	struct step s;
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	if (become(l, &s) < 0)
		_exit(127);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int program = open(argv[0], O_PATH | O_CLOEXEC);
	if (null < 0 || program < 0 || restrict_self(ruleset, &s) < 0)
		_exit(127);
	int fds[3] = {null, null, null}, keep[KEEP] = {null, null, null, program};
	if (place(fds, 3, keep) < 0 || set_rlimits(l, &s) < 0 || load_filter(&l->filter, "filter", &s) < 0)
		_exit(127);
	syscall(SYS_execveat, keep[KEEP_PROGRAM], "", argv, probe_env(l), AT_EMPTY_PATH);
	_exit(127);
}
