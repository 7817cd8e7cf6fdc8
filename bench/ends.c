/* SPDX-License-Identifier: Apache-2.0 */
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the parent ---- */

/* What a child gets; the second side's descriptors with two threads only. */
typedef struct beginning {
	bench_side body;
	const void *setup;
	bool threads;
	int parents[2]; /* the parent's ends of the second thread's pipes: not for the child */
	int side, in, out, code;
} beginning;

static void *second_thread(void *user)
{
	beginning *const second = user;

	second->code = second->body(second->setup, 1, second->in, second->out);
	return NULL;
}

static int child_main(void *user, int in, int out)
{
	beginning *const second = user;
	pthread_t thread;
	int code;

	if (!second->threads)
		return second->body(second->setup, second->side, in, out);
	close(second->parents[0]);
	close(second->parents[1]);
	if (pthread_create(&thread, NULL, second_thread, second) != 0)
		return EXIT_FAILURE;
	code = second->body(second->setup, 0, in, out);
	pthread_join(thread, NULL);
	return code != 0 ? code : second->code;
}

static void close_pair(const int fd[2])
{
	for (int i = 0; i < 2; i++) {
		if (fd[i] >= 0)
			close(fd[i]);
	}
}

/* The second thread's pipes exist before the fork; the parent then keeps its ends of them. */
static bool spawn_two_threads(const bench_run *run, bench_ends *ends, const char *what, beginning *first)
{
	int up[2] = {-1, -1}, down[2] = {-1, -1};

	if (pipe2(up, O_CLOEXEC) != 0 || pipe2(down, O_CLOEXEC) != 0) {
		bench_complain("%s: cannot make a pipe: %s", what, strerror(errno));
		goto err_pipes;
	}
	first->threads = true;
	first->in = down[0];
	first->out = up[1];
	first->parents[0] = up[0];
	first->parents[1] = down[1];
	if (!bench_spawn(run, &ends->side[0], what, child_main, first))
		goto err_pipes;
	close(down[0]);
	close(up[1]);
	ends->side[1] = ends->side[0];
	ends->side[1].in = up[0];
	ends->side[1].out = down[1];
	return true;

err_pipes:
	close_pair(up);
	close_pair(down);
	return false;
}

static bool spawn(const bench_run *run, bench_ends *ends, const char *what, bench_side body, const void *setup)
{
	const int processes = ends->shape == BENCH_TWO_PROCESSES ? 2 : 1;
	beginning begin = {.body = body, .setup = setup};

	if (ends->shape == BENCH_TWO_THREADS)
		return spawn_two_threads(run, ends, what, &begin);
	for (begin.side = 0; begin.side < processes; begin.side++) {
		if (!bench_spawn(run, &ends->side[begin.side], what, child_main, &begin))
			return false;
	}
	return true;
}

bool bench_ends_start(const bench_run *run, bench_ends *ends, const char *what, bench_shape shape, bench_side body,
                      const void *setup, bench_hello *hello)
{
	bench_address address;
	bench_hello heard[2];

	*ends = (bench_ends){.shape = shape};
	if (!spawn(run, ends, what, body, setup))
		return false;
	if (shape != BENCH_ALONE && (!bench_hear(&ends->side[0], &address, sizeof(address)) ||
	                                !bench_tell(&ends->side[1], &address, sizeof(address)) ||
	                                !bench_hear(&ends->side[1], &heard[1], sizeof(heard[1]))))
		return false;
	if (!bench_hear(&ends->side[0], &heard[0], sizeof(heard[0])))
		return false;
	if (hello != NULL)
		*hello = heard[0];
	return true;
}

bool bench_ends_order(bench_ends *ends, const bench_order *order, bench_reply reply[2])
{
	char ready;

	if (ends->shape != BENCH_ALONE &&
	    (!bench_tell(&ends->side[1], order, sizeof(*order)) || !bench_hear(&ends->side[1], &ready, 1)))
		return false;
	return bench_tell(&ends->side[0], order, sizeof(*order)) &&
	       bench_hear(&ends->side[0], &reply[0], sizeof(reply[0])) &&
	       (ends->shape == BENCH_ALONE || bench_hear(&ends->side[1], &reply[1], sizeof(reply[1])));
}

bool bench_ends_stop(bench_ends *ends)
{
	bool good = true;

	/* Both hear that there are no more orders before either is waited for: ours say goodbye to each other. */
	if (ends->shape != BENCH_ALONE)
		close(ends->side[1].out);
	if (ends->shape == BENCH_TWO_THREADS) {
		good = bench_join(&ends->side[0]);
		close(ends->side[1].in);
		return good;
	}
	good = bench_join(&ends->side[0]);
	if (ends->shape == BENCH_TWO_PROCESSES) {
		ends->side[1].out = -1;
		good &= bench_join(&ends->side[1]);
	}
	return good;
}

bool bench_task_measure(void *user, double *value)
{
	const bench_task *const task = user;
	bench_reply reply[2];
	double figure;

	if (!bench_ends_order(task->ends, &task->order, reply))
		return false;
	figure = reply[task->side].figure[task->figure];
	*value = task->total > 0 ? task->total / figure : figure / task->per;
	return true;
}

/* ---- a side ---- */

bool bench_meet(int side, int in, int out, bench_address *address)
{
	return side == 0 ? bench_write_all(out, address, sizeof(*address)) : bench_read_all(in, address, sizeof(*address));
}

bool bench_say_hello(int out, const bench_hello *hello)
{
	return bench_write_all(out, hello, sizeof(*hello));
}

bool bench_next_order(int in, bench_order *order)
{
	return bench_read_all(in, order, sizeof(*order));
}

bool bench_ready(int out)
{
	return bench_write_all(out, "r", 1);
}

bool bench_answer(int out, const bench_reply *reply)
{
	return bench_write_all(out, reply, sizeof(*reply));
}

void bench_pool_free(bench_pool *pool)
{
	for (uint64_t i = 0; i < pool->count; i++) {
		if (pool->shared)
			kvp_mem_free(NULL, pool->item[i]);
		else
			free(pool->item[i]);
	}
	*pool = (bench_pool){0};
}

bool bench_pool_get(bench_pool *pool, uint64_t bytes, uint64_t count, bool shared, uint64_t seed)
{
	if (pool->count == count && pool->bytes == bytes && pool->shared == shared)
		return true;
	bench_pool_free(pool);
	pool->shared = shared;
	pool->bytes = bytes;
	for (; pool->count < count; pool->count++) {
		void **const item = &pool->item[pool->count];

		if (!shared) {
			*item = bench_buffer(bytes, seed);
			if (*item == NULL)
				return false;
		} else {
			if (kvp_mem_alloc(NULL, bytes, item) != KVP_OK)
				return bench_failed("shared memory");
			bench_fill(*item, bytes, seed);
		}
	}
	return true;
}

uint64_t bench_span(const bench_order *order)
{
	return order->strided ? 2 * order->bytes : order->bytes;
}

bool bench_all_arrived(const bench_pool *pool, const bench_order *order)
{
	for (uint64_t i = 0; i < pool->count; i++) {
		if (!bench_is_filled(pool->item[i], order->bytes, order->seed, order->strided ? BENCH_ROW_BYTES : 0,
		        2 * BENCH_ROW_BYTES))
			return bench_complain("item %llu of %llu bytes has other bytes than were sent", (unsigned long long)i,
			                      (unsigned long long)order->bytes);
	}
	return true;
}
