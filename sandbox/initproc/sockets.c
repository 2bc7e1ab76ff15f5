#define _GNU_SOURCE
#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static int tcp_socket(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
}

int sockets_make(const struct order *o, int fds[MAX_SOCKETS], struct step *s)
{
	if (o->family != AF_INET || o->type != SOCK_STREAM || o->n < 1 || o->n > MAX_SOCKETS) {
		errno = EINVAL;
		return step_fail(s, "socket", NULL);
	}
	for (uint32_t i = 0; i < o->n; i++) {
		fds[i] = tcp_socket();
		if (fds[i] >= 0)
			continue;
		step_fail(s, "socket", NULL);
		while (i > 0)
			close(fds[--i]);
		return -1;
	}
	return 0;
}

int sockets_listen(const struct order *o, struct step *s)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port), .sin_addr.s_addr = htonl(o->address)};
	int on = 1, fd;

	if (o->port < 1 || o->port > 65535) {
		errno = EINVAL;
		return step_fail(s, "bind", NULL);
	}
	fd = tcp_socket();
	if (fd < 0)
		return step_fail(s, "socket", NULL);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
		step_fail(s, "setsockopt", NULL);
	else if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		step_fail(s, "bind", NULL);
	else if (listen(fd, 512) < 0)
		step_fail(s, "listen", NULL);
	else
		return fd;
	close(fd);
	return -1;
}
