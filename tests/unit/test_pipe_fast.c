/* SPDX-License-Identifier: Apache-2.0
 *
 * What makes small tensors fast: bytes inside the announcement, control on the data connection, posting without
 * allocation, polling.  Nothing here measures time.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "base/fault.h"
#include "engine/engine.h"

#include <dirent.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLANES 3
static const char *const planes[PLANES] = {"self", "tcp", "shm"};

static kvp_tensor bytes_tensor(void *data, size_t len)
{
	int64_t shape[1] = {(int64_t)len};
	kvp_tensor tensor;

	KIT_OK(kvp_tensor_init(&tensor, data, KVP_DTYPE_UINT8, 1, shape));
	return tensor;
}

/* ---- inside the announcement ---------------------------------------------------------------------------- */

/* Around the bound, from dense and from strided memory, into a receive that waits and into one that comes late. */
START_TEST(small_tensors_of_every_shape)
{
	static const int64_t rows[] = {1, 2, 63, KVPI_LINK_INLINE_MAX / 64 - 1, KVPI_LINK_INLINE_MAX / 64,
	                               KVPI_LINK_INLINE_MAX / 64 + 1};
	static unsigned char memory[3 * (KVPI_LINK_INLINE_MAX + 64)], got[sizeof(memory)];
	kit_pair pair;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (unsigned n = 0; n < 4 * sizeof(rows) / sizeof(rows[0]); n++) {
		bool gaps = n & 1, late = n & 2;
		int64_t shape[2] = {rows[n / 4], 64}, strides[2] = {192, 1};
		kvp_tensor from, to;
		kvp_request *sent, *received = NULL;

		kit_random_fill(memory, sizeof(memory), n + 1);
		memset(got, 0, sizeof(got));
		KIT_OK(kvp_tensor_init(&from, memory, KVP_DTYPE_INT8, 2, shape));
		if (gaps) {
			memcpy(from.strides, strides, sizeof(strides));
			from.storage_bytes = sizeof(memory);
		}
		kvp_tensor_init_buffer(&to, got, sizeof(got));
		if (!late)
			KIT_OK(kvp_pipe_post_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT, &received));
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &sent));
		if (late)
			KIT_OK(kvp_pipe_post_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT, &received));
		KIT_OK(kvp_request_wait(received, KVP_TIMEOUT_DEFAULT));
		KIT_OK(kvp_request_wait(sent, KVP_TIMEOUT_DEFAULT));
		for (int64_t row = 0; row < shape[0]; row++)
			ck_assert_mem_eq(got + row * 64, memory + row * (gaps ? 192 : 64), 64);
		ck_assert_uint_eq(got[shape[0] * 64], 0);
		kvp_request_free(sent);
		kvp_request_free(received);
	}
	kit_pair_free(&pair);
}
END_TEST

/* A send has ended well only when a receive has its bytes, not when the peer's library keeps them. */
START_TEST(kept_is_not_delivered)
{
	kit_pair pair;
	char data[100], got[100];
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to, next;
	kvp_request *request;

	kit_random_fill(data, sizeof(data), 1);
	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	KIT_OK(kvp_pipe_peek(pair.b, &next, KVP_TIMEOUT_DEFAULT)); /* now it is there */
	ck_assert_int_eq(kvp_request_test(request), KVP_PENDING);
	to = bytes_tensor(got, 50);
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_MISMATCH);
	ck_assert_int_eq(kvp_request_test(request), KVP_PENDING);
	to = bytes_tensor(got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	kit_check_fill(got, sizeof(got), 1);
	KIT_OK(kvp_request_wait(request, KVP_TIMEOUT_DEFAULT));
	kvp_request_free(request);
	kit_pair_free(&pair);
}
END_TEST

/* What was received is confirmed, even if the receiver's next move is to leave. */
START_TEST(a_receiver_may_leave_at_once)
{
	char data[100], got[100];
	kvp_tensor from = bytes_tensor(data, sizeof(data));

	kit_random_fill(data, sizeof(data), 8);
	for (int round = 0; round < 30; round++) {
		kvp_tensor to = bytes_tensor(got, sizeof(got));
		kvp_request *request;
		kit_pair pair;

		kit_pair_init(&pair, planes[_i]);
		kit_pair_open(&pair);
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		kvp_pipe_free(pair.b);
		pair.b = NULL;
		KIT_OK(kvp_request_wait(request, KVP_TIMEOUT_DEFAULT));
		kvp_request_free(request);
		kit_pair_free(&pair);
	}
}
END_TEST

/* Without memory to keep them in, the bytes come over the plane as all others do. */
START_TEST(no_room_to_keep_bytes)
{
	kit_pair pair;
	char data[5000], got[5000];
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to, next;

	kit_random_fill(data, sizeof(data), 3);
	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	kvpi_fault_arm("links.room", 1, 0);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_peek(pair.b, &next, KVP_TIMEOUT_DEFAULT));
	to = bytes_tensor(got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	kit_check_fill(got, sizeof(got), 3);
	KIT_OK(kvp_pipe_flush(pair.a, KVP_TIMEOUT_DEFAULT));
	ck_assert_uint_gt(kvpi_fault_passes("links.room"), 0);
	kvpi_fault_disarm_all();
	kit_pair_free(&pair);
}
END_TEST

/* Many more than the window at once, in both directions, each with bytes of its own. */
START_TEST(a_burst_arrives_in_order)
{
	enum { COUNT = 1000, LEN = 900 };
	kit_pair pair;
	unsigned char *data[2], got[LEN];
	kvp_pipe *ends[2];

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	ends[0] = pair.a;
	ends[1] = pair.b;
	for (int way = 0; way < 2; way++) {
		data[way] = malloc(COUNT * LEN);
		for (unsigned n = 0; n < COUNT; n++) {
			kvp_tensor from = bytes_tensor(data[way] + n * LEN, LEN);

			kit_random_fill(from.data, LEN, 1 + n + 5000 * (unsigned)way);
			KIT_OK(kvp_pipe_send(ends[way], &from, NULL, NULL));
		}
	}
	for (int way = 0; way < 2; way++)
		for (unsigned n = 0; n < COUNT; n++) {
			kvp_tensor to = bytes_tensor(got, LEN);

			KIT_OK(kvp_pipe_recv(ends[!way], &to, KVP_TIMEOUT_DEFAULT));
			kit_check_fill(got, LEN, 1 + n + 5000 * (unsigned)way);
		}
	for (int way = 0; way < 2; way++) {
		KIT_OK(kvp_pipe_flush(ends[way], KVP_TIMEOUT_DEFAULT));
		free(data[way]);
	}
	kit_pair_free(&pair);
}
END_TEST

/* ---- posting -------------------------------------------------------------------------------------------- */

typedef struct gate {
	sem_t reached, open;
} gate;

/* On the worker.  A done callback must not block: here it is just what is wanted. */
static void hold_worker(void *user, kvp_status status)
{
	gate *g = user;

	(void)status;
	sem_post(&g->reached);
	sem_wait(&g->open);
}

/* Once as many requests have been open before, a send allocates nothing; and of many, at most one wakes the worker. */
START_TEST(posting_allocates_nothing_and_wakes_once)
{
	enum { COUNT = 200 };
	kit_pair pair;
	char data[64], got[64];
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to;
	kvp_send_options options;
	gate g;

	kit_random_fill(data, sizeof(data), 9);
	sem_init(&g.reached, 0, 0);
	sem_init(&g.open, 0, 0);
	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int round = 0; round < 2; round++) {
		kvp_send_options_init(&options);
		options.done = hold_worker;
		options.user = &g;
		KIT_OK(kvp_pipe_send(pair.a, &from, &options, NULL));
		kvp_tensor_init_buffer(&to, got, sizeof(got));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		sem_wait(&g.reached); /* the worker of a stands still: what is counted is the posting alone */
		kvpi_fault_arm("alloc", 1000000, 1);
		kvpi_fault_arm("wakeup.write", 1000000, 1);
		for (int n = 0; n < COUNT; n++)
			KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
		if (round == 1)
			ck_assert_uint_eq(kvpi_fault_passes("alloc"), 0);
		else
			ck_assert_uint_gt(kvpi_fault_passes("alloc"), 0);
		ck_assert_uint_le(kvpi_fault_passes("wakeup.write"), 1);
		kvpi_fault_disarm_all();
		sem_post(&g.open);
		for (int n = 0; n < COUNT; n++)
			KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		kit_check_fill(got, sizeof(got), 9);
		KIT_OK(kvp_pipe_flush(pair.a, KVP_TIMEOUT_DEFAULT));
	}
	kit_pair_free(&pair);
	sem_destroy(&g.reached);
	sem_destroy(&g.open);
}
END_TEST

/* A request that its caller keeps is valid after its pipe, and what the pool held is given back (the kit's sanitizers
 * would see a leak). */
START_TEST(requests_outlive_their_pipe)
{
	enum { COUNT = 20 };
	kit_pair pair;
	char data[64], got[64];
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to;
	kvp_request *kept[COUNT];
	kvp_times times = {.size = sizeof(times)};

	kit_random_fill(data, sizeof(data), 9);
	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int n = 0; n < COUNT; n++)
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &kept[n]));
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	for (int n = 0; n < COUNT; n++)
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_flush(pair.a, KVP_TIMEOUT_DEFAULT));
	kit_pair_free(&pair);
	for (int n = 0; n < COUNT; n++) {
		KIT_OK(kvp_request_test(kept[n]));
		KIT_OK(kvp_request_times(kept[n], &times));
		ck_assert_int_eq(times.queue_ns + times.credit_ns + times.wire_ns + times.notify_ns, times.total_ns);
		ck_assert_int_eq(times.credit_ns, 0); /* no destination had to be waited for */
		ck_assert_uint_eq(times.bytes, sizeof(data));
		kvp_request_free(kept[n]);
	}
}
END_TEST

/* ---- the worker ----------------------------------------------------------------------------------------- */

/* Polling changes how soon, not what. */
START_TEST(polling_works_like_sleeping)
{
	kit_pair pair;
	char data[300], got[300];
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to;

	kit_random_fill(data, sizeof(data), 4);
	kit_pair_init(&pair, planes[_i]);
	pair.options.poll_us = 100;
	kit_pair_open(&pair);
	for (int n = 0; n < 200; n++) {
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
		to = bytes_tensor(got, sizeof(got));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		kit_check_fill(got, sizeof(got), 4);
		memset(got, 0, sizeof(got));
	}
	to = bytes_tensor(got, sizeof(got));
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, 5), KVP_E_TIMEOUT); /* longer than it polls */
	kit_pair_free(&pair);
}
END_TEST

static int workers_on(int cpu)
{
	char line[256], want[64];
	struct dirent *entry;
	DIR *tasks = opendir("/proc/self/task");
	int count = 0;

	ck_assert_ptr_nonnull(tasks);
	snprintf(want, sizeof(want), "Cpus_allowed_list:\t%d\n", cpu);
	while ((entry = readdir(tasks)) != NULL) {
		char path[300];
		bool worker = false, bound = false;
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		file = entry->d_name[0] != '.' ? fopen(path, "r") : NULL;
		if (file == NULL)
			continue;
		while (fgets(line, sizeof(line), file) != NULL) {
			worker = worker || strcmp(line, "Name:\tkvp-worker\n") == 0;
			bound = bound || strcmp(line, want) == 0;
		}
		fclose(file);
		count += worker && bound;
	}
	closedir(tasks);
	return count;
}

START_TEST(the_worker_runs_where_it_was_told)
{
	kit_pair pair;
	kvp_pipe *pipe;
	cpu_set_t mine;
	int last = -1;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(mine), &mine), 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &mine))
			last = cpu;
	kit_pair_init(&pair, planes[_i]);
	pair.options.worker_cpu = last;
	kit_pair_open(&pair);
	if (CPU_COUNT(&mine) > 1)
		ck_assert_int_eq(workers_on(last), 2);
	kvp_pipe_free(pair.a);
	kvp_pipe_free(pair.b);
	pair.a = pair.b = NULL;
	pair.options.worker_cpu = 4095;
	KIT_STATUS(kvp_pipe_open(NULL, &pair.options, 10000, &pipe), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "4095"));
	kit_pair_free(&pair);
}
END_TEST

/* ---- looking inside ------------------------------------------------------------------------------------- */

START_TEST(explain_says_where_control_goes)
{
	kit_pair pair;
	char text[4096];

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_explain(pair.a, text, sizeof(text), NULL));
	ck_assert_ptr_nonnull(strstr(text, "control: on the data connection"));
	kit_pair_free(&pair);
}
END_TEST

KIT_MAIN_WITH("pipe_fast", PLANES, NULL, small_tensors_of_every_shape, kept_is_not_delivered, a_receiver_may_leave_at_once, no_room_to_keep_bytes,
              a_burst_arrives_in_order, posting_allocates_nothing_and_wakes_once, requests_outlive_their_pipe,
              polling_works_like_sleeping, the_worker_runs_where_it_was_told, explain_says_where_control_goes)
