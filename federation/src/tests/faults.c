/* A disk that fails on demand: an LD_PRELOAD shim for files below FAULTS_ROOT. While the file FAULTS_WHEN exists, the
 * calls it names fail. It holds "<error number> <calls> <text>"; paths with the text in them are meant. Calls are any of
 * w (write), o (open for writing, create, rename, remove, truncate), s (fsync, fdatasync); with - behind them only the
 * next such call fails and the file is removed. Error number 0 means that they never return.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int below_root(const char *path)
{
	const char *root = getenv("FAULTS_ROOT");
	return root && !strncmp(path, root, strlen(root));
}

/* The error for a call of this kind on this path, else 0. */
static int fault(const char *path, char kind)
{
	const char *when = getenv("FAULTS_WHEN");
	char text[64];
	int error;
	if (!when || !below_root(path))
		return 0;
	int fd = open(when, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	char calls[32], part[32];
	if (sscanf(text, "%d %31s %31s", &error, calls, part) != 3)
		return 0;
	if (!strchr(calls, kind) || !strstr(path, part))
		return 0;
	if (strchr(calls, '-'))
		unlinkat(AT_FDCWD, when, 0);
	while (error == 0)
		pause();
	return error;
}

static int fault_fd(int fd, char kind)
{
	char self[64], path[PATH_MAX];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(self, path, sizeof path - 1);
	path[n < 0 ? 0 : n] = 0;
	return fault(path, kind);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(test)               \
	do {                        \
		int error_ = (test); \
		if (error_) {        \
			errno = error_; \
			return -1;   \
		}                    \
	} while (0)

ssize_t write(int fd, const void *bytes, size_t n)
{
	FAIL_IF(fault_fd(fd, 'w'));
	return REAL(write)(fd, bytes, n);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
	FAIL_IF(fault_fd(fd, 'w'));
	return REAL(pwrite64)(fd, bytes, n, at);
}

int fsync(int fd)
{
	FAIL_IF(fault_fd(fd, 's'));
	return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
	FAIL_IF(fault_fd(fd, 's'));
	return REAL(fdatasync)(fd);
}

int open64(const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	mode_t mode = va_arg(args, mode_t);
	va_end(args);
	if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
		FAIL_IF(fault(path, 'o'));
	return REAL(open64)(path, flags, mode);
}

int rename(const char *from, const char *to)
{
	FAIL_IF(fault(to, 'o'));
	return REAL(rename)(from, to);
}

int unlink(const char *path)
{
	FAIL_IF(fault(path, 'o'));
	return REAL(unlink)(path);
}

int ftruncate64(int fd, off64_t length)
{
	FAIL_IF(fault_fd(fd, 'o'));
	return REAL(ftruncate64)(fd, length);
}
