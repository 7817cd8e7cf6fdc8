/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipe as its header promises it; each test runs once per plane that two ends of one process can take.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const planes[] = {"tcp", "self", "shm"};
#define PLANES ((int)(sizeof(planes) / sizeof(planes[0])))
#define MIB ((size_t)1 << 20)

static kvp_tensor bytes_tensor(void *data, size_t len)
{
	int64_t shape[1] = {(int64_t)len};
	kvp_tensor tensor;

	KIT_OK(kvp_tensor_init(&tensor, data, KVP_DTYPE_UINT8, 1, shape));
	return tensor;
}

static char *random_bytes(size_t len, uint64_t seed)
{
	char *data = malloc(len ? len : 1);

	kit_random_fill(data, len, seed);
	return data;
}

START_TEST(sizes_arrive_whole_and_in_order)
{
	static const size_t sizes[] = {1, 0, 4095, 4096, 65537, MIB, 40 * MIB + 13, 2};
	kit_pair pair;
	char *sent[8], *got = malloc(41 * MIB);
	kvp_request *requests[8];

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (size_t i = 0; i < 8; i++) {
		kvp_tensor tensor;

		sent[i] = random_bytes(sizes[i], i + 1);
		tensor = bytes_tensor(sent[i], sizes[i]);
		KIT_OK(kvp_pipe_send(pair.a, &tensor, NULL, &requests[i]));
	}
	for (size_t i = 0; i < 8; i++) {
		kvp_tensor tensor;

		memset(got, 0x5a, sizes[i] + 8);
		kvp_tensor_init_buffer(&tensor, got, 41 * MIB);
		KIT_OK(kvp_pipe_recv(pair.b, &tensor, KVP_TIMEOUT_DEFAULT));
		ck_assert_int_eq(tensor.dtype, KVP_DTYPE_UINT8);
		ck_assert_uint_eq(kvp_tensor_bytes(&tensor), sizes[i]);
		kit_check_fill(got, sizes[i], i + 1);
		ck_assert_int_eq(got[sizes[i]], 0x5a);
	}
	for (size_t i = 0; i < 8; i++) {
		kvp_times times = {.size = sizeof(times)};

		KIT_OK(kvp_request_wait(requests[i], 10000));
		KIT_OK(kvp_request_times(requests[i], &times));
		ck_assert_uint_eq(times.bytes, sizes[i]);
		ck_assert_int_eq(times.queue_ns + times.credit_ns + times.wire_ns + times.notify_ns, times.total_ns);
		ck_assert_int_eq(kvp_request_receipt(requests[i]), KVP_RECEIPT_QUIESCENT);
		kvp_request_free(requests[i]);
		free(sent[i]);
	}
	free(got);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(every_dtype_and_the_none_marker)
{
	kit_pair pair;
	char *data = random_bytes(6 * 8, 3), got[6 * 8];
	int64_t shape[2] = {2, 3};

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int dtype = KVP_DTYPE_BF16; dtype <= KVP_DTYPE_BOOL; dtype++) {
		kvp_tensor from, to;

		memset(got, 0, sizeof(got));
		KIT_OK(kvp_tensor_init(&from, data, (kvp_dtype)dtype, 2, shape));
		KIT_OK(kvp_tensor_init(&to, got, (kvp_dtype)dtype, 2, shape));
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		ck_assert_mem_eq(got, data, 6 * kvp_dtype_size((kvp_dtype)dtype));
	}
	for (int i = 0; i < 2; i++) {
		kvp_tensor none, to;

		kvp_tensor_init_none(&none);
		memset(got, 0x77, sizeof(got));
		KIT_OK(kvp_tensor_init(&to, got, KVP_DTYPE_FP32, 2, shape));
		KIT_OK(kvp_pipe_send(pair.a, &none, NULL, NULL));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		ck_assert_int_eq(to.dtype, KVP_DTYPE_NONE);
		ck_assert_int_eq(got[0], 0x77);
	}
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	free(data);
	kit_pair_free(&pair);
}
END_TEST

/* Every second column of every second row, into a destination with gaps of its own. */
START_TEST(strided_to_strided)
{
	enum { ROWS = 300, COLUMNS = 170 };
	kit_pair pair;
	float *from_data = malloc(sizeof(float) * 2 * ROWS * 2 * COLUMNS);
	float *to_data = calloc(3 * ROWS * COLUMNS, sizeof(float)), *dense = calloc(ROWS * COLUMNS, sizeof(float));
	int64_t shape[2] = {ROWS, COLUMNS};
	kvp_tensor from, to, flat;

	kit_random_fill(from_data, sizeof(float) * 2 * ROWS * 2 * COLUMNS, 5);
	KIT_OK(kvp_tensor_init(&from, from_data, KVP_DTYPE_INT32, 2, shape));
	from.strides[0] = 2 * 2 * COLUMNS;
	from.strides[1] = 2;
	from.storage_bytes = sizeof(float) * 2 * ROWS * 2 * COLUMNS;
	KIT_OK(kvp_tensor_init(&to, to_data, KVP_DTYPE_INT32, 2, shape));
	to.strides[0] = 3 * COLUMNS;
	to.strides[1] = 1;
	to.storage_bytes = sizeof(float) * 3 * ROWS * COLUMNS;
	KIT_OK(kvp_tensor_init(&flat, dense, KVP_DTYPE_INT32, 2, shape));

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_recv(pair.b, &flat, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_flush(pair.a, KVP_TIMEOUT_DEFAULT));
	for (size_t r = 0; r < ROWS; r++)
		for (size_t c = 0; c < COLUMNS; c++) {
			const float *source = &from_data[r * 4 * COLUMNS + 2 * c];

			ck_assert(memcmp(&to_data[r * 3 * COLUMNS + c], source, sizeof(float)) == 0);
			ck_assert(memcmp(&dense[r * COLUMNS + c], source, sizeof(float)) == 0);
		}
	for (size_t c = COLUMNS; c < 3 * COLUMNS; c++)
		ck_assert(to_data[c] == 0.0f);
	free(from_data);
	free(to_data);
	free(dense);
	kit_pair_free(&pair);
}
END_TEST

typedef struct traffic {
	kvp_pipe *pipe;
	int count;
	uint64_t seed;
	kvp_status status;
} traffic;

static void *send_many(void *arg)
{
	traffic *t = arg;

	for (int i = 0; i < t->count && t->status == KVP_OK; i++) {
		size_t len = 1 + (size_t)(i * 7919) % 200000;
		int64_t shape[1] = {(int64_t)len};
		char *data = malloc(len);
		kvp_tensor tensor;
		kvp_request *request = NULL;

		kit_random_fill(data, len, t->seed + (uint64_t)i);
		(void)kvp_tensor_init(&tensor, data, KVP_DTYPE_INT8, 1, shape);
		t->status = kvp_pipe_send(t->pipe, &tensor, NULL, &request);
		if (t->status == KVP_OK)
			t->status = kvp_request_wait(request, 20000);
		kvp_request_free(request);
		free(data);
	}
	return NULL;
}

static void *recv_many(void *arg)
{
	traffic *t = arg;
	char *data = malloc(200001);

	for (int i = 0; i < t->count && t->status == KVP_OK; i++) {
		kvp_tensor tensor;

		kvp_tensor_init_buffer(&tensor, data, 200001);
		t->status = kvp_pipe_recv(t->pipe, &tensor, KVP_TIMEOUT_DEFAULT);
		if (t->status == KVP_OK &&
		    kit_fill_differs(data, kvp_tensor_bytes(&tensor), t->seed + (uint64_t)i) != kvp_tensor_bytes(&tensor))
			t->status = KVP_E_MISMATCH;
	}
	free(data);
	return NULL;
}

START_TEST(both_directions_at_once)
{
	kit_pair pair;
	pthread_t threads[4];
	traffic work[4];

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int i = 0; i < 4; i++) {
		work[i] = (traffic){i % 2 ? pair.b : pair.a, 200, i == 0 || i == 3 ? 1000 : 9000, KVP_OK};
		pthread_create(&threads[i], NULL, i < 2 ? send_many : recv_many, &work[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		ck_assert_msg(work[i].status == KVP_OK, "thread %d: %s", i, kvp_status_name(work[i].status));
	}
	kit_pair_free(&pair);
}
END_TEST

START_TEST(a_misfit_stays_for_the_next_receive)
{
	kit_pair pair;
	char *data = random_bytes(64, 8), got[64];
	int64_t shape[2] = {4, 4}, other[2] = {2, 8}, flat[1] = {16};
	kvp_tensor from, to, small, description;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_tensor_init(&from, data, KVP_DTYPE_FP32, 2, shape));
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_peek(pair.b, &description, KVP_TIMEOUT_DEFAULT));
	ck_assert_int_eq(description.dtype, KVP_DTYPE_FP32);
	ck_assert_int_eq(description.ndim, 2);
	ck_assert_uint_eq(description.storage_bytes, 64);

	KIT_OK(kvp_tensor_init(&to, got, KVP_DTYPE_FP32, 2, other));
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_MISMATCH);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "fp32[4,4]"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "fp32[2,8]"));
	KIT_OK(kvp_tensor_init(&to, got, KVP_DTYPE_FP32, 1, flat));
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_MISMATCH);
	KIT_OK(kvp_tensor_init(&to, got, KVP_DTYPE_INT32, 2, shape));
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_MISMATCH);
	kvp_tensor_init_buffer(&small, got, 63);
	KIT_STATUS(kvp_pipe_recv(pair.b, &small, KVP_TIMEOUT_DEFAULT), KVP_E_MISMATCH);
	kvp_tensor_init_buffer(&small, got, 64);
	KIT_OK(kvp_pipe_recv(pair.b, &small, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, 64);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	free(data);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(a_receive_that_runs_out_loses_nothing)
{
	kit_pair pair;
	size_t len = 8 * MIB;
	char *data = random_bytes(len, 4), *got = malloc(len);
	kvp_tensor from = bytes_tensor(data, len), to;
	kvp_request *request;
	int tries = 0;
	kvp_status status;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	kvp_tensor_init_buffer(&to, got, len);
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, 0), KVP_E_TIMEOUT);
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, 20), KVP_E_TIMEOUT);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	/* Many receives may give up with the bytes half-way. */
	do {
		kvp_tensor_init_buffer(&to, got, len);
		status = kvp_pipe_recv(pair.b, &to, tries / 8);
	} while (status == KVP_E_TIMEOUT && ++tries < 4000);
	ck_assert_int_eq(status, KVP_OK);
	kit_check_fill(got, len, 4);
	KIT_OK(kvp_request_wait(request, 10000));
	kvp_request_free(request);
	free(data);
	free(got);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(a_send_that_runs_out_is_told_to_the_receiver)
{
	kit_pair pair;
	char *data = random_bytes(10000, 6), got[10000];
	/* The first is too large to travel with its announcement: without a receive its bytes stay here. */
	kvp_tensor first = bytes_tensor(data, sizeof(got)), second = bytes_tensor(data + 1, 50), to;
	kvp_send_options options;
	kvp_request *late, *good;
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	kvp_send_options_init(&options);
	options.deadline_ms = 10;
	KIT_OK(kvp_pipe_send(pair.a, &first, &options, &late));
	KIT_OK(kvp_pipe_send(pair.a, &second, NULL, &good));
	KIT_STATUS(kvp_request_wait(late, 10000), KVP_E_DEADLINE);
	ck_assert_int_eq(kvp_request_receipt(late), KVP_RECEIPT_QUIESCENT);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_WITHDRAWN);
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_uint_eq(kvp_tensor_bytes(&to), 50);
	ck_assert_mem_eq(got, data + 1, 50);
	KIT_OK(kvp_request_wait(good, 10000));
	KIT_STATUS(kvp_pipe_flush(pair.a, 10000), KVP_E_DEADLINE);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	ck_assert_uint_eq(stats.send_failures, 1);
	ck_assert_uint_eq(stats.sent, 1);
	kvp_request_free(late);
	kvp_request_free(good);
	free(data);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(backpressure_is_in_bytes)
{
	kit_pair pair;
	char *data = random_bytes(3000, 9), got[5000];
	kvp_tensor item = bytes_tensor(data, 400), whole = bytes_tensor(data, 3000), to;
	kvp_send_options now;
	struct pollfd room;
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	kit_pair_init(&pair, planes[_i]);
	pair.options.kv_buffer_size = 1000;
	kit_pair_open(&pair);
	room = (struct pollfd){kvp_pipe_room_fd(pair.a), POLLIN, 0};
	kvp_send_options_init(&now);
	now.timeout_ms = 0;
	KIT_OK(kvp_pipe_send(pair.a, &item, &now, NULL));
	KIT_OK(kvp_pipe_send(pair.a, &item, &now, NULL));
	KIT_STATUS(kvp_pipe_send(pair.a, &item, &now, NULL), KVP_E_AGAIN);
	KIT_STATUS(kvp_pipe_send(pair.a, &whole, &now, NULL), KVP_E_AGAIN);
	now.timeout_ms = 20;
	KIT_STATUS(kvp_pipe_send(pair.a, &item, &now, NULL), KVP_E_TIMEOUT);
	ck_assert_int_eq(poll(&room, 1, 0), 0);
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 800);
	for (int i = 0; i < 2; i++) {
		kvp_tensor_init_buffer(&to, got, sizeof(got));
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	}
	ck_assert_int_eq(poll(&room, 1, 10000), 1);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));

	/* Larger than the whole budget: admitted alone. */
	now.timeout_ms = 0;
	KIT_OK(kvp_pipe_send(pair.a, &whole, &now, NULL));
	KIT_STATUS(kvp_pipe_send(pair.a, &item, &now, NULL), KVP_E_AGAIN);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, 3000);
	now.timeout_ms = 10000;
	KIT_OK(kvp_pipe_send(pair.a, &item, &now, NULL));
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	ck_assert_uint_eq(stats.in_flight_peak_bytes, 3000);
	ck_assert_uint_ge(stats.refusals, 4);
	free(data);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(posted_receives_fill_in_order_and_fall_together)
{
	kit_pair pair;
	char *data = random_bytes(100, 11), got[4][100];
	kvp_tensor from = bytes_tensor(data, 100), to[4], came;
	kvp_request *posts[4];
	int64_t wrong[1] = {99};
	kvp_receipt receipt = KVP_RECEIPT_NONE;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int i = 0; i < 4; i++) {
		to[i] = bytes_tensor(got[i], 100);
		if (i == 2)
			KIT_OK(kvp_tensor_init(&to[i], got[i], KVP_DTYPE_UINT8, 1, wrong));
		KIT_OK(kvp_pipe_post_recv(pair.b, &to[i], KVP_TIMEOUT_DEFAULT, &posts[i]));
		ck_assert_int_eq(kvp_request_test(posts[i]), KVP_PENDING);
	}
	for (int i = 0; i < 4; i++)
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_request_wait(posts[0], 10000));
	KIT_OK(kvp_request_wait(posts[1], 10000));
	KIT_STATUS(kvp_request_wait(posts[2], 10000), KVP_E_MISMATCH);
	KIT_STATUS(kvp_request_wait(posts[3], 10000), KVP_E_CANCELED);
	KIT_OK(kvp_request_tensor(posts[1], &came));
	ck_assert_ptr_eq(came.data, got[1]);
	ck_assert_mem_eq(got[1], data, 100);
	for (int i = 0; i < 4; i++)
		kvp_request_free(posts[i]);

	/* The two that nobody took are still there. */
	for (int i = 2; i < 4; i++) {
		to[i] = bytes_tensor(got[i], 100);
		KIT_OK(kvp_pipe_recv(pair.b, &to[i], KVP_TIMEOUT_DEFAULT));
		ck_assert_mem_eq(got[i], data, 100);
	}
	to[0] = bytes_tensor(got[0], 100);
	/* The plan is broken until we say that we know. */
	KIT_STATUS(kvp_pipe_post_recv(pair.b, &to[0], KVP_TIMEOUT_DEFAULT, &posts[0]), KVP_E_CANCELED);
	KIT_OK(kvp_pipe_resume(pair.b));
	KIT_OK(kvp_pipe_post_recv(pair.b, &to[0], KVP_TIMEOUT_DEFAULT, &posts[0]));
	KIT_OK(kvp_pipe_post_recv(pair.b, &to[0], KVP_TIMEOUT_DEFAULT, &posts[1]));
	KIT_OK(kvp_request_cancel(posts[0], 10000, &receipt));
	ck_assert_int_eq(receipt, KVP_RECEIPT_QUIESCENT);
	KIT_STATUS(kvp_request_test(posts[0]), KVP_E_CANCELED);
	KIT_STATUS(kvp_request_wait(posts[1], 10000), KVP_E_CANCELED);
	kvp_request_free(posts[0]);
	kvp_request_free(posts[1]);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	free(data);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(at_most_so_many_posts)
{
	kit_pair pair;
	char got[1];
	kvp_tensor to = bytes_tensor(got, 1);
	kvp_request *posts[64], *more;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int i = 0; i < 64; i++)
		KIT_OK(kvp_pipe_post_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT, &posts[i]));
	KIT_STATUS(kvp_pipe_post_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT, &more), KVP_E_AGAIN);
	kvp_pipe_close(pair.b);
	for (int i = 0; i < 64; i++) {
		KIT_STATUS(kvp_request_wait(posts[i], 10000), KVP_E_CLOSED);
		kvp_request_free(posts[i]);
	}
	kit_pair_free(&pair);
}
END_TEST

/* A post behind one that failed unseen must not take its tensor. */
START_TEST(a_later_post_does_not_move_up)
{
	kit_pair pair;
	char *data = random_bytes(100, 21), got[2][100];
	kvp_tensor first = bytes_tensor(data, 100), to[2];
	kvp_request *posts[2];

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	to[0] = bytes_tensor(got[0], 100);
	to[1] = bytes_tensor(got[1], 100);
	KIT_OK(kvp_pipe_post_recv(pair.b, &to[0], 20, &posts[0]));
	KIT_STATUS(kvp_request_wait(posts[0], 10000), KVP_E_DEADLINE);
	KIT_STATUS(kvp_pipe_post_recv(pair.b, &to[1], KVP_TIMEOUT_DEFAULT, &posts[1]), KVP_E_CANCELED);
	KIT_OK(kvp_pipe_send(pair.a, &first, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pair.b, &to[0], KVP_TIMEOUT_DEFAULT)); /* not planned: it takes what comes */
	ck_assert_mem_eq(got[0], data, 100);
	KIT_OK(kvp_pipe_resume(pair.b));
	KIT_OK(kvp_pipe_post_recv(pair.b, &to[1], KVP_TIMEOUT_DEFAULT, &posts[1]));
	KIT_OK(kvp_pipe_send(pair.a, &first, NULL, NULL));
	KIT_OK(kvp_request_wait(posts[1], 10000));
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	for (int i = 0; i < 2; i++)
		kvp_request_free(posts[i]);
	free(data);
	kit_pair_free(&pair);
}
END_TEST

/* Time-out 0 takes what is there and needs no transfer. */
START_TEST(no_time_at_all)
{
	kit_pair pair;
	char *data = random_bytes(10, 22), got[10];
	kvp_tensor from = bytes_tensor(data, 10), none = {.ndim = 99, .strides = {-7}}, to;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &none, NULL, NULL)); /* a none marker is one whatever else stands in it */
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_peek(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_peek(pair.b, &to, 0));
	ck_assert_int_eq(to.dtype, KVP_DTYPE_NONE);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, 0));
	ck_assert_int_eq(to.dtype, KVP_DTYPE_NONE);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, 10);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	free(data);
	kit_pair_free(&pair);
}
END_TEST

static int allocate(void *user, kvp_tensor *tensor)
{
	int *calls = user;

	if (++calls[0] == 1)
		return -1; /* the first time there is no place */
	tensor->data = malloc(tensor->storage_bytes);
	return 0;
}

static void undo(void *user, kvp_tensor *tensor)
{
	((int *)user)[1]++;
	free(tensor->data);
}

START_TEST(the_allocator_sees_the_description_first)
{
	kit_pair pair;
	char *data = random_bytes(96, 12);
	int64_t shape[3] = {2, 3, 4};
	int calls[2] = {0, 0};
	kvp_allocator allocator = {allocate, undo, calls};
	kvp_tensor from, none, to;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_tensor_init(&from, data, KVP_DTYPE_FP32, 3, shape));
	kvp_tensor_init_none(&none);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_send(pair.a, &none, NULL, NULL));
	KIT_STATUS(kvp_pipe_recv_alloc(pair.b, &allocator, &to, KVP_TIMEOUT_DEFAULT), KVP_E_NOMEM);
	KIT_OK(kvp_pipe_recv_alloc(pair.b, &allocator, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_int_eq(to.ndim, 3);
	ck_assert_int_eq(to.shape[2], 4);
	ck_assert_mem_eq(to.data, data, 96);
	free(to.data);
	KIT_OK(kvp_pipe_recv_alloc(pair.b, &allocator, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_int_eq(to.dtype, KVP_DTYPE_NONE);
	ck_assert_int_eq(calls[0], 2);
	ck_assert_int_eq(calls[1], 0);
	KIT_STATUS(kvp_pipe_recv_alloc(pair.b, &allocator, &to, 10), KVP_E_TIMEOUT);
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	free(data);
	kit_pair_free(&pair);
}
END_TEST

static void count_done(void *user, kvp_status status)
{
	int *seen = user;

	seen[0]++;
	seen[1] = status;
}

START_TEST(done_is_called_once)
{
	kit_pair pair;
	char *data = random_bytes(10, 13), got[10];
	kvp_tensor from = bytes_tensor(data, 10), to;
	kvp_send_options options;
	int seen[2] = {0, 1};
	kvp_request *request;
	kvp_receipt receipt;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	kvp_send_options_init(&options);
	options.done = count_done;
	options.user = seen;
	KIT_OK(kvp_pipe_send(pair.a, &from, &options, &request));
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
	kvp_request_free(request);
	KIT_OK(kvp_pipe_send(pair.a, &from, &options, &request));
	KIT_OK(kvp_request_cancel(request, 10000, &receipt));
	KIT_STATUS(kvp_request_test(request), KVP_E_CANCELED);
	kvp_request_free(request);
	from.storage_bytes = 3;
	KIT_STATUS(kvp_pipe_send(pair.a, &from, &options, &request), KVP_E_INVALID);
	kit_pair_free(&pair); /* after this no callback runs */
	ck_assert_int_eq(seen[0], 2);
	ck_assert_int_eq(seen[1], KVP_E_CANCELED);
	free(data);
}
END_TEST

START_TEST(explain_and_metrics)
{
	kit_pair pair;
	static char text[65536];
	char small[4], expected[64];
	size_t needed = 0;

	snprintf(expected, sizeof(expected), "to \"kv rank 1\" by %s", planes[_i]);
	kit_pair_init(&pair, _i == 1 ? NULL : planes[_i]);
	kit_pair_open(&pair);
	KIT_STATUS(kvp_pipe_explain(pair.a, small, sizeof(small), &needed), KVP_E_TOO_LARGE);
	ck_assert_uint_gt(needed, sizeof(small));
	KIT_OK(kvp_pipe_explain(pair.a, text, sizeof(text), &needed));
	ck_assert_uint_eq(strlen(text) + 1, needed);
	ck_assert_ptr_nonnull(strstr(text, expected));
	ck_assert_ptr_nonnull(strstr(text, _i == 0 ? "  tcp: yes" : _i == 1 ? "  tcp: not needed" : "  shm: yes"));
	ck_assert(_i != 2 || strstr(text, "  bytes: memory from kvp_mem_alloc is mapped") != NULL);
	KIT_OK(kvp_metrics_text(NULL, text, sizeof(text), &needed));
	ck_assert_ptr_nonnull(strstr(text, "kvpipe_pipe_sent_bytes_total"));
	kit_pair_free(&pair);
}
END_TEST

KIT_MAIN_WITH("pipe", PLANES, NULL, sizes_arrive_whole_and_in_order, every_dtype_and_the_none_marker,
              strided_to_strided, both_directions_at_once, a_misfit_stays_for_the_next_receive,
              a_receive_that_runs_out_loses_nothing, a_send_that_runs_out_is_told_to_the_receiver,
              backpressure_is_in_bytes, posted_receives_fill_in_order_and_fall_together,
              a_later_post_does_not_move_up, no_time_at_all, at_most_so_many_posts,
              the_allocator_sees_the_description_first, done_is_called_once, explain_and_metrics)
