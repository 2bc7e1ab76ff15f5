#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "order.h"

union rights {
	struct cmsghdr align;
	uint8_t buf[CMSG_SPACE(sizeof(int) * MAX_FDS)];
};

static int transmit(int control, enum report_kind kind, const struct pb_out *body, const int *fds, size_t n)
{
	static const struct pb_out empty;
	struct pb_out out = {.len = 0};
	union rights rights;

	if (!body)
		body = &empty;
	pb_put_bytes(&out, kind, body->buf, body->len);
	struct iovec iov = {out.buf, out.len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n) {
		memset(&rights, 0, sizeof rights);
		msg.msg_control = rights.buf;
		msg.msg_controllen = (socklen_t)CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	for (;;) {
		if (sendmsg(control, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		struct pollfd p = {control, POLLOUT, 0};
		if (poll(&p, 1, 10000) == 0)
			return -ETIMEDOUT;
	}
}

int control_send(enum report_kind kind, const struct pb_out *body, const int *fds, size_t n)
{
	return transmit(CONTROL, kind, body, fds, n);
}

int control_send_empty(int control, enum report_kind kind)
{
	return transmit(control, kind, NULL, NULL, 0);
}

int control_receive(uint8_t *buf, size_t size, int *fds, size_t *n)
{
	union rights rights;
	struct iovec iov = {buf, size};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = rights.buf, .msg_controllen = sizeof rights.buf};
	ssize_t len;

	*n = 0;
	do
		len = recvmsg(CONTROL, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (len < 0 && errno == EINTR);
	if (len < 0)
		return errno == EAGAIN ? -EAGAIN : 0; // ECONNRESET: the peer is gone
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < k; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
			if (*n < MAX_FDS)
				fds[(*n)++] = fd;
			else
				close(fd);
		}
	}
	if (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC) || (len == 0 && *n)) {
		while (*n)
			close(fds[--*n]);
		return -EPROTO;
	}
	return (int)len;
}

void pb_put_text(struct pb_out *out, uint32_t field, const char *s)
{
	char text[256];
	size_t n = 0;

	for (; s[n] && n < sizeof text; n++)
		text[n] = s[n] >= 0x20 && s[n] < 0x7f ? s[n] : '?';
	pb_put_bytes(out, field, text, n);
}
