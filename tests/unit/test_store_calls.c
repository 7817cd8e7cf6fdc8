/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's pending calls on a manual clock, without a socket.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "store/calls.h"
#include <stdio.h>
#include <string.h>

#define MS KVPI_NS_PER_MS

static kvpi_store_calls calls;
static int done_count;
static const kvpi_msg_store_reply *last_read;

static void on_done(kvpi_store_call *call)
{
	ck_assert(call->done);
	done_count++;
}

static kvp_status read_reply(void *user, const kvpi_msg_store_reply *reply)
{
	ck_assert_ptr_eq(user, &done_count);
	last_read = reply;
	return (kvp_status)reply->status;
}

/* A connection is there. */
static void begin(void)
{
	kvpi_store_calls_init(&calls, on_done);
	kvpi_store_calls_pinged(&calls, 1000, 0);
	done_count = 0;
}

static void add(kvpi_store_call *call)
{
	memset(call, 0, sizeof(*call));
	call->id = kvpi_store_calls_id(&calls);
	call->read_reply = read_reply;
	call->user = &done_count;
	kvpi_store_calls_add(&calls, call);
}

static void add_sent(kvpi_store_call *call, int64_t now_ns)
{
	add(call);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), call);
	kvpi_store_calls_sent(&calls, call, now_ns);
}

static void reply(
    uint64_t id, uint64_t incarnation, kvp_status status, int64_t number, int64_t now_ns)
{
	const kvpi_msg_store_reply msg = {
	    .id = id, .incarnation = incarnation, .status = status, .number = number};

	kvpi_store_calls_reply(&calls, &msg, now_ns);
}

/* Sends a ping and answers it on the connection of that name. */
static void ping(int64_t connection, int64_t now_ns)
{
	const uint64_t id = kvpi_store_calls_id(&calls);

	kvpi_store_calls_pinged(&calls, id, now_ns);
	reply(id, 1, KVP_OK, connection, now_ns);
}

static void check_done(const kvpi_store_call *call, kvp_status status)
{
	ck_assert(call->done);
	ck_assert_int_eq(call->status, status);
}

START_TEST(replies_find_their_calls)
{
	kvpi_store_call a, b, c;
	const kvpi_msg_store_reply with_text = {.id = 3,
	    .incarnation = 1,
	    .status = KVP_E_CONFLICT,
	    .text = kvpi_view_text("because"),
	    .present = KVPI_HAS(store_reply, text)};

	begin();
	add(&a);
	add(&b);
	add(&c);
	ck_assert_uint_eq(c.id, 3);
	for (kvpi_store_call *call; (call = kvpi_store_calls_unsent(&calls)) != NULL;)
		kvpi_store_calls_sent(&calls, call, 0);
	reply(b.id, 1, KVP_OK, 0, 0);
	check_done(&b, KVP_OK);
	ck_assert_str_eq(b.sentence, "");
	reply(b.id, 1, KVP_OK, 0, 0); /* nobody waits for it any more */
	reply(999, 1, KVP_OK, 0, 0);
	ck_assert_int_eq(done_count, 1);
	kvpi_store_calls_reply(&calls, &with_text, 0);
	check_done(&c, KVP_E_CONFLICT);
	ck_assert_str_eq(c.sentence, "because");
	ck_assert(!a.done);
	reply(a.id, 1, KVP_E_NOT_FOUND, 0, 0);
	check_done(&a, KVP_E_NOT_FOUND);
	ck_assert_int_eq(done_count, 3);
}
END_TEST

START_TEST(sent_in_order_of_arrival)
{
	kvpi_store_call a, b, c;

	begin();
	add(&a);
	add(&b);
	add(&c);
	kvpi_store_calls_remove(&b);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &a);
	kvpi_store_calls_sent(&calls, &a, 5);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &c);
	kvpi_store_calls_sent(&calls, &c, 5);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	ck_assert_uint_lt(a.order, c.order);
}
END_TEST

START_TEST(a_new_incarnation_ends_all)
{
	kvpi_store_call sent, unsent, later;

	begin();
	ping(1, 0);
	ck_assert_uint_eq(atomic_load(&calls.incarnation), 1);
	add_sent(&sent, 0);
	add(&unsent);
	/* Be it the reply to a call that the new server has carried out. */
	last_read = NULL;
	reply(sent.id, 2, KVP_OK, 0, 1);
	check_done(&sent, KVP_E_STORE_RESTARTED);
	check_done(&unsent, KVP_E_STORE_RESTARTED);
	ck_assert_ptr_null(last_read);
	ck_assert_uint_eq(atomic_load(&calls.incarnation), 2);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	/* The handle goes on with the new one, once a ping is ahead: its connection has no name yet. */
	add(&later);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	ck_assert_int_le(kvpi_store_calls_ping_due(&calls), 2);
	kvpi_store_calls_pinged(&calls, 2000, 2);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &later);
	kvpi_store_calls_sent(&calls, &later, 2);
	reply(later.id, 2, KVP_OK, 0, 3);
	check_done(&later, KVP_OK);
}
END_TEST

/* The first ping went with its connection, unanswered: the name of the next one is the first that is heard. */
START_TEST(a_connection_that_broke_without_a_name_is_noticed)
{
	kvpi_store_call old, later;

	begin();
	add_sent(&old, 0);
	kvpi_store_calls_pinged(&calls, 1001, 1000 * MS);
	add_sent(&later, 1000 * MS);
	reply(1001, 1, KVP_OK, 8, 1001 * MS);
	check_done(&old, KVP_E_STORE_LOST);
	ck_assert(!later.done);
	/* Answers that only come late, but in order, say nothing of the kind. */
	kvpi_store_calls_pinged(&calls, 1002, 2000 * MS);
	kvpi_store_calls_pinged(&calls, 1003, 3000 * MS);
	reply(1002, 1, KVP_OK, 8, 3500 * MS);
	reply(1003, 1, KVP_OK, 8, 3600 * MS);
	ck_assert(!later.done);
}
END_TEST

START_TEST(a_new_connection_ends_what_hung_on_the_old_one)
{
	kvpi_store_call old, unsent, later;

	begin();
	ping(7, 0);
	add_sent(&old, 1);
	ping(7, 1000 * MS); /* the same one */
	ck_assert(!old.done);
	add(&unsent);
	ping(8, 2000 * MS);
	check_done(&old, KVP_E_STORE_LOST);
	ck_assert_ptr_nonnull(strstr(old.sentence, "may or may not"));
	ck_assert(!unsent.done);
	kvpi_store_calls_sent(&calls, &unsent, 2000 * MS);
	add_sent(&later, 2000 * MS);
	ping(8, 3000 * MS);
	ck_assert(!unsent.done);
	ck_assert(!later.done);
	kvpi_store_calls_remove(&unsent);
	kvpi_store_calls_remove(&later);
}
END_TEST

START_TEST(calls_sent_after_the_ping_survive)
{
	kvpi_store_call call;
	uint64_t id;

	begin();
	ping(7, 0);
	/* The connection was renewed while all was quiet: the ping ahead of the call finds out. */
	id = kvpi_store_calls_id(&calls);
	kvpi_store_calls_pinged(&calls, id, 1000 * MS);
	add_sent(&call, 1000 * MS);
	reply(id, 1, KVP_OK, 8, 1001 * MS);
	ck_assert(!call.done);
	kvpi_store_calls_remove(&call);
}
END_TEST

START_TEST(pings_while_pending)
{
	kvpi_store_call call;

	kvpi_store_calls_init(&calls, on_done);
	ck_assert_int_eq(kvpi_store_calls_ping_due(&calls), KVPI_NEVER);
	add(&call);
	/* At once, ahead of the call. */
	ck_assert_int_le(kvpi_store_calls_ping_due(&calls), 0);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	/* Without a connection it tries often. */
	kvpi_store_calls_blocked(&calls, 3 * MS);
	ck_assert_int_eq(kvpi_store_calls_ping_due(&calls), (3 + KVPI_STORE_PING_RETRY_MS) * MS);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	kvpi_store_calls_pinged(&calls, kvpi_store_calls_id(&calls), 5 * MS);
	ck_assert_int_eq(kvpi_store_calls_ping_due(&calls), (5 + KVPI_STORE_PING_MS) * MS);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &call);
	kvpi_store_calls_blocked(&calls, 6 * MS);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	kvpi_store_calls_remove(&call);
	ck_assert_int_eq(kvpi_store_calls_ping_due(&calls), KVPI_NEVER);
}
END_TEST

/* What silence means, for a call that was sent at 10 ms and runs out at `now`. */
static kvp_status verdict(bool harmless, int64_t heard_ns, bool reachable, int64_t now_ns)
{
	kvpi_store_call call;
	const uint64_t id = 1000;

	begin();
	add(&call);
	call.harmless = harmless;
	kvpi_store_calls_sent(&calls, &call, 10 * MS);
	kvpi_store_calls_pinged(&calls, id, 10 * MS);
	if (heard_ns >= 0)
		reply(id, 1, KVP_OK, 5, heard_ns);
	if (!reachable)
		kvpi_store_calls_blocked(&calls, now_ns);
	kvpi_store_calls_run_out(&calls, &call, now_ns);
	ck_assert(call.done);
	ck_assert_ptr_null(kvpi_list_first(&calls.pending));
	ck_assert_str_ne(call.sentence, "");
	return call.status;
}

START_TEST(what_silence_means)
{
	const int64_t silence = KVPI_STORE_SILENCE_MS * MS;
	kvpi_store_call call;

	ck_assert_int_eq(verdict(true, 20 * MS, true, 30 * MS), KVP_E_TIMEOUT);
	ck_assert_int_eq(verdict(true, 20 * MS, true, 20 * MS + silence), KVP_E_TIMEOUT);
	ck_assert_int_eq(verdict(true, 20 * MS, true, 21 * MS + silence), KVP_E_STORE_LOST);
	ck_assert_int_eq(verdict(true, -1, true, 30 * MS), KVP_E_STORE_LOST);
	ck_assert_int_eq(
	    verdict(true, 5 * MS, true, 30 * MS), KVP_E_STORE_LOST); /* before it was sent */
	ck_assert_int_eq(verdict(true, 20 * MS, false, 30 * MS), KVP_E_STORE_LOST);
	/* What may have taken place is never called a time-out, which says that nothing has
	 * changed. */
	ck_assert_int_eq(verdict(false, 20 * MS, true, 30 * MS), KVP_E_STORE_LOST);

	begin();
	add(&call);
	call.harmless = true;
	kvpi_store_calls_run_out(&calls, &call, 30 * MS);
	check_done(&call, KVP_E_STORE_LOST);
	ck_assert_ptr_nonnull(strstr(call.sentence, "no connection"));
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
}
END_TEST

/* On a new connection: an addition with its age, a gathering as it is, the others not. */
START_TEST(what_may_be_said_again)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_add,
	    .u.store_add = {.id = 1,
	        .key = kvpi_view_text("n"),
	        .delta = 1,
	        .once = kvpi_view_text("name"),
	        .present = KVPI_HAS(store_add, once)}};
	kvpi_store_call addition, gathering, other;
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_msg said;

	begin();
	ping(5, 0);
	add_sent(&addition, 10 * MS);
	addition.add = &msg;
	add_sent(&gathering, 10 * MS);
	gathering.repeats = true;
	add_sent(&other, 10 * MS);
	ping(6, 110 * MS);
	check_done(&other, KVP_E_STORE_LOST);
	ck_assert(!addition.done && !gathering.done);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &addition);
	KIT_OK(kvpi_msg_decode(reader, addition.frame.data, addition.frame.len, KVPI_STORE_FRAME_MAX, &said));
	ck_assert_uint_eq(said.u.store_add.age_ms, 101); /* rounded up */
	ping(6, 115 * MS);                               /* it waits once only */
	kvpi_store_calls_sent(&calls, &addition, 120 * MS);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &gathering);
	kvpi_store_calls_sent(&calls, &gathering, 120 * MS);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));

	/* On the same connection a gathering may be parked, but an addition is answered in order. */
	ping(6, 210 * MS);
	ck_assert_ptr_eq(kvpi_store_calls_unsent(&calls), &addition);
	KIT_OK(kvpi_msg_decode(reader, addition.frame.data, addition.frame.len, KVPI_STORE_FRAME_MAX, &said));
	ck_assert_uint_eq(said.u.store_add.age_ms, 201); /* since the first time */
	/* The late answer to the first saying ends it all the same. */
	reply(addition.id, 1, KVP_OK, 1, 211 * MS);
	check_done(&addition, KVP_OK);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	/* What was said is not "nothing was changed" when its time runs out. */
	kvpi_store_calls_run_out(&calls, &gathering, 212 * MS);
	ck_assert(gathering.done);
	kvpi_buf_fini(&addition.frame);
	kvpi_msg_reader_free(reader);
}
END_TEST

START_TEST(meant_for_another_store)
{
	kvpi_store_call call;

	begin();
	ping(5, 0); /* incarnation 1 */
	memset(&call, 0, sizeof(call));
	call.incarnation = 2;
	kvpi_store_calls_add(&calls, &call);
	check_done(&call, KVP_E_STORE_RESTARTED);
	ck_assert_ptr_null(kvpi_store_calls_unsent(&calls));
	memset(&call, 0, sizeof(call));
	call.incarnation = 1;
	kvpi_store_calls_add(&calls, &call);
	ck_assert(!call.done);
}
END_TEST

KIT_MAIN("store calls", replies_find_their_calls, sent_in_order_of_arrival,
    a_new_incarnation_ends_all, a_new_connection_ends_what_hung_on_the_old_one,
    calls_sent_after_the_ping_survive, pings_while_pending, what_silence_means, what_may_be_said_again, meant_for_another_store, a_connection_that_broke_without_a_name_is_noticed)
