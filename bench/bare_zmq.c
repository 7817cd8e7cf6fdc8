/* SPDX-License-Identifier: Apache-2.0
 *
 * ZeroMQ with nothing around it: two DEALERs over tcp on loopback.
 */
#include "ends.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

void bench_zmq_version(char text[32])
{
	int major, minor, patch;

	zmq_version(&major, &minor, &patch);
	snprintf(text, 32, "%d.%d.%d", major, minor, patch);
}

static bool complain(const char *what)
{
	return bench_complain("bare ZeroMQ, %s: %s", what, zmq_strerror(errno));
}

static bool send_all(void *socket, const void *data, size_t bytes)
{
	return zmq_send(socket, data, bytes, 0) == (int)bytes || complain("send");
}

static bool receive_all(void *socket, void *data, size_t bytes)
{
	return zmq_recv(socket, data, bytes, 0) == (int)bytes || complain("receive");
}

/* Side 1 acknowledges each item with a byte, so that one is on its way at a time, as with ours. */
static bool one_way(void *socket, int side, unsigned char *data, const bench_order *order, double *samples)
{
	for (uint64_t i = 0; i < order->count; i++) {
		int64_t stamp;
		char byte = 'a';

		if (side == 0) {
			stamp = bench_now_ns();
			memcpy(data, &stamp, sizeof(stamp));
			if (!send_all(socket, data, order->bytes) || !receive_all(socket, &byte, 1))
				return false;
		} else {
			if (!receive_all(socket, data, order->bytes))
				return false;
			memcpy(&stamp, data, sizeof(stamp));
			samples[i] = (double)(bench_now_ns() - stamp);
			if (!send_all(socket, &byte, 1))
				return false;
		}
	}
	return true;
}

static bool ping_pong(void *socket, int side, unsigned char *data, const bench_order *order, double *samples)
{
	for (uint64_t i = 0; i < order->count; i++) {
		const int64_t begun = bench_now_ns();

		if (side == 1 && !receive_all(socket, data, order->bytes))
			return false;
		if (!send_all(socket, data, order->bytes))
			return false;
		if (side == 0 && !receive_all(socket, data, order->bytes))
			return false;
		samples[i] = (double)(bench_now_ns() - begun) / 2;
	}
	return true;
}

static bool obey(void *socket, int side, int out, const bench_order *order)
{
	double *const samples = calloc(order->count, sizeof(*samples));
	unsigned char *const data = bench_buffer(order->bytes, order->seed + (uint64_t)side);
	bench_reply reply = {{0}};
	bool good = data != NULL && samples != NULL && (side == 0 || bench_ready(out));

	good = good && (order->job == BENCH_ONE_WAY ? one_way(socket, side, data, order, samples)
	                                            : ping_pong(socket, side, data, order, samples));
	if (good) {
		reply.figure[0] = bench_quantile(samples, order->count, 0.5);
		reply.figure[1] = bench_quantile(samples, order->count, 0.99);
		good = bench_answer(out, &reply);
	}
	free(samples);
	free(data);
	return good;
}

static bool meet(void *socket, int side, int in, int out)
{
	bench_address address = {{0}};
	size_t capacity = sizeof(address.text);

	if (side == 0 && (zmq_bind(socket, "tcp://127.0.0.1:*") != 0 ||
	                     zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, address.text, &capacity) != 0))
		return complain("bind");
	if (!bench_meet(side, in, out, &address))
		return false;
	return side == 0 || zmq_connect(socket, address.text) == 0 || complain("connect");
}

int bench_bare_zmq(const void *setup, int side, int in, int out)
{
	void *const context = zmq_ctx_new();
	void *const socket = context != NULL ? zmq_socket(context, ZMQ_DEALER) : NULL;
	const bench_hello hello = {{0}};
	const int none = 0;
	bench_order order;
	bool good;

	(void)setup;
	good = socket != NULL || complain("socket");
	good = good && meet(socket, side, in, out) && bench_say_hello(out, &hello);
	while (good && bench_next_order(in, &order))
		good = obey(socket, side, out, &order);
	if (socket != NULL) {
		zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
		zmq_close(socket);
	}
	if (context != NULL)
		zmq_ctx_term(context);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
