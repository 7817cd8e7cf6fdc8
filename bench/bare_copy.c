/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes moved by the kernel's or the processor's own means: send and recv, memcpy, process_vm_readv.  The same number
 * of buffers of the same kind and size as ours has in flight, used in turn.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static bool complain(const char *what)
{
	return bench_complain("bare %s: %s", what, strerror(errno));
}

/* ---- send and recv ---- */

static bool send_bytes(int fd, const unsigned char *data, uint64_t bytes)
{
	while (bytes > 0) {
		const ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);

		if (n < 0)
			return complain("send");
		data += n;
		bytes -= (uint64_t)n;
	}
	return true;
}

static bool recv_bytes(int fd, unsigned char *data, uint64_t bytes)
{
	while (bytes > 0) {
		const ssize_t n = recv(fd, data, bytes, 0);

		if (n < 0)
			return complain("recv");
		if (n == 0)
			return bench_complain("bare recv: the other side is gone");
		data += n;
		bytes -= (uint64_t)n;
	}
	return true;
}

/* Side 1 sends one byte when it has everything. */
static bool tcp_stream(int fd, int side, const bench_pool *pool, const bench_order *order, bench_reply *reply)
{
	const int64_t begun = bench_now_ns();
	unsigned char byte = 'a';

	for (uint64_t i = 0; i < order->count; i++) {
		unsigned char *const item = pool->item[i % order->window];

		if (side == 0 ? !send_bytes(fd, item, order->bytes) : !recv_bytes(fd, item, order->bytes))
			return false;
	}
	if (side == 0 ? !recv_bytes(fd, &byte, 1) : !send_bytes(fd, &byte, 1))
		return false;
	reply->figure[0] = (double)(bench_now_ns() - begun) * 1e-9;
	return side == 0 || bench_all_arrived(pool, order);
}

static int tcp_meet(int side, int in, int out)
{
	struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(place);
	const int on = 1;
	bench_address address = {{0}};
	int fd = -1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0)
		return -1;
	if (side == 0) {
		if (bind(listener, (struct sockaddr *)&place, len) == 0 && listen(listener, 1) == 0 &&
		    getsockname(listener, (struct sockaddr *)&place, &len) == 0) {
			snprintf(address.text, sizeof(address.text), "%d", ntohs(place.sin_port));
			if (bench_meet(side, in, out, &address))
				fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		}
		close(listener);
	} else if (bench_meet(side, in, out, &address)) {
		place.sin_port = htons((uint16_t)atoi(address.text));
		fd = listener;
		if (connect(fd, (struct sockaddr *)&place, len) != 0) {
			close(fd);
			return -1;
		}
	}
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

int bench_bare_tcp(const void *setup, int side, int in, int out)
{
	const int fd = tcp_meet(side, in, out);
	const bench_hello hello = {{0}};
	bench_pool pool = {0};
	bench_order order;
	bool good;

	(void)setup;
	good = (fd >= 0 || complain("connection")) && bench_say_hello(out, &hello);
	while (good && bench_next_order(in, &order)) {
		bench_reply reply = {{0}};

		good = bench_pool_get(&pool, order.bytes, order.window, false, order.seed + (uint64_t)side) &&
		       (side == 0 || bench_ready(out)) && tcp_stream(fd, side, &pool, &order, &reply) &&
		       bench_answer(out, &reply);
	}
	bench_pool_free(&pool);
	if (fd >= 0)
		close(fd);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- memcpy ---- */

int bench_bare_memcpy(const void *setup, int side, int in, int out)
{
	const bench_hello hello = {{0}};
	bench_pool from = {0}, to = {0};
	bench_order order;
	bool good;

	(void)setup;
	(void)side;
	good = bench_say_hello(out, &hello);
	while (good && bench_next_order(in, &order)) {
		bench_reply reply = {{0}};
		int64_t begun;

		good = bench_pool_get(&from, order.bytes, order.window, order.shared, order.seed) &&
		       bench_pool_get(&to, order.bytes, order.window, order.shared, order.seed + 1);
		if (!good)
			break;
		begun = bench_now_ns();
		for (uint64_t i = 0; i < order.count; i++)
			memcpy(to.item[i % order.window], from.item[i % order.window], order.bytes);
		reply.figure[0] = (double)(bench_now_ns() - begun) * 1e-9;
		good = bench_all_arrived(&to, &order) && bench_answer(out, &reply);
	}
	bench_pool_free(&from);
	bench_pool_free(&to);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- process_vm_readv ---- */

/* The process whose memory is read: it makes what an order asks for, and says where it is. */
static int be_read(void *user, int in, int out)
{
	bench_pool pool = {0};
	bench_order order;
	bool good = true;

	(void)user;
	/* Where only ancestors may look (Yama), the parent is one, but the reader is told anyway. */
	prctl(PR_SET_PTRACER, getppid(), 0, 0, 0);
	while (good && bench_next_order(in, &order))
		good = bench_pool_get(&pool, order.bytes, order.window, false, order.seed) &&
		       bench_write_all(out, pool.item, sizeof(pool.item));
	bench_pool_free(&pool);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

static bool read_other(pid_t pid, unsigned char *to, unsigned char *from, uint64_t bytes)
{
	while (bytes > 0) {
		const struct iovec here = {to, bytes}, there = {from, bytes};
		const ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);

		if (n <= 0)
			return false;
		to += n;
		from += n;
		bytes -= (uint64_t)n;
	}
	return true;
}

static bool readv_stream(
    bench_child *other, bench_pool *pool, const bench_order *order, void **theirs, bench_reply *reply)
{
	int64_t begun;

	if (!bench_tell(other, order, sizeof(*order)) || !bench_hear(other, theirs, sizeof(pool->item)) ||
	    !bench_pool_get(pool, order->bytes, order->window, false, order->seed + 1))
		return false;
	begun = bench_now_ns();
	for (uint64_t i = 0; i < order->count; i++) {
		const uint64_t slot = i % order->window;

		if (!read_other(other->pid, pool->item[slot], theirs[slot], order->bytes))
			return complain("process_vm_readv");
	}
	reply->figure[0] = (double)(bench_now_ns() - begun) * 1e-9;
	return bench_all_arrived(pool, order);
}

/* The hello is empty, or says why it is not possible here. */
static bool try_readv(bench_child *other, bench_hello *hello)
{
	const bench_order little = {.bytes = 64, .count = 1, .window = 1, .seed = 1};
	void *theirs[BENCH_WINDOW_MAX];
	unsigned char byte[64];

	if (!bench_tell(other, &little, sizeof(little)) || !bench_hear(other, theirs, sizeof(theirs)))
		return false;
	if (!read_other(other->pid, byte, theirs[0], sizeof(byte)))
		snprintf(hello->text, sizeof(hello->text), "process_vm_readv is refused: %s", strerror(errno));
	return true;
}

int bench_bare_readv(const void *setup, int side, int in, int out)
{
	void *theirs[BENCH_WINDOW_MAX];
	bench_hello hello = {{0}};
	bench_pool pool = {0};
	bench_child other;
	bench_order order;
	bool good;

	(void)side;
	good = bench_spawn(setup, &other, "the process that is read", be_read, NULL) && try_readv(&other, &hello) &&
	       bench_say_hello(out, &hello);
	while (good && bench_next_order(in, &order)) {
		bench_reply reply = {{0}};

		good = readv_stream(&other, &pool, &order, theirs, &reply) && bench_answer(out, &reply);
	}
	bench_pool_free(&pool);
	good = good && bench_join(&other);
	bench_kill_children();
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
