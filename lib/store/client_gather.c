/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's half of gatherings.  See client.h and gather.h.
 */
#include "base/alloc.h"
#include "base/error.h"
#include "store/client.h"
#include <string.h>

/* What has come so far. */
typedef struct gathered {
	kvp_bytes *values; /* NULL: not wanted */
	unsigned char *missing;
	size_t count, have; /* values [0, have) are there, owned */
} gathered;

static kvp_status read_reply(void *user, const kvpi_msg_store_reply *reply)
{
	gathered *g = user;
	const kvpi_views *parts = &reply->values;

	for (size_t i = 0; i < reply->missing.count; i++) {
		if (reply->missing.items[i] >= g->count)
			return KVP_E_PROTOCOL;
		g->missing[reply->missing.items[i]] = 1;
	}
	if (reply->status != KVP_OK || g->values == NULL)
		return (kvp_status)reply->status;
	if (parts->count == 0 || parts->count > g->count - g->have ||
	    reply->number != (int64_t)(g->have + parts->count))
		return KVP_E_PROTOCOL;
	for (size_t i = 0; i < parts->count; i++, g->have++) {
		kvp_bytes *value = &g->values[g->have];

		value->data = kvpi_memdup(parts->items[i].data, parts->items[i].len);
		if (value->data == NULL)
			return KVP_E_NOMEM;
		value->len = parts->items[i].len;
	}
	return KVP_OK;
}

kvp_status kvpi_store_gather(kvp_store *store, const char *name, const kvpi_store_gathering *gathering,
    kvp_bytes *values, unsigned char *missing, int ms)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_gather};
	kvpi_msg_store_gather *gather = &msg.u.store_gather;
	const int64_t deadline_ns = kvpi_store_wait_deadline(ms);
	gathered g = {.values = values, .missing = missing, .count = (size_t)gathering->count};
	kvpi_store_call call;
	kvp_status status;

	memset(missing, 0, g.count);
	*gather = (kvpi_msg_store_gather){.key = kvpi_view_text(gathering->key),
	    .round = gathering->round,
	    .count = (uint64_t)gathering->count,
	    .index = (uint64_t)gathering->index,
	    .part = kvpi_view_of(gathering->part, gathering->len),
	    .wait_ms = (uint64_t)kvpi_store_park_ms(ms),
	    .ttl_ms = (uint64_t)gathering->ttl_ms,
	    .present = values != NULL ? KVPI_HAS(store_gather, from) : 0};
	do {
		gather->from = g.have;
		status = kvpi_store_exchange(
		    store, &msg, read_reply, &g, gathering->incarnation, deadline_ns, &call);
		gather->part = kvpi_view_of(NULL, 0); /* is there: what follows fetches the rest */
	} while (status == KVP_OK && values != NULL && g.have < g.count);
	if (status == KVP_OK)
		return KVP_OK;

	for (size_t i = 0; values != NULL && i < g.have; i++)
		kvp_bytes_free(&values[i]);
	if (status == KVP_E_TIMEOUT && memchr(missing, 1, g.count) != NULL)
		return kvpi_error(status, "%s: not all have come within %d ms", name, ms);
	return kvpi_store_explain(store, name, NULL, &call);
}
