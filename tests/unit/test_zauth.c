/* SPDX-License-Identifier: Apache-2.0
 *
 * The cluster key on ZeroMQ sockets: who gets in, what the others are told, and that keys can be changed under way.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/context.h"
#include "base/fault.h"
#include "wire/zauth.h"
#include "wire/zsock.h"
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define A "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define B "ff112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define C "fe112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define FRAME_MAX (64 * 1024)
#define PATIENCE_MS 20000

/* One process of a cluster, so to speak: its own key file, context and socket. */
typedef struct side {
	char path[300];
	kvp_context *context;
	kvpi_zctx *zctx;
	kvpi_zsock *sock;
} side;

static void put_keys(side *s, const char *name, const char *text)
{
	char fresh[310];
	FILE *file;

	snprintf(s->path, sizeof(s->path), "%s/%s", kit_tmpdir(), name);
	snprintf(fresh, sizeof(fresh), "%s.new", s->path);
	file = fopen(fresh, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fchmod(fileno(file), 0600), 0);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(rename(fresh, s->path), 0);
}

/* keys NULL: no cluster key. */
static void open_context(side *s, const char *name, const char *keys)
{
	kvp_context_options options;

	kvp_context_options_init(&options);
	if (keys != NULL) {
		put_keys(s, name, keys);
		options.key_file = s->path;
	}
	KIT_OK(kvp_context_new(&s->context, &options));
	KIT_OK(kvpi_zctx_of(s->context, &s->zctx));
}

static void open_server(side *s, const char *keys)
{
	open_context(s, "server", keys);
	KIT_OK(kvpi_zsock_router(s->zctx, "127.0.0.1:0", FRAME_MAX, &s->sock));
}

static void open_client(side *s, const char *keys, const side *server)
{
	open_context(s, "client", keys);
	KIT_OK(kvpi_zsock_dealer(s->zctx, kvpi_zsock_url(server->sock), FRAME_MAX, KVPI_ZDOWN_REFUSE, &s->sock));
}

static void close_side(side *s)
{
	kvpi_zsock_close(s->sock);
	kvp_context_free(s->context);
	memset(s, 0, sizeof(*s));
}

/* ---- talking ---- */

static side server, client;

static bool came_and_went(void *user)
{
	kvpi_zid from;
	kvpi_view frame;

	(void)user;
	/* Asked for on every turn, as the owners of sockets do before they sleep. */
	(void)kvpi_zsock_ready(client.sock);
	(void)kvpi_zsock_send(client.sock, NULL, "ping", 4);
	while (kvpi_zsock_ready(server.sock))
		if (kvpi_zsock_recv(server.sock, &from, &frame) == KVP_OK) {
			ck_assert_uint_eq(frame.len, 4);
			(void)kvpi_zsock_send(server.sock, &from, "pong", 4);
		}
	return kvpi_zsock_ready(client.sock) && kvpi_zsock_recv(client.sock, NULL, &frame) == KVP_OK;
}

static void must_talk(void)
{
	kit_wait_until(came_and_went, NULL, PATIENCE_MS);
	KIT_OK(kvpi_zsock_trouble(client.sock));
}

/* Pings of friends may still be on their way. */
static void nothing_came_in(void)
{
	kvpi_view frame;

	while (kvpi_zsock_ready(server.sock))
		if (kvpi_zsock_recv(server.sock, NULL, &frame) == KVP_OK)
			ck_assert_uint_eq(frame.len, 4);
}

static bool is_refused(void *user)
{
	(void)user;
	nothing_came_in();
	(void)kvpi_zsock_send(client.sock, NULL, "stranger", 8);
	return kvpi_zsock_ready(client.sock) && kvpi_zsock_trouble(client.sock) != KVP_OK;
}

static void must_be_refused(const char *says)
{
	kit_wait_until(is_refused, NULL, PATIENCE_MS);
	KIT_STATUS(kvpi_zsock_trouble(client.sock), KVP_E_REFUSED);
	ck_assert_msg(strstr(kvp_last_error(), says) != NULL, "%s", kvp_last_error());
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), kvpi_zsock_url(client.sock)));
	ck_assert(!kvpi_zsock_ready(client.sock)); /* told once */
}

START_TEST(the_same_key_lets_in)
{
	static const struct {
		const char *server, *client;
	} rows[] = {{A, A}, {A, A "\n" B}, {A "\n" B, A}, {A "\n" B, B "\n" A}, {B "\n" A, A "\n" B}, {B "\n" A, B},
	    {A, B "\n" A}};

	for (size_t i = 0; i < COUNT(rows); i++) {
		open_server(&server, rows[i].server);
		open_client(&client, rows[i].client, &server);
		must_talk();
		close_side(&client);
		close_side(&server);
	}
}
END_TEST

START_TEST(another_key_does_not)
{
	static const struct {
		const char *server, *client;
	} rows[] = {{A, B}, {A "\n" B, C}, {A, B "\n" C},
	    {A "\n" B, B}}; /* the steps of a change of keys were skipped */

	for (size_t i = 0; i < COUNT(rows); i++) {
		open_server(&server, rows[i].server);
		open_client(&client, rows[i].client, &server);
		must_be_refused("different cluster key?");
		close_side(&client);
		close_side(&server);
	}
}
END_TEST

START_TEST(a_server_without_a_key_is_told_of)
{
	open_server(&server, NULL);
	open_client(&client, A, &server);
	must_be_refused("cluster key"); /* which is why, depends on who hangs up first */
	close_side(&client);
	close_side(&server);
}
END_TEST

static int unanswered;

static bool stays_out(void *user)
{
	(void)user;
	nothing_came_in();
	ck_assert_int_ne(kvpi_zsock_send(client.sock, NULL, "stranger", 8), KVP_OK);
	return ++unanswered > 200;
}

START_TEST(a_client_without_a_key_stays_out)
{
	open_server(&server, A);
	open_client(&client, NULL, &server);
	kit_wait_until(stays_out, NULL, PATIENCE_MS);
	close_side(&client);
	close_side(&server);
}
END_TEST

static bool has_key_a(void *user)
{
	kvpi_keys keys;

	(void)user;
	(void)kvpi_context_keys(client.context, &keys);
	return keys.key[0][0] == 0;
}

/* It must not go on for ever: each try costs both ends a handshake. */
START_TEST(who_was_refused_does_not_try_again_until_asked)
{
	open_server(&server, A);
	open_client(&client, B, &server);
	must_be_refused("different cluster key?");
	put_keys(&client, "client", A);
	kit_wait_until(has_key_a, NULL, PATIENCE_MS);
	unanswered = 0;
	kit_wait_until(stays_out, NULL, PATIENCE_MS); /* though the keys fit now */
	KIT_STATUS(kvpi_zsock_trouble(client.sock), KVP_E_REFUSED);
	kvpi_zsock_retry(client.sock);
	must_talk();
	close_side(&client);
	close_side(&server);
}
END_TEST

START_TEST(frames_of_every_size_pass)
{
	static unsigned char bytes[FRAME_MAX];
	kvpi_view frame;

	open_server(&server, A);
	open_client(&client, A, &server);
	must_talk();
	for (size_t len = FRAME_MAX - 3; len <= FRAME_MAX; len++) {
		const int64_t deadline = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), PATIENCE_MS);
		kvp_status status = KVP_E_AGAIN;

		kit_random_fill(bytes, len, len);
		KIT_OK(kvpi_zsock_send(client.sock, NULL, bytes, len));
		do {
			struct pollfd fd = {kvpi_zsock_fd(server.sock), POLLIN, 0};

			if (!kvpi_zsock_ready(server.sock))
				poll(&fd, 1, 1000);
			status = kvpi_zsock_recv(server.sock, NULL, &frame);
			if (status == KVP_OK && frame.len == 4)
				status = KVP_E_AGAIN; /* a ping too many */
		} while (status == KVP_E_AGAIN && kvpi_now(&kvpi_clock_real) < deadline);
		ck_assert_int_eq(status, KVP_OK);
		ck_assert_uint_eq(frame.len, len);
		kit_check_fill(frame.data, len, len);
	}
	close_side(&client);
	close_side(&server);
}
END_TEST

/* ---- strangers by hand ---- */

/* A raw client that knows the server's public key, which only who has the cluster key does, but shows a key of its
 * own unless `right`; sends one frame of that many bytes. */
static void raw_client(bool right, size_t len)
{
	static char bytes[2 * FRAME_MAX];
	unsigned char key[KVPI_KEY_BYTES];
	kvpi_keys keys;
	kvpi_pair to, own;
	const int linger = 0;
	void *const zmq = zmq_ctx_new(), *const raw = zmq_socket(zmq, ZMQ_DEALER);

	KIT_OK(kvpi_keys_parse(A, strlen(A), "of the test", &keys));
	kvpi_zauth_server_pair(keys.key[0], &to);
	kit_random_fill(key, sizeof(key), 7);
	kvpi_zauth_client_pair(right ? keys.key[0] : key, &own);
	zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof(linger));
	ck_assert_int_eq(zmq_setsockopt(raw, ZMQ_CURVE_SERVERKEY, to.public_key, 32), 0);
	ck_assert_int_eq(zmq_setsockopt(raw, ZMQ_CURVE_PUBLICKEY, own.public_key, 32), 0);
	ck_assert_int_eq(zmq_setsockopt(raw, ZMQ_CURVE_SECRETKEY, own.secret_key, 32), 0);
	ck_assert_int_eq(zmq_connect(raw, kvpi_zsock_url(server.sock)), 0);
	ck_assert_int_eq(zmq_send(raw, bytes, len, 0), (int)len);
	for (int i = 0; i < 20; i++) {
		must_talk(); /* the friend's round trips, beside it */
		poll(NULL, 0, 5);
	}
	zmq_close(raw);
	zmq_ctx_term(zmq);
}

/* must_talk asserts that only frames of four bytes come in. */
START_TEST(the_clients_key_is_pinned)
{
	open_server(&server, A);
	open_client(&client, A, &server);
	must_talk();
	raw_client(false, 8);
	close_side(&client);
	close_side(&server);
}
END_TEST

START_TEST(frames_above_the_bound_come_from_nobody)
{
	open_server(&server, A);
	open_client(&client, A, &server);
	must_talk();
	raw_client(true, FRAME_MAX + 1000);
	close_side(&client);
	close_side(&server);
}
END_TEST

/* ---- changing keys under way ---- */

static bool follows(void *user)
{
	kvpi_keys keys;
	const side *s = user;

	(void)kvpi_context_keys(s->context, &keys);
	return keys.key[0][0] == 0xff;
}

static bool has_two(void *user)
{
	kvpi_keys keys;
	const side *s = user;

	(void)kvpi_context_keys(s->context, &keys);
	return keys.count == 2;
}

static bool has_one(void *user)
{
	return !has_two(user);
}

/* Nobody but the thread looks at the files. */
static void step(side *s, const char *name, const char *keys, bool (*seen)(void *))
{
	put_keys(s, name, keys);
	kit_wait_until(seen, s, PATIENCE_MS);
	must_talk();
}

/* A becomes A B, then B A, then B, in each step one end after the other, in both orders; they talk all the time, and
 * at the end the old key opens nothing. */
static void change_keys(bool server_first)
{
	static const struct {
		const char *keys;
		bool (*seen)(void *);
	} steps[] = {{A "\n" B, has_two}, {B "\n" A, follows}, {B, has_one}};
	side stale;

	open_server(&server, A);
	open_client(&client, A, &server);
	must_talk();
	for (size_t i = 0; i < COUNT(steps); i++) {
		if (server_first)
			step(&server, "server", steps[i].keys, steps[i].seen);
		step(&client, "client", steps[i].keys, steps[i].seen);
		if (!server_first)
			step(&server, "server", steps[i].keys, steps[i].seen);
	}
	stale = client;
	memset(&client, 0, sizeof(client));
	open_client(&client, A, &server);
	must_be_refused("different cluster key?");
	close_side(&client);
	open_client(&client, B, &server); /* and who has the new one alone comes in */
	must_talk();
	close_side(&client);
	close_side(&stale);
	close_side(&server);
}

START_TEST(keys_change_server_first)
{
	change_keys(true);
}
END_TEST

START_TEST(keys_change_client_first)
{
	change_keys(false);
}
END_TEST

static bool news_come(void *user)
{
	struct pollfd fd = {kvpi_zsock_fd(server.sock), POLLIN, 0};

	(void)user;
	return poll(&fd, 1, 0) == 1;
}

/* A server that nobody can reach any more would never wake up to change its key, if only frames woke it. */
START_TEST(a_sleeping_server_is_woken)
{
	open_server(&server, A "\n" B);
	ck_assert(!kvpi_zsock_ready(server.sock));
	put_keys(&server, "server", B);
	kit_wait_until(news_come, NULL, PATIENCE_MS);
	(void)kvpi_zsock_ready(server.sock);
	open_client(&client, B, &server);
	must_talk();
	close_side(&client);
	close_side(&server);
}
END_TEST

START_TEST(the_place_stays_the_same_when_keys_change)
{
	kvpi_listen listen = {.bind_host = "lo", .advertise_host = "127.0.0.2"};
	char before[100];

	open_context(&server, "server", A "\n" B);
	KIT_OK(kvpi_zsock_listen(server.zctx, &listen, FRAME_MAX, &server.sock));
	snprintf(before, sizeof(before), "%s", kvpi_zsock_url(server.sock));
	ck_assert_int_eq(strncmp(before, "tcp://127.0.0.2:", 16), 0);
	put_keys(&server, "server", B);
	kit_wait_until(news_come, NULL, PATIENCE_MS);
	(void)kvpi_zsock_ready(server.sock);
	ck_assert_str_eq(kvpi_zsock_url(server.sock), before);
	close_side(&server);
}
END_TEST

/* ---- more than loopback ---- */

START_TEST(with_a_key_anything_is_bound)
{
	kvpi_listen listen = {.bind_host = "0.0.0.0"};

	open_context(&server, "server", A);
	KIT_OK(kvpi_zsock_listen(server.zctx, &listen, FRAME_MAX, &server.sock));
	ck_assert_ptr_null(strstr(kvpi_zsock_url(server.sock), "0.0.0.0"));
	open_client(&client, A, &server);
	must_talk();
	close_side(&client);
	close_side(&server);
}
END_TEST

/* ---- the rest of the house ---- */

START_TEST(what_zap_asks)
{
	static const char *const good[] = {"1.0", "1", "kvpipe", "127.0.0.1", "", "CURVE", "0123456789abcdef0123456789abcdef"};
	unsigned char clients[2][32];
	kvpi_view frames[KVPI_ZAP_FRAMES + 1] = {{NULL, 0}};
	char noise[64];

	kit_random_fill(clients, sizeof(clients), 1);
	for (int i = 0; i < KVPI_ZAP_FRAMES; i++)
		frames[i] = kvpi_view_text(good[i]);
	ck_assert(!kvpi_zap_allows(frames, 7, (const unsigned char(*)[32])clients, 2));
	memcpy(clients[1], good[6], 32);
	ck_assert(kvpi_zap_allows(frames, 7, (const unsigned char(*)[32])clients, 2));
	ck_assert(!kvpi_zap_allows(frames, 7, (const unsigned char(*)[32])clients, 1));
	ck_assert(!kvpi_zap_allows(frames, 7, (const unsigned char(*)[32])clients, 0));
	for (size_t n = 0; n < KVPI_ZAP_FRAMES; n++)
		ck_assert(!kvpi_zap_allows(frames, n, (const unsigned char(*)[32])clients, 2));
	ck_assert(!kvpi_zap_allows(frames, 8, (const unsigned char(*)[32])clients, 2));
	for (int i = 0; i < KVPI_ZAP_FRAMES; i++) {
		const kvpi_view kept = frames[i];
		const bool free_text = i == 1 || i == 3 || i == 4;

		for (uint64_t seed = 0; seed < 50; seed++) {
			kit_random_fill(noise, sizeof(noise), seed);
			frames[i] = kvpi_view_of(noise, seed);
			ck_assert_int_eq(kvpi_zap_allows(frames, 7, (const unsigned char(*)[32])clients, 2), free_text);
		}
		frames[i] = kept;
	}
}
END_TEST

START_TEST(what_cannot_be_made)
{
	kvpi_zctx *zctx = NULL;
	kvpi_zsock *sock = NULL;
	kvp_status status;

	open_context(&server, "server", A);
	kvpi_fault_arm("zauth.socket", 1, 1);
	KIT_STATUS(kvpi_zctx_new_in(server.context, &zctx), KVP_E_SYSTEM);
	ck_assert_ptr_null(zctx);
	kvpi_fault_arm("zauth.socket", 1, 1);
	KIT_STATUS(kvpi_zsock_dealer(server.zctx, "127.0.0.1:1", FRAME_MAX, KVPI_ZDOWN_KEEP, &sock), KVP_E_SYSTEM);
	for (unsigned nth = 1; zctx == NULL; nth++) {
		kvpi_fault_arm("alloc", nth, 1);
		status = kvpi_zctx_new_in(server.context, &zctx);
		ck_assert(status == KVP_OK || (status == KVP_E_NOMEM && zctx == NULL));
		ck_assert_uint_lt(nth, 20);
	}
	for (unsigned nth = 1; sock == NULL; nth++) {
		kvpi_fault_arm("alloc", nth, 1);
		status = kvpi_zsock_dealer(zctx, "127.0.0.1:1", FRAME_MAX, KVPI_ZDOWN_KEEP, &sock);
		ck_assert(status == KVP_OK || (status == KVP_E_NOMEM && sock == NULL));
		ck_assert_uint_lt(nth, 20);
	}
	kvpi_fault_disarm_all();
	kvpi_zsock_close(sock);
	kvpi_zctx_free(zctx);
	close_side(&server);
}
END_TEST

/* Sockets come and go by the hundred; the kit counts what they leave behind. */
START_TEST(nothing_is_left_behind)
{
	open_server(&server, A);
	for (int i = 0; i < 100; i++) {
		kvpi_zsock *sock;

		KIT_OK(kvpi_zsock_dealer(server.zctx, kvpi_zsock_url(server.sock), FRAME_MAX, KVPI_ZDOWN_KEEP, &sock));
		if (i % 2 == 0) {
			client.sock = sock;
			kit_wait_until(came_and_went, NULL, PATIENCE_MS);
			client.sock = NULL;
		}
		kvpi_zsock_close(sock);
	}
	close_side(&server);
}
END_TEST

KIT_MAIN("zauth", the_same_key_lets_in, another_key_does_not, a_server_without_a_key_is_told_of,
    a_client_without_a_key_stays_out, who_was_refused_does_not_try_again_until_asked, frames_of_every_size_pass,
    keys_change_server_first, keys_change_client_first, a_sleeping_server_is_woken, the_place_stays_the_same_when_keys_change,
    the_clients_key_is_pinned, frames_above_the_bound_come_from_nobody, with_a_key_anything_is_bound, what_zap_asks, what_cannot_be_made, nothing_is_left_behind)
