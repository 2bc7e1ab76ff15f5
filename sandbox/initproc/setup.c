#define _GNU_SOURCE
#include "setup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "sys.h"

int step_fail(struct step *s, const char *name, const char *path)
{
	s->errnum = errno;
	snprintf(s->name, sizeof s->name, "%s%s%s", name, path ? " " : "", path ? path : "");
	return -1;
}

// enter opens one directory component without leaving the sandbox's root. A symbolic
// link is followed only where the sandbox itself put it, on the root's own file
// system (/lib64): one inside a volume was made by a service.
static int enter(int dir, const char *prefix, const char *name, dev_t root_dev)
{
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st, parent;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fd;
	if (S_ISDIR(st.st_mode))
		return fd;
	close(fd);
	if (!S_ISLNK(st.st_mode)) {
		errno = ENOTDIR;
		return -1;
	}
	if (fstat(dir, &parent) < 0 || parent.st_dev != root_dev) {
		errno = ELOOP;
		return -1;
	}
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	int root = open("/", O_PATH | O_CLOEXEC);
	if (root < 0)
		return -1;
	fd = (int)syscall(SYS_openat2, root, prefix, &how, sizeof how);
	close(root);
	return fd;
}

// walk opens the directory that holds path's last component, making what is missing,
// and stores that component in name. The path is absolute and has no "..".
static int walk(const char *path, char name[256])
{
	char prefix[4096];
	struct stat st;
	size_t at = 0;
	int dir;

	if (path[0] != '/' || strlen(path) >= sizeof prefix || stat("/", &st) < 0) {
		errno = EINVAL;
		return -1;
	}
	name[0] = 0;
	dir = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	while (dir >= 0) {
		while (path[at] == '/')
			at++;
		size_t len = strcspn(path + at, "/");
		if (len == 0)
			break;
		if (len > 255 || (path[at] == '.' && (len == 1 || (len == 2 && path[at + 1] == '.')))) {
			close(dir);
			errno = EINVAL;
			return -1;
		}
		if (name[0]) {
			int next;
			memcpy(prefix, path, at);
			prefix[at] = 0;
			if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
				next = -1;
			else
				next = enter(dir, prefix, name, st.st_dev);
			close(dir);
			dir = next;
		}
		memcpy(name, path + at, len);
		name[len] = 0;
		at += len;
	}
	if (dir >= 0 && !name[0]) {
		close(dir);
		errno = EINVAL;
		return -1;
	}
	return dir;
}

// mount_point opens the place a mount goes to, made if missing.
static int mount_point(const struct lease_mount *m)
{
	char name[256];
	struct stat root;
	int dir = walk(m->target, name), fd = -1;

	if (dir < 0)
		return -1;
	if (m->directory) {
		if ((mkdirat(dir, name, 0755) == 0 || errno == EEXIST) && stat("/", &root) == 0)
			fd = enter(dir, m->target, name, root.st_dev);
	} else {
		fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		if (fd >= 0)
			close(fd);
		if (fd >= 0 || errno == EEXIST)
			fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	close(dir);
	return fd;
}

static int attach(const struct lease_mount *m, int mount, struct step *s)
{
	int fd = mount_point(m);

	if (fd < 0)
		return step_fail(s, "mount point", m->target);
	if (syscall(SYS_move_mount, mount, "", fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
		step_fail(s, "move_mount", m->target);
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

static int directory(const char *path, struct step *s)
{
	struct lease_mount m = {path, 1};
	int fd = mount_point(&m);

	if (fd < 0)
		return step_fail(s, "directory", path);
	close(fd);
	return 0;
}

// copy writes the whole content of from, a regular file of fixed size, to to.
static int copy(int from, int to)
{
	char buf[16 << 10];
	struct stat st;

	if (fstat(from, &st) < 0)
		return -1;
	if (!S_ISREG(st.st_mode)) {
		errno = EINVAL;
		return -1;
	}
	for (off_t at = 0; at < st.st_size;) {
		size_t want = st.st_size - at < (off_t)sizeof buf ? (size_t)(st.st_size - at) : sizeof buf;
		ssize_t n = pread(from, buf, want, at);
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = write(to, buf + done, (size_t)(n - done));
			if (w < 0)
				return -1;
			done += w;
		}
		at += n;
	}
	return 0;
}

static int file(const struct lease_file *f, int content, struct step *s)
{
	char name[256];
	int dir = walk(f->path, name), fd;

	if (dir < 0)
		return step_fail(s, "file", f->path);
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	close(dir);
	if (fd < 0)
		return step_fail(s, "file", f->path);
	if (copy(content, fd) < 0 || fchmod(fd, f->mode) < 0) {
		step_fail(s, "file", f->path);
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

// cover_proc hides everything but process directories: what lies below stays
// reachable for nobody, since the service cannot unmount.
static int cover_proc(struct step *s)
{
	int fs = (int)syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC), mount = -1, r = -1;

	if (fs < 0)
		return step_fail(s, "fsopen", "/proc");
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "subset", "pid", 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		step_fail(s, "fsconfig", "/proc");
	else if ((mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
				       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)) < 0)
		step_fail(s, "fsmount", "/proc");
	else if (syscall(SYS_move_mount, mount, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		step_fail(s, "move_mount", "/proc");
	else
		r = 0;
	if (mount >= 0)
		close(mount);
	close(fs);
	return r;
}

static int bind_notify(struct step *s)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "/run/notify"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return step_fail(s, "socket", a.sun_path);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(a.sun_path, 0777) < 0) {
		step_fail(s, "bind", a.sun_path);
		close(fd);
		return -1;
	}
	return fd;
}

int setup_root(const struct lease *l, const int *mounts, const int *files, struct step *s)
{
	int notify;

	for (size_t i = 0; i < l->n_mounts; i++)
		if (attach(&l->mounts[i], mounts[i], s) < 0)
			return -1;
	for (size_t i = 0; i < l->n_directories; i++)
		if (directory(l->directories[i], s) < 0)
			return -1;
	for (size_t i = 0; i < l->n_files; i++)
		if (file(&l->files[i], files[i], s) < 0)
			return -1;
	if (cover_proc(s) < 0 || (notify = bind_notify(s)) < 0)
		return -1;
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY};
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &ro, sizeof ro) < 0) {
		step_fail(s, "mount_setattr", "/");
		close(notify);
		return -1;
	}
	return notify;
}

int load_filter(const struct filter *f, const char *name, struct step *s)
{
	struct {
		unsigned short len;
		const struct filter_insn *insns;
	} prog = {(unsigned short)f->n, f->insns};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		return step_fail(s, name, NULL);
	return 0;
}

int setup_privileges(const struct filter *floor, struct step *s)
{
	// capabilities(7): bounding set first, while SETPCAP is still there.
	for (unsigned long c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			return step_fail(s, "bounding set", NULL);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return step_fail(s, "ambient set", NULL);
	struct cap_header h = {CAP_VERSION_3, 0};
	uint32_t keep = 1u << CAP_KILL | 1u << CAP_SETUID | 1u << CAP_SETGID;
	struct cap_data d[2] = {{keep, keep, 0}, {0, 0, 0}};
	if (syscall(SYS_capset, &h, d) < 0)
		return step_fail(s, "capset", NULL);
	// A service under the same user namespace could otherwise rewrite pid 1 through
	// /proc/1/mem (ptrace(2), access mode checking).
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return step_fail(s, "set not dumpable", NULL);
	// Set by the launcher; a filter without it would need a privilege that is gone.
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return step_fail(s, "no_new_privs", NULL);
	return load_filter(floor, "floor filter", s);
}

static int add_rule(int ruleset, int fd, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {access, fd};
	struct stat st;

	// Rights of directories on a file are EINVAL: leaving them out only tightens.
	if (fstat(fd, &st) < 0)
		return -1;
	if (!S_ISDIR(st.st_mode))
		rule.allowed_access &= LANDLOCK_OF_FILES;
	if (rule.allowed_access == 0)
		return 0;
	return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

int setup_landlock(const struct lease *l, int program, struct step *s)
{
	struct landlock_ruleset_attr attr = {l->landlock_fs, 0, l->landlock_scoped};

	if (!l->landlock_fs && !l->landlock_scoped)
		return -2;
	// A system without scopes knows only the first fields.
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr,
				   attr.scoped ? sizeof attr : sizeof attr.handled_access_fs, 0);
	if (ruleset < 0)
		return step_fail(s, "landlock", NULL);
	for (size_t i = 0; i < l->n_rules; i++) {
		int fd = open(l->rules[i].path, O_PATH | O_CLOEXEC);
		if (fd < 0 || add_rule(ruleset, fd, l->rules[i].access) < 0) {
			step_fail(s, "landlock", l->rules[i].path);
			close(ruleset);
			return -1;
		}
		close(fd);
	}
	if (add_rule(ruleset, program, (LANDLOCK_EXECUTE | LANDLOCK_READ_FILE) & l->landlock_fs) < 0) {
		step_fail(s, "landlock", l->program);
		close(ruleset);
		return -1;
	}
	return ruleset;
}
