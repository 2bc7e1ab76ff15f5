// The control connection: one record in, one record out (unix(7) SOCK_SEQPACKET).
#ifndef SOLO_CONTROL_H
#define SOLO_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "pb.h"

// CONTROL is the descriptor that the launcher gives; it stays this number.
enum { CONTROL = 3 };

enum report_kind { // field numbers of InitReport
	REPORT_WAITING = 1,
	REPORT_LEASED,
	REPORT_ARMED,
	REPORT_STARTED,
	REPORT_FAILED,
	REPORT_EXIT,
	REPORT_SOCKETS,
	REPORT_LISTENING,
	REPORT_REFUSED,
	REPORT_PROBE_RESULT,
};

// control_send writes one report; body may be NULL. It waits up to ten seconds for
// a peer that does not read. It returns 0 or a negative errno.
int control_send(enum report_kind kind, const struct pb_out *body, const int *fds, size_t n);

// control_send_empty writes a report without content on another descriptor of the
// connection.
int control_send_empty(int control, enum report_kind kind);

// control_receive reads one record into buf and its descriptors, close-on-exec, into
// fds. It returns the record's length, 0 at the end of the connection, -EAGAIN, or
// -EPROTO when the record is not acceptable (its descriptors are closed then).
int control_receive(uint8_t *buf, size_t size, int *fds, size_t *n);

// pb_put_text adds a string that is valid UTF-8 whatever bytes s has.
void pb_put_text(struct pb_out *out, uint32_t field, const char *s);

#endif
