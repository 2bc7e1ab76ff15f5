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

// setup_root makes mount points, moves the detached mounts there, makes directories
// and files, covers /proc, binds /run/notify and turns the root read-only. The
// descriptors are those of the lease, in its order, and stay open. It returns the
// notify socket or -1.
int setup_root(const struct lease *l, const int *mounts, const int *files, struct step *s);

// setup_privileges leaves pid 1 with KILL, SETUID and SETGID, not dumpable, and under
// the floor. It cannot be undone.
int setup_privileges(const struct filter *floor, struct step *s);

// load_filter installs a seccomp filter for the calling process and its children.
int load_filter(const struct filter *f, const char *name, struct step *s);

// setup_landlock makes the ruleset that the service and its probes restrict
// themselves with; the program's own descriptor may be read and executed. It returns
// a descriptor, -1 on failure, or -2 when the lease asks for no Landlock.
int setup_landlock(const struct lease *l, int program, struct step *s);

#endif
