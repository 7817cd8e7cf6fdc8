/* SPDX-License-Identifier: Apache-2.0
 *
 * The greeting of the plane `tcp`: who knows the token gets in, and nobody else, whatever it has heard.
 */
#include "unit/tcp_kit.h"

#include "base/fault.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>

static rig *new_rig(int streams_a, int streams_b)
{
	return rig_new_of("tcp", (rig_settings){.streams = streams_a},
	    (rig_settings){.streams = streams_b}, 0);
}

static void expect_turned_away(rig *r, int fd)
{
	RIG_UNTIL(r, closed(fd));
	close(fd);
	rig_settle(r);
	ck_assert_uint_eq(r->a.logged, 0);
}

START_TEST(the_bytes_are_as_written_down)
{
	unsigned char expected[64] = "KVPP\2\0\1\0\4\0\1\0\0\0\0\0", mac[KVPI_HASH_BYTES], said[16 + 64 + 32] = {0};
	kvpi_tcp_greeting hello, answer, confirm;
	rig *r = new_rig(3, 1);
	int fd;

	rig_accept(r);
	kvpi_tcp_hello_make(r->token, 4, 0, true, NULL, &hello);
	kvpi_mac(r->token, sizeof(r->token), "kvpipe name\0\0\0\0", 16, mac);
	memcpy(expected + 16, mac, 16);
	memcpy(expected + 32, hello.nonce, 16);
	ck_assert_mem_eq(&hello, expected, sizeof(expected));

	/* A byte at a time. */
	fd = dial(r);
	for (size_t i = 0; i < sizeof(hello); i++) {
		say(fd, (const char *)&hello + i, 1);
		for (int j = 0; j < 3; j++)
			rig_step(r);
	}
	hear(r, fd, &answer, sizeof(answer));
	memset(expected, 0, sizeof(expected));
	memcpy(expected, "KVPP\2\0\2\0\3\0\1", 11); /* three streams are what it allows */
	memcpy(expected + 16, answer.first, 16);
	memcpy(said, "kvpipe accepts", 14);
	memcpy(said + 16, &hello, 64);
	memcpy(said + 80, expected, 32);
	kvpi_mac(r->token, sizeof(r->token), said, sizeof(said), expected + 32);
	ck_assert_mem_eq(&answer, expected, sizeof(expected));

	kvpi_tcp_confirm_make(r->token, &hello, &answer, &confirm);
	memcpy(said, "kvpipe connects", 15);
	memset(expected, 0, sizeof(expected));
	memcpy(expected, "KVPP\2\0\3\0", 8);
	kvpi_mac(r->token, sizeof(r->token), said, sizeof(said), expected + 32);
	ck_assert_mem_eq(&confirm, expected, sizeof(expected));
	/* The token itself is in none of them. */
	for (size_t at = 0; at + 4 <= 64; at++) {
		ck_assert(memcmp((const char *)&hello + at, r->token, 4) != 0);
		ck_assert(memcmp((const char *)&answer + at, r->token, 4) != 0);
		ck_assert(memcmp((const char *)&confirm + at, r->token, 4) != 0);
	}
	close(fd);
	rig_free(r);
}
END_TEST

START_TEST(each_field_of_a_hello_counts)
{
	/* magic, version, kind, streams, stream, flags, reserved, name, session */
	static const size_t wrong[] = {0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 31, 48, 63};
	kvpi_tcp_greeting hello;
	rig *r = new_rig(0, 0);
	int fd;

	rig_accept(r);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		fd = dial(r);
		kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
		((unsigned char *)&hello)[wrong[i]] ^= 0x40;
		say(fd, &hello, sizeof(hello));
		expect_turned_away(r, fd);
	}
	kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
	hello.streams = 0;
	fd = dial(r);
	say(fd, &hello, sizeof(hello));
	expect_turned_away(r, fd);
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(who_does_not_know_the_token_stays_out)
{
	kvpi_tcp_greeting hello, answer, confirm;
	rig *r = new_rig(0, 0);

	rig_accept(r);
	/* Each byte of the proof, the proof of another token, and the other end's own proof sent back. */
	for (size_t i = 0; i < 64 + 2; i++) {
		const int fd = dial(r);

		kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
		say(fd, &hello, sizeof(hello));
		hear(r, fd, &answer, sizeof(answer));
		kvpi_tcp_confirm_make(i == 64 ? (const unsigned char *)"0123456789abcdef" : r->token, &hello, &answer,
		    &confirm);
		if (i < 64)
			((unsigned char *)&confirm)[i] ^= 1;
		if (i == 65)
			memcpy(confirm.proof, answer.proof, sizeof(confirm.proof));
		say(fd, &confirm, sizeof(confirm));
		expect_turned_away(r, fd);
	}
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(what_was_heard_cannot_be_played_back)
{
	kvpi_tcp_greeting hello, answer, confirm, other;
	rig *r = new_rig(0, 0);
	int fd, second;

	rig_accept(r);
	fd = dial(r);
	kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
	say(fd, &hello, sizeof(hello));
	hear(r, fd, &answer, sizeof(answer));
	kvpi_tcp_confirm_make(r->token, &hello, &answer, &confirm);
	say(fd, &confirm, sizeof(confirm));
	RIG_UNTIL(r, r->a.counts[CONNECTED] == 1);

	/* The same again, to the letter: the answer is another one, and the confirm does not fit.  Who is in stays. */
	second = dial(r);
	say(second, &hello, sizeof(hello));
	hear(r, second, &other, sizeof(other));
	ck_assert(memcmp(&other, &answer, sizeof(other)) != 0);
	say(second, &confirm, sizeof(confirm));
	RIG_UNTIL(r, closed(second));
	close(second);
	rig_settle(r);
	ck_assert_uint_eq(r->a.logged, 1);

	/* A connecting end takes no answer of an earlier hello. */
	kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
	ck_assert(!kvpi_tcp_answer_right(r->token, &hello, &answer));
	close(fd);
	RIG_UNTIL(r, r->a.counts[LOST] == 1);
	rig_free(r);
}
END_TEST

/* Somebody in the middle hands a connecting end what it said itself, or what a second one said. */
START_TEST(an_end_does_not_prove_things_for_another)
{
	const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {7};
	kvpi_tcp_greeting hello, answer, confirm;

	kvpi_tcp_hello_make(token, 1, 0, false, NULL, &hello);
	kvpi_tcp_answer_make(token, &hello, 1, false, &answer);
	kvpi_tcp_confirm_make(token, &hello, &answer, &confirm);
	ck_assert(kvpi_tcp_answer_right(token, &hello, &answer));
	ck_assert(kvpi_tcp_confirm_right(token, &hello, &answer, &confirm));
	ck_assert(!kvpi_tcp_answer_right(token, &hello, &hello));
	ck_assert(!kvpi_tcp_answer_right(token, &hello, &confirm));
	memcpy(answer.proof, confirm.proof, sizeof(answer.proof));
	ck_assert(!kvpi_tcp_answer_right(token, &hello, &answer));
	/* An answer that takes the checksum away, or gives more streams than were asked for. */
	kvpi_tcp_hello_make(token, 2, 0, true, NULL, &hello);
	kvpi_tcp_answer_make(token, &hello, 2, false, &answer);
	ck_assert(!kvpi_tcp_answer_right(token, &hello, &answer));
	kvpi_tcp_answer_make(token, &hello, 3, true, &answer);
	ck_assert(!kvpi_tcp_answer_right(token, &hello, &answer));
	kvpi_tcp_answer_make(token, &hello, 2, true, &answer);
	ck_assert(kvpi_tcp_answer_right(token, &hello, &answer));
}
END_TEST

START_TEST(another_version_is_told_ours)
{
	unsigned char old[40] = "KVPP\1\0\1\0", said[8];
	rig *r = new_rig(0, 0);
	const int fd = dial(r);

	rig_accept(r);
	memcpy(old + 8, r->token, 16);
	say(fd, old, sizeof(old));
	hear(r, fd, said, sizeof(said));
	ck_assert_mem_eq(said, "KVPP\2\0\2\0", 8);
	expect_turned_away(r, fd);
	rig_free(r);
}
END_TEST

/* ---- the connecting end ---- */

/* A listener of the test's own; the rig's b connects to it. */
static int listen_at(char address[64])
{
	const struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in at;
	socklen_t at_len = sizeof(at);
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(listener, (const struct sockaddr *)&any, sizeof(any)), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&at, &at_len), 0);
	snprintf(address, 64, "127.0.0.1:%u", ntohs(at.sin_port));
	return listener;
}

START_TEST(an_answer_that_is_none)
{
	/* Each field; the version has a sentence of its own. */
	static const size_t wrong[] = {0, 6, 8, 9, 10, 15, 16, 32, 63, 4};
	const size_t count = sizeof(wrong) / sizeof(wrong[0]);
	char address[64];
	const int listener = listen_at(address);
	rig *r = new_rig(0, 0);

	for (size_t i = 0; i < count + 3; i++) {
		kvpi_tcp_greeting hello, answer;
		kvp_status expected = KVP_E_PROTOCOL;
		const unsigned lost = r->b.counts[LOST];
		int fd;

		KIT_OK(r->ops->connect(r->b.plane, address, strlen(address), r->token, &r->b, &r->b.conn));
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		hear(r, fd, &hello, sizeof(hello));
		kvpi_tcp_answer_make(r->token, &hello, 1, false, &answer);
		if (i < count) {
			((unsigned char *)&answer)[wrong[i]] ^= 4;
			say(fd, &answer, sizeof(answer));
			expected = wrong[i] == 4 ? KVP_E_VERSION : KVP_E_PROTOCOL;
		} else if (i == count) { /* only the beginning, of another version */
			say(fd, "KVPP\7\0\2\0", 8);
			expected = KVP_E_VERSION;
		} else if (i == count + 1) {
			say(fd, &answer, 63);
			close(fd);
			fd = -1;
			expected = KVP_E_REFUSED;
		} else { /* never: it waits, but not for ever */
			rig_settle(r);
			ck_assert_uint_eq(r->b.counts[LOST], lost);
			kvpi_fault_arm("tcp.connect.late", 1, 1);
			expected = KVP_E_PEER_LOST;
		}
		RIG_UNTIL(r, r->b.counts[LOST] > lost);
		ck_assert_int_eq(r->b.log[r->b.logged - 1].status, expected);
		ck_assert_uint_eq(r->b.counts[CONNECTED], 0);
		rig_hangup(&r->b);
		if (fd >= 0)
			close(fd);
	}
	close(listener);
	rig_free(r);
}
END_TEST

START_TEST(a_connect_without_answer_wakes_the_worker)
{
	char address[64];
	const int listener = listen_at(address);
	rig *r = new_rig(0, 0);
	struct pollfd poller = {.events = POLLIN};

	KIT_OK(r->ops->connect(r->b.plane, address, strlen(address), r->token, &r->b, &r->b.conn));
	/* Takes its time: the ten seconds of a connect. */
	while (r->b.counts[LOST] == 0) {
		if (r->ops->arm(r->b.plane, &poller.fd))
			ck_assert_int_eq(poll(&poller, 1, 60000), 1);
		r->ops->progress(r->b.plane, RIG_BUDGET);
	}
	close(listener);
	rig_free(r);
}
END_TEST

/* ---- several streams ---- */

START_TEST(streams_are_what_both_allow)
{
	static const int cases[][3] = {{1, 4, 1}, {4, 1, 1}, {3, 16, 3}, {16, 2, 2}, {16, 16, 16}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig *r = new_rig(cases[i][0], cases[i][1]);
		rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 24u << 20, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 24u << 20, 2);
		const kvpi_layout source = rig_bytes(src, 3, (20u << 20) + 5), target = rig_bytes(dst, 9, (20u << 20) + 5);
		int sockets = 0;

		rig_accept(r);
		rig_connect(r);
		for (int fd = 3; fd < 100; fd++) {
			struct sockaddr_in to;
			socklen_t len = sizeof(to);

			sockets += getpeername(fd, (struct sockaddr *)&to, &len) == 0;
		}
		ck_assert_int_eq(sockets, 2 * cases[i][2]);
		rig_carry(r, &r->b, &r->a, 1, src, &source, dst, &target);
		rig_free(r);
		rig_mem_free(src);
		rig_mem_free(dst);
	}
}
END_TEST

START_TEST(a_stream_joins_its_own_session_only)
{
	rig *r = new_rig(2, 2);
	unsigned char session[KVPI_TCP_NONCE_BYTES], old[KVPI_TCP_NONCE_BYTES];
	kvpi_tcp_greeting hello;
	int first, fd, again;

	rig_accept(r);
	fd = dial(r);
	greet(r, fd, r->token, 2, 0, false, old);
	first = dial(r);
	greet(r, first, r->token, 2, 0, false, session); /* the peer came anew: the older one is dropped */
	RIG_UNTIL(r, closed(fd));
	close(fd);
	/* Of the older session, of none, with another number of streams, of a stream that is there already. */
	for (int i = 0; i < 4; i++) {
		kvpi_tcp_hello_make(r->token, i == 2 ? 3 : 2, i == 3 ? 0 : 1, false, i == 0 ? old : session, &hello);
		if (i == 1)
			memset(hello.session, 0, sizeof(hello.session));
		fd = dial(r);
		say(fd, &hello, sizeof(hello));
		expect_turned_away(r, fd);
	}
	fd = dial(r);
	greet(r, fd, r->token, 2, 1, false, session);
	RIG_UNTIL(r, r->a.counts[CONNECTED] == 1);
	again = dial(r);
	kvpi_tcp_hello_make(r->token, 2, 1, false, session, &hello);
	say(again, &hello, sizeof(hello));
	RIG_UNTIL(r, closed(again));
	close(again);

	/* One of them goes, and with it the connection. */
	close(fd);
	RIG_UNTIL(r, r->a.counts[LOST] == 1 && closed(first));
	close(first);
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(a_party_that_is_not_complete_is_timed)
{
	rig *r = new_rig(4, 4);
	unsigned char session[KVPI_TCP_NONCE_BYTES];
	int fds[3];

	rig_accept(r);
	for (int i = 0; i < 3; i++) {
		fds[i] = dial(r);
		greet(r, fds[i], r->token, 4, i, false, session);
	}
	rig_settle(r);
	ck_assert_uint_eq(r->a.logged, 0);
	kvpi_fault_arm("tcp.party.late", 1, 1);
	for (int i = 0; i < 3; i++) {
		RIG_UNTIL(r, closed(fds[i]));
		close(fds[i]);
	}
	ck_assert_uint_eq(r->a.logged, 0);
	rig_connect(r);
	rig_free(r);
}
END_TEST

KIT_MAIN("tcp greeting", the_bytes_are_as_written_down, each_field_of_a_hello_counts,
    who_does_not_know_the_token_stays_out, what_was_heard_cannot_be_played_back,
    an_end_does_not_prove_things_for_another, another_version_is_told_ours, an_answer_that_is_none,
    a_connect_without_answer_wakes_the_worker, streams_are_what_both_allow, a_stream_joins_its_own_session_only,
    a_party_that_is_not_complete_is_timed)
