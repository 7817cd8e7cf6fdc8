/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes, ports, files.
 */
#include "kit/kit.h"

#include "kit/internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HERE __FILE__, __LINE__

int kit_free_port(void)
{
	struct sockaddr_in addr = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, len) != 0 ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) != 0)
		kit_fail(HERE, "no free port: %m");
	close(fd);
	return ntohs(addr.sin_port);
}

/* In the child: ends with the test, whatever happens to that. */
static void die_with(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
}

pid_t kit_spawn(const char *const argv[], int *stdout_fd)
{
	int out[2] = {-1, -1}, trouble[2];
	pid_t parent = getpid();
	int err = 0;

	if (pipe2(trouble, O_CLOEXEC) != 0 || (stdout_fd != NULL && pipe2(out, O_CLOEXEC) != 0))
		kit_fail(HERE, "no pipe: %m");
	pid_t pid = fork();
	if (pid < 0)
		kit_fail(HERE, "no process: %m");
	if (pid == 0) {
		die_with(parent);
		if (stdout_fd == NULL || dup2(out[1], STDOUT_FILENO) >= 0)
			execvp(argv[0], (char *const *)(uintptr_t)argv);
		err = errno;
		if (write(trouble[1], &err, sizeof(err)) < 0)
			_exit(126);
		_exit(127);
	}

	/* The pipe closes when the program has been started: then there is nothing to read. */
	close(trouble[1]);
	ssize_t len = read(trouble[0], &err, sizeof(err));
	close(trouble[0]);
	if (stdout_fd != NULL)
		close(out[1]);
	if (len != 0) {
		waitpid(pid, NULL, 0);
		if (stdout_fd != NULL)
			close(out[0]);
		kit_fail(HERE, "cannot start %s: %s", argv[0], strerror(err));
	}
	if (stdout_fd != NULL)
		*stdout_fd = out[0];
	return pid;
}

size_t kit_read_all(int fd, char *text, size_t size)
{
	char spill[256];
	size_t len = 0;
	ssize_t got;

	do {
		bool full = len + 1 >= size;

		got = full ? read(fd, spill, sizeof(spill)) : read(fd, text + len, size - 1 - len);
		if (got > 0 && !full)
			len += (size_t)got;
	} while (got > 0 || (got < 0 && errno == EINTR));
	close(fd);
	text[len] = 0;
	return len;
}

pid_t kit_fork(int (*run)(void *user), void *user)
{
	pid_t parent = getpid();
	pid_t pid;

	fflush(NULL); /* else the child's copy would be written, too */
	pid = fork();
	if (pid < 0)
		kit_fail(HERE, "no process: %m");
	if (pid == 0) {
		die_with(parent);
		_exit(run(user));
	}
	return pid;
}

void kit_kill(pid_t pid, int signal_number)
{
	if (kill(pid, signal_number) != 0)
		kit_fail(
		    HERE, "cannot send signal %d to process %ld: %m", signal_number, (long)pid);
}

struct child {
	pid_t pid;
	int status;
};

static bool has_ended(void *user)
{
	struct child *child = user;
	pid_t pid = waitpid(child->pid, &child->status, WNOHANG);

	if (pid < 0)
		kit_fail(HERE, "cannot wait for process %ld: %m", (long)child->pid);
	return pid == child->pid;
}

int kit_wait_exit(pid_t pid, int ms)
{
	struct child child = {.pid = pid};

	if (!kit_becomes_true(has_ended, &child, ms)) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		kit_fail(HERE, "process %ld did not end within %d ms", (long)pid, ms);
	}
	return WIFSIGNALED(child.status) ? 128 + WTERMSIG(child.status) : WEXITSTATUS(child.status);
}

static char tmpdir[256];

void kit_tmpdir_before(void)
{
	tmpdir[0] = 0; /* one that a failed test has left stays, to be looked at */
}

const char *kit_tmpdir(void)
{
	const char *base = getenv("TMPDIR");

	if (tmpdir[0] != 0)
		return tmpdir;
	snprintf(tmpdir, sizeof(tmpdir), "%s/kvpipe-test-XXXXXX", base != NULL ? base : "/tmp");
	if (mkdtemp(tmpdir) == NULL)
		kit_fail(HERE, "cannot make the directory %s: %m", tmpdir);
	return tmpdir;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

void kit_tmpdir_after(void)
{
	if (tmpdir[0] != 0 && nftw(tmpdir, remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0)
		kit_fail(HERE, "cannot remove %s: %m", tmpdir);
	tmpdir[0] = 0;
}
