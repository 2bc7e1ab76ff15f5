// The processes that solo-init forks: the service's program and its exec probes.
#ifndef SOLO_CHILD_H
#define SOLO_CHILD_H

#include <sys/types.h>

#include "order.h"
#include "setup.h"

// started follows the program from fork to execve.
struct started {
	pid_t pid;
	int status;  // read end: the child's report, end of file when it has exec'd
	int release; // write end: one byte lets it exec
};

// child_start forks the program, or dies. stdio are the three descriptors and what follows
// the descriptors from 3 on; ruleset as setup_landlock returned it.
struct started child_start(const struct lease *l, const int *stdio, const int *descriptors, int program, int ruleset);

// What a child writes to its status pipe before it execs or gives up.
struct child_report {
	int executing; // execve is next; with an end of file after it, it succeeded
	struct step failed;
};

// child_probe forks a command under the same confinement, its stdio on /dev/null,
// and returns its pid or -1. It exits with 127 when it cannot be executed.
pid_t child_probe(const struct lease *l, char *const *argv, int ruleset);

#endif
