/* SPDX-License-Identifier: Apache-2.0
 *
 * What a store server thinks, without its socket, its thread and its clock: requests, the client
 * they came from and the time go in, replies come out through a function that was handed in.
 *
 * A parked call holds each of its keys (keys.h) and counts those that are missing: a set touches
 * exactly the calls that wait for it, in order of arrival.  One thread.
 */
#ifndef KVPI_STORE_CORE_H
#define KVPI_STORE_CORE_H

#include "base/metrics.h"
#include "wire/msg.h"
#include "wire/zsock.h"
#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_store_limits {
	uint64_t max_bytes; /* of keys and values, and of names that are only waited for */
	size_t max_keys;    /* those names included */
	size_t max_waits;
} kvpi_store_limits;

/*
 * Where replies go.  `reply` and all it points to are borrowed for the call.  KVP_OK: it is on its
 * way. Anything else: this client is not to be reached, and what a take would have removed stays.
 * Must not call the core.
 */
typedef struct kvpi_store_sink {
	kvp_status (*reply)(void *user, const kvpi_zid *client, const kvpi_msg_store_reply *reply);
	void *user;
} kvpi_store_sink;

/* Requests, counted by message id - KVPI_MSG_store_open; the reply's own place among them stays 0. */
#define KVPI_STORE_KINDS (KVPI_MSG_store_gather - KVPI_MSG_store_open + 1)

typedef struct kvpi_store_stats {
	kvpi_counter requests[KVPI_STORE_KINDS];
	kvpi_counter expired;                    /* keys whose time to live ran out */
	kvpi_counter wait_timeouts;              /* parked calls that ran out */
	kvpi_counter keys, bytes, waits, gathers; /* gauges: what is held now */
} kvpi_store_stats;

typedef struct kvpi_store_core kvpi_store_core;

/* Returns owned, NULL without memory.  The seed is for the hash table, random and secret. */
kvpi_store_core *kvpi_store_core_new(
    const kvpi_store_limits *limits, uint64_t seed, uint64_t incarnation, kvpi_store_sink sink);
void kvpi_store_core_free(kvpi_store_core *core); /* parked calls get no reply; NULL is fine */

/* One request; the message is borrowed.  Time must not go back.  KVP_E_PROTOCOL when it is no
 * request to a store (there is no reply then); all other errors go to the client. */
kvp_status kvpi_store_core_handle(
    kvpi_store_core *core, const kvpi_zid *client, const kvpi_msg *msg, int64_t now_ns);

/* Drops keys and ends parked calls whose time has come. */
void kvpi_store_core_advance(kvpi_store_core *core, int64_t now_ns);

/* When kvpi_store_core_advance has something to do; KVPI_NEVER if it has not. */
int64_t kvpi_store_core_deadline(const kvpi_store_core *core);

kvpi_store_stats *kvpi_store_core_stats(kvpi_store_core *core);

#endif
