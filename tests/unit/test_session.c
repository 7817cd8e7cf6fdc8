/* SPDX-License-Identifier: Apache-2.0
 *
 * Two session machines face to face on a manual clock; the test is the network between them.
 */
#include "kit/kit.h"

#include "base/error.h"
#include "control/session.h"

#include <stdlib.h>
#include <string.h>

typedef struct end {
	kvpi_identity me;
	kvpi_session session;
	kvpi_msg sent[32]; /* what this end has sent; texts in it are the sender's own */
	size_t count;
	bool mute; /* sends nothing, as if the socket had no room */
	kvp_status welcome_answer;
	unsigned welcomed, messages, ended;
	kvp_status end_status;
	char end_text[KVPI_SESSION_TEXT_MAX];
} end;

static bool do_send(kvpi_session *session, const kvpi_msg *msg)
{
	end *e = session->user;

	if (e->mute)
		return false;
	ck_assert_uint_lt(e->count, sizeof(e->sent) / sizeof(e->sent[0]));
	e->sent[e->count++] = *msg;
	return true;
}

static kvp_status do_welcomed(kvpi_session *session, const kvpi_msg_welcome *welcome)
{
	end *e = session->user;

	(void)welcome;
	e->welcomed++;
	return e->welcome_answer == KVP_OK ? KVP_OK : kvpi_error(e->welcome_answer, "not with me");
}

static void do_message(kvpi_session *session, const kvpi_msg *msg, int64_t now)
{
	(void)msg, (void)now;
	((end *)session->user)->messages++;
}

static void do_ended(kvpi_session *session, kvp_status status, const char *text)
{
	end *e = session->user;

	e->ended++;
	e->end_status = status;
	strncpy(e->end_text, text, sizeof(e->end_text) - 1);
}

static const kvpi_session_ops ops = {do_send, do_welcomed, do_message, do_ended};
static const unsigned char nonce[16] = "abcdefghijklmno";
static const unsigned char token[16] = "0123456789abcde";
static const kvpi_view planes[1] = {{"tcp", 3}};

static void introduce(end *e, const char *name, int heartbeat_ms)
{
	memset(e, 0, sizeof(*e));
	kit_random_fill(e->me.uuid, sizeof(e->me.uuid), (uint64_t)name[0]);
	strcpy(e->me.name, name);
	strcpy(e->me.compat_text, "the same");
	strcpy(e->me.host, "boot=x");
	e->me.heartbeat_ms = heartbeat_ms;
}

static void dial(end *a, int64_t now)
{
	kvpi_session_dial(&a->session, &a->me, &ops, a, "service", "tcp://x:1", nonce, planes, 1, now,
	                  now + 5 * KVPI_NS_PER_S);
	kvpi_session_tick(&a->session, now);
	ck_assert_uint_eq(a->count, 1);
	ck_assert_int_eq(a->sent[0].id, KVPI_MSG_hello);
}

static kvpi_msg welcome_of(const end *b)
{
	kvpi_msg msg = {.id = KVPI_MSG_welcome};

	msg.u.welcome = (kvpi_msg_welcome){.version = 1,
	                                   .session = b->session.id,
	                                   .uuid = {b->me.uuid, 16},
	                                   .name = kvpi_view_text(b->me.name),
	                                   .process = {b->me.process, 16},
	                                   .heartbeat_ms = (uint64_t)b->me.heartbeat_ms,
	                                   .token = {token, 16},
	                                   .nonce = {nonce, 16}};
	return msg;
}

/* An open pair at time `now`. */
static void open_pair(end *a, end *b, int64_t now)
{
	kvpi_msg welcome;

	introduce(a, "a", 100);
	introduce(b, "b", 200);
	dial(a, now);
	KIT_OK(kvpi_session_check_hello(&b->me, &a->sent[0].u.hello));
	kvpi_session_accept(&b->session, &b->me, &ops, b, &a->sent[0].u.hello, 4711, now);
	welcome = welcome_of(b);
	KIT_OK(kvpi_session_receive(&a->session, &welcome, now));
	ck_assert_int_eq(a->session.state, KVPI_SESSION_OPEN);
	ck_assert_uint_eq(a->welcomed, 1);
	a->count = b->count = 0;
}

static kvpi_msg beat(uint64_t session)
{
	kvpi_msg msg = {.id = KVPI_MSG_beat};

	msg.u.beat.session = session;
	return msg;
}

START_TEST(an_unanswered_hello_is_repeated_and_then_given_up)
{
	static end a;
	int64_t now = 1000;

	introduce(&a, "a", 100);
	dial(&a, now);
	for (int i = 0; i < 4; i++) {
		int64_t next = kvpi_session_next(&a.session);

		ck_assert_int_gt(next, now);
		kvpi_session_tick(&a.session, next - 1);
		ck_assert_uint_eq(a.count, (size_t)i + 1);
		kvpi_session_tick(&a.session, now = next);
		ck_assert_uint_eq(a.count, (size_t)i + 2);
	}
	kvpi_session_tick(&a.session, 1000 + 5 * KVPI_NS_PER_S);
	ck_assert_uint_eq(a.ended, 1);
	ck_assert_int_eq(a.end_status, KVP_E_PEER_LOST);
	ck_assert_ptr_nonnull(strstr(a.end_text, "tcp://x:1"));
	ck_assert_int_eq(kvpi_session_next(&a.session), KVPI_NEVER);
}
END_TEST

START_TEST(a_second_welcome_and_a_strange_one_change_nothing)
{
	static end a, b;
	kvpi_msg welcome;
	unsigned char other[16] = "another nonce";

	open_pair(&a, &b, 1000);
	welcome = welcome_of(&b);
	KIT_OK(kvpi_session_receive(&a.session, &welcome, 1001));
	welcome.u.welcome.nonce.data = other;
	welcome.u.welcome.session = 99;
	KIT_OK(kvpi_session_receive(&a.session, &welcome, 1001));
	ck_assert_uint_eq(a.welcomed, 1);
	ck_assert_uint_eq(a.session.id, 4711);
}
END_TEST

START_TEST(a_welcome_that_is_not_liked_ends_with_a_goodbye)
{
	static end a, b;
	kvpi_msg welcome;

	introduce(&a, "a", 100);
	introduce(&b, "b", 100);
	a.welcome_answer = KVP_E_NO_PLANE;
	dial(&a, 1);
	kvpi_session_accept(&b.session, &b.me, &ops, &b, &a.sent[0].u.hello, 7, 1);
	welcome = welcome_of(&b);
	KIT_OK(kvpi_session_receive(&a.session, &welcome, 2));
	ck_assert_int_eq(a.end_status, KVP_E_NO_PLANE);
	ck_assert_str_eq(a.end_text, "not with me");
	ck_assert_int_eq(a.sent[a.count - 1].id, KVPI_MSG_bye);
}
END_TEST

START_TEST(a_refusal_is_told_with_its_sentence)
{
	static end a;
	kvpi_msg msg = {.id = KVPI_MSG_refuse};

	introduce(&a, "a", 100);
	dial(&a, 1);
	msg.u.refuse = (kvpi_msg_refuse){
	    .nonce = {nonce, 16}, .status = KVP_E_INCOMPATIBLE, .text = kvpi_view_text("a ring of 2 against 3")};
	KIT_OK(kvpi_session_receive(&a.session, &msg, 2));
	ck_assert_int_eq(a.end_status, KVP_E_INCOMPATIBLE);
	ck_assert_str_eq(a.end_text, "a ring of 2 against 3");
}
END_TEST

/* A peer cannot make us believe that something happened here. */
START_TEST(foreign_codes_become_the_peers)
{
	static const int codes[] = {KVP_E_TIMEOUT, KVP_E_AGAIN, KVP_E_NOMEM, KVP_E_CANCELED, -99};
	static end a, b;
	kvpi_msg msg = {.id = KVPI_MSG_bye};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		open_pair(&a, &b, 1000);
		msg.u.bye = (kvpi_msg_bye){.session = 4711, .status = codes[i], .text = kvpi_view_text("why not")};
		KIT_OK(kvpi_session_receive(&a.session, &msg, 2000));
		ck_assert_int_eq(a.end_status, KVP_E_PEER_CLOSED);
		ck_assert_str_eq(a.end_text, "why not");
	}
}
END_TEST

START_TEST(what_an_acceptor_refuses)
{
	static end a, b;
	kvpi_msg_hello hello;

	introduce(&a, "a", 100);
	introduce(&b, "b", 100);
	dial(&a, 1);
	hello = a.sent[0].u.hello;
	KIT_OK(kvpi_session_check_hello(&b.me, &hello));
	hello.version_min = hello.version_max = 2;
	KIT_STATUS(kvpi_session_check_hello(&b.me, &hello), KVP_E_VERSION);
	hello = a.sent[0].u.hello;
	hello.nonce.len = 15;
	KIT_STATUS(kvpi_session_check_hello(&b.me, &hello), KVP_E_PROTOCOL);
	b.me.compat[31] ^= 1;
	strcpy(b.me.compat_text, "a ring of 3");
	hello = a.sent[0].u.hello;
	KIT_STATUS(kvpi_session_check_hello(&b.me, &hello), KVP_E_INCOMPATIBLE);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "the same"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "a ring of 3"));
}
END_TEST

START_TEST(beats_go_out_and_silence_is_noticed)
{
	static end a, b;
	const int64_t start = 1000;
	kvpi_msg msg;

	open_pair(&a, &b, start);
	kvpi_session_tick(&a.session, start + 99 * KVPI_NS_PER_MS);
	ck_assert_uint_eq(a.count, 0);
	kvpi_session_tick(&a.session, start + 100 * KVPI_NS_PER_MS);
	ck_assert_uint_eq(a.count, 1);
	ck_assert_int_eq(a.sent[0].id, KVPI_MSG_beat);

	/* b beats every 200 ms: a is patient for 600 ms after the last word. */
	msg = beat(4711);
	KIT_OK(kvpi_session_receive(&a.session, &msg, start + 500 * KVPI_NS_PER_MS));
	kvpi_session_tick(&a.session, start + 1099 * KVPI_NS_PER_MS);
	ck_assert_uint_eq(a.ended, 0);
	kvpi_session_tick(&a.session, start + 1100 * KVPI_NS_PER_MS);
	ck_assert_int_eq(a.end_status, KVP_E_PEER_LOST);

	/* a beats every 100 ms: b gives up 300 ms after the opening. */
	kvpi_session_tick(&b.session, start + 300 * KVPI_NS_PER_MS);
	ck_assert_int_eq(b.end_status, KVP_E_PEER_LOST);
	ck_assert_uint_eq(b.ended, 1);
}
END_TEST

/* The worker itself was stopped for a minute: the peer's beats wait in the socket and come first. */
START_TEST(a_stalled_worker_does_not_take_the_peer_for_dead)
{
	static end a, b;
	kvpi_msg msg = beat(4711);

	open_pair(&a, &b, 1000);
	KIT_OK(kvpi_session_receive(&a.session, &msg, 60 * KVPI_NS_PER_S));
	kvpi_session_tick(&a.session, 60 * KVPI_NS_PER_S);
	ck_assert_uint_eq(a.ended, 0);
}
END_TEST

START_TEST(a_full_socket_does_not_make_beats_spin)
{
	static end a, b;

	open_pair(&a, &b, 1000);
	a.mute = true;
	kvpi_session_tick(&a.session, 1000 + 100 * KVPI_NS_PER_MS);
	ck_assert_int_gt(kvpi_session_next(&a.session), 1000 + 100 * KVPI_NS_PER_MS);
}
END_TEST

START_TEST(messages_of_other_sessions_are_not_taken)
{
	static end a, b;
	kvpi_msg msg = {.id = KVPI_MSG_state};

	open_pair(&a, &b, 1000);
	msg.u.state.session = 4712;
	KIT_OK(kvpi_session_receive(&a.session, &msg, 2000));
	ck_assert_uint_eq(a.messages, 0);
	ck_assert_int_eq(a.session.heard_ns, 1000);
	msg.u.state.session = 4711;
	KIT_OK(kvpi_session_receive(&a.session, &msg, 2000));
	ck_assert_uint_eq(a.messages, 1);
	ck_assert_int_eq(a.session.heard_ns, 2000);
	msg.id = KVPI_MSG_store_ping;
	KIT_STATUS(kvpi_session_receive(&a.session, &msg, 2000), KVP_E_PROTOCOL);
	msg.id = KVPI_MSG_hello;
	KIT_STATUS(kvpi_session_receive(&a.session, &msg, 2000), KVP_E_PROTOCOL);
	ck_assert_int_eq(a.session.state, KVPI_SESSION_OPEN);
}
END_TEST

START_TEST(goodbye_ends_it_once)
{
	static end a, b;
	kvpi_msg msg;

	open_pair(&a, &b, 1000);
	kvpi_session_bye(&b.session, KVP_OK, "closed", 2000);
	ck_assert_uint_eq(b.ended, 0);
	msg = b.sent[b.count - 1];
	KIT_OK(kvpi_session_receive(&a.session, &msg, 2001));
	KIT_OK(kvpi_session_receive(&a.session, &msg, 2002));
	ck_assert_uint_eq(a.ended, 1);
	ck_assert_int_eq(a.end_status, KVP_E_PEER_CLOSED);
	ck_assert(!kvpi_session_send(&a.session, &msg, 2003));
}
END_TEST

KIT_MAIN("session", an_unanswered_hello_is_repeated_and_then_given_up,
         a_second_welcome_and_a_strange_one_change_nothing, a_welcome_that_is_not_liked_ends_with_a_goodbye,
         a_refusal_is_told_with_its_sentence,
         foreign_codes_become_the_peers, what_an_acceptor_refuses, beats_go_out_and_silence_is_noticed,
         a_stalled_worker_does_not_take_the_peer_for_dead, a_full_socket_does_not_make_beats_spin,
         messages_of_other_sessions_are_not_taken, goodbye_ends_it_once)
