/* SPDX-License-Identifier: Apache-2.0
 *
 * Redis, to have a known figure beside ours: a server of our own on a free loopback port, asked over a raw
 * socket in its protocol.  What is not installed is not measured.
 */
#ifndef BENCH_BARE_REDIS_H
#define BENCH_BARE_REDIS_H

#include <stddef.h>
#include <sys/types.h>

/* Starts redis-server without persistence.  Its pid, or -1 when there is none to start, or it does not answer. */
pid_t redis_start(int *port);
void redis_stop(pid_t pid);

/* A connection, or -1. */
int redis_connect(int port);
/* 0 when the answer was as it should be: OK, or a value of `len` bytes. */
int redis_set(int fd, const char *key, const void *value, size_t len);
int redis_get(int fd, const char *key, size_t len);

#endif
