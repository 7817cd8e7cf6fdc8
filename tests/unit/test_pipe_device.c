/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipe on device memory, played by the fake device: invisible to the CPU, asynchronous, late, and failing on
 * demand.  Each test runs once per plane.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "device/device.h"
#include "device/fake.h"

#include <stdlib.h>
#include <string.h>

static const char *const planes[] = {"tcp", "self", "shm"};
#define PLANES ((int)(sizeof(planes) / sizeof(planes[0])))
#define LEN ((size_t)3 << 20)

typedef struct memory {
	void *data;
	bool fake;
} memory;

static const kvpi_device_ops *gpu(void)
{
	return kvpi_device_find(KVP_MEMORY_FAKE);
}

static memory make(bool fake)
{
	memory m = {.fake = fake};

	if (fake)
		KIT_OK(gpu()->alloc(0, LEN, &m.data));
	else
		m.data = malloc(LEN);
	return m;
}

static void fill(memory m, uint64_t seed)
{
	char *bytes = malloc(LEN);

	kit_random_fill(bytes, LEN, seed);
	if (m.fake)
		KIT_OK(kvpi_fake_write(m.data, bytes, LEN));
	else
		memcpy(m.data, bytes, LEN);
	free(bytes);
}

static void check(memory m, size_t len, uint64_t seed)
{
	char *bytes = malloc(LEN);

	if (m.fake)
		KIT_OK(kvpi_fake_read(m.data, bytes, LEN));
	else
		memcpy(bytes, m.data, LEN);
	kit_check_fill(bytes, len, seed);
	free(bytes);
}

static void drop(memory m)
{
	if (m.fake)
		gpu()->free(0, m.data);
	else
		free(m.data);
}

static kvp_tensor tensor_of(memory m)
{
	int64_t shape[2] = {3, (int64_t)LEN / 3};
	kvp_tensor tensor;

	KIT_OK(kvp_tensor_init(&tensor, m.data, KVP_DTYPE_UINT8, 2, shape)); /* memory AUTO: it is found out */
	return tensor;
}

START_TEST(between_host_and_device)
{
	kit_pair pair;

	kvpi_fake_set(&(kvpi_fake_options){.seed = 5, .delay = 3});
	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	for (int way = 0; way < 4; way++) {
		memory from = make(way & 1), to = make(way & 2);
		kvp_tensor a = tensor_of(from), b = tensor_of(to);

		fill(from, 10 + (uint64_t)way);
		KIT_OK(kvp_pipe_send(pair.a, &a, NULL, NULL));
		KIT_OK(kvp_pipe_recv(pair.b, &b, KVP_TIMEOUT_DEFAULT));
		check(to, LEN, 10 + (uint64_t)way); /* received means there: no stream to wait for */
		KIT_OK(kvp_pipe_flush(pair.a, 20000));
		drop(from);
		drop(to);
	}
	kit_pair_free(&pair);
	kvpi_fake_set(NULL);
}
END_TEST

/* Rows with gaps in device memory on both sides. */
START_TEST(strided_device_memory)
{
	kit_pair pair;
	memory from = make(true), to = make(true);
	int64_t shape[2] = {500, 700};
	kvp_tensor a, b;
	char *source = malloc(LEN), *target = malloc(LEN);

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(kvp_tensor_init(&a, from.data, KVP_DTYPE_FP16, 2, shape));
	b = a;
	a.strides[0] = 1000;
	a.storage_bytes = LEN;
	b.data = to.data;
	b.strides[0] = 2000;
	b.storage_bytes = LEN;
	fill(from, 1);
	fill(to, 2);
	KIT_OK(kvp_pipe_send(pair.a, &a, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pair.b, &b, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvpi_fake_read(from.data, source, LEN));
	KIT_OK(kvpi_fake_read(to.data, target, LEN));
	for (size_t row = 0; row < 500; row++)
		ck_assert(memcmp(source + row * 2000, target + row * 4000, 1400) == 0);
	memset(source, 0, LEN);
	kit_random_fill(source, LEN, 2);
	ck_assert(memcmp(source + 1400, target + 1400, 2600) == 0); /* the gaps were left alone */
	KIT_OK(kvp_pipe_flush(pair.a, 20000));
	free(source);
	free(target);
	drop(from);
	drop(to);
	kit_pair_free(&pair);
}
END_TEST

/* The producer's kernel is still queued when send is called: the new data must travel, not the old. */
START_TEST(send_waits_for_the_producers_stream)
{
	kit_pair pair;
	memory from = make(true), to = make(false);
	char *fresh = malloc(LEN);
	kvp_tensor a = tensor_of(from), b = tensor_of(to);
	kvpi_piece piece = {from.data, fresh, LEN};
	kvp_request *request;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	KIT_OK(gpu()->stream_new(0, &a.stream));
	kvpi_fake_set(&(kvpi_fake_options){.manual = true, .queues = 2});
	fill(from, 1);
	kit_random_fill(fresh, LEN, 2);
	KIT_OK(gpu()->copy(0, a.stream, &piece, 1));
	KIT_OK(kvp_pipe_send(pair.a, &a, NULL, NULL));
	/* Nothing runs: the receive must run out, whatever else is ready. */
	KIT_STATUS(kvp_pipe_recv(pair.b, &b, 100), KVP_E_TIMEOUT);
	b = tensor_of(to);
	KIT_OK(kvp_pipe_post_recv(pair.b, &b, KVP_TIMEOUT_DEFAULT, &request));
	while (kvp_request_wait(request, 1) == KVP_E_TIMEOUT)
		kvpi_fake_tick(1);
	KIT_OK(kvp_request_test(request));
	kvp_request_free(request);
	check(to, LEN, 2);
	while (kvp_pipe_flush(pair.a, 5) == KVP_E_TIMEOUT)
		kvpi_fake_tick(100);
	kvpi_fake_tick(1000);
	gpu()->stream_free(0, a.stream);
	kvpi_fake_set(NULL);
	free(fresh);
	drop(from);
	drop(to);
	kit_pair_free(&pair);
}
END_TEST

/* The stream never gets there: the deadline holds all the same, and the memory is quiet afterwards. */
START_TEST(a_stuck_stream_does_not_hang_the_send)
{
	kit_pair pair;
	memory from = make(true), to = make(false);
	kvp_tensor a = tensor_of(from), b = tensor_of(to);
	kvp_send_options options;
	kvp_request *request;

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	kvpi_fake_set(&(kvpi_fake_options){.manual = true});
	fill(from, 1);
	kvp_send_options_init(&options);
	options.deadline_ms = 300;
	KIT_OK(kvp_pipe_send(pair.a, &a, &options, &request));
	KIT_STATUS(kvp_pipe_recv(pair.b, &b, KVP_TIMEOUT_DEFAULT), KVP_E_WITHDRAWN);
	KIT_STATUS(kvp_request_wait(request, 20000), KVP_E_DEADLINE);
	ck_assert_int_eq(kvp_request_receipt(request), KVP_RECEIPT_QUIESCENT);
	kvp_request_free(request);
	kvpi_fake_tick(1000);
	kvpi_fake_set(NULL);
	drop(from);
	drop(to);
	kit_pair_free(&pair);
}
END_TEST

/* A device copy fails: one clear end, no bytes delivered, the pipe goes on with the next. */
START_TEST(a_failing_device_is_reported)
{
	kit_pair pair;
	memory from = make(true), to = make(false);
	kvp_tensor a = tensor_of(from), b = tensor_of(to);
	kvp_request *request;
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	kit_pair_init(&pair, planes[_i]);
	kit_pair_open(&pair);
	fill(from, 1);
	kvpi_fake_set(&(kvpi_fake_options){.fail_at = 1});
	KIT_OK(kvp_pipe_send(pair.a, &a, NULL, &request));
	ck_assert_int_ne(kvp_pipe_recv(pair.b, &b, 10000), KVP_OK);
	ck_assert_int_ne(kvp_request_wait(request, 20000), KVP_OK);
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	kvp_request_free(request);
	kvpi_fake_set(NULL);
	drop(from);
	drop(to);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(a_host_pipe_refuses_device_memory)
{
	kit_pair pair;
	memory from = make(true);
	kvp_tensor a = tensor_of(from);

	kit_pair_init(&pair, planes[_i]);
	pair.options.kv_buffer_device = "cpu";
	kit_pair_open(&pair);
	KIT_STATUS(kvp_pipe_send(pair.a, &a, NULL, NULL), KVP_E_UNSUPPORTED);
	drop(from);
	kit_pair_free(&pair);
}
END_TEST

KIT_MAIN_WITH("pipe_device", PLANES, NULL, between_host_and_device, strided_device_memory,
              send_waits_for_the_producers_stream, a_stuck_stream_does_not_hang_the_send,
              a_failing_device_is_reported, a_host_pipe_refuses_device_memory)
