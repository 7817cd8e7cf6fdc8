/* SPDX-License-Identifier: Apache-2.0
 *
 * Two ends that move bytes from side 0 to side 1, and do what they are ordered: ours (pipe_end.c) and the bare ones
 * (bare_*.c) obey the same orders, so that both are measured in the same way.
 *
 * Each side runs in a child process; two sides that must share a process are two threads of one child.  They meet
 * like this: side 0 says its address, the parent hands it to side 1, then both say hello.
 */
#ifndef BENCH_ENDS_H
#define BENCH_ENDS_H

#include "bench.h"

#define BENCH_WINDOW_MAX 32
#define BENCH_ROW_BYTES 4096 /* of a strided tensor: each row is followed by a gap as long */

typedef enum bench_job {
	BENCH_ONE_WAY,   /* side 0 sends `count` stamped items, each when the one before has arrived; side 1 replies with the
	                    median and the 99th percentile of the time from send to received, nanoseconds */
	BENCH_PING_PONG, /* side 1 sends each item back; side 0 replies with the median of half a round trip, nanoseconds */
	BENCH_STREAM,    /* `count` items with `window` in flight; side 0 replies with the seconds until all have arrived */
	BENCH_POST       /* `count` sends in bursts of `window`; side 0 replies with: the median of one call, nanoseconds; most
	                    allocations of one call; most writes of one call; mean of writes.  Only ours knows this one */
} bench_job;

typedef struct bench_order {
	bench_job job;
	bool shared;    /* memory that processes can share (kvp_mem_alloc); else private memory */
	bool strided;   /* rows with gaps at side 0, dense at side 1 */
	uint64_t bytes; /* of an item, without gaps; at least 8 */
	uint64_t count;
	uint64_t window; /* at most BENCH_WINDOW_MAX */
	uint64_t seed;   /* of the bytes that side 0 sends */
} bench_order;

#define BENCH_FIGURES 4
typedef struct bench_reply {
	double figure[BENCH_FIGURES];
} bench_reply;

typedef struct bench_hello {
	char text[2048]; /* which way it goes */
} bench_hello;

typedef struct bench_address {
	char text[256]; /* a url, a port */
} bench_address;

typedef enum bench_shape {
	BENCH_TWO_PROCESSES,
	BENCH_TWO_THREADS, /* of one process */
	BENCH_ALONE        /* side 0 does it all */
} bench_shape;

/* One side: meets (bench_meet), obeys (bench_next_order, bench_answer) until there are no more orders.  The exit code. */
typedef int (*bench_side)(const void *setup, int side, int in, int out);

typedef struct bench_ends {
	bench_shape shape;
	bench_child side[2]; /* with two threads both have one pid, and only the first is joined */
} bench_ends;

/* In the parent.  `setup` stays valid while this call runs.  hello (may be NULL) gets what side 0 says. */
bool bench_ends_start(const bench_run *run, bench_ends *ends, const char *what, bench_shape shape, bench_side body,
                      const void *setup, bench_hello *hello);
bool bench_ends_order(bench_ends *ends, const bench_order *order, bench_reply reply[2]);
bool bench_ends_stop(bench_ends *ends);

/* A bench_measure over an order: one figure of one side's reply, multiplied or divided. */
typedef struct bench_task {
	bench_ends *ends;
	bench_order order;
	int side, figure;
	double per;   /* the value is figure / per ... */
	double total; /* ... or, if this is set, total / figure */
} bench_task;
bool bench_task_measure(void *user, double *value);

/* ---- in a side ---- */

/* Side 0 gives its address, side 1 gets it. */
bool bench_meet(int side, int in, int out, bench_address *address);
bool bench_say_hello(int out, const bench_hello *hello);

/* False when there are no more. */
bool bench_next_order(int in, bench_order *order);

/* Side 1, before anything is sent to it: it is ready. */
bool bench_ready(int out);
bool bench_answer(int out, const bench_reply *reply);

/* The memory of a side's items, kept from order to order while bytes, kind and number are the same: what was measured
 * before is warm, as in a program that goes on. */
typedef struct bench_pool {
	bool shared;
	uint64_t bytes, count;
	void *item[BENCH_WINDOW_MAX];
} bench_pool;

bool bench_pool_get(bench_pool *pool, uint64_t bytes, uint64_t count, bool shared, uint64_t seed);
void bench_pool_free(bench_pool *pool);

/* Bytes of one item as it lies at side 0. */
uint64_t bench_span(const bench_order *order);

/* Do the items of side 1 hold what side 0 has? */
bool bench_all_arrived(const bench_pool *pool, const bench_order *order);

/* The bare sides. */
int bench_bare_zmq(const void *setup, int side, int in, int out);    /* tcp; one way, ping-pong */
int bench_bare_tcp(const void *setup, int side, int in, int out);    /* stream */
int bench_bare_memcpy(const void *setup, int side, int in, int out); /* stream, alone */
int bench_bare_readv(const void *setup, int side, int in, int out);  /* stream, alone; setup: the bench_run */

#endif
