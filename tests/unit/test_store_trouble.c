/* SPDX-License-Identifier: Apache-2.0
 *
 * What can go wrong around a store: servers that go, connections that break, peers that do not play
 * by the rules, a system that has nothing left.
 */
#include "unit/store_kit.h"

#include "base/fault.h"
#include "wire/msg.h"
#include "wire/zsock.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

/* ---- what can go wrong outside ---- */

static void local_url(char url[64], int port)
{
	snprintf(url, 64, "tcp://127.0.0.1:%d", port);
}

static struct sockaddr *as_sockaddr(struct sockaddr_in *addr)
{
	return (struct sockaddr *)addr;
}

static int listen_silently(int *port)
{
	struct sockaddr_in addr = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, as_sockaddr(&addr), len), 0);
	ck_assert_int_eq(listen(fd, 16), 0);
	ck_assert_int_eq(getsockname(fd, as_sockaddr(&addr), &len), 0);
	*port = ntohs(addr.sin_port);
	return fd;
}

START_TEST(nobody_answers)
{
	char url[64];
	kvp_store *opened = NULL;
	int port;

	local_url(url, kit_free_port());
	KIT_STATUS(kvp_store_open(NULL, url, NULL, 200, &opened), KVP_E_STORE_LOST);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "nothing listens there"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), url));

	const int fd = listen_silently(&port);
	local_url(url, port);
	KIT_STATUS(kvp_store_open(NULL, url, NULL, 200, &opened), KVP_E_STORE_LOST);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "does not talk like a store"));
	close(fd);

	/* Something that speaks ZeroMQ, but is no store. */
	kvpi_zctx *ctx;
	kvpi_zsock *router;
	KIT_OK(kvpi_zctx_new(1, &ctx));
	KIT_OK(kvpi_zsock_router(ctx, "127.0.0.1:0", KVPI_STORE_FRAME_MAX, &router));
	KIT_STATUS(
	    kvp_store_open(NULL, kvpi_zsock_url(router), NULL, 500, &opened), KVP_E_STORE_LOST);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "connected, but does not answer"));
	kvpi_zsock_close(router);
	kvpi_zctx_free(ctx);
	ck_assert_ptr_null(opened);
}
END_TEST

START_TEST(killed_store)
{
	const char *const keys[] = {"k"};
	unsigned char missing = 7;

	begin();
	kvp_store_server_free(server);
	server = NULL;
	KIT_STATUS(kvp_store_set(store, "a", "", 0, NULL, 300), KVP_E_STORE_LOST);
	KIT_STATUS(kvp_store_wait(store, keys, 1, NULL, &missing, 300), KVP_E_STORE_LOST);
	KIT_STATUS(kvp_store_take(store, keys, 1, NULL, &missing, 0), KVP_E_STORE_LOST);
	ck_assert_uint_eq(missing, 7);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "no connection"));
	finish();
}
END_TEST

START_TEST(restarted_store)
{
	char bind[64];
	waiter w[2];
	uint64_t before;

	snprintf(bind, sizeof(bind), "127.0.0.1:%d", kit_free_port());
	server = start_server(bind);
	store = open_store(kvp_store_server_url(server));
	set("a", "1");
	before = kvp_store_incarnation(store);
	for (int i = 0; i < 2; i++) {
		w[i] = (waiter){.store = store, .key = "k", .timeout_ms = SOON_MS, .take = i == 1};
		start_waiter(&w[i]);
	}
	wait_parked(2);
	kvp_store_server_free(server);
	server = start_server(bind);
	/* Nobody calls the new server but the waiting threads themselves. */
	for (int i = 0; i < 2; i++) {
		pthread_join(w[i].thread, NULL);
		ck_assert_int_eq(w[i].status, KVP_E_STORE_RESTARTED);
		ck_assert_ptr_nonnull(strstr(w[i].sentence, "restarted"));
	}
	ck_assert_uint_ne(kvp_store_incarnation(store), before);
	ck_assert_uint_eq(kvp_store_incarnation(store), kvp_store_server_incarnation(server));
	/* The handle goes on with the new server. */
	check_absent("a");
	set("a", "2");
	check_value("a", "2");
	finish();
}
END_TEST

START_TEST(restarted_between_calls)
{
	char bind[64];
	kvp_bytes value;

	snprintf(bind, sizeof(bind), "127.0.0.1:%d", kit_free_port());
	server = start_server(bind);
	store = open_store(kvp_store_server_url(server));
	set("a", "1");
	kvp_store_server_free(server);
	server = start_server(bind);
	/* "Not found" would be a lie: it was there. */
	KIT_STATUS(kvp_store_get(store, "a", &value, SOON_MS), KVP_E_STORE_RESTARTED);
	KIT_STATUS(kvp_store_get(store, "a", &value, SOON_MS), KVP_E_NOT_FOUND);
	finish();
}
END_TEST

/* A TCP relay between client and server, whose connections can be cut. */
typedef struct relay {
	pthread_t thread;
	int listener, to_port;
	atomic_bool cut, stop;
	atomic_int connections; /* made so far */
} relay;

static bool pump(int from, int to)
{
	char buf[4096];
	const ssize_t n = recv(from, buf, sizeof(buf), MSG_DONTWAIT);

	return n > 0 && send(to, buf, (size_t)n, MSG_NOSIGNAL) == n;
}

static void relay_one(relay *r, int client)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)r->to_port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(out, as_sockaddr(&addr), sizeof(addr)) == 0) {
		atomic_fetch_add(&r->connections, 1);
		while (!atomic_load(&r->stop) && !atomic_exchange(&r->cut, false)) {
			struct pollfd fds[] = {
			    {.fd = client, .events = POLLIN}, {.fd = out, .events = POLLIN}};

			poll(fds, 2, 10);
			if ((fds[0].revents && !pump(client, out)) ||
			    (fds[1].revents && !pump(out, client)))
				break;
		}
	}
	close(out);
	close(client);
}

static void *run_relay(void *arg)
{
	relay *r = arg;

	while (!atomic_load(&r->stop)) {
		struct pollfd fd = {.fd = r->listener, .events = POLLIN};

		if (poll(&fd, 1, 10) > 0)
			relay_one(r, accept(r->listener, NULL, NULL));
	}
	return NULL;
}

START_TEST(broken_connection)
{
	relay r = {.to_port = 0};
	waiter w = {.key = "k", .timeout_ms = SOON_MS};
	char url[64];
	int port;

	server = start_server(NULL);
	r.to_port = atoi(strrchr(kvp_store_server_url(server), ':') + 1);
	r.listener = listen_silently(&port);
	ck_assert_int_eq(pthread_create(&r.thread, NULL, run_relay, &r), 0);
	local_url(url, port);
	store = open_store(url);
	set("a", "1");
	w.store = store;
	start_waiter(&w);
	wait_parked(1);
	/* The server lives on and parks the call for a connection that is no more: it is asked again on the new one. */
	atomic_store(&r.cut, true);
	wait_parked(2);
	set("k", "1");
	pthread_join(w.thread, NULL);
	ck_assert_int_eq(w.status, KVP_OK);
	check_bytes(&w.value, "1");
	ck_assert_int_eq(atomic_load(&r.connections), 2);
	check_value("a", "1");

	/* What comes after an unnoticed break is not held against the calls that follow. */
	atomic_store(&r.cut, true);
	while (atomic_load(&r.connections) < 3)
		poll(NULL, 0, 1);
	w = (waiter){.store = store, .key = "late", .timeout_ms = SOON_MS};
	start_waiter(&w);
	wait_parked(1);
	set("late", "2");
	pthread_join(w.thread, NULL);
	ck_assert_int_eq(w.status, KVP_OK);
	check_bytes(&w.value, "2");
	finish();
	atomic_store(&r.stop, true);
	pthread_join(r.thread, NULL);
	close(r.listener);
}
END_TEST

START_TEST(a_lost_reply_does_not_count_twice)
{
	int64_t sum = 0;
	int lost = 0;

	server = start_server(NULL);
	store = open_store(kvp_store_server_url(server));
	/* A reply to the ping that goes ahead may be the one that is lost: then there was nothing to see. */
	for (int i = 1; lost < 2; i++) {
		const long long before = metric("kvpipe_store_add_requests_total");

		set("other", "1");
		kvpi_fault_arm("store.reply", 1, 1);
		KIT_OK(kvp_store_add(store, "n", 1, &sum, SOON_MS));
		kvpi_fault_disarm_all();
		ck_assert_int_eq(sum, i);
		lost += metric("kvpipe_store_add_requests_total") == before + 2;
		ck_assert_int_lt(i, 100);
	}
	finish();
}
END_TEST

typedef struct adder {
	pthread_t thread;
	_Atomic int64_t sum;
	atomic_bool stop;
	kvp_status status;
	int64_t wrong; /* a sum that should not have come */
} adder;

static void *add_on(void *arg)
{
	adder *a = arg;
	int64_t sum;

	while (a->status == KVP_OK && !atomic_load(&a->stop)) {
		a->status = kvp_store_add(store, "n", 1, &sum, SOON_MS);
		if (a->status == KVP_OK && sum != atomic_load(&a->sum) + 1)
			a->wrong = sum;
		atomic_store(&a->sum, sum);
	}
	return NULL;
}

static bool has_added(void *user)
{
	const adder *a = user;
	static int64_t before;

	if (before == 0)
		before = atomic_load(&a->sum);
	if (atomic_load(&a->sum) < before + 50)
		return false;
	before = 0;
	return true;
}

START_TEST(additions_over_a_breaking_connection)
{
	relay r = {.to_port = 0};
	adder a = {.status = KVP_OK};
	char url[64];
	int port;

	server = start_server(NULL);
	r.to_port = atoi(strrchr(kvp_store_server_url(server), ':') + 1);
	r.listener = listen_silently(&port);
	ck_assert_int_eq(pthread_create(&r.thread, NULL, run_relay, &r), 0);
	local_url(url, port);
	store = open_store(url);
	ck_assert_int_eq(pthread_create(&a.thread, NULL, add_on, &a), 0);
	for (int i = 0; i < 5; i++) {
		kit_wait_until(has_added, &a, SOON_MS);
		atomic_store(&r.cut, true);
	}
	kit_wait_until(has_added, &a, SOON_MS);
	atomic_store(&a.stop, true);
	pthread_join(a.thread, NULL);
	ck_assert_int_eq(a.status, KVP_OK);
	/* Each one once: no sum was left out, none came twice. */
	ck_assert_int_eq(a.wrong, 0);
	ck_assert_int_ge(atomic_load(&r.connections), 5);
	finish();
	atomic_store(&r.stop, true);
	pthread_join(r.thread, NULL);
	close(r.listener);
}
END_TEST

START_TEST(close_ends_pending_calls)
{
	waiter w[3];
	kvp_bytes value;

	begin();
	for (int i = 0; i < 3; i++) {
		w[i] = (waiter){.store = store, .key = "k", .timeout_ms = SOON_MS, .take = i == 1};
		start_waiter(&w[i]);
	}
	wait_parked(3);
	kvp_store_close(store);
	kvp_store_close(store);
	for (int i = 0; i < 3; i++) {
		pthread_join(w[i].thread, NULL);
		ck_assert_int_eq(w[i].status, KVP_E_CLOSED);
	}
	KIT_STATUS(kvp_store_get(store, "k", &value, SOON_MS), KVP_E_CLOSED);
	KIT_STATUS(kvp_store_set(store, "k", "", 0, NULL, SOON_MS), KVP_E_CLOSED);
	/* What was parked is cancelled at the server: it would take keys for nobody. */
	kvp_store *other = open_store(kvp_store_server_url(server));
	while (metric("kvpipe_store_parked_waits") > 0)
		KIT_OK(kvp_store_add(other, "n", 1, NULL, SOON_MS));
	kvp_store_free(other);
	finish();
}
END_TEST

static int use_in_child(void *user)
{
	kvp_bytes value;
	const kvp_status status = kvp_store_get(store, "a", &value, SOON_MS);

	(void)user;
	kvp_store_close(store);
	kvp_store_free(store);
	kvp_store_server_free(server);
	return status == KVP_E_FORKED ? 0 : 1;
}

START_TEST(forked_child)
{
	begin();
	set("a", "1");
	ck_assert_int_eq(kit_wait_exit(kit_fork(use_in_child, NULL), SOON_MS), 0);
	check_value("a", "1");
	finish();
}
END_TEST

/* ---- a client that does not play by the rules ---- */

/* Bytes that are no ZeroMQ at all. */
static void send_raw(const char *url, uint64_t seed)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	    .sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1))};
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char junk[4096];

	ck_assert_int_eq(connect(fd, as_sockaddr(&addr), sizeof(addr)), 0);
	kit_random_fill(junk, sizeof(junk), seed);
	if (seed % 2 == 0) /* begins like a ZeroMQ greeting */
		memcpy(junk, "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL", 16);
	ck_assert_int_gt(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), 0);
	close(fd);
}

static void send_when_there_is_room(kvpi_zsock *dealer, const void *frame, size_t len)
{
	kvp_status status;

	while ((status = kvpi_zsock_send(dealer, NULL, frame, len)) == KVP_E_AGAIN)
		poll(NULL, 0, 1);
	KIT_OK(status);
}

START_TEST(garbage)
{
	uint64_t seed = 42;
	kvpi_zctx *ctx;
	kvpi_zsock *dealer;
	char frame[300];

	begin();
	set("a", "1");
	for (uint64_t i = 0; i < 8; i++)
		send_raw(kvp_store_server_url(server), i);

	KIT_OK(kvpi_zctx_new(1, &ctx));
	KIT_OK(kvpi_zsock_dealer(
	    ctx, kvp_store_server_url(server), 1 << 20, KVPI_ZDOWN_REFUSE, &dealer));
	/* Frames of noise; noise in the shape of a message; messages that are no requests. */
	for (int i = 0; i < 600; i++) {
		const size_t len = kit_random(&seed) % sizeof(frame);

		kit_random_fill(frame, sizeof(frame), kit_random(&seed));
		if (i % 3 == 1)
			memcpy(frame, "\x92\x23\x85\1\1\2", 6);
		send_when_there_is_room(dealer, frame, i % 3 == 2 ? 3 : len);
	}
	const kvpi_msg reply = {
	    .id = KVPI_MSG_store_reply, .u.store_reply = {.id = 1, .incarnation = 1, .status = 0}};
	kvpi_buf buf = {0};
	KIT_OK(kvpi_msg_encode(&reply, &buf));
	send_when_there_is_room(dealer, buf.data, buf.len);
	kvpi_buf_fini(&buf);

	/* All of it was dropped (and what ZeroMQ took for messages of an old peer), nothing else
	 * has changed. */
	while (metric("kvpipe_store_protocol_errors_total") < 601)
		check_value("a", "1");
	check_value("a", "1");
	ck_assert_int_eq(metric("kvpipe_store_keys"), 1);
	kvpi_zsock_close(dealer);
	kvpi_zctx_free(ctx);

	/* Messages of several frames, and a peer that chooses its own name, through bare ZeroMQ. */
	const long long before = metric("kvpipe_store_protocol_errors_total");
	void *zmq = zmq_ctx_new(), *peer = zmq_socket(zmq, ZMQ_DEALER);
	const int linger = 0;

	zmq_setsockopt(peer, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(peer, ZMQ_ROUTING_ID, "me", 2);
	ck_assert_int_eq(zmq_connect(peer, kvp_store_server_url(server)), 0);
	for (int parts = 1; parts < 1000; parts *= 3)
		for (int i = 0; i < parts; i++)
			ck_assert_int_ge(
			    zmq_send(peer, frame, i % 3, i < parts - 1 ? ZMQ_SNDMORE : 0), 0);
	while (metric("kvpipe_store_protocol_errors_total") < before + 7)
		check_value("a", "1");
	zmq_close(peer);
	zmq_ctx_term(zmq);
	check_value("a", "1");
	finish();
}
END_TEST

/* A client that asks for much and reads late: the server keeps what finds no room, within its
 * bound. */
START_TEST(slow_reader)
{
	enum { REQUESTS = 1500 };
	const size_t len = 16 * 1024;
	const kvpi_view key = kvpi_view_text("big");
	char *big = malloc(len);
	bool *seen = calloc(REQUESTS + 1, sizeof(*seen));
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_zctx *ctx;
	kvpi_zsock *dealer;
	kvpi_buf buf = {0};

	begin();
	kit_random_fill(big, len, 3);
	KIT_OK(kvp_store_set(store, "big", big, len, NULL, SOON_MS));
	KIT_OK(kvpi_zctx_new(1, &ctx));
	KIT_OK(kvpi_zsock_dealer(
	    ctx, kvp_store_server_url(server), 1 << 20, KVPI_ZDOWN_REFUSE, &dealer));
	for (uint64_t id = 1; id <= REQUESTS; id++) {
		const kvpi_msg get = {.id = KVPI_MSG_store_get,
		    .u.store_get = {.id = id, .keys = {&key, 1}, .want_values = 1}};

		kvpi_buf_clear(&buf);
		KIT_OK(kvpi_msg_encode(&get, &buf));
		send_when_there_is_room(dealer, buf.data, buf.len);
	}
	/* Others are served meanwhile. */
	while (metric("kvpipe_store_get_requests_total") < REQUESTS)
		KIT_OK(kvp_store_add(store, "n", 1, NULL, SOON_MS));
	ck_assert_int_gt(metric("kvpipe_store_outbox_bytes"), 0);

	for (int got = 0; got < REQUESTS;) {
		kvpi_view frame;
		kvpi_msg msg;

		if (kvpi_zsock_recv(dealer, NULL, &frame) == KVP_E_AGAIN) {
			poll(NULL, 0, 1);
			continue;
		}
		KIT_OK(kvpi_msg_decode(reader, frame.data, frame.len, KVPI_STORE_FRAME_MAX, &msg));
		const kvpi_msg_store_reply *reply = &msg.u.store_reply;
		ck_assert_int_eq(reply->status, KVP_OK);
		ck_assert(!seen[reply->id]);
		seen[reply->id] = true;
		kit_check_fill(reply->values.items[0].data, len, 3);
		got++;
	}
	while (metric("kvpipe_store_outbox_bytes") > 0)
		KIT_OK(kvp_store_add(store, "n", 1, NULL, SOON_MS));
	ck_assert_int_eq(metric("kvpipe_store_lost_replies_total"), 0);

	/* The same again, and it goes away without reading. */
	for (uint64_t id = 1; id <= REQUESTS; id++)
		send_when_there_is_room(dealer, buf.data, buf.len);
	kvpi_zsock_close(dealer);
	kvpi_zctx_free(ctx);
	while (metric("kvpipe_store_outbox_bytes") > 0)
		KIT_OK(kvp_store_add(store, "n", 1, NULL, SOON_MS));
	kvpi_buf_fini(&buf);
	kvpi_msg_reader_free(reader);
	free(seen);
	free(big);
	finish();
}
END_TEST

/* ---- faults ---- */

START_TEST(start_fails)
{
	static const char *const points[] = {"zsock.context", "zsock.socket", "zsock.bind",
	    "wakeup.eventfd", "thread.start", "alloc"};
	kvp_store_server *started = NULL;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		unsigned nth = 1;

		for (;; nth++) {
			kvpi_fault_arm(points[i], nth, 1);
			const kvp_status status = kvp_store_server_start(NULL, NULL, &started);

			kvpi_fault_disarm_all();
			if (status == KVP_OK)
				break;
			ck_assert(status == KVP_E_SYSTEM || status == KVP_E_NOMEM);
			ck_assert_ptr_null(started);
		}
		ck_assert_uint_gt(nth, 1);
		kvp_store_server_free(started);
		started = NULL;
	}
}
END_TEST

START_TEST(open_fails)
{
	static const char *const points[] = {
	    "zsock.socket", "zsock.connect", "wakeup.eventfd", "cond.init"};
	kvp_store *opened = NULL;

	begin();
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		kvpi_fault_arm(points[i], 1, 1);
		const kvp_status status =
		    kvp_store_open(NULL, kvp_store_server_url(server), NULL, SOON_MS, &opened);
		kvpi_fault_disarm_all();
		ck_assert(status == KVP_E_SYSTEM || status == KVP_E_NOMEM);
		ck_assert_ptr_null(opened);
	}
	finish();
}
END_TEST

/* An allocation that fails anywhere, on either side: a clear status within the time, nothing
 * leaked, and the next call works. */
START_TEST(calls_without_memory)
{
	const char *const keys[] = {"a", "b"};
	kvp_bytes values[2], value;
	kvp_store *opened;
	int count = 0, failures = 0;

	begin();
	set("a", "1");
	set("b", "2");
	for (unsigned nth = 1; nth <= 12; nth++) {
		for (int kind = 0; kind < 5; kind++) {
			kvp_status status = KVP_OK;

			kvpi_fault_arm("alloc", nth, 1);
			switch (kind) {
			case 0:
				status = kvp_store_set(store, "a", "1", 1, NULL, 200);
				break;
			case 1:
				status = kvp_store_get(store, "a", &value, 200);
				if (status == KVP_OK)
					kvp_bytes_free(&value);
				break;
			case 2:
				status = kvp_store_wait(store, keys, 2, values, NULL, 200);
				for (int i = 0; i < 2 && status == KVP_OK; i++)
					kvp_bytes_free(&values[i]);
				break;
			case 3:
				status = kvp_store_list(store, "", count_all, &count, 200);
				break;
			case 4:
				status = kvp_store_open(
				    NULL, kvp_store_server_url(server), NULL, 200, &opened);
				if (status == KVP_OK)
					kvp_store_free(opened);
				break;
			}
			kvpi_fault_disarm_all();
			if (status != KVP_OK)
				failures++;
			/* A reply that was lost for lack of memory ends a call by its time only. */
			if (status != KVP_OK && status != KVP_E_NOMEM &&
			    status != KVP_E_STORE_LOST && !(kind == 2 && status == KVP_E_TIMEOUT))
				ck_abort_msg("kind %d, allocation %u: %s: %s", kind, nth,
				    kvp_status_name(status), kvp_last_error());
		}
		check_value("a", "1");
	}
	ck_assert_int_gt(failures, 10);
	finish();
}
END_TEST

KIT_MAIN("store trouble", nobody_answers, killed_store, restarted_store, restarted_between_calls,
    broken_connection, a_lost_reply_does_not_count_twice, additions_over_a_breaking_connection,
    close_ends_pending_calls, forked_child, garbage, slow_reader, start_fails, open_fails,
    calls_without_memory)
