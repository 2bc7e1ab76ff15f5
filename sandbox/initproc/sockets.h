// The socket factory of the sandbox: sockets made here belong to its network
// namespace whoever holds them.
#ifndef SOLO_SOCKETS_H
#define SOLO_SOCKETS_H

#include "order.h"
#include "setup.h"

enum { MAX_SOCKETS = 64 };

// sockets_make makes o->n TCP/IPv4 sockets, non-blocking; 0, or -1 with the step.
int sockets_make(const struct order *o, int fds[MAX_SOCKETS], struct step *s);

// sockets_listen makes a listening TCP socket and returns it, or -1 with the step.
int sockets_listen(const struct order *o, struct step *s);

#endif
