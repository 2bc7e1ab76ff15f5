// Decodes records as solo-init does. Input: for each record its length, four bytes,
// least first, and the record. Output: a line for each, "reject" or what was decoded,
// in the order of the fields' numbers.
#include <stdio.h>
#include <stdlib.h>

#include "../../order.h"

static struct lease lease;
static struct order order;

static void text(const char *s)
{
	putchar(' ');
	putchar('\'');
	for (; s && *s; s++)
		printf("%02x", (unsigned char)*s);
}

static void filter(const struct filter *f)
{
	putchar(' ');
	for (size_t i = 0; i < f->n; i++)
		printf("[%u %u %u %u]", f->insns[i].code, f->insns[i].jt, f->insns[i].jf, (unsigned)f->insns[i].k);
}

static void list(char *const *s, size_t n)
{
	printf(" %zu", n);
	for (size_t i = 0; i < n; i++)
		text(s[i]);
	if (s[n])
		printf(" unterminated");
}

static void print_lease(const struct lease *l)
{
	text(l->program);
	list(l->argv, l->n_argv);
	list(l->env, l->n_env);
	text(l->cwd);
	printf(" mounts");
	for (size_t i = 0; i < l->n_mounts; i++) {
		text(l->mounts[i].target);
		printf(" %d", l->mounts[i].directory);
	}
	printf(" files");
	for (size_t i = 0; i < l->n_files; i++) {
		text(l->files[i].path);
		printf(" %u", l->files[i].mode);
	}
	printf(" directories");
	for (size_t i = 0; i < l->n_directories; i++)
		text(l->directories[i]);
	printf(" rlimits");
	for (size_t i = 0; i < l->n_rlimits; i++)
		printf(" %u %llu %llu", l->rlimits[i].resource, (unsigned long long)l->rlimits[i].soft,
		       (unsigned long long)l->rlimits[i].hard);
	printf(" %u %u %llu %llu rules", l->uid, l->gid, (unsigned long long)l->landlock_fs,
	       (unsigned long long)l->landlock_scoped);
	for (size_t i = 0; i < l->n_rules; i++) {
		text(l->rules[i].path);
		printf(" %llu", (unsigned long long)l->rules[i].access);
	}
	filter(&l->floor);
	filter(&l->filter);
	printf(" %u %u", l->descriptors, l->listen_fds);
}

static void print(const struct order *o)
{
	printf("%d", (int)o->kind);
	if (o->kind == ORDER_LEASE)
		print_lease(&lease);
	else
		printf(" id %llu signal %d %d socket %u %u %u listen %u %u exec %u pid %d", (unsigned long long)o->id,
		       o->signal, o->all, o->family, o->type, o->n, o->address, o->port, o->timeout_ms, o->pid);
	if (o->kind == ORDER_EXEC)
		list(o->argv, o->n_argv);
	putchar('\n');
}

int main(void)
{
	unsigned char size[4];

	while (fread(size, 1, sizeof size, stdin) == sizeof size) {
		size_t len = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
		// A block of its own, so that a read past its end is seen.
		unsigned char *record = malloc(len ? len : 1);
		if (!record || fread(record, 1, len, stdin) != len)
			return 1;
		int r = order_decode(record, len, &order, &lease);
		// Nothing decoded may point into it: solo-init reuses it for the next record.
		free(record);
		if (r < 0)
			puts("reject");
		else
			print(&order);
		fflush(stdout);
	}
	return 0;
}
