/* SPDX-License-Identifier: Apache-2.0
 *
 * Gatherings: the store's part of barriers and all-gathers.  `count` callers bring a part each, under one
 * key, and all are answered when the last has come: n requests and n replies for n callers.
 *
 * Rounds follow each other under one key.  Who comes to a round has got the answer of the one before; so
 * the parts of the last complete round are kept while the next one comes together, and whoever lost an
 * answer with its connection asks again and gets the same.  A repeated part changes nothing: the first one
 * counts.  A gathering that everybody was answered from goes KVPI_STORE_GATHER_GRACE_MS later, any other
 * one a time to live after the last caller.
 *
 * Not keys: no get or list sees them.  Their bytes count against those of the store (keys.h).  One thread.
 */
#ifndef KVPI_STORE_GATHER_H
#define KVPI_STORE_GATHER_H

#include "store/core.h"
#include "store/keys.h"

/* What a lost answer can be had again for, when nobody goes on. */
#define KVPI_STORE_GATHER_GRACE_MS 10000

typedef struct kvpi_store_gathers kvpi_store_gathers;

/* Where answers go, and whose bytes are used; both outlive it.  Returns owned, NULL without memory. */
kvpi_store_gathers *kvpi_store_gathers_new(
    uint64_t seed, uint64_t incarnation, const kvpi_store_sink *sink, kvpi_store_keys *budget);
void kvpi_store_gathers_free(kvpi_store_gathers *gathers); /* parked callers get no answer; NULL is fine */

/*
 * Answers, now or when the last one comes or the caller's time is up (KVP_E_TIMEOUT with the indices that are
 * missing).  An error is the caller's to reply, and has changed nothing: KVP_E_INVALID, KVP_E_CONFLICT (another
 * count; a round that is over, or too early), KVP_E_TOO_LARGE (the store is full; `room` more calls may be
 * parked), KVP_E_NOMEM.
 */
kvp_status kvpi_store_gathers_handle(kvpi_store_gathers *gathers, const kvpi_zid *client,
    const kvpi_msg_store_gather *msg, size_t room, int64_t now_ns);

/* Ends what has run out; returns how many parked callers that were. */
size_t kvpi_store_gathers_advance(kvpi_store_gathers *gathers, int64_t now_ns);
int64_t kvpi_store_gathers_deadline(const kvpi_store_gathers *gathers); /* KVPI_NEVER: nothing runs out */

size_t kvpi_store_gathers_count(const kvpi_store_gathers *gathers);
size_t kvpi_store_gathers_parked(const kvpi_store_gathers *gathers);

#endif
