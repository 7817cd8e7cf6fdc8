/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes out.  The bytes of a put are copied by the receiver where it can reach them: then a message says where they
 * are, and a grant says how long they stay.  Small ones go along in the message, and what the receiver cannot reach goes
 * through this end's staging memory, in chunks.
 */
#include "plane/shm.h"

#include "base/alloc.h"
#include "base/error.h"
#include "wire/auth.h"
#include <string.h>

/* Below this a run costs process_vm_readv more than gathering it costs us. */
#define REMOTE_RUN 1024
#define CHUNK_MIN 4096

static kvpi_shm_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_shm_item, node);
}

static void move(kvpi_shm_item *item, kvpi_list *to)
{
	kvpi_list_remove(&item->node);
	kvpi_list_append(to, &item->node);
}

/* False: there is no room now, or the connection failed. */
static bool say(kvpi_conn *conn, const void *a, size_t a_len, const void *b, size_t b_len)
{
	bool wake = false;
	const kvp_status status = kvpi_ring_put(&conn->out_ring, a, a_len, b, b_len, &wake);

	if (status == KVP_OK && wake)
		kvpi_shm_ring_bell(conn);
	else if (status != KVP_OK && status != KVP_E_AGAIN)
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
	return status == KVP_OK;
}

/* ---- which way ---- */

static bool map(kvpi_conn *conn, kvpi_shm_item *item, uint64_t extent)
{
	item->memory = kvpi_mem_find(conn->plane->params.context, item->transfer.local.base, extent);
	if (item->memory == NULL)
		return false;
	if (kvpi_shm_announce(conn, item->memory) == KVP_OK)
		return true;
	kvpi_mem_release(item->memory);
	item->memory = NULL;
	return false;
}

static kvpi_shm_way choose(kvpi_conn *conn, kvpi_shm_item *item)
{
	const kvpi_layout *layout = &item->transfer.local;
	uint64_t extent;

	if (layout->bytes == 0)
		return KVPI_SHM_INLINE;
	if (layout->memory != KVP_MEMORY_HOST)
		return KVPI_SHM_STAGED;
	if (layout->bytes <= KVPI_SHM_INLINE_MAX)
		return KVPI_SHM_INLINE;
	if (layout->ids != NULL && layout->dim[layout->id_dim].count > KVPI_SHM_IDS_MAX)
		return KVPI_SHM_STAGED;
	if (!kvpi_shm_extent(layout, &extent))
		return KVPI_SHM_STAGED;
	if (map(conn, item, extent))
		return KVPI_SHM_MAPPED;
	if (conn->able && (kvpi_layout_run(layout) >= REMOTE_RUN || kvpi_layout_run(layout) == layout->bytes))
		return KVPI_SHM_REMOTE;
	return KVPI_SHM_STAGED;
}

static kvpi_shm_put put_of(const kvpi_shm_item *item)
{
	return (kvpi_shm_put){.kind = KVPI_SHM_PUT,
	    .way = (uint8_t)item->way,
	    .attempt = item->transfer.id.attempt,
	    .seq = item->transfer.id.seq,
	    .bytes = item->transfer.local.bytes};
}

/* ---- in the message ---- */

static bool say_note(kvpi_conn *conn, kvpi_shm_item *item)
{
	const kvpi_shm_note note = {.kind = KVPI_SHM_NOTE};

	if (!say(conn, &note, sizeof(note), item->data, item->len))
		return false;
	kvpi_shm_put_free(conn, item);
	return true;
}

static bool say_inline(kvpi_conn *conn, kvpi_shm_item *item)
{
	const kvpi_layout *layout = &item->transfer.local;
	const kvpi_shm_put put = put_of(item);
	const void *bytes = layout->base;

	if (kvpi_layout_run(layout) < layout->bytes) {
		kvpi_layout_gather(layout, 0, conn->plane->dense, layout->bytes);
		bytes = conn->plane->dense;
	}
	if (!say(conn, &put, sizeof(put), bytes, layout->bytes))
		return false;
	move(item, &conn->sent);
	return true;
}

/* ---- where the receiver reads ---- */

static bool say_where(kvpi_conn *conn, kvpi_shm_item *item)
{
	const kvpi_layout *layout = &item->transfer.local;
	struct {
		kvpi_shm_put put;
		kvpi_dim dims[KVP_MAX_DIMS];
	} message = {.put = put_of(item)};
	kvpi_shm_put *put = &message.put;

	if (kvpi_grant_offer(&conn->grants, &item->grant) != KVP_OK)
		return false; /* canceled ones keep them all; the peer wakes us when it is done with one */
	put->address = (uint64_t)(uintptr_t)layout->base;
	put->base = put->address;
	if (item->way == KVPI_SHM_MAPPED) {
		put->base = (uint64_t)(layout->base - (char *)item->memory->base);
		memcpy(put->memory, item->memory->id, sizeof(put->memory));
	}
	put->slot = item->grant.slot;
	put->generation = item->grant.generation;
	kvpi_shm_put_layout(put, message.dims, layout);
	if (!say(conn, &message, sizeof(*put) + put->ndim * sizeof(message.dims[0]), layout->ids,
	        put->id_count * sizeof(uint32_t))) {
		(void)kvpi_grant_revoke(&conn->grants, item->grant); /* nobody knows it */
		return false;
	}
	item->offered = true;
	move(item, &conn->offered);
	return true;
}

/* ---- through staging memory ---- */

static kvp_status stage_new(kvpi_conn *conn)
{
	kvpi_shm_stage *stage = &conn->stage;
	uint64_t chunk = conn->plane->staging.slot_bytes;
	void *base;
	kvp_status status;

	if (stage->fd >= 0)
		return KVP_OK;
	chunk = chunk > KVPI_SHM_CHUNK_MAX ? KVPI_SHM_CHUNK_MAX : chunk;
	chunk = chunk < CHUNK_MIN ? CHUNK_MIN : chunk & ~(uint64_t)(CHUNK_MIN - 1);
	stage->chunk_bytes = chunk;
	stage->bytes = chunk * KVPI_SHM_CHUNKS;
	status = kvpi_memfd_new_readable("kvpipe-staging", stage->bytes, &stage->fd, &base);
	if (status != KVP_OK) {
		stage->fd = -1;
		return status;
	}
	stage->base = base;
	kvpi_random(stage->id, sizeof(stage->id));
	for (uint64_t i = 0; i < KVPI_SHM_CHUNKS; i++)
		stage->slots[i] = (kvpi_slot){.way = KVPI_OUTWARD, .data = stage->base + i * chunk};
	return KVP_OK;
}

/* The peer has the memory and knows of the put. */
static bool stage_begin(kvpi_conn *conn, kvpi_shm_item *item)
{
	kvpi_shm_stage *stage = &conn->stage;
	const kvpi_shm_put put = put_of(item);
	kvp_status status = stage_new(conn);

	if (status == KVP_OK && !stage->told_memory) {
		kvpi_shm_word word = {.kind = KVPI_SHM_MEMORY, .a = stage->bytes};

		memcpy(word.id, stage->id, sizeof(word.id));
		status = kvpi_shm_send(conn, &word, stage->fd);
		stage->told_memory = status == KVP_OK;
	}
	if (status == KVP_E_AGAIN)
		return false;
	if (status != KVP_OK) {
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
		return false;
	}
	item->begun = item->begun || say(conn, &put, sizeof(put), NULL, 0);
	return item->begun;
}

static bool credits(kvpi_conn *conn)
{
	kvpi_shm_stage *stage = &conn->stage;
	const uint64_t taken = atomic_load(&conn->mine->taken);

	if (taken < stage->taken || taken > stage->told) {
		kvpi_shm_fail(conn, KVP_E_PROTOCOL, "the peer says that it has taken chunks which it was never given");
		return false;
	}
	stage->taken = taken;
	return stage->filled - taken < KVPI_SHM_CHUNKS;
}

static void stage_fill(kvpi_conn *conn, kvpi_shm_item *item, uint64_t *budget)
{
	const kvpi_layout *layout = &item->transfer.local;
	kvpi_shm_stage *stage = &conn->stage;
	uint64_t chunk = kvpi_staging_chunk(&conn->plane->staging, layout);

	chunk = chunk < stage->chunk_bytes ? chunk : stage->chunk_bytes;
	while (item->done < layout->bytes && *budget > 0 && credits(conn)) {
		kvpi_slot *slot = &stage->slots[stage->filled % KVPI_SHM_CHUNKS];
		kvp_status status;

		slot->owner = item;
		slot->offset = item->done;
		slot->len = layout->bytes - item->done < chunk ? layout->bytes - item->done : chunk;
		status = kvpi_slot_gather(&conn->plane->staging, slot, layout);
		if (slot->event != NULL)
			item->jobs++;
		stage->filled++;
		item->done += slot->len;
		*budget -= slot->len < *budget ? slot->len : *budget;
		if (status != KVP_OK) {
			kvpi_shm_fail(conn, status, "%s", kvp_last_error());
			return;
		}
	}
}

/* Tells the peer of the chunks that are filled.  False when a device, or the peer, must be waited for. */
static bool stage_tell(kvpi_conn *conn)
{
	kvpi_shm_stage *stage = &conn->stage;

	while (stage->told < stage->filled) {
		kvpi_slot *slot = &stage->slots[stage->told % KVPI_SHM_CHUNKS];
		kvpi_shm_chunk chunk = {.kind = KVPI_SHM_CHUNK,
		    .offset = slot->offset,
		    .len = slot->len,
		    .base = (uint64_t)(slot->data - stage->base)};

		memcpy(chunk.memory, stage->id, sizeof(chunk.memory));
		if (slot->event != NULL || !say(conn, &chunk, sizeof(chunk), NULL, 0))
			return false;
		stage->told++;
	}
	return true;
}

static bool say_staged(kvpi_conn *conn, kvpi_shm_item *item, uint64_t *budget)
{
	kvpi_shm_stage *stage = &conn->stage;
	uint64_t told;

	if (!stage_begin(conn, item))
		return false;
	do {
		told = stage->told;
		stage_fill(conn, item, budget);
		if (conn->state != KVPI_SHM_UP || !stage_tell(conn))
			return false;
		if (item->done == item->transfer.local.bytes) {
			move(item, &conn->sent);
			return true;
		}
	} while (stage->told > told && *budget > 0);
	return *budget == 0;
}

/* ---- the queue ---- */

bool kvpi_shm_tx(kvpi_conn *conn, uint64_t budget)
{
	kvpi_list *first;

	while (conn->state == KVPI_SHM_UP && (first = kvpi_list_first(&conn->puts)) != NULL) {
		kvpi_shm_item *item = item_of(first);
		bool go;

		if (item->canceled || (!item->note && !kvpi_shm_ready(conn, &item->transfer)))
			return false;
		if (!item->note && item->way == 0)
			item->way = choose(conn, item);
		if (budget == 0)
			return true;
		if (item->note)
			go = say_note(conn, item);
		else if (item->way == KVPI_SHM_INLINE)
			go = say_inline(conn, item);
		else if (item->way == KVPI_SHM_STAGED)
			go = say_staged(conn, item, &budget);
		else
			go = say_where(conn, item);
		if (!go)
			return false;
	}
	return false;
}

bool kvpi_shm_tx_waits(const kvpi_conn *conn)
{
	const kvpi_list *first = kvpi_list_first(&conn->puts);
	const kvpi_shm_item *item = first == NULL ? NULL : item_of((kvpi_list *)first);

	if (item == NULL || item->note)
		return true;
	if (item->canceled || item->jobs > 0 || item->way == 0)
		return false; /* a device, or the next round */
	return item->way != KVPI_SHM_STAGED || conn->stage.told_memory;
}

/* Looks which copies into staging memory have ended. */
static void reap_chunks(kvpi_conn *conn)
{
	kvpi_shm_stage *stage = &conn->stage;
	kvpi_shm_item *item;
	bool failed = false;

	for (uint64_t n = stage->told; n < stage->filled; n++) {
		kvpi_slot *slot = &stage->slots[n % KVPI_SHM_CHUNKS];
		kvp_status status;

		if (slot->event == NULL)
			continue;
		status = kvpi_slot_query(slot);
		if (status == KVP_PENDING)
			continue;
		item = slot->owner;
		item->jobs--;
		failed = failed || status != KVP_OK;
	}
	if (failed)
		kvpi_shm_fail(conn, KVP_E_DEVICE, "a copy from device memory failed");
}

/* A canceled put at the head goes with its chunks, which the peer was not told of. */
static void reap_head(kvpi_conn *conn)
{
	kvpi_list *first = kvpi_list_first(&conn->puts);

	if (first == NULL || !item_of(first)->canceled || item_of(first)->jobs > 0)
		return;
	conn->stage.filled = conn->stage.told;
	kvpi_shm_put_free(conn, item_of(first));
}

static kvpi_grant_end poll_grant(kvpi_conn *conn, kvpi_shm_item *item)
{
	const kvpi_grant_end end = kvpi_grant_poll(&conn->grants, item->grant);

	if (end == KVPI_GRANT_BROKEN)
		kvpi_shm_fail(conn, KVP_E_PROTOCOL, "the peer wrote nonsense into a grant");
	return end;
}

void kvpi_shm_tx_reap(kvpi_conn *conn)
{
	kvpi_list *first;

	reap_chunks(conn);
	reap_head(conn);
	/* The peer works in order, so only the first can be done. */
	while (conn->state == KVPI_SHM_UP && (first = kvpi_list_first(&conn->offered)) != NULL &&
	       poll_grant(conn, item_of(first)) == KVPI_GRANT_DONE) {
		item_of(first)->offered = false;
		move(item_of(first), &conn->sent);
	}
	KVPI_LIST_FOREACH(pos, nxt, &conn->recalled) {
		if (conn->state == KVPI_SHM_UP && poll_grant(conn, item_of(pos)) == KVPI_GRANT_DONE)
			kvpi_shm_put_free(conn, item_of(pos));
	}
}

void kvpi_shm_tx_tell(kvpi_conn *conn)
{
	kvpi_list *first;

	while (!conn->closed && (first = kvpi_list_first(&conn->sent)) != NULL) {
		const kvpi_transfer_id id = item_of(first)->transfer.id;

		kvpi_shm_put_free(conn, item_of(first));
		kvpi_shm_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_SENT, .id = id});
	}
}

kvp_receipt kvpi_shm_tx_cancel(kvpi_conn *conn, kvpi_shm_item *item)
{
	if (item->offered) {
		/* Asked again: is the peer done?  Else: can it be kept from beginning? */
		const bool quiet = item->canceled ? poll_grant(conn, item) == KVPI_GRANT_DONE
		                                  : kvpi_grant_revoke(&conn->grants, item->grant);

		if (!quiet) {
			item->canceled = true;
			move(item, &conn->recalled);
			return KVP_RECEIPT_QUARANTINED;
		}
		kvpi_shm_put_free(conn, item);
		return KVP_RECEIPT_QUIESCENT;
	}
	item->canceled = true;
	reap_chunks(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	if (kvpi_list_first(&conn->puts) == &item->node)
		conn->stage.filled = conn->stage.told;
	kvpi_shm_put_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_shm_tx_stop(kvpi_conn *conn)
{
	/* A peer that is reading sees it before it counts what it has read. */
	KVPI_LIST_FOREACH(pos, nxt, &conn->offered)
		(void)kvpi_grant_revoke(&conn->grants, item_of(pos)->grant);
}

bool kvpi_shm_tx_quiet(const kvpi_conn *conn)
{
	for (int i = 0; i < KVPI_SHM_CHUNKS; i++) {
		if (conn->stage.slots[i].event != NULL)
			return false;
	}
	return true;
}

void kvpi_shm_tx_settle(kvpi_conn *conn)
{
	kvpi_shm_stage *stage = &conn->stage;
	bool quiet = true;

	for (int i = 0; i < KVPI_SHM_CHUNKS; i++) {
		kvpi_slot *slot = &stage->slots[i];

		if (slot->event != NULL && kvpi_stream_settle(slot->ops, slot->event) != KVP_OK) {
			/* Neither the stream nor the memory that it may write to is given back. */
			quiet = false;
			conn->plane->staging.leaked = true;
		} else if (slot->event != NULL) {
			(void)kvpi_slot_query(slot);
		}
	}
	if (stage->fd >= 0 && quiet)
		kvpi_memfd_free(stage->fd, stage->base, stage->bytes);
	*stage = (kvpi_shm_stage){.fd = -1};
}
