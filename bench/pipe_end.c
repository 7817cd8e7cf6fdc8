/* SPDX-License-Identifier: Apache-2.0 */
#include "pipe_end.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pipe_end {
	int side, timeout_ms;
	kvp_pipe *pipe;
	bench_pool pool;
	double *samples;
	uint64_t sample_count;
} pipe_end;

/* ---- helpers ---- */

/* How an item lies at this side. */
static bool describe(const pipe_end *end, const bench_order *order, void *data, kvp_tensor *tensor)
{
	const int64_t rows = (int64_t)(order->bytes / BENCH_ROW_BYTES);
	const int64_t flat[] = {(int64_t)order->bytes}, table[] = {rows, BENCH_ROW_BYTES};
	const bool in_rows = order->strided;

	if (kvp_tensor_init(tensor, data, KVP_DTYPE_UINT8, in_rows ? 2 : 1, in_rows ? table : flat) != KVP_OK)
		return bench_failed("tensor");
	tensor->memory = KVP_MEMORY_HOST;
	if (in_rows && end->side == 0) {
		tensor->strides[0] = 2 * BENCH_ROW_BYTES;
		tensor->storage_bytes = bench_span(order);
	}
	return true;
}

static bool wait_and_free(const pipe_end *end, kvp_request *request, const char *what)
{
	const kvp_status status = kvp_request_wait(request, end->timeout_ms);

	kvp_request_free(request);
	return status == KVP_OK || bench_failed(what);
}

static bool send_and_wait(const pipe_end *end, const kvp_tensor *tensor)
{
	kvp_request *request;

	if (kvp_pipe_send(end->pipe, tensor, NULL, &request) != KVP_OK)
		return bench_failed("send");
	return wait_and_free(end, request, "send");
}

static bool receive(const pipe_end *end, kvp_tensor *tensor)
{
	return kvp_pipe_recv(end->pipe, tensor, end->timeout_ms) == KVP_OK || bench_failed("receive");
}

static bool want_samples(pipe_end *end, uint64_t count)
{
	if (count > end->sample_count) {
		free(end->samples);
		end->samples = calloc(count, sizeof(*end->samples));
		end->sample_count = end->samples != NULL ? count : 0;
	}
	return end->sample_count >= count || bench_complain("out of memory");
}

/* The middle and the tail of what was measured. */
static void summarise(pipe_end *end, uint64_t count, bench_reply *reply)
{
	reply->figure[0] = bench_quantile(end->samples, count, 0.5);
	reply->figure[1] = bench_quantile(end->samples, count, 0.99);
}

/* ---- jobs ---- */

static bool one_way(pipe_end *end, const bench_order *order, bench_reply *reply)
{
	unsigned char *const data = end->pool.item[0];
	kvp_tensor tensor;
	int64_t stamp;

	if (!describe(end, order, data, &tensor) || !want_samples(end, order->count))
		return false;
	for (uint64_t i = 0; i < order->count; i++) {
		if (end->side == 0) {
			stamp = bench_now_ns();
			memcpy(data, &stamp, sizeof(stamp));
			if (!send_and_wait(end, &tensor))
				return false;
		} else {
			if (!receive(end, &tensor))
				return false;
			memcpy(&stamp, data, sizeof(stamp));
			end->samples[i] = (double)(bench_now_ns() - stamp);
		}
	}
	if (end->side == 1)
		summarise(end, order->count, reply);
	return true;
}

static bool ping_pong(pipe_end *end, const bench_order *order, bench_reply *reply)
{
	kvp_tensor tensor;

	if (!describe(end, order, end->pool.item[0], &tensor) || !want_samples(end, order->count))
		return false;
	for (uint64_t i = 0; i < order->count; i++) {
		const int64_t begun = bench_now_ns();
		kvp_request *request;

		if (end->side == 1 && !receive(end, &tensor))
			return false;
		/* Its end is waited for after the answer has come: nobody who plays ping-pong would do otherwise. */
		if (kvp_pipe_send(end->pipe, &tensor, NULL, &request) != KVP_OK)
			return bench_failed("send");
		if (end->side == 0) {
			kvp_tensor back;

			if (!describe(end, order, end->pool.item[1], &back) || !receive(end, &back)) {
				kvp_request_free(request);
				return false;
			}
		}
		end->samples[i] = (double)(bench_now_ns() - begun) / 2;
		if (!wait_and_free(end, request, "send"))
			return false;
	}
	summarise(end, order->count, reply);
	return true;
}

/* Starts item i: sends it, or posts the place for it. */
static bool begin(const pipe_end *end, const bench_order *order, uint64_t i, kvp_request **request)
{
	kvp_tensor tensor;

	if (!describe(end, order, end->pool.item[i % order->window], &tensor))
		return false;
	if (end->side == 0)
		return kvp_pipe_send(end->pipe, &tensor, NULL, request) == KVP_OK || bench_failed("send");
	return kvp_pipe_post_recv(end->pipe, &tensor, end->timeout_ms, request) == KVP_OK || bench_failed("post");
}

/* Both sides keep `window` items going.  requests[begun..] are NULL. */
static bool keep_going(
    pipe_end *end, const bench_order *order, kvp_request **requests, uint64_t begun, int64_t started, bench_reply *reply)
{
	for (uint64_t ended = 0; ended < order->count; ended++) {
		kvp_request **const slot = &requests[ended % order->window];

		while (begun < order->count && begun < ended + order->window) {
			if (!begin(end, order, begun, &requests[begun % order->window]))
				return false;
			begun++;
		}
		if (!wait_and_free(end, *slot, end->side == 0 ? "send" : "receive")) {
			*slot = NULL;
			return false;
		}
		*slot = NULL;
	}
	reply->figure[0] = (double)(bench_now_ns() - started) * 1e-9;
	return true;
}

static bool stream(pipe_end *end, const bench_order *order, bench_reply *reply, kvp_request **requests, uint64_t posted)
{
	const int64_t started = bench_now_ns();

	return keep_going(end, order, requests, posted, started, reply) &&
	       (end->side == 0 || order->job != BENCH_STREAM || bench_all_arrived(&end->pool, order));
}

/* Side 0 of BENCH_POST.  Only the call itself is measured; what is in flight ends outside of it. */
static bool post(pipe_end *end, const bench_order *order, bench_reply *reply, kvp_request **requests)
{
	uint64_t most_allocations = 0, most_writes = 0, writes = 0;
	bool counted = true;

	if (!want_samples(end, order->count))
		return false;
	for (uint64_t i = 0; i < order->count;) {
		uint64_t burst = 0;

		for (; burst < order->window && i < order->count; burst++, i++) {
			bench_counts before, after;
			kvp_tensor tensor;
			int64_t begun;
			bool sent;

			if (!describe(end, order, end->pool.item[burst], &tensor))
				return false;
			counted = bench_count(&before);
			begun = bench_now_ns();
			sent = kvp_pipe_send(end->pipe, &tensor, NULL, &requests[burst]) == KVP_OK;
			end->samples[i] = (double)(bench_now_ns() - begun);
			bench_count(&after);
			if (!sent)
				return bench_failed("send");
			after.allocations -= before.allocations;
			after.writes -= before.writes;
			most_allocations = after.allocations > most_allocations ? after.allocations : most_allocations;
			most_writes = after.writes > most_writes ? after.writes : most_writes;
			writes += after.writes;
		}
		for (uint64_t k = 0; k < burst; k++) {
			const bool good = wait_and_free(end, requests[k], "send");

			requests[k] = NULL;
			if (!good)
				return false;
		}
	}
	reply->figure[0] = bench_quantile(end->samples, order->count, 0.5);
	reply->figure[1] = counted ? (double)most_allocations : -1;
	reply->figure[2] = counted ? (double)most_writes : -1;
	reply->figure[3] = counted ? (double)writes / (double)order->count : -1;
	return true;
}

/* ---- one order ---- */

static bool do_job(pipe_end *end, const bench_order *order, kvp_request **requests, uint64_t posted, bench_reply *reply)
{
	switch (order->job) {
	case BENCH_ONE_WAY:
		return one_way(end, order, reply);
	case BENCH_PING_PONG:
		return ping_pong(end, order, reply);
	case BENCH_POST:
		return end->side == 0 ? post(end, order, reply, requests) : stream(end, order, reply, requests, posted);
	case BENCH_STREAM:
		return stream(end, order, reply, requests, posted);
	default:
		return bench_complain("there is no job %d", (int)order->job);
	}
}

static bool obey(pipe_end *end, const bench_order *order, int out)
{
	const bool streams = order->job == BENCH_STREAM || order->job == BENCH_POST;
	const uint64_t items = streams ? order->window : 2, each = end->side == 0 ? bench_span(order) : order->bytes;
	kvp_request *requests[BENCH_WINDOW_MAX] = {NULL};
	bench_reply reply = {{0}};
	uint64_t posted = 0;
	bool good;

	good = bench_pool_get(&end->pool, each, items, order->shared, order->seed + (uint64_t)end->side);
	if (good && end->side == 1) {
		for (; good && streams && posted < order->window && posted < order->count; posted++)
			good = begin(end, order, posted, &requests[posted]);
		good = good && bench_ready(out);
	}
	good = good && do_job(end, order, requests, posted, &reply) && bench_answer(out, &reply);
	for (size_t i = 0; i < BENCH_WINDOW_MAX; i++)
		kvp_request_free(requests[i]);
	return good;
}

/* ---- a side ---- */

static bool open_pipe(pipe_end *end, const bench_pipe_setup *setup, const char *url)
{
	kvp_pipe_options options;

	kvp_pipe_options_init(&options);
	options.store_url = url;
	options.kv_rank = end->side;
	options.kv_buffer_size = UINT64_C(8) << 30;
	options.store_timeout_ms = end->timeout_ms;
	options.planes = setup->planes;
	options.poll_us = setup->poll_us;
	options.tcp_streams = setup->tcp_streams;
	options.checksum = setup->checksum;
	return kvp_pipe_open(NULL, &options, end->timeout_ms, &end->pipe) == KVP_OK || bench_failed("open");
}

static bool meet_and_work(pipe_end *end, const bench_pipe_setup *setup, const kvp_store_server *server, int in, int out)
{
	bench_address address = {{0}};
	bench_hello hello = {{0}};
	bench_order order;

	if (server != NULL)
		snprintf(address.text, sizeof(address.text), "%s", kvp_store_server_url(server));
	if (!bench_meet(end->side, in, out, &address) || !open_pipe(end, setup, address.text))
		return false;
	if (kvp_pipe_explain(end->pipe, hello.text, sizeof(hello.text), NULL) != KVP_OK)
		return bench_failed("explain");
	if (!bench_say_hello(out, &hello))
		return false;
	while (bench_next_order(in, &order)) {
		if (!obey(end, &order, out))
			return false;
	}
	return true;
}

int bench_pipe_side(const void *setup, int side, int in, int out)
{
	const bench_pipe_setup *const options = setup;
	pipe_end end = {.side = side, .timeout_ms = options->timeout_s * 1000};
	kvp_store_server *server = NULL;
	bool good = true;

	if (side == 0 && kvp_store_server_start(NULL, NULL, &server) != KVP_OK)
		good = bench_failed("store");
	good = good && meet_and_work(&end, options, server, in, out);
	kvp_pipe_free(end.pipe);
	bench_pool_free(&end.pool);
	free(end.samples);
	kvp_store_server_free(server);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
