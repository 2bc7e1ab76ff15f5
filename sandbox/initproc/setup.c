#define _GNU_SOURCE
#include "setup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
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

void (*on_death)(const struct step *s);

_Noreturn void die(const char *name, const char *path)
{
	struct step s;

	step_fail(&s, name, path);
	on_death(&s);
	_exit(1);
}

// failed sets errno and returns -1.
static int failed(int errnum)
{
	errno = errnum;
	return -1;
}

// enter opens one directory component without leaving the sandbox's root. A symbolic
// link is followed only where the sandbox itself put it, on the root's own file
// system (/lib64): one inside a volume was made by a service.
static int enter(int dir, const char *prefix, const char *name)
{
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), root;
	struct stat st, parent, top;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (S_ISDIR(st.st_mode))
		return fd;
	close(fd);
	if (!S_ISLNK(st.st_mode))
		return failed(ENOTDIR);
	if (fstat(dir, &parent) < 0 || stat("/", &top) < 0 || parent.st_dev != top.st_dev)
		return failed(ELOOP);
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	if ((root = open("/", O_PATH | O_CLOEXEC)) < 0)
		return -1;
	fd = (int)syscall(SYS_openat2, root, prefix, &how, sizeof how);
	close(root);
	return fd;
}

// walk opens the directory that holds path's last component, making what is missing,
// and stores that component in name. The path is absolute and has no "..". A failure
// ends the process: what is open then is not closed.
static int walk(const char *path, char name[256])
{
	char prefix[4096];
	size_t at = 0;
	int dir = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (path[0] != '/' || strlen(path) >= sizeof prefix)
		return failed(EINVAL);
	name[0] = 0;
	while (dir >= 0) {
		while (path[at] == '/')
			at++;
		size_t len = strcspn(path + at, "/");
		if (len == 0)
			return name[0] ? dir : failed(EINVAL);
		if (len > 255 || (path[at] == '.' && (len == 1 || (len == 2 && path[at + 1] == '.'))))
			return failed(EINVAL);
		if (name[0]) {
			memcpy(prefix, path, at);
			prefix[at] = 0;
			if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
				return -1;
			int next = enter(dir, prefix, name);
			close(dir);
			dir = next;
		}
		memcpy(name, path + at, len);
		name[len] = 0;
		at += len;
	}
	return -1;
}

// mount_point opens the place a mount goes to, made if missing.
static int mount_point(const char *path, int is_directory)
{
	char name[256];
	int dir = walk(path, name), fd = -1;

	if (dir < 0)
		return -1;
	if (is_directory) {
		if (mkdirat(dir, name, 0755) == 0 || errno == EEXIST)
			fd = enter(dir, path, name);
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

static void attach(const struct lease_mount *m, int mount)
{
	int fd = mount_point(m->target, m->directory);

	if (fd < 0)
		die("mount point", m->target);
	if (syscall(SYS_move_mount, mount, "", fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		die("move_mount", m->target);
	close(fd);
}

static void directory(const char *path)
{
	int fd = mount_point(path, 1);

	if (fd < 0)
		die("directory", path);
	close(fd);
}

// copy writes the whole content of from, a regular file of fixed size, to to.
static int copy(int from, int to)
{
	struct stat st;

	if (fstat(from, &st) < 0)
		return -1;
	if (!S_ISREG(st.st_mode))
		return failed(EINVAL);
	for (off_t at = 0; at < st.st_size;) {
		ssize_t n = sendfile(to, from, &at, (size_t)(st.st_size - at));
		if (n <= 0)
			return n < 0 ? -1 : failed(EIO);
	}
	return 0;
}

static void file(const struct lease_file *f, int content)
{
	char name[256];
	int dir = walk(f->path, name), fd;

	if (dir < 0)
		die("file", f->path);
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (fd < 0 || copy(content, fd) < 0 || fchmod(fd, f->mode) < 0)
		die("file", f->path);
	close(dir);
	close(fd);
}

// cover_proc hides everything but process directories: what lies below stays
// reachable for nobody, since the service cannot unmount.
static void cover_proc(void)
{
	int fs = (int)syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC);

	if (fs < 0)
		die("fsopen", "/proc");
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "subset", "pid", 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		die("fsconfig", "/proc");
	int mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
				 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (mount < 0)
		die("fsmount", "/proc");
	if (syscall(SYS_move_mount, mount, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		die("move_mount", "/proc");
	close(mount);
	close(fs);
}

static int bind_notify(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "/run/notify"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		die("socket", a.sun_path);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(a.sun_path, 0777) < 0)
		die("bind", a.sun_path);
	return fd;
}

int setup_root(const struct lease *l, const int *mounts, const int *files)
{
	for (size_t i = 0; i < l->n_mounts; i++)
		attach(&l->mounts[i], mounts[i]);
	for (size_t i = 0; i < l->n_directories; i++)
		directory(l->directories[i]);
	for (size_t i = 0; i < l->n_files; i++)
		file(&l->files[i], files[i]);
	cover_proc();
	int notify = bind_notify();
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY};
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &ro, sizeof ro) < 0)
		die("mount_setattr", "/");
	return notify;
}

void load_filter(const struct filter *f, const char *name)
{
	struct {
		unsigned short len;
		const struct filter_insn *insns;
	} prog = {(unsigned short)f->n, f->insns};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		die(name, NULL);
}

void setup_privileges(const struct filter *floor)
{
	// capabilities(7): bounding set first, while SETPCAP is still there.
	for (unsigned long c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			die("bounding set", NULL);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		die("ambient set", NULL);
	struct cap_header h = {CAP_VERSION_3, 0};
	uint32_t keep = 1u << CAP_KILL | 1u << CAP_SETUID | 1u << CAP_SETGID;
	struct cap_data d[2] = {{keep, keep, 0}, {0, 0, 0}};
	if (syscall(SYS_capset, &h, d) < 0)
		die("capset", NULL);
	// A service under the same user namespace could otherwise rewrite pid 1 through
	// /proc/1/mem (ptrace(2), access mode checking).
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		die("set not dumpable", NULL);
	// Set by the launcher; a filter without it would need a privilege that is gone.
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("no_new_privs", NULL);
	load_filter(floor, "floor filter");
}

static void add_rule(int ruleset, int fd, uint64_t access, const char *path)
{
	struct landlock_path_beneath_attr rule = {access, fd};
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("landlock", path);
	// Rights of directories on a file are EINVAL: leaving them out only tightens.
	if (!S_ISDIR(st.st_mode))
		rule.allowed_access &= LANDLOCK_OF_FILES;
	if (rule.allowed_access && syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		die("landlock", path);
}

int setup_landlock(const struct lease *l, int program)
{
	struct landlock_ruleset_attr attr = {l->landlock_fs, 0, l->landlock_scoped};

	if (!l->landlock_fs && !l->landlock_scoped)
		return -1;
	// A system without scopes knows only the first fields.
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr,
				   attr.scoped ? sizeof attr : sizeof attr.handled_access_fs, 0);
	if (ruleset < 0)
		die("landlock", NULL);
	for (size_t i = 0; i < l->n_rules; i++) {
		int fd = open(l->rules[i].path, O_PATH | O_CLOEXEC);
		add_rule(ruleset, fd, l->rules[i].access, l->rules[i].path);
		close(fd);
	}
	add_rule(ruleset, program, (LANDLOCK_EXECUTE | LANDLOCK_READ_FILE) & l->landlock_fs, l->program);
	return ruleset;
}
