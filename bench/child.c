/* SPDX-License-Identifier: Apache-2.0
 *
 * Child processes that nothing is left of: each dies with its parent, at its deadline, or when it is joined.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

/* Not joined yet, and this process's ends of their pipes. */
static struct {
	pid_t pid;
	int in, out;
} running[BENCH_CHILDREN_MAX];
static size_t running_count;

static void forget(pid_t pid)
{
	for (size_t i = 0; i < running_count; i++) {
		if (running[i].pid == pid) {
			running[i] = running[--running_count];
			return;
		}
	}
}

void bench_kill_children(void)
{
	for (size_t i = 0; i < running_count; i++)
		kill(running[i].pid, SIGKILL);
	while (running_count > 0) {
		while (waitpid(running[running_count - 1].pid, NULL, 0) < 0 && errno == EINTR)
			;
		running_count--;
	}
}

bool bench_read_all(int fd, void *data, size_t bytes)
{
	unsigned char *at = data;

	while (bytes > 0) {
		const ssize_t n = read(fd, at, bytes);

		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
		if (n > 0) {
			at += n;
			bytes -= (size_t)n;
		}
	}
	return true;
}

bool bench_write_all(int fd, const void *data, size_t bytes)
{
	const unsigned char *at = data;

	while (bytes > 0) {
		const ssize_t n = write(fd, at, bytes);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			at += n;
			bytes -= (size_t)n;
		}
	}
	return true;
}

static void __attribute__((noreturn))
be_child(const bench_run *run, pid_t parent, bench_child_main body, void *user, int in, int out)
{
	int code;

	/* The parent may have died before the first line takes effect. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
		_exit(EXIT_FAILURE);
	/* SIGALRM ends the process, whatever it is stuck in. */
	alarm((unsigned)run->timeout_s);
	/* Those are siblings: as long as their pipes are open here, they do not hear that their parent has closed them. */
	while (running_count > 0) {
		close(running[--running_count].in);
		close(running[running_count].out);
	}
	code = body(user, in, out);
	fflush(NULL);
	_exit(code);
}

bool bench_spawn(const bench_run *run, bench_child *child, const char *what, bench_child_main body, void *user)
{
	const pid_t parent = getpid();
	int up[2] = {-1, -1}, down[2] = {-1, -1};

	*child = (bench_child){.pid = -1, .in = -1, .out = -1};
	snprintf(child->what, sizeof(child->what), "%s", what);
	if (running_count == BENCH_CHILDREN_MAX)
		return bench_complain("%s: more than %d child processes", what, BENCH_CHILDREN_MAX);
	if (pipe2(up, O_CLOEXEC) != 0 || pipe2(down, O_CLOEXEC) != 0) {
		bench_complain("%s: cannot make a pipe: %s", what, strerror(errno));
		goto err_pipes;
	}
	fflush(NULL); /* what is buffered would be written twice */
	child->pid = fork();
	if (child->pid < 0) {
		bench_complain("%s: cannot fork: %s", what, strerror(errno));
		goto err_pipes;
	}
	if (child->pid == 0) {
		close(up[0]);
		close(down[1]);
		be_child(run, parent, body, user, down[0], up[1]);
	}
	close(up[1]);
	close(down[0]);
	child->in = up[0];
	child->out = down[1];
	running[running_count].pid = child->pid;
	running[running_count].in = child->in;
	running[running_count++].out = child->out;
	child->deadline_ns = bench_now_ns() + (int64_t)run->timeout_s * 1000000000;
	return true;

err_pipes:
	for (int i = 0; i < 2; i++) {
		if (up[i] >= 0)
			close(up[i]);
		if (down[i] >= 0)
			close(down[i]);
	}
	return false;
}

static int left_ms(const bench_child *child)
{
	const int64_t left = (child->deadline_ns - bench_now_ns()) / 1000000;

	return left < 0 ? 0 : (int)left;
}

bool bench_hear(bench_child *child, void *data, size_t bytes)
{
	unsigned char *at = data;

	while (bytes > 0) {
		struct pollfd wait = {.fd = child->in, .events = POLLIN};
		const int ready = poll(&wait, 1, left_ms(child));
		ssize_t n;

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			return bench_complain("%s does not answer", child->what);
		n = read(child->in, at, bytes);
		if (n == 0 || (n < 0 && errno != EINTR))
			return bench_complain("%s has ended too early", child->what);
		if (n > 0) {
			at += n;
			bytes -= (size_t)n;
		}
	}
	return true;
}

/* Orders are short: they fit into the pipe's buffer of 64 KiB, so that this does not block. */
bool bench_tell(bench_child *child, const void *data, size_t bytes)
{
	return bench_write_all(child->out, data, bytes) || bench_complain("%s has ended too early", child->what);
}

bool bench_join(bench_child *child)
{
	const struct timespec nap = {.tv_nsec = 1000000};
	int status = 0;
	pid_t got;

	if (child->pid <= 0)
		return false;
	close(child->out); /* whoever waits for orders hears that there are none any more */
	while ((got = waitpid(child->pid, &status, WNOHANG)) == 0 && left_ms(child) > 0)
		nanosleep(&nap, NULL);
	if (got == 0) {
		bench_complain("%s does not end; it is killed", child->what);
		kill(child->pid, SIGKILL);
		while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
			;
	} else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		bench_complain("%s failed (%s %d)", child->what, WIFEXITED(status) ? "exit code" : "signal",
		               WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	}
	close(child->in);
	forget(child->pid);
	child->pid = -1;
	return got > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
