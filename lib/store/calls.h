/* SPDX-License-Identifier: Apache-2.0
 *
 * The pending calls of a store's client, without socket, threads and clock: which reply ends which
 * call, when to ask whether the store is still there, what its silence means.
 *
 * Two things make a pending call hopeless although the store answers.  The store was restarted:
 * every reply carries the server's incarnation.  Or the connection was renewed, and the server
 * holds parked calls for the old one: the reply to a ping names the connection.  Hence, while calls
 * are pending, a ping goes out each second, the first one ahead of the call.  An addition, which has a name, is said again instead, and a gathering;
 * an addition also when the reply to a later ping shows that its own was
 * lost: the store answers in order.
 *
 * Not locked: link.c does that.
 */
#ifndef KVPI_STORE_CALLS_H
#define KVPI_STORE_CALLS_H

#include "base/buf.h"
#include "base/error.h"
#include "base/list.h"
#include "wire/msg.h"
#include <kvpipe/status.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KVPI_STORE_PING_MS 1000
#define KVPI_STORE_PING_RETRY_MS 10 /* when there was no connection to send it on */
#define KVPI_STORE_SILENCE_MS (3 * KVPI_STORE_PING_MS)

typedef struct kvpi_store_call {
	/* The caller's. */
	uint64_t id; /* from kvpi_store_calls_id; the frame has it, too */
	kvpi_buf frame;
	int64_t deadline_ns;
	uint64_t incarnation; /* of the store it is meant for; 0: any */
	bool parks;    /* may be parked at the server: a wait or a take */
	kvpi_msg *add; /* an addition that has a name: may be said again when its reply is lost; borrowed; NULL: any other */
	bool repeats;  /* a gathering: may be said again on a new connection, as it is */
	bool harmless; /* a wait: changes nothing at the server, so its silence may be a time-out */
	/* Reads the reply, on the thread that got it, and says how the call ends. */
	kvp_status (*read_reply)(void *user, const kvpi_msg_store_reply *reply);
	void *user;
	void *waiter; /* for on_done */

	/* How it ended. */
	bool done;
	kvp_status status;
	char sentence[KVPI_ERROR_MAX]; /* "" : nothing to add to the status */

	/* Of calls.c. */
	kvpi_list pending, unsent;
	uint64_t order; /* of sending, the last time; 0: not sent */
	int64_t sent_ns, first_sent_ns;
} kvpi_store_call;

typedef struct kvpi_store_calls {
	kvpi_list pending; /* in order of arrival */
	kvpi_list unsent;
	uint64_t ids, sends;          /* handed out so far */
	_Atomic uint64_t incarnation; /* of the server as last heard; 0: never */
	int64_t connection;           /* its name as last heard; -1: never */
	bool reachable; /* the last ping found a connection; only then calls may be sent */
	int64_t heard_ns;
	int64_t next_ping_ns;
	uint64_t ping_id, ping_order;           /* of the last one */
	uint64_t first_ping_id, first_ping_order; /* of the first one not answered; 0: all were */
	void (*on_done)(kvpi_store_call *call); /* wakes who waits for it */
} kvpi_store_calls;

void kvpi_store_calls_init(kvpi_store_calls *calls, void (*on_done)(kvpi_store_call *call));
uint64_t kvpi_store_calls_id(kvpi_store_calls *calls);

/* Ends it at once, KVP_E_STORE_RESTARTED, when it is meant for another incarnation than the one last heard. */
void kvpi_store_calls_add(kvpi_store_calls *calls, kvpi_store_call *call);
void kvpi_store_calls_remove(kvpi_store_call *call); /* done or not */

/* The next call to send; NULL if there is none, or a ping has to find a connection first. */
kvpi_store_call *kvpi_store_calls_unsent(const kvpi_store_calls *calls);
void kvpi_store_calls_sent(kvpi_store_calls *calls, kvpi_store_call *call, int64_t now_ns);

/* When the next ping is due; KVPI_NEVER while nothing is pending. */
int64_t kvpi_store_calls_ping_due(const kvpi_store_calls *calls);
/* A ping with this id went out. */
void kvpi_store_calls_pinged(kvpi_store_calls *calls, uint64_t id, int64_t now_ns);
/* A frame found no connection, or no room: what is sent next must be a ping. */
void kvpi_store_calls_blocked(kvpi_store_calls *calls, int64_t now_ns);

/* A reply came in: ends the call it belongs to, or all that its contents make hopeless. */
void kvpi_store_calls_reply(
    kvpi_store_calls *calls, const kvpi_msg_store_reply *reply, int64_t now_ns);

void kvpi_store_calls_end(
    kvpi_store_calls *calls, kvpi_store_call *call, kvp_status status, const char *sentence);

/* The call's time has run out: ends it with what the silence means. */
void kvpi_store_calls_run_out(kvpi_store_calls *calls, kvpi_store_call *call, int64_t now_ns);

#endif
