#include "order.h"

#include <string.h>

#include "pb.h"

// Strings and filters are copied out of the record: a string gets its terminating
// null, a filter its alignment. Each string needs at least two bytes of the record,
// so twice the record's size is enough.
struct arena {
	_Alignas(8) uint8_t buf[2 * MAX_RECORD];
	size_t used;
};

static struct arena lease_arena, exec_arena;

static char *string(struct arena *a, const struct pb_field *f)
{
	size_t len = (size_t)(f->bytes.end - f->bytes.p);

	if (!f->is_bytes || len >= sizeof a->buf - a->used || memchr(f->bytes.p, 0, len))
		return NULL;
	char *s = (char *)a->buf + a->used;
	memcpy(s, f->bytes.p, len);
	s[len] = 0;
	a->used += len + 1;
	return s;
}

static int strings(struct arena *a, const struct pb_field *f, char **list, size_t *n)
{
	if (*n == MAX_STRINGS || !(list[*n] = string(a, f)))
		return -1;
	list[++*n] = NULL;
	return 0;
}

static int filter(struct arena *a, const struct pb_field *f, struct filter *out)
{
	size_t len = (size_t)(f->bytes.end - f->bytes.p), at = (a->used + 7) & ~(size_t)7;

	if (!f->is_bytes || len % sizeof(struct filter_insn) || len > MAX_FILTER * sizeof(struct filter_insn) ||
	    at > sizeof a->buf || len > sizeof a->buf - at)
		return -1;
	memcpy(a->buf + at, f->bytes.p, len);
	out->insns = (const struct filter_insn *)(a->buf + at);
	out->n = len / sizeof(struct filter_insn);
	a->used = at + len;
	return 0;
}

// number stores a varint that must fit 32 bits.
static int number(const struct pb_field *f, uint32_t *v)
{
	if (f->is_bytes || f->varint > UINT32_MAX)
		return -1;
	*v = (uint32_t)f->varint;
	return 0;
}

// integer stores an int32: negative ones are sign-extended to 64 bits on the wire.
static int integer(const struct pb_field *f, int32_t *v)
{
	int64_t n = (int64_t)f->varint;

	if (f->is_bytes || n > INT32_MAX || n < INT32_MIN)
		return -1;
	*v = (int32_t)n;
	return 0;
}

// pair reads the messages of a lease that have a path, if path is not null, and
// numbers in their other fields up to last.
static int pair(struct pb_in in, const char **path, uint32_t last, uint64_t n[4])
{
	struct pb_field f;
	int r;

	n[1] = n[2] = n[3] = 0;
	if (path)
		*path = "";
	while ((r = pb_next(&in, &f)) > 0) {
		if (f.number > last)
			return -1;
		if (path && f.number == 1) {
			if (!(*path = string(&lease_arena, &f)))
				return -1;
		} else if (f.is_bytes) {
			return -1;
		} else {
			n[f.number] = f.varint;
		}
	}
	return r;
}

static int lease_field(struct lease *l, const struct pb_field *f)
{
	uint64_t n[4];
	const char *path;

	switch (f->number) {
	case 1:
		return (l->program = string(&lease_arena, f)) ? 0 : -1;
	case 2:
		return strings(&lease_arena, f, l->argv, &l->n_argv);
	case 3:
		return strings(&lease_arena, f, l->env, &l->n_env);
	case 4:
		return (l->cwd = string(&lease_arena, f)) ? 0 : -1;
	case 5:
		if (!f->is_bytes || l->n_mounts == MAX_FDS || pair(f->bytes, &path, 2, n) < 0 || n[2] > 1)
			return -1;
		l->mounts[l->n_mounts++] = (struct lease_mount){path, (int)n[2]};
		return 0;
	case 6:
		if (!f->is_bytes || l->n_files == MAX_FDS || pair(f->bytes, &path, 2, n) < 0 || n[2] > 0777)
			return -1;
		l->files[l->n_files++] = (struct lease_file){path, (uint32_t)n[2]};
		return 0;
	case 7:
		if (l->n_directories == MAX_DIRECTORIES)
			return -1;
		return (l->directories[l->n_directories++] = string(&lease_arena, f)) ? 0 : -1;
	case 8:
		if (!f->is_bytes || l->n_rlimits == MAX_RLIMITS || pair(f->bytes, NULL, 3, n) < 0 || n[1] > 64)
			return -1;
		l->rlimits[l->n_rlimits++] = (struct lease_rlimit){(uint32_t)n[1], n[2], n[3]};
		return 0;
	case 9:
		return number(f, &l->uid);
	case 10:
		return number(f, &l->gid);
	case 11:
		l->landlock_fs = f->varint;
		return f->is_bytes ? -1 : 0;
	case 12:
		l->landlock_scoped = f->varint;
		return f->is_bytes ? -1 : 0;
	case 13:
		if (!f->is_bytes || l->n_rules == MAX_RULES || pair(f->bytes, &path, 2, n) < 0)
			return -1;
		l->rules[l->n_rules++] = (struct lease_rule){path, n[2]};
		return 0;
	case 14:
		return filter(&lease_arena, f, &l->floor);
	case 15:
		return filter(&lease_arena, f, &l->filter);
	case 16:
		return number(f, &l->descriptors);
	case 17:
		return number(f, &l->listen_fds);
	default:
		return -1;
	}
}

// lease_check refuses what no service may have: it never runs as uid or gid 0, and
// never without filters.
static int lease_check(const struct lease *l)
{
	if (!l->program || !*l->program || l->n_argv == 0 || l->uid == 0 || l->gid == 0)
		return -1;
	if (l->floor.n == 0 || l->filter.n == 0 || l->listen_fds > l->descriptors)
		return -1;
	if (3 + l->n_mounts + l->n_files + l->descriptors > MAX_FDS)
		return -1;
	return 0;
}

static int decode_lease(struct pb_in in, struct lease *l)
{
	struct pb_field f;
	int r;

	memset(l, 0, sizeof *l);
	lease_arena.used = 0;
	while ((r = pb_next(&in, &f)) > 0)
		if (lease_field(l, &f) < 0)
			return -1;
	return r < 0 ? -1 : lease_check(l);
}

static int order_field(struct order *o, const struct pb_field *f)
{
	switch (o->kind << 4 | f->number) {
	case ORDER_SIGNAL << 4 | 1:
		return integer(f, &o->signal);
	case ORDER_SIGNAL << 4 | 2:
		o->all = f->varint != 0;
		return f->is_bytes ? -1 : 0;
	case ORDER_MAKE_SOCKETS << 4 | 1:
	case ORDER_LISTEN << 4 | 1:
	case ORDER_EXEC << 4 | 1:
		o->id = f->varint;
		return f->is_bytes ? -1 : 0;
	case ORDER_MAKE_SOCKETS << 4 | 2:
		return number(f, &o->family);
	case ORDER_MAKE_SOCKETS << 4 | 3:
		return number(f, &o->type);
	case ORDER_MAKE_SOCKETS << 4 | 4:
		return number(f, &o->n);
	case ORDER_LISTEN << 4 | 2:
		return number(f, &o->address);
	case ORDER_LISTEN << 4 | 3:
		return number(f, &o->port);
	case ORDER_EXEC << 4 | 2:
		return strings(&exec_arena, f, o->argv, &o->n_argv);
	case ORDER_EXEC << 4 | 3:
		return number(f, &o->timeout_ms);
	case ORDER_MAIN_PID << 4 | 1:
		return integer(f, &o->pid);
	default:
		return -1;
	}
}

int order_decode(const uint8_t *p, size_t len, struct order *o, struct lease *lease)
{
	struct pb_in in = {p, p + len};
	struct pb_field top, f;
	int r;

	if (pb_next(&in, &top) != 1 || !top.is_bytes || in.p != in.end || top.number < ORDER_LEASE ||
	    top.number > ORDER_MAIN_PID)
		return -1;
	memset(o, 0, sizeof *o);
	o->kind = top.number;
	exec_arena.used = 0;
	if (o->kind == ORDER_LEASE)
		return decode_lease(top.bytes, lease);
	while ((r = pb_next(&top.bytes, &f)) > 0)
		if (f.number > 15 || order_field(o, &f) < 0)
			return -1;
	if (r < 0)
		return -1;
	switch (o->kind) {
	case ORDER_SIGNAL:
		return o->signal >= 1 && o->signal <= 64 ? 0 : -1;
	case ORDER_EXEC:
		return o->n_argv ? 0 : -1;
	case ORDER_MAIN_PID:
		return o->pid > 1 ? 0 : -1;
	default:
		return 0;
	}
}
