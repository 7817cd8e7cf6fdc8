/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct start {
	void *(*run)(void *);
	void *arg;
	char name[16];
};

static void *trampoline(void *user)
{
	struct start start = *(struct start *)user;

	free(user);
	prctl(PR_SET_NAME, start.name);
	return start.run(start.arg);
}

/* All signals but those that a thread raises by its own mistake: blocked, they would kill the
 * process past the host's crash handler, and no back trace would be left. */
static void fill_mask(sigset_t *mask)
{
	static const int crash[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};

	sigfillset(mask);
	for (size_t i = 0; i < sizeof(crash) / sizeof(crash[0]); i++)
		sigdelset(mask, crash[i]);
}

kvp_status kvpi_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
	struct start *start = KVPI_NEW(struct start);
	sigset_t mask, old;
	int err;

	if (start == NULL)
		return kvpi_error_nomem("starting a thread");
	start->run = run;
	start->arg = arg;
	snprintf(start->name, sizeof(start->name), "%s", name);

	/* A new thread inherits the mask: set here, there is no moment in which it is open. */
	fill_mask(&mask);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	err = kvpi_fault("thread.start") ? EAGAIN : pthread_create(thread, NULL, trampoline, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err != 0) {
		free(start);
		errno = err;
		return kvpi_error_errno("cannot start the thread %s", name);
	}
	return KVP_OK;
}

kvp_status kvpi_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err == 0) {
		err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
		if (err == 0)
			err = kvpi_fault("cond.init") ? ENOMEM : pthread_cond_init(cond, &attr);
		pthread_condattr_destroy(&attr);
	}
	if (err != 0) {
		errno = err;
		return kvpi_error_errno("cannot make a condition variable");
	}
	return KVP_OK;
}

bool kvpi_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ns)
{
	struct timespec ts;

	if (deadline_ns == KVPI_NEVER) {
		pthread_cond_wait(cond, mutex);
		return true;
	}
	if (deadline_ns < 0)
		deadline_ns = 0; /* before the clock began; a negative tv_nsec would be an error */
	ts.tv_sec = (time_t)(deadline_ns / KVPI_NS_PER_S);
	ts.tv_nsec = (long)(deadline_ns % KVPI_NS_PER_S);
	return pthread_cond_timedwait(cond, mutex, &ts) != ETIMEDOUT;
}

/* getpid is a system call, and every public call asks: the answer is kept until a fork. */
static atomic_int known_pid;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void keep_pid(void)
{
	atomic_store_explicit(&known_pid, getpid(), memory_order_relaxed);
}

static void watch(void)
{
	/* Without memory for the handler nothing is kept. */
	if (pthread_atfork(NULL, NULL, keep_pid) == 0)
		keep_pid();
}

static pid_t own_pid(void)
{
	pid_t pid = atomic_load_explicit(&known_pid, memory_order_relaxed);

	if (pid != 0)
		return pid;
	pthread_once(&watch_forks, watch);
	return getpid();
}

void kvpi_handle_init(kvpi_handle *handle, uint32_t magic)
{
	handle->magic = magic;
	handle->pid = own_pid();
}

kvp_status kvpi_handle_check(const kvpi_handle *handle, uint32_t magic, const char *call)
{
	if (handle == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: the handle is NULL", call);
	if (handle->magic != magic)
		return kvpi_error(
		    KVP_E_INVALID, "%s: the handle is freed or of another kind", call);
	if (!kvpi_handle_is_mine(handle))
		return kvpi_error(KVP_E_FORKED,
		    "%s: the handle belongs to process %ld, this is a child after fork(); "
		    "open one of its own here",
		    call, (long)handle->pid);
	return KVP_OK;
}

bool kvpi_handle_is_mine(const kvpi_handle *handle)
{
	return handle->pid == own_pid();
}

void kvpi_handle_fini(kvpi_handle *handle)
{
	handle->magic = 0;
}

void kvpi_pause_ms(int ms)
{
	struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};

	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		continue;
}
