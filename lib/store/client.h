/* SPDX-License-Identifier: Apache-2.0
 *
 * What groups need of a store handle beside its public calls.
 */
#ifndef KVPI_STORE_CLIENT_H
#define KVPI_STORE_CLIENT_H

#include "store/calls.h"
#include <kvpipe/store.h>

/* A public time-out as milliseconds: KVP_TIMEOUT_DEFAULT becomes the store's own.  KVP_E_INVALID
 * for other negative ones. */
kvp_status kvpi_store_timeout(const kvp_store *store, int timeout_ms, const char *call, int *ms);

/* Reads a reply on the thread that got it, maybe another one's, and says how the call ends. */
typedef kvp_status (*kvpi_store_reader)(void *user, const kvpi_msg_store_reply *reply);

/* Sends the request and waits for the reply.  `incarnation`: of the store it is meant for (KVP_E_STORE_RESTARTED
 * from any other); 0: of whichever is there.  No sentence yet: the call is for kvpi_store_explain. */
kvp_status kvpi_store_exchange(const kvp_store *store, kvpi_msg *msg, kvpi_store_reader reader,
    void *user, uint64_t incarnation, int64_t deadline_ns, kvpi_store_call *call);

/* The status of a call that failed, with the sentence; key NULL: it is about none, or many. */
kvp_status kvpi_store_explain(
    const kvp_store *store, const char *name, const char *key, const kvpi_store_call *call);

/* A call that may take `ms` and be parked: how long the server may park it, and when it is over, answer or not. */
int kvpi_store_park_ms(int ms);
int64_t kvpi_store_wait_deadline(int ms);

/*
 * One caller's part in a round of a gathering (gather.h).  Returns when all `count` have brought theirs, with the
 * parts, owned, in values[count]; values NULL: they are not wanted.  When the time runs out: KVP_E_TIMEOUT, and
 * missing[count] has 1 for those that have not come (all 0: the store did not say).  The part counts all the same,
 * and the call can be repeated.  Nothing is borrowed after the call.
 */
typedef struct kvpi_store_gathering {
	uint64_t incarnation; /* of the store that it takes place in */
	const char *key;
	uint64_t round;
	int count, index;
	const void *part;
	size_t len;
	int64_t ttl_ms; /* without anybody coming */
} kvpi_store_gathering;

kvp_status kvpi_store_gather(kvp_store *store, const char *name, const kvpi_store_gathering *gathering,
    kvp_bytes *values, unsigned char *missing, int ms);

/* Deletes the key if it has this value: what one put there oneself, and nobody else has replaced since.
 * KVP_E_CONFLICT if it has another one, KVP_E_NOT_FOUND. */
kvp_status kvpi_store_delete_if(
    kvp_store *store, const char *key, const void *expected, size_t expected_len, int timeout_ms);

/* Checks the handle as every public call does. */
kvp_status kvpi_store_check(const kvp_store *store, const char *call);

#endif
