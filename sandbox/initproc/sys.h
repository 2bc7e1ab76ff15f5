// Linux definitions that musl's headers lack; from the kernel's uapi headers.
#ifndef SOLO_SYS_H
#define SOLO_SYS_H

#include <stdint.h>

// linux/openat2.h
struct open_how {
	uint64_t flags, mode, resolve;
};
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_IN_ROOT 0x10

// linux/mount.h
struct mount_attr {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};
#define MOVE_MOUNT_F_EMPTY_PATH 0x04
#define MOVE_MOUNT_T_EMPTY_PATH 0x40
#define FSCONFIG_SET_STRING 1
#define FSCONFIG_CMD_CREATE 6
#define FSOPEN_CLOEXEC 1
#define FSMOUNT_CLOEXEC 1
#define MOUNT_ATTR_RDONLY 0x01
#define MOUNT_ATTR_NOSUID 0x02
#define MOUNT_ATTR_NODEV 0x04
#define MOUNT_ATTR_NOEXEC 0x08

// linux/capability.h
struct cap_header {
	uint32_t version;
	int pid;
};
struct cap_data {
	uint32_t effective, permitted, inheritable;
};
#define CAP_VERSION_3 0x20080522
#define CAP_KILL 5
#define CAP_SETGID 6
#define CAP_SETUID 7

// linux/landlock.h
struct landlock_ruleset_attr {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
struct landlock_path_beneath_attr {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));
#define LANDLOCK_RULE_PATH_BENEATH 1
#define LANDLOCK_EXECUTE (1ULL << 0)
#define LANDLOCK_WRITE_FILE (1ULL << 1)
#define LANDLOCK_READ_FILE (1ULL << 2)
#define LANDLOCK_TRUNCATE (1ULL << 14)
#define LANDLOCK_IOCTL_DEV (1ULL << 15)
#define LANDLOCK_OF_FILES \
	(LANDLOCK_EXECUTE | LANDLOCK_WRITE_FILE | LANDLOCK_READ_FILE | LANDLOCK_TRUNCATE | LANDLOCK_IOCTL_DEV)

// linux/seccomp.h
#define SECCOMP_SET_MODE_FILTER 1

#ifndef PIDFD_NONBLOCK
#define PIDFD_NONBLOCK 04000
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#endif
