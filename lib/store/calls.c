/* SPDX-License-Identifier: Apache-2.0
 *
 * Pending calls of a store's client.  See calls.h.
 */
#include "store/calls.h"
#include "base/clock.h"
#include <stdio.h>
#include <string.h>

#define UNKNOWN_CONNECTION (-1)

void kvpi_store_calls_init(kvpi_store_calls *calls, void (*on_done)(kvpi_store_call *call))
{
	memset(calls, 0, sizeof(*calls));
	kvpi_list_init(&calls->pending);
	kvpi_list_init(&calls->unsent);
	atomic_init(&calls->incarnation, 0);
	calls->connection = UNKNOWN_CONNECTION;
	calls->heard_ns = calls->next_ping_ns = INT64_MIN;
	calls->on_done = on_done;
}

uint64_t kvpi_store_calls_id(kvpi_store_calls *calls)
{
	return ++calls->ids;
}

void kvpi_store_calls_add(kvpi_store_calls *calls, kvpi_store_call *call)
{
	kvpi_list_append(&calls->pending, &call->pending);
	kvpi_list_append(&calls->unsent, &call->unsent);
	if (call->incarnation != 0 && call->incarnation != atomic_load(&calls->incarnation))
		kvpi_store_calls_end(calls, call, KVP_E_STORE_RESTARTED, "");
}

void kvpi_store_calls_remove(kvpi_store_call *call)
{
	kvpi_list_remove(&call->pending);
	kvpi_list_remove(&call->unsent);
}

kvpi_store_call *kvpi_store_calls_unsent(const kvpi_store_calls *calls)
{
	kvpi_list *node = kvpi_list_first(&calls->unsent);

	return calls->reachable && node != NULL ? KVPI_CONTAINER_OF(node, kvpi_store_call, unsent)
	                                        : NULL;
}

void kvpi_store_calls_sent(kvpi_store_calls *calls, kvpi_store_call *call, int64_t now_ns)
{
	kvpi_list_remove(&call->unsent);
	if (call->order == 0)
		call->first_sent_ns = now_ns;
	call->order = ++calls->sends;
	call->sent_ns = now_ns;
}

int64_t kvpi_store_calls_ping_due(const kvpi_store_calls *calls)
{
	return kvpi_list_empty(&calls->pending) ? KVPI_NEVER : calls->next_ping_ns;
}

void kvpi_store_calls_pinged(kvpi_store_calls *calls, uint64_t id, int64_t now_ns)
{
	calls->reachable = true;
	calls->next_ping_ns = kvpi_deadline_ms(now_ns, KVPI_STORE_PING_MS);
	calls->ping_id = id;
	calls->ping_order = ++calls->sends;
	if (calls->first_ping_id != 0)
		return;
	calls->first_ping_id = id;
	calls->first_ping_order = calls->ping_order;
}

void kvpi_store_calls_blocked(kvpi_store_calls *calls, int64_t now_ns)
{
	calls->reachable = false;
	calls->next_ping_ns = kvpi_deadline_ms(now_ns, KVPI_STORE_PING_RETRY_MS);
}

void kvpi_store_calls_end(
    kvpi_store_calls *calls, kvpi_store_call *call, kvp_status status, const char *sentence)
{
	kvpi_store_calls_remove(call);
	call->status = status;
	if (sentence[0] != 0) /* hardly ever: a call that went well has none */
		snprintf(call->sentence, sizeof(call->sentence), "%s", sentence);
	else
		call->sentence[0] = 0;
	call->done = true;
	calls->on_done(call);
}

/* Gives an addition its age.  The name that it has makes it count once. */
static kvp_status tell_age(kvpi_store_call *call, int64_t now_ns)
{
	kvpi_msg_store_add *add = &call->add->u.store_add;

	/* Rounded up: it must not look younger than it is. */
	add->age_ms = (uint64_t)((now_ns - call->first_sent_ns) / KVPI_NS_PER_MS + 1);
	add->present |= KVPI_HAS(store_add, age_ms);
	kvpi_buf_clear(&call->frame);
	return kvpi_msg_encode(call->add, &call->frame);
}

/* Puts a call that may be said again among the unsent ones. */
static bool say_again(kvpi_store_calls *calls, kvpi_store_call *call, int64_t now_ns)
{
	if (call->add != NULL && tell_age(call, now_ns) != KVP_OK)
		return false;
	if (!kvpi_list_linked(&call->unsent))
		kvpi_list_append(&calls->unsent, &call->unsent);
	return true;
}

/* Ends all calls. */
static void end_all(kvpi_store_calls *calls, kvp_status status)
{
	KVPI_LIST_FOREACH (pos, nxt, &calls->pending)
		kvpi_store_calls_end(
		    calls, KVPI_CONTAINER_OF(pos, kvpi_store_call, pending), status, "");
}

/* The store has answered a ping: what was sent before it, and has no answer, will get none unless it is parked at this
 * connection.  Answers keep their order on a connection: where the last ping is answered and the first one was not, that
 * one's connection is gone, even if its name was never heard. */
static void read_pong(kvpi_store_calls *calls, const kvpi_msg_store_reply *reply, int64_t now_ns)
{
	const bool overtaken = reply->id != calls->first_ping_id;
	const uint64_t order = overtaken ? calls->ping_order : calls->first_ping_order;
	const bool renewed = calls->connection == UNKNOWN_CONNECTION
	                         ? overtaken
	                         : calls->connection != reply->number;

	calls->connection = reply->number;
	calls->first_ping_id = reply->id == calls->ping_id ? 0 : calls->ping_id;
	calls->first_ping_order = calls->ping_order;
	KVPI_LIST_FOREACH (pos, nxt, &calls->pending) {
		kvpi_store_call *call = KVPI_CONTAINER_OF(pos, kvpi_store_call, pending);

		if (call->order == 0 || call->order >= order)
			continue;
		if (!renewed && call->add == NULL)
			continue;
		/* Waits, too: a store that changes its cluster key breaks every connection, and nobody should notice. */
		if ((call->add != NULL || call->repeats || call->harmless) && say_again(calls, call, now_ns))
			continue;
		kvpi_store_calls_end(calls, call, KVP_E_STORE_LOST,
			    "the connection to the store broke and was renewed meanwhile; the call "
			    "may or may not have taken place");
	}
}

static void read_answer(
    kvpi_store_calls *calls, kvpi_store_call *call, const kvpi_msg_store_reply *reply)
{
	const kvp_status status = call->read_reply(call->user, reply);
	char text[KVPI_ERROR_MAX] = "";

	if (reply->present & KVPI_HAS(store_reply, text))
		snprintf(text, sizeof(text), "%.*s", (int)reply->text.len,
		    (const char *)reply->text.data);
	kvpi_store_calls_end(calls, call, status, text);
}

void kvpi_store_calls_reply(
    kvpi_store_calls *calls, const kvpi_msg_store_reply *reply, int64_t now_ns)
{
	const uint64_t incarnation = atomic_load(&calls->incarnation);

	calls->heard_ns = now_ns;
	atomic_store(&calls->incarnation, reply->incarnation);
	if (incarnation != 0 && incarnation != reply->incarnation) {
		/* The reply's own call ends likewise: it took place in another store than it was
		 * meant for. */
		calls->connection = UNKNOWN_CONNECTION;
		/* It gets its name before a call may hang on it. */
		calls->first_ping_id = 0;
		calls->reachable = false;
		calls->next_ping_ns = now_ns;
		end_all(calls, KVP_E_STORE_RESTARTED);
		return;
	}
	if (reply->id == calls->ping_id || reply->id == calls->first_ping_id) {
		read_pong(calls, reply, now_ns);
		return;
	}
	KVPI_LIST_FOREACH (pos, nxt, &calls->pending) {
		kvpi_store_call *call = KVPI_CONTAINER_OF(pos, kvpi_store_call, pending);

		if (call->id == reply->id) {
			read_answer(calls, call, reply);
			return;
		}
	}
	/* None: its call has run out of time meanwhile. */
}

void kvpi_store_calls_run_out(kvpi_store_calls *calls, kvpi_store_call *call, int64_t now_ns)
{
	const bool heard = call->order != 0 && calls->reachable &&
	                   calls->heard_ns >= call->sent_ns &&
	                   now_ns - calls->heard_ns <= KVPI_STORE_SILENCE_MS * KVPI_NS_PER_MS;

	if (call->order == 0)
		kvpi_store_calls_end(calls, call, KVP_E_STORE_LOST,
		    "there was no connection to the store within the time; nothing was changed");
	else if (heard && call->harmless)
		kvpi_store_calls_end(calls, call, KVP_E_TIMEOUT,
		    "the time ran out before the store said which keys are missing");
	else
		kvpi_store_calls_end(calls, call, KVP_E_STORE_LOST,
		    call->harmless
		        ? "the store did not answer within the time"
		        : "the store did not answer within the time; the call may or may not "
		          "have taken place");
}
