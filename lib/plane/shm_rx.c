/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes in: one message at a time.  This end copies, in pieces, from where the peer says that the bytes are, into the
 * posted destination.  Nothing that the peer says is believed: layouts are checked in shm_msg.c, ranges against what it
 * gave us, and memory of its process is read by the kernel.
 */
#include "plane/shm.h"

#include "base/copy.h"
#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <string.h>

#define SLOTS 2
#define PIECES 64
#define IOV 256
#define MESSAGE_COST 64 /* of the budget, so that a thousand empty ones are not free */
/* Below this, runs of the destination are cheaper written by us than named to process_vm_readv. */
#define DIRECT_RUN 1024

/* The functions below that return bool return false when the peer, a device or a bounce buffer must be waited for, or when
 * the connection has failed. */

static kvpi_shm_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_shm_item, node);
}

static void violation(kvpi_conn *conn, const char *what)
{
	kvpi_shm_fail(conn, KVP_E_PROTOCOL, "the peer sent %s", what);
}

static void give(kvpi_conn *conn, kvpi_slot *slot)
{
	kvpi_staging_give(&conn->plane->staging, slot);
	conn->in.slot_count--;
}

static void reap_slots(kvpi_conn *conn)
{
	bool failed = false;

	KVPI_LIST_FOREACH(pos, nxt, &conn->in.slots) {
		kvpi_slot *slot = KVPI_CONTAINER_OF(pos, kvpi_slot, node);
		kvpi_shm_item *item = slot->owner;
		const kvp_status status = kvpi_slot_query(slot);

		if (status == KVP_PENDING)
			continue;
		failed = failed || status != KVP_OK;
		item->jobs--;
		give(conn, slot);
	}
	if (failed)
		kvpi_shm_fail(conn, KVP_E_DEVICE, "a copy to device memory failed");
}

void kvpi_shm_rx_reap(kvpi_conn *conn)
{
	reap_slots(conn);
	if (!conn->in.canceled)
		return;
	conn->in.canceled = false;
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts) {
		if (item_of(pos)->canceled && item_of(pos)->jobs == 0)
			kvpi_shm_post_free(conn, item_of(pos));
		else
			conn->in.canceled = conn->in.canceled || item_of(pos)->canceled;
	}
}

/* ---- the end of a message ---- */

static kvpi_grant grant_of(const kvpi_conn *conn)
{
	return (kvpi_grant){.slot = conn->in.put.slot, .generation = conn->in.put.generation};
}

/* The sender's memory is not read any more.  False: it was recalled before, so what was read means nothing. */
static bool end_claim(kvpi_conn *conn)
{
	if (!conn->in.claimed)
		return true;
	conn->in.claimed = false;
	conn->finished = true;
	return kvpi_grant_done(conn->theirs->grants, grant_of(conn));
}

/* Done with the put, whatever became of it. */
static void end_put(kvpi_conn *conn)
{
	(void)end_claim(conn);
	conn->in.put.kind = 0;
	conn->in.post = NULL;
	conn->in.dense = NULL;
}

static void end_received(kvpi_conn *conn)
{
	kvpi_shm_item *post = conn->in.post;
	const kvpi_transfer_id id = post->transfer.id;

	conn->by_way[conn->in.put.way] += conn->in.put.bytes;
	end_put(conn);
	kvpi_shm_post_free(conn, post);
	kvpi_shm_answer(conn);
	kvpi_shm_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_RECEIVED, .id = id});
}

/* The present chunk is copied, or thrown away. */
static void end_chunk(kvpi_conn *conn)
{
	conn->in.dense = NULL;
	conn->took = true;
	atomic_store(&conn->theirs->taken, ++conn->chunks_taken);
}

/* ---- copying ---- */

static bool claim(kvpi_conn *conn)
{
	if (!conn->in.claimed)
		conn->in.claimed = kvpi_grant_claim(conn->theirs->grants, grant_of(conn));
	return conn->in.claimed;
}

static bool granted(const kvpi_conn *conn)
{
	return conn->in.put.way == KVPI_SHM_MAPPED || conn->in.put.way == KVPI_SHM_REMOTE;
}

static void read_failed(kvpi_conn *conn, ssize_t n)
{
	const int err = n < 0 ? errno : EFAULT;

	if (err == EFAULT)
		kvpi_shm_fail(conn, KVP_E_PROTOCOL, "the peer offered memory of its process that is not there");
	else
		kvpi_shm_fail(conn, err == ENOMEM ? KVP_E_NOMEM : KVP_E_PEER_LOST, "cannot read the peer's memory: %s",
		    strerror(err));
}

/* process_vm_readv of the source's next bytes into `to`, at most max.  0: the connection failed. */
static uint64_t read_remote(kvpi_conn *conn, const struct iovec *to, size_t to_count, uint64_t max)
{
	struct iovec from[IOV];
	uint64_t offset = conn->in.done;
	const size_t count = kvpi_layout_iov(&conn->in.source, &offset, max, from, IOV);
	const ssize_t n = kvpi_shm_read_peer(conn, to, to_count, from, count);

	if (n <= 0)
		read_failed(conn, n);
	return n <= 0 ? 0 : (uint64_t)n;
}

static uint64_t remote_to_host(kvpi_conn *conn, uint64_t max)
{
	struct iovec to[IOV];
	uint64_t offset = conn->in.done;
	const size_t count = kvpi_layout_iov(&conn->in.post->transfer.local, &offset, max, to, IOV);

	return read_remote(conn, to, count, max);
}

static uint64_t mapped_to_host(kvpi_conn *conn, uint64_t max)
{
	const kvpi_layout *to = &conn->in.post->transfer.local;
	const uint64_t begin = conn->in.done;
	uint64_t offset = begin;
	kvpi_piece pieces[PIECES];

	while (offset - begin < max) {
		const size_t count = kvpi_layout_pieces(to, &conn->in.source, &offset, max - (offset - begin), pieces, PIECES);

		if (count == 0)
			break;
		for (size_t i = 0; i < count; i++) {
			if (to->bytes >= KVPI_COPY_STREAM_BYTES)
				kvpi_copy_stream(pieces[i].to, pieces[i].from, pieces[i].len);
			else
				memcpy(pieces[i].to, pieces[i].from, pieces[i].len);
		}
	}
	return offset - begin;
}

/* Where the next dense bytes are. */
static const char *dense_now(const kvpi_shm_in *in)
{
	return in->dense + (in->done - in->dense_at);
}

static uint64_t dense_to_host(kvpi_conn *conn, uint64_t max)
{
	kvpi_layout_scatter(&conn->in.post->transfer.local, conn->in.done, dense_now(&conn->in), max);
	return max;
}

static uint64_t fill_slot(kvpi_conn *conn, kvpi_slot *slot, uint64_t max)
{
	const struct iovec to = {slot->data, max};

	if (conn->in.put.way == KVPI_SHM_REMOTE)
		return read_remote(conn, &to, 1, max);
	if (conn->in.put.way == KVPI_SHM_MAPPED)
		kvpi_layout_gather(&conn->in.source, conn->in.done, slot->data, max);
	else
		memcpy(slot->data, dense_now(&conn->in), max);
	return max;
}

/* Through a bounce buffer.  0: none is free, or the connection failed. */
static uint64_t to_slot(kvpi_conn *conn, uint64_t max)
{
	kvpi_staging *staging = &conn->plane->staging;
	kvpi_shm_item *post = conn->in.post;
	const uint64_t chunk = kvpi_staging_chunk(staging, &post->transfer.local);
	kvpi_slot *slot = conn->in.slot_count < SLOTS ? kvpi_staging_take(staging, KVPI_INWARD) : NULL;
	uint64_t moved;
	kvp_status status;

	if (slot == NULL)
		return 0;
	conn->in.slot_count++;
	slot->owner = post;
	slot->offset = conn->in.done;
	slot->len = moved = fill_slot(conn, slot, max < chunk ? max : chunk);
	if (moved == 0) {
		give(conn, slot);
		return 0;
	}
	status = kvpi_slot_scatter(staging, slot, &post->transfer.local);
	if (slot->event != NULL) {
		post->jobs++;
		kvpi_list_append(&conn->in.slots, &slot->node);
	} else {
		give(conn, slot);
	}
	if (status != KVP_OK) {
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
		return 0;
	}
	return moved;
}

static bool bounces(const kvpi_shm_in *in)
{
	const kvpi_layout *to = &in->post->transfer.local;

	if (to->memory != KVP_MEMORY_HOST)
		return true;
	return in->put.way == KVPI_SHM_REMOTE && kvpi_layout_run(to) < DIRECT_RUN && kvpi_layout_run(to) < to->bytes;
}

/* Copies the next piece, at most max bytes.  0: see to_slot. */
static uint64_t copy_piece(kvpi_conn *conn, uint64_t max)
{
	kvpi_shm_in *in = &conn->in;
	uint64_t left = in->put.bytes - in->done;

	if (in->dense != NULL)
		left = in->dense_at + in->dense_len - in->done;
	max = max < left ? max : left;
	max = max < KVPI_SHM_PIECE ? max : KVPI_SHM_PIECE;
	if (bounces(in))
		return to_slot(conn, max);
	if (in->put.way == KVPI_SHM_REMOTE)
		return remote_to_host(conn, max);
	return in->put.way == KVPI_SHM_MAPPED ? mapped_to_host(conn, max) : dense_to_host(conn, max);
}

/* A put that nobody here wants: the sender gets its memory back. */
static bool drop_put(kvpi_conn *conn)
{
	kvpi_shm_in *in = &conn->in;

	if (in->put.way == KVPI_SHM_STAGED && !in->copied) {
		if (in->dense == NULL)
			return false;
		in->done = in->dense_at + in->dense_len;
		end_chunk(conn);
		if (in->done < in->put.bytes)
			return true;
	} else if (granted(conn) && !in->copied) {
		(void)claim(conn);
	}
	end_put(conn);
	return true;
}

/* Everything is copied, or on its way to the device. */
static bool complete(kvpi_conn *conn)
{
	kvpi_shm_in *in = &conn->in;

	if (!in->copied && in->put.way == KVPI_SHM_REMOTE && kvpi_channel_peer_gone(conn->channel)) {
		/* Another process may have its number by now. */
		kvpi_shm_fail(conn, KVP_E_PEER_LOST, "the peer's process ended while its memory was read");
		return false;
	}
	if (!end_claim(conn)) {
		end_put(conn);
		return true;
	}
	in->copied = true;
	if (in->post->jobs > 0)
		return false; /* nothing overtakes a transfer that is still on its way to the device */
	end_received(conn);
	return true;
}

/* Works on the put.  True: ended, or the budget is used up. */
static bool work(kvpi_conn *conn, uint64_t *budget)
{
	kvpi_shm_in *in = &conn->in;

	if (in->post == NULL)
		return drop_put(conn);
	if (!kvpi_shm_ready(conn, &in->post->transfer))
		return false;
	if (in->copied)
		return complete(conn);
	if (granted(conn) && !claim(conn)) {
		end_put(conn); /* canceled by its sender */
		return true;
	}
	while (in->done < in->put.bytes) {
		uint64_t moved;

		if (in->put.way == KVPI_SHM_STAGED && in->dense == NULL)
			return false;
		if (*budget == 0)
			return true;
		moved = copy_piece(conn, *budget);
		if (moved == 0)
			return false;
		in->done += moved;
		*budget -= moved < *budget ? moved : *budget;
		if (in->put.way == KVPI_SHM_STAGED && in->done == in->dense_at + in->dense_len)
			end_chunk(conn);
		if (in->claimed && kvpi_grant_recalled(conn->theirs->grants, grant_of(conn))) {
			end_put(conn);
			return true;
		}
	}
	return complete(conn);
}

/* ---- messages ---- */

static kvpi_shm_item *find_post(kvpi_conn *conn, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts) {
		kvpi_shm_item *item = item_of(pos);

		if (item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt && !item->canceled)
			return item;
	}
	return NULL;
}

/* Where the source of a MAPPED put is here.  The connection fails when it cannot be. */
static void find_source(kvpi_conn *conn, uint64_t extent)
{
	kvpi_shm_in *in = &conn->in;
	uint64_t end;

	if (in->put.way == KVPI_SHM_MAPPED) {
		in->source.base = (char *)kvpi_shm_import(conn, in->put.memory, in->put.base, extent);
		if (in->source.base != NULL || conn->state != KVPI_SHM_UP)
			return;
		if (!conn->import_failed || kvpi_imports_has(conn->imports, in->put.memory)) {
			violation(conn, "a put from memory that it has not shared");
			return;
		}
		/* There was no room to map it: it can be read still. */
		in->put.way = KVPI_SHM_REMOTE;
		in->put.base = in->put.address;
	}
	if (!conn->reads && conn->import_failed)
		kvpi_shm_fail(conn, KVP_E_NOMEM, "the peer's memory could not be mapped, and cannot be read");
	else if (!conn->reads || __builtin_add_overflow(in->put.base, extent, &end))
		violation(conn, "an address that cannot be read");
	else
		in->source.base = (char *)(uintptr_t)in->put.base;
}

static void begin_put(kvpi_conn *conn, size_t len)
{
	kvpi_shm_in *in = &conn->in;
	uint64_t extent = 0;

	in->done = 0;
	in->dense = NULL;
	in->claimed = in->copied = false;
	if (!kvpi_shm_put_read(in->message, len, &in->put, &in->source, &extent)) {
		in->put.kind = 0;
		violation(conn, "what is no put");
		return;
	}
	in->post = find_post(conn, (kvpi_transfer_id){in->put.seq, in->put.attempt});
	if (in->post != NULL && in->post->transfer.local.bytes != in->put.bytes)
		violation(conn, "a put that is not as long as its posted destination");
	else if (granted(conn) && in->put.slot >= KVPI_GRANTS)
		violation(conn, "a grant that does not exist");
	else if (granted(conn))
		find_source(conn, extent);
	if (conn->state != KVPI_SHM_UP || in->put.way != KVPI_SHM_INLINE)
		return;
	in->dense = (const char *)in->message + sizeof(in->put);
	in->dense_at = 0;
	in->dense_len = in->put.bytes;
}

static void begin_chunk(kvpi_conn *conn, size_t len)
{
	kvpi_shm_in *in = &conn->in;
	kvpi_shm_chunk chunk;

	/* In this order the differences cannot wrap: done <= bytes always. */
	if (len != sizeof(chunk) || in->put.kind == 0) {
		violation(conn, "a chunk of nothing");
		return;
	}
	memcpy(&chunk, in->message, sizeof(chunk));
	if (chunk.offset != in->done || chunk.len == 0 || chunk.len > in->put.bytes - in->done) {
		violation(conn, "a chunk outside of its put");
		return;
	}
	in->dense = kvpi_shm_import(conn, chunk.memory, chunk.base, chunk.len);
	in->dense_at = chunk.offset;
	in->dense_len = chunk.len;
	if (in->dense == NULL && conn->state == KVPI_SHM_UP) {
		if (conn->import_failed)
			kvpi_shm_fail(conn, KVP_E_NOMEM, "the peer's staging memory could not be mapped");
		else
			violation(conn, "a chunk in memory that it has not shared");
	}
}

static void pass_note(kvpi_conn *conn, size_t len)
{
	if (len < sizeof(kvpi_shm_note) || len - sizeof(kvpi_shm_note) > KVPI_PLANE_NOTIFY_MAX) {
		violation(conn, "a notify of the wrong size");
		return;
	}
	kvpi_shm_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_NOTIFIED,
	                        .data = conn->in.message + sizeof(kvpi_shm_note),
	                        .len = len - sizeof(kvpi_shm_note)});
}

/* Takes the next message.  False: there is none. */
static bool take(kvpi_conn *conn)
{
	kvpi_shm_in *in = &conn->in;
	size_t len = 0;
	const kvp_status status = kvpi_ring_get(&conn->in_ring, in->message, sizeof(in->message), &len);
	const uint8_t kind = status == KVP_OK && len > 0 ? in->message[0] : 0;

	if (status == KVP_E_AGAIN)
		return false;
	conn->took = true;
	/* A staged put that does not go on was canceled. */
	if (kind != KVPI_SHM_CHUNK && in->put.kind != 0)
		end_put(conn);
	if (status != KVP_OK)
		kvpi_shm_fail(conn, KVP_E_PROTOCOL, "%s", kvp_last_error());
	else if (kind == KVPI_SHM_NOTE)
		pass_note(conn, len);
	else if (kind == KVPI_SHM_PUT)
		begin_put(conn, len);
	else if (kind == KVPI_SHM_CHUNK)
		begin_chunk(conn, len);
	else
		violation(conn, "a message that has no meaning");
	return true;
}

bool kvpi_shm_rx(kvpi_conn *conn, uint64_t budget)
{
	kvpi_shm_in *in = &conn->in;
	bool more = false;

	while (conn->state == KVPI_SHM_UP && !conn->closed) {
		const bool awaits_chunk = in->put.kind != 0 && in->put.way == KVPI_SHM_STAGED && in->dense == NULL && !in->copied;

		if (budget == 0) {
			more = in->put.kind != 0 || !kvpi_ring_empty(&conn->in_ring);
			break;
		}
		if (in->put.kind == 0 || awaits_chunk) {
			if (!take(conn))
				break;
			budget -= MESSAGE_COST < budget ? MESSAGE_COST : budget;
		} else if (!work(conn, &budget)) {
			break;
		}
	}
	if (conn->state == KVPI_SHM_UP && !conn->closed)
		kvpi_shm_answer(conn);
	return more;
}

void kvpi_shm_answer(kvpi_conn *conn)
{
	bool wake = false;

	if (conn->finished && atomic_load(&conn->mine->ring.sleeping) != 0)
		wake = atomic_exchange(&conn->mine->ring.sleeping, 0) != 0;
	if (conn->took)
		wake = atomic_exchange(&conn->theirs->waiting, 0) != 0 || wake;
	conn->finished = conn->took = false;
	if (wake)
		kvpi_shm_ring_bell(conn);
}

kvp_receipt kvpi_shm_rx_cancel(kvpi_conn *conn, kvpi_shm_item *item)
{
	item->canceled = conn->in.canceled = true;
	if (conn->in.post == item)
		conn->in.post = NULL; /* the rest has no place to go */
	reap_slots(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	kvpi_shm_post_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_shm_rx_stop(kvpi_conn *conn)
{
	if (conn->in.put.kind != 0 && conn->theirs != NULL)
		end_put(conn); /* nobody reads any more: says so, before the page goes */
}
