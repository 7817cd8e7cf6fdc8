/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of the library block all signals (the host's handlers run on the host's threads), have a
 * name, and wait on monotonic deadlines.  A handle remembers its process: after fork() the child
 * has the memory but not the threads, so every public call checks kvpi_handle_check first.
 */
#ifndef KVPI_BASE_THREAD_H
#define KVPI_BASE_THREAD_H

#include <kvpipe/status.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Starts a thread with all signals blocked but those of a crash (SIGSEGV and its like, so that the
 * host's crash handler still runs); name at most 15 characters ("kvp-pipe-0"), cut beyond. */
kvp_status kvpi_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg);

/* A condition variable on CLOCK_MONOTONIC. */
kvp_status kvpi_cond_init(pthread_cond_t *cond);

/* Waits until signalled or until the deadline; false when the deadline has passed.  May wake for no
 * reason, as always.  deadline_ns may be KVPI_NEVER. */
bool kvpi_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ns);

/* In a loop that looks for news: tells the CPU so. */
static inline void kvpi_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* Lets that time pass: for repeating what can only be repeated, never to wait for something in particular. */
void kvpi_pause_ms(int ms);

/* First member of every public handle. */
typedef struct kvpi_handle {
	uint32_t magic;
	pid_t pid;
} kvpi_handle;

void kvpi_handle_init(kvpi_handle *handle, uint32_t magic);

/* KVP_OK; KVP_E_INVALID when NULL or of another kind; KVP_E_FORKED in a child.  `call` is the public
 * function's name for the sentence. */
kvp_status kvpi_handle_check(const kvpi_handle *handle, uint32_t magic, const char *call);

/* True in the process that made the handle. */
bool kvpi_handle_is_mine(const kvpi_handle *handle);

/* Makes later checks fail: called by free. */
void kvpi_handle_fini(kvpi_handle *handle);

#endif
