// What pid 1 does to its sandbox before any service code runs.
#ifndef SOLO_SETUP_H
#define SOLO_SETUP_H

#include <stddef.h>

#include "order.h"

// A step that failed: its name with the path it was about, and the errno. name is
// empty while nothing has.
struct step {
	char name[192];
	int errnum;
};

// step_fail records errno under "name path" and returns -1.
int step_fail(struct step *s, const char *name, const char *path);

// die ends this process because of a step that failed, with errno. Every step below ends
// so: what is not wholly set up never runs a service.
_Noreturn void die(const char *name, const char *path);

// on_death is how die tells of the step; it does not return. Each process has its own.
extern void (*on_death)(const struct step *s);

// setup_root makes mount points, moves the detached mounts there, makes directories
// and files, covers /proc, binds /run/notify and turns the root read-only. The
// descriptors are those of the lease, in its order, and stay open. It returns the
// notify socket.
int setup_root(const struct lease *l, const int *mounts, const int *files);

// setup_privileges leaves pid 1 with KILL, SETUID and SETGID, not dumpable, and under
// the floor. It cannot be undone.
void setup_privileges(const struct filter *floor);

// load_filter installs a seccomp filter for the calling process and its children.
void load_filter(const struct filter *f, const char *name);

// setup_landlock makes the ruleset that the service and its probes restrict
// themselves with; the program's own descriptor may be read and executed. It returns
// a descriptor, or -1 when the lease asks for no Landlock.
int setup_landlock(const struct lease *l, int program);

#endif
