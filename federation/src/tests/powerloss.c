/* What a power cut would leave: an LD_PRELOAD shim that keeps, under POWERLOSS_SHADOW, every file below POWERLOSS_ROOT
 * as of its last fsync or fdatasync, and every directory's entries as of the last fsync of that directory. sync_file_range
 * counts for nothing. powerloss.rs builds a directory from it once the process is dead.
 *
 * files/<key> is a file's content, dirs/<key> a directory's list of "kind key name" lines; a key is inode and birth time.
 * Both are replaced whole, so that a kill in the middle leaves the earlier state.
 *
 * POWERLOSS_IGNORE=<names>  fdatasync of files of these names, each between two slashes, does nothing.
 * POWERLOSS_DIE_AT=<n>      the process kills itself at point n: 2k - 1 lies before its k-th sync counts, 2k after it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long syncs;

static void broken(const char *what)
{
	dprintf(2, "powerloss: %s: %s\n", what, strerror(errno));
	kill(getpid(), SIGABRT);
}

static void key_of(int at, const char *name, char key[80])
{
	struct statx s;
	if (statx(at, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &s) != 0) {
		key[0] = 0; /* gone in the meantime */
		return;
	}
	snprintf(key, 80, "%llx-%llx-%x", (unsigned long long)s.stx_ino,
		 (unsigned long long)s.stx_btime.tv_sec, s.stx_btime.tv_nsec);
}

static void write_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t done = write(fd, bytes, n);
		if (done <= 0)
			broken("write");
		bytes += done;
		n -= done;
	}
}

static void keep_file(int from, int to)
{
	static char buffer[1 << 18];
	off_t at = 0;
	ssize_t n;
	while ((n = pread(from, buffer, sizeof buffer, at)) > 0) {
		write_all(to, buffer, n);
		at += n;
	}
	if (n < 0)
		broken("read");
}

static void keep_dir(const char *path, int to)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	if (!dir)
		broken("opendir");
	while ((e = readdir(dir))) {
		struct stat s;
		char key[80], line[512];
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		key_of(dirfd(dir), e->d_name, key);
		if (!key[0] || fstatat(dirfd(dir), e->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0)
			continue;
		int n = snprintf(line, sizeof line, "%c %s %s\n", S_ISDIR(s.st_mode) ? 'd' : 'f', key, e->d_name);
		write_all(to, line, n);
	}
	closedir(dir);
}

static void keep(int fd, const char *path, const char *root, const char *shadow)
{
	struct stat s;
	char key[80], temporary[PATH_MAX], whole[PATH_MAX];
	if (fstat(fd, &s) != 0)
		broken("fstat");
	int is_dir = S_ISDIR(s.st_mode);
	if (is_dir && !strcmp(path, root))
		strcpy(key, "root");
	else
		key_of(fd, "", key);
	/* Written by descriptor, so it may be open for writing only. */
	char self[64];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	snprintf(temporary, sizeof temporary, "%s/temporary", shadow);
	snprintf(whole, sizeof whole, "%s/%s/%s", shadow, is_dir ? "dirs" : "files", key);
	int to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to < 0)
		broken(temporary);
	if (is_dir) {
		keep_dir(path, to);
	} else {
		int from = open(self, O_RDONLY | O_CLOEXEC);
		if (from < 0)
			broken(self);
		keep_file(from, to);
		close(from);
	}
	close(to);
	if (rename(temporary, whole) != 0)
		broken(whole);
}

/* The true sync is left out: only what the shadow holds counts, and the test is faster. */
static int synced(int fd, int data_only)
{
	const char *root = getenv("POWERLOSS_ROOT"), *shadow = getenv("POWERLOSS_SHADOW");
	const char *ignore = getenv("POWERLOSS_IGNORE"), *die_at = getenv("POWERLOSS_DIE_AT");
	char self[64], path[PATH_MAX];
	if (!root || !shadow) {
		errno = ENOSYS;
		return -1;
	}
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(self, path, sizeof path - 1);
	if (n < 0)
		return -1;
	path[n] = 0;
	size_t length = strlen(root);
	if (strncmp(path, root, length) != 0 || (path[length] && path[length] != '/'))
		return 0;
	char name[NAME_MAX + 3];
	snprintf(name, sizeof name, "%s/", strrchr(path, '/'));
	if (ignore && data_only && strstr(ignore, name))
		return 0;
	long last = die_at ? atol(die_at) : 0;
	pthread_mutex_lock(&lock);
	syncs++;
	if (last > 0 && syncs == (last + 1) / 2 && last % 2 == 1)
		kill(getpid(), SIGKILL);
	keep(fd, path, root, shadow);
	if (last > 0 && syncs == last / 2 && last % 2 == 0)
		kill(getpid(), SIGKILL);
	pthread_mutex_unlock(&lock);
	return 0;
}

int fsync(int fd)
{
	return synced(fd, 0);
}

int fdatasync(int fd)
{
	return synced(fd, 1);
}
