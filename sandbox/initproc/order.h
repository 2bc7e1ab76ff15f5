// Orders of the kernel (proto/solo/control/v1/init.proto), decoded and bounded.
#ifndef SOLO_ORDER_H
#define SOLO_ORDER_H

#include <stddef.h>
#include <stdint.h>

enum {
	MAX_RECORD = 64 << 10,
	MAX_FDS = 253,	    // SCM_MAX_FD
	MAX_STRINGS = 2048, // of argv and of env, each
	MAX_DIRECTORIES = 256,
	MAX_RULES = 512,
	MAX_RLIMITS = 16,
	MAX_FILTER = 4096, // instructions, BPF_MAXINSNS
};

struct filter_insn {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

struct filter {
	size_t n;
	const struct filter_insn *insns;
};

struct lease_mount {
	const char *target;
	int directory;
};

struct lease_file {
	const char *path;
	uint32_t mode;
};

struct lease_rlimit {
	uint32_t resource;
	uint64_t soft, hard;
};

struct lease_rule {
	const char *path;
	uint64_t access;
};

// Strings live as long as solo-init. argv and env end with a null pointer; env has
// room for one more entry.
struct lease {
	const char *program, *cwd;
	char *argv[MAX_STRINGS + 1], *env[MAX_STRINGS + 2];
	size_t n_argv, n_env;
	struct lease_mount mounts[MAX_FDS];
	size_t n_mounts;
	struct lease_file files[MAX_FDS];
	size_t n_files;
	const char *directories[MAX_DIRECTORIES];
	size_t n_directories;
	struct lease_rlimit rlimits[MAX_RLIMITS];
	size_t n_rlimits;
	struct lease_rule rules[MAX_RULES];
	size_t n_rules;
	uint32_t uid, gid, descriptors, listen_fds;
	uint64_t landlock_fs, landlock_scoped;
	struct filter floor, filter;
};

enum order_kind { // field numbers of InitOrder
	ORDER_LEASE = 1,
	ORDER_RELEASE,
	ORDER_SIGNAL,
	ORDER_MAKE_SOCKETS,
	ORDER_LISTEN,
	ORDER_EXEC,
	ORDER_MAIN_PID,
};

struct order {
	enum order_kind kind;
	uint64_t id;
	int32_t signal, pid;
	int all;
	uint32_t family, type, n, address, port, timeout_ms;
	char *argv[MAX_STRINGS + 1]; // of ORDER_EXEC, valid until the next order
	size_t n_argv;
};

// order_decode reads one record. A lease is decoded into *lease. It returns 0, or -1
// when the record is malformed, of an unknown kind or over a limit.
int order_decode(const uint8_t *p, size_t len, struct order *o, struct lease *lease);

#endif
