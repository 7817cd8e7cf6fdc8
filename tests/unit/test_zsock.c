/* SPDX-License-Identifier: Apache-2.0
 *
 * Peers that do not keep to the rules are raw ZeroMQ or TCP sockets made here.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/context.h"
#include "base/fault.h"
#include "wire/addr.h"
#include "wire/zsock.h"
#include <errno.h>
#include <fcntl.h>
#include <kvpipe/log.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <zmq.h>

#define FRAME_MAX (64 * 1024)
#define PATIENCE_MS 20000

static kvpi_zctx *ctx;
static kvpi_zsock *router, *dealer;

static void open_pair(void)
{
	KIT_OK(kvpi_zctx_new(1, &ctx));
	KIT_OK(kvpi_zsock_router(ctx, "127.0.0.1:0", FRAME_MAX, &router));
	KIT_OK(
	    kvpi_zsock_dealer(ctx, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
}

static void close_pair(void)
{
	kvpi_zsock_close(dealer);
	kvpi_zsock_close(router);
	kvpi_zctx_free(ctx);
}

/* Waits as the header tells: sleeps on the descriptor only when the socket has nothing. */
static kvp_status recv_within(kvpi_zsock *sock, kvpi_zid *from, kvpi_view *frame)
{
	const int64_t deadline = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), PATIENCE_MS);

	for (;;) {
		const kvp_status status = kvpi_zsock_recv(sock, from, frame);
		struct pollfd pfd = {.fd = kvpi_zsock_fd(sock), .events = POLLIN};

		if (status != KVP_E_AGAIN)
			return status;
		if (kvpi_zsock_ready(sock))
			continue;
		if (poll(&pfd, 1, kvpi_ms_left(deadline, kvpi_now(&kvpi_clock_real))) == 0)
			return KVP_E_TIMEOUT;
	}
}

static void expect(kvpi_zsock *sock, kvpi_zid *from, const char *text)
{
	kvpi_view frame;

	KIT_OK(recv_within(sock, from, &frame));
	ck_assert_uint_eq(frame.len, strlen(text));
	ck_assert_mem_eq(frame.data, text, frame.len);
}

typedef struct outgoing {
	kvpi_zsock *sock;
	const kvpi_zid *to;
	const char *text;
	kvp_status status;
} outgoing;

/* Sends, or fails with anything but "not connected yet". */
static bool sent(void *user)
{
	outgoing *o = user;

	o->status = kvpi_zsock_send(o->sock, o->to, o->text, strlen(o->text));
	return o->status != KVP_E_AGAIN;
}

static void send_text(kvpi_zsock *sock, const kvpi_zid *to, const char *text)
{
	outgoing o = {.sock = sock, .to = to, .text = text};

	kit_wait_until(sent, &o, PATIENCE_MS);
	KIT_OK(o.status);
}

/* ---- the ordinary way ---- */

START_TEST(there_and_back)
{
	kvpi_zid from;
	kvpi_view frame;

	open_pair();
	ck_assert(strncmp(kvpi_zsock_url(router), "tcp://127.0.0.1:", 16) == 0);
	ck_assert_str_ne(kvpi_zsock_url(router), "tcp://127.0.0.1:0");
	ck_assert_str_eq(kvpi_zsock_url(dealer), kvpi_zsock_url(router));
	ck_assert(!kvpi_zsock_ready(router));
	KIT_STATUS(kvpi_zsock_recv(router, &from, &frame), KVP_E_AGAIN);

	send_text(dealer, NULL, "question");
	expect(router, &from, "question");
	ck_assert_uint_gt(from.len, 0);
	send_text(router, &from, "answer");
	expect(dealer, NULL, "answer");

	send_text(dealer, NULL, ""); /* an empty frame is a frame */
	expect(router, NULL, "");
	close_pair();
	kvpi_zsock_close(NULL);
	kvpi_zctx_free(NULL);
}
END_TEST

START_TEST(frames_arrive_whole_and_in_order)
{
	static unsigned char bytes[FRAME_MAX];
	kvpi_zid from;
	kvpi_view frame;

	open_pair();
	send_text(dealer, NULL, "first");
	expect(router, &from, "first");
	for (size_t len = 1; len <= sizeof(bytes); len *= 4) {
		kit_random_fill(bytes, len, len);
		KIT_OK(kvpi_zsock_send(dealer, NULL, bytes, len));
		memset(bytes, 0, len); /* it was copied */
	}
	for (size_t len = 1; len <= sizeof(bytes); len *= 4) {
		KIT_OK(recv_within(router, &from, &frame));
		ck_assert_uint_eq(frame.len, len);
		kit_check_fill(frame.data, len, len);
	}
	close_pair();
}
END_TEST

START_TEST(a_router_tells_its_peers_apart)
{
	kvpi_zsock *second;
	kvpi_zid ids[2];

	open_pair();
	KIT_OK(
	    kvpi_zsock_dealer(ctx, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &second));
	send_text(dealer, NULL, "one");
	expect(router, &ids[0], "one");
	send_text(second, NULL, "two");
	expect(router, &ids[1], "two");
	ck_assert(ids[0].len != ids[1].len || memcmp(ids[0].bytes, ids[1].bytes, ids[0].len) != 0);
	send_text(router, &ids[1], "to two");
	send_text(router, &ids[0], "to one");
	expect(dealer, NULL, "to one");
	expect(second, NULL, "to two");
	kvpi_zsock_close(second);
	close_pair();
}
END_TEST

static kvpi_zid gone;

static bool is_gone(void *user)
{
	(void)user;
	return kvpi_zsock_send(router, &gone, "x", 1) == KVP_E_PEER_LOST;
}

START_TEST(a_lost_peer_is_reported)
{
	kvpi_zid nobody = {.len = 5, .bytes = {0, 1, 2, 3, 4}};
	kvpi_zid empty = {0};

	open_pair();
	KIT_STATUS(kvpi_zsock_send(router, &nobody, "x", 1), KVP_E_PEER_LOST);
	KIT_STATUS(kvpi_zsock_send(router, &empty, "x", 1), KVP_E_PEER_LOST);
	send_text(dealer, NULL, "hello");
	expect(router, &gone, "hello");
	kvpi_zsock_close(dealer);
	dealer = NULL;
	kit_wait_until(is_gone, NULL, PATIENCE_MS);
	KIT_STATUS(kvpi_zsock_send(router, &gone, "x", 1), KVP_E_PEER_LOST);

	/* And the router goes on. */
	KIT_OK(
	    kvpi_zsock_dealer(ctx, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
	send_text(dealer, NULL, "another");
	expect(router, NULL, "another");
	close_pair();
}
END_TEST

static char same_url[64];

static bool bound_again(void *user)
{
	(void)user;
	return kvpi_zsock_router(ctx, same_url, FRAME_MAX, &router) == KVP_OK;
}

/* What the dealer sends before it knows of the router's death is lost: repeat, as sessions do. */
static bool got_through(void *user)
{
	kvpi_view frame;

	(void)user;
	(void)kvpi_zsock_send(dealer, NULL, "again", 5);
	return kvpi_zsock_recv(router, NULL, &frame) == KVP_OK;
}

START_TEST(a_dealer_connects_when_somebody_listens)
{
	KIT_OK(kvpi_zctx_new(1, &ctx));
	snprintf(same_url, sizeof(same_url), "127.0.0.1:%d", kit_free_port());
	KIT_OK(kvpi_zsock_dealer(ctx, same_url, FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
	ck_assert_str_eq(kvpi_zsock_url(dealer), same_url);
	KIT_STATUS(kvpi_zsock_send(dealer, NULL, "x", 1), KVP_E_AGAIN);
	KIT_OK(kvpi_zsock_router(ctx, same_url, FRAME_MAX, &router));
	send_text(dealer, NULL, "late");
	expect(router, NULL, "late");

	kvpi_zsock_close(router);
	kit_wait_until(bound_again, NULL, PATIENCE_MS);
	kit_wait_until(got_through, NULL, PATIENCE_MS);
	close_pair();
}
END_TEST

/* ---- bounds ---- */

static kvp_status fill(kvpi_zsock *sock, const kvpi_zid *to, int *count)
{
	static char frame[FRAME_MAX];
	kvp_status status;

	/* Two queues of 256 and what the kernel's buffers hold: 2000 is far above. */
	for (*count = 0; *count < 2000; ++*count) {
		status = kvpi_zsock_send(sock, to, frame, sizeof(frame));
		if (status != KVP_OK)
			return status;
	}
	return KVP_OK;
}

START_TEST(queues_are_bounded_both_ways)
{
	kvpi_zid from;
	kvpi_view frame;
	int count;

	open_pair();
	send_text(dealer, NULL, "hello");
	expect(router, &from, "hello");

	KIT_STATUS(fill(dealer, NULL, &count), KVP_E_AGAIN);
	ck_assert_int_gt(count, 100);
	for (int i = 0; i < count; i++) {
		KIT_OK(recv_within(router, &from, &frame));
		ck_assert_uint_eq(frame.len, FRAME_MAX);
	}
	send_text(dealer, NULL, "there is room again");
	do
		KIT_OK(recv_within(router, &from, &frame));
	while (frame.len == FRAME_MAX);

	KIT_STATUS(fill(router, &from, &count), KVP_E_AGAIN);
	ck_assert_int_gt(count, 100);
	/* A refused send has left no half message behind. */
	for (int i = 0; i < count; i++) {
		KIT_OK(recv_within(dealer, NULL, &frame));
		ck_assert_uint_eq(frame.len, FRAME_MAX);
	}
	send_text(router, &from, "whole");
	do
		KIT_OK(recv_within(dealer, NULL, &frame));
	while (frame.len == FRAME_MAX);
	ck_assert_uint_eq(frame.len, 5);
	close_pair();
}
END_TEST

/* Data that nobody takes must not keep a context from ending: linger is not for ever. */
START_TEST(free_does_not_wait_for_a_reader)
{
	kvpi_zctx *other;
	kvpi_zsock *sender;
	kvpi_zid from;
	int count;

	open_pair();
	KIT_OK(kvpi_zctx_new(1, &other));
	KIT_OK(kvpi_zsock_dealer(
	    other, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &sender));
	send_text(sender, NULL, "hello");
	expect(router, &from, "hello");
	KIT_STATUS(fill(sender, NULL, &count), KVP_E_AGAIN);
	kvpi_zsock_close(sender);
	kvpi_zctx_free(other);
	close_pair();
}
END_TEST

static char logged[256];

static void keep_line(void *user, kvp_log_level level, const char *component, const char *line)
{
	(void)user;
	(void)level;
	(void)component;
	strncpy(logged, line, sizeof(logged) - 1);
}

START_TEST(free_does_not_wait_for_a_forgotten_socket)
{
	kvp_log_set((kvp_log_callback){.call = keep_line}, KVP_LOG_ERROR);
	open_pair();
	kvpi_zctx_free(ctx);
	ck_assert_ptr_nonnull(strstr(logged, "2 open sockets"));
	kvp_log_set((kvp_log_callback){.call = NULL}, KVP_LOG_OFF);
	close_pair(); /* was left alone: still whole */
}
END_TEST

/* ---- peers that break the rules ---- */

static void *raw_ctx, *raw;

static void raw_open(const void *id, size_t id_len)
{
	const int linger = 0;

	raw_ctx = zmq_ctx_new();
	raw = zmq_socket(raw_ctx, ZMQ_DEALER);
	zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof(linger));
	if (id_len > 0)
		ck_assert_int_eq(zmq_setsockopt(raw, ZMQ_ROUTING_ID, id, id_len), 0);
}

static void raw_connect(void)
{
	ck_assert_int_eq(zmq_connect(raw, kvpi_zsock_url(router)), 0);
}

static void raw_close(void)
{
	zmq_close(raw);
	zmq_ctx_term(raw_ctx);
}

static void raw_send_parts(int parts)
{
	for (int i = 1; i <= parts; i++)
		ck_assert_int_eq(zmq_send(raw, "part", 4, i < parts ? ZMQ_SNDMORE : 0), 4);
}

START_TEST(several_frames_are_dropped_and_reported)
{
	static const int parts[] = {2, 3, 100, 1000, 5000};
	kvpi_zid from, bad;
	kvpi_view frame;

	open_pair();
	raw_open(NULL, 0);
	raw_connect();
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		raw_send_parts(parts[i]);
		raw_send_parts(1);
		KIT_STATUS(recv_within(router, &bad, &frame), KVP_E_PROTOCOL);
		/* One report per message, then the peer's next one, whole. */
		expect(router, &from, "part");
		ck_assert_uint_eq(from.len, bad.len);
		ck_assert_mem_eq(from.bytes, bad.bytes, from.len);
	}
	/* A peer can be answered although it broke the rules, and others are not harmed. */
	send_text(router, &bad, "no");
	send_text(dealer, NULL, "fine");
	expect(router, NULL, "fine");

	/* With AGAIN before the end of a long one, the socket says that it wants to go on. */
	raw_send_parts(5000);
	KIT_STATUS(recv_within(router, &bad, &frame), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_zsock_recv(router, &bad, &frame), KVP_E_AGAIN);
	ck_assert(kvpi_zsock_ready(router));
	raw_close();
	close_pair();
}
END_TEST

START_TEST(a_dealer_drops_several_frames_too)
{
	char url[64];
	size_t url_len = sizeof(url);
	zmq_msg_t id;
	kvpi_view frame;
	const int linger = 0;

	KIT_OK(kvpi_zctx_new(1, &ctx));
	raw_ctx = zmq_ctx_new();
	raw = zmq_socket(raw_ctx, ZMQ_ROUTER);
	zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof(linger));
	ck_assert_int_eq(zmq_bind(raw, "tcp://127.0.0.1:*"), 0);
	zmq_getsockopt(raw, ZMQ_LAST_ENDPOINT, url, &url_len);
	KIT_OK(kvpi_zsock_dealer(ctx, url, FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
	send_text(dealer, NULL, "hello");
	zmq_msg_init(&id);
	ck_assert_int_eq(zmq_msg_recv(&id, raw, 0), 5);
	ck_assert_int_eq(zmq_recv(raw, NULL, 0, 0), 5);
	zmq_send(raw, zmq_msg_data(&id), 5, ZMQ_SNDMORE);
	raw_send_parts(700);
	zmq_send(raw, zmq_msg_data(&id), 5, ZMQ_SNDMORE);
	raw_send_parts(1);
	zmq_msg_close(&id);
	KIT_STATUS(recv_within(dealer, NULL, &frame), KVP_E_PROTOCOL);
	expect(dealer, NULL, "part");
	kvpi_zsock_close(dealer);
	kvpi_zctx_free(ctx);
	raw_close();
}
END_TEST

START_TEST(peers_do_not_choose_their_id)
{
	static const struct {
		const char *id;
		size_t len, shown;
	} rows[] = {{"abcde", 5, 5}, {"a", 1, 1}, {"12345678901234567890123456789012", 32, 32},
	    {"123456789012345678901234567890123", 33, 0}};
	kvpi_zid from;
	kvpi_view frame;

	open_pair();
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		raw_open(rows[i].id, rows[i].len);
		raw_connect();
		raw_send_parts(1);
		KIT_STATUS(recv_within(router, &from, &frame), KVP_E_PROTOCOL);
		ck_assert_uint_eq(from.len, rows[i].shown);
		raw_send_parts(2);
		KIT_STATUS(recv_within(router, &from, &frame), KVP_E_PROTOCOL);
		send_text(dealer, NULL, "fine");
		expect(router, NULL, "fine");
		raw_close();
	}
	close_pair();
}
END_TEST

/* Waits on the peer's side until the router has thrown it out. */
static void raw_wait_disconnected(void *monitor)
{
	for (;;) {
		unsigned char event[6];

		ck_assert_int_eq(zmq_recv(monitor, event, sizeof(event), 0), sizeof(event));
		ck_assert_int_ge(zmq_recv(monitor, NULL, 0, 0), 0); /* the address */
		if ((event[0] | event[1] << 8) == ZMQ_EVENT_DISCONNECTED)
			return;
	}
}

START_TEST(a_frame_above_the_maximum_ends_the_connection)
{
	static char large[FRAME_MAX + 1];
	const int patience = PATIENCE_MS;
	kvpi_zid from;
	kvpi_view frame;
	void *monitor;

	open_pair();
	raw_open(NULL, 0);
	zmq_socket_monitor(raw, "inproc://monitor", ZMQ_EVENT_DISCONNECTED);
	monitor = zmq_socket(raw_ctx, ZMQ_PAIR);
	zmq_setsockopt(monitor, ZMQ_RCVTIMEO, &patience, sizeof(patience));
	zmq_connect(monitor, "inproc://monitor");
	raw_connect();
	ck_assert_int_eq(zmq_send(raw, large, sizeof(large), 0), sizeof(large));
	raw_wait_disconnected(monitor);
	zmq_close(monitor);
	raw_close();

	send_text(dealer, NULL, "fine");
	KIT_OK(recv_within(router, &from, &frame));
	ck_assert_uint_eq(frame.len, 4);
	close_pair();
}
END_TEST

/* Connects to the router's port, says that, and waits until the router has hung up. */
static void say_on_port(const void *bytes, size_t len)
{
	const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
	kvpi_addr addr;
	struct sockaddr_storage sa;
	socklen_t sa_len;
	char greeting[256];
	ssize_t got;

	KIT_OK(kvpi_addr_parse(kvpi_zsock_url(router), &addr));
	KIT_OK(kvpi_addr_resolve(&addr, &sa, &sa_len));
	const int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sa_len), 0);
	ck_assert_int_eq(send(fd, bytes, len, MSG_NOSIGNAL), len);
	while ((got = recv(fd, greeting, sizeof(greeting), 0)) > 0)
		;
	ck_assert(got == 0 || errno == ECONNRESET);
	close(fd);
}

START_TEST(noise_on_the_port_harms_nobody)
{
	unsigned char noise[4096];

	open_pair();
	for (uint64_t i = 0; i < 20; i++) {
		kit_random_fill(noise, sizeof(noise), i);
		if (i % 2 == 0) /* a version 3 greeting, broken in its mechanism */
			memcpy(noise, "\xff\0\0\0\0\0\0\0\x01\x7f\3\0NULL", 16);
		say_on_port(noise, sizeof(noise));
	}
	send_text(dealer, NULL, "fine");
	expect(router, NULL, "fine");
	close_pair();
}
END_TEST

/* Peers of the old protocols, each with an id and a message: libzmq's engine for them can abort the
 * process. */
START_TEST(old_protocols_are_refused)
{
	static const char unversioned[] = "\1\0\4\0old";
	static const char version_1[] = "\xff\0\0\0\0\0\0\0\1\x7f\0\5\1\0\4\0old";
	static const char version_2[] = "\xff\0\0\0\0\0\0\0\1\x7f\1\5\0\0\0\3old";

	open_pair();
	say_on_port(unversioned, sizeof(unversioned) - 1);
	say_on_port(version_1, sizeof(version_1) - 1);
	say_on_port(version_2, sizeof(version_2) - 1);
	send_text(dealer, NULL, "fine");
	expect(router, NULL, "fine");
	close_pair();
}
END_TEST

/* With ZeroMQ's heartbeats on, this aborts the process at the next one. */
START_TEST(a_peer_leaves_a_backlog)
{
	static const char big[4096] = "";
	const kvpi_view frame = kvpi_view_of(big, sizeof(big));
	kvpi_view got;
	int refused = 0;

	open_pair();
	/* Until both high-water marks and all of TCP between them are full. */
	while (refused < 100) {
		if (kvpi_zsock_send(dealer, NULL, frame.data, frame.len) == KVP_OK)
			refused = 0;
		else if (++refused > 0)
			poll(NULL, 0, 1);
	}
	kvpi_zsock_close(dealer);
	dealer = NULL;
	poll(NULL, 0, 1500);
	while (kvpi_zsock_recv(router, NULL, &got) == KVP_OK)
		ck_assert_uint_eq(got.len, frame.len);
	close_pair();
}
END_TEST

/* ---- opening that fails ---- */

START_TEST(what_cannot_be_bound)
{
	kvpi_zsock *sock = NULL;

	open_pair();
	KIT_STATUS(kvpi_zsock_router(ctx, "0.0.0.0:0", FRAME_MAX, &sock), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "not a loopback address"));
	KIT_STATUS(kvpi_zsock_router(ctx, "[::]:0", FRAME_MAX, &sock), KVP_E_INVALID);
	KIT_STATUS(kvpi_zsock_router(ctx, "nonsense", FRAME_MAX, &sock), KVP_E_INVALID);
	KIT_STATUS(kvpi_zsock_router(ctx, kvpi_zsock_url(router), FRAME_MAX, &sock), KVP_E_SYSTEM);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), kvpi_zsock_url(router)));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), strerror(EADDRINUSE)));

	KIT_STATUS(
	    kvpi_zsock_dealer(ctx, "nonsense", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock), KVP_E_INVALID);
	KIT_STATUS(kvpi_zsock_dealer(ctx, "127.0.0.1:0", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock),
	    KVP_E_INVALID);
	kvpi_fault_arm("addr.resolve", 1, 0);
	KIT_STATUS(kvpi_zsock_dealer(ctx, "no.such.host:1", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock),
	    KVP_E_INVALID);
	KIT_STATUS(kvpi_zsock_router(ctx, "no.such.host:1", FRAME_MAX, &sock), KVP_E_INVALID);
	ck_assert_ptr_null(sock);
	close_pair();
}
END_TEST

START_TEST(faults_of_the_system)
{
	kvpi_zctx *other = NULL;
	kvpi_zsock *sock = NULL;

	open_pair();
	kvpi_fault_arm("zsock.context", 1, 1);
	KIT_STATUS(kvpi_zctx_new(1, &other), KVP_E_SYSTEM);
	kvpi_fault_arm("zsock.socket", 1, 2);
	KIT_STATUS(kvpi_zsock_router(ctx, "127.0.0.1:0", FRAME_MAX, &sock), KVP_E_SYSTEM);
	KIT_STATUS(kvpi_zsock_dealer(ctx, "127.0.0.1:1", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock),
	    KVP_E_SYSTEM);
	kvpi_fault_arm("zsock.bind", 1, 1);
	KIT_STATUS(kvpi_zsock_router(ctx, "127.0.0.1:0", FRAME_MAX, &sock), KVP_E_SYSTEM);
	kvpi_fault_arm("zsock.connect", 1, 1);
	KIT_STATUS(kvpi_zsock_dealer(ctx, "127.0.0.1:1", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock),
	    KVP_E_SYSTEM);
	ck_assert_ptr_null(sock);
	ck_assert_ptr_null(other);
	close_pair(); /* nothing of the failed ones is left, or this would not end */
}
END_TEST

START_TEST(without_memory)
{
	kvpi_zctx *other = NULL;
	kvpi_zsock *sock = NULL;
	kvpi_zid from;

	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_zctx_new(1, &other), KVP_E_NOMEM);
	open_pair();
	kvpi_fault_arm("alloc", 1, 2);
	KIT_STATUS(kvpi_zsock_router(ctx, "127.0.0.1:0", FRAME_MAX, &sock), KVP_E_NOMEM);
	KIT_STATUS(kvpi_zsock_dealer(ctx, "127.0.0.1:1", FRAME_MAX, KVPI_ZDOWN_REFUSE, &sock),
	    KVP_E_NOMEM);
	ck_assert_ptr_null(sock);

	send_text(dealer, NULL, "hello");
	expect(router, &from, "hello");
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_zsock_send(dealer, NULL, "lost", 4), KVP_E_NOMEM);
	for (unsigned nth = 1; nth <= 2; nth++) { /* the frame, and the id before it */
		kvpi_fault_arm("alloc", nth, 1);
		KIT_STATUS(kvpi_zsock_send(router, &from, "lost", 4), KVP_E_NOMEM);
	}
	kvpi_fault_disarm_all();
	send_text(router, &from, "answer");
	expect(dealer, NULL, "answer");
	send_text(dealer, NULL, "more");
	expect(router, NULL, "more");
	close_pair();
}
END_TEST

/* ---- addresses and contexts ---- */

START_TEST(names_and_ipv6)
{
	static const char *const binds[] = {"localhost:0", "tcp://[::1]:0"};
	const int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct sockaddr_in6 loopback = {
	    .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	const bool ipv6 =
	    probe >= 0 && bind(probe, (const struct sockaddr *)&loopback, sizeof(loopback)) == 0;

	if (probe >= 0)
		close(probe);
	for (int i = 0; i < (ipv6 ? 2 : 1); i++) {
		KIT_OK(kvpi_zctx_new(1, &ctx));
		KIT_OK(kvpi_zsock_router(ctx, binds[i], FRAME_MAX, &router));
		KIT_OK(kvpi_zsock_dealer(
		    ctx, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
		send_text(dealer, NULL, "hello");
		expect(router, NULL, "hello");
		close_pair();
	}
	if (!ipv6)
		KIT_SKIP("no IPv6 loopback here: names only");
}
END_TEST

START_TEST(a_context_has_one_of_its_own)
{
	kvp_context *context, *held;
	kvpi_zctx *a = NULL, *b = NULL;

	KIT_OK(kvp_context_new(&context, NULL));
	kvpi_fault_arm("zsock.context", 1, 1);
	KIT_STATUS(kvpi_zctx_of(context, &a), KVP_E_SYSTEM);
	ck_assert_ptr_null(a);
	KIT_OK(kvpi_zctx_of(context, &a));
	KIT_OK(kvpi_zctx_of(context, &b));
	ck_assert_ptr_eq(a, b);
	KIT_OK(kvpi_context_hold(NULL, &held));
	KIT_OK(kvpi_zctx_of(held, &b));
	ck_assert_ptr_ne(a, b);
	KIT_OK(kvpi_zsock_router(a, "127.0.0.1:0", FRAME_MAX, &router));
	KIT_OK(kvpi_zsock_dealer(b, kvpi_zsock_url(router), FRAME_MAX, KVPI_ZDOWN_REFUSE, &dealer));
	send_text(dealer, NULL, "across");
	expect(router, NULL, "across");
	kvpi_zsock_close(router);
	kvpi_zsock_close(dealer);
	kvp_context_free(context);
	kvpi_context_release(held); /* with it the threads go: the kit counts them */
}
END_TEST

KIT_MAIN("zsock", there_and_back, frames_arrive_whole_and_in_order, a_router_tells_its_peers_apart,
    a_lost_peer_is_reported, a_dealer_connects_when_somebody_listens, queues_are_bounded_both_ways,
    free_does_not_wait_for_a_reader, free_does_not_wait_for_a_forgotten_socket,
    several_frames_are_dropped_and_reported, a_dealer_drops_several_frames_too,
    peers_do_not_choose_their_id, a_frame_above_the_maximum_ends_the_connection,
    noise_on_the_port_harms_nobody, old_protocols_are_refused, a_peer_leaves_a_backlog,
    what_cannot_be_bound, faults_of_the_system, without_memory, names_and_ipv6,
    a_context_has_one_of_its_own)
