/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes out: on each lane one frame at a time.  Host memory goes straight from where it lies, a whole transfer in
 * one frame, or in stripes where there are several lanes; the rest chunk by chunk through bounce buffers.
 */
#include "plane/tcp.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <sys/socket.h>

/* Chunks of one put in bounce buffers, for each lane: one goes out while the other is gathered. */
#define SLOTS 2

/* What a frame costs of the budget beside its body, so that a thousand empty ones are not free. */
#define FRAME_COST 64

/* With checksums: so much is digested and sent at a time, so that the second reading finds it in the cache. */
#define DIGEST_BYTES (256u << 10)

static kvpi_slot *slot_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_slot, node);
}

static kvpi_tcp_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tcp_item, node);
}

static void open_head(kvpi_tcp_out *out, size_t len)
{
	out->head_len = out->head_left = len;
	out->sent = out->len = 0;
	out->item = NULL;
	out->slot = NULL;
	out->check_left = 0;
	out->open = true;
}

void kvpi_tcp_tx_greet(kvpi_tcp_lane *lane, const kvpi_tcp_greeting *greeting)
{
	memcpy(lane->out.head, greeting, sizeof(*greeting));
	open_head(&lane->out, sizeof(*greeting));
}

static void begin(kvpi_tcp_lane *lane, kvpi_tcp_item *item, kvpi_slot *slot, kvpi_tcp_frame frame)
{
	kvpi_tcp_out *out = &lane->out;
	const bool checksum = lane->conn->checksum;

	if (!item->note) {
		frame.seq = item->transfer.id.seq;
		frame.attempt = item->transfer.id.attempt;
		item->frames++;
		out->frames++;
	}
	kvpi_tcp_frame_write(out->head, &frame, checksum);
	open_head(out, KVPI_TCP_HEAD_BYTES);
	out->start = frame.offset;
	out->len = frame.len;
	out->item = item;
	out->slot = slot;
	if (!checksum)
		return;
	out->check_left = sizeof(out->check);
	out->digested = 0;
	out->digest = (kvpi_digest_stream){.bytes = 0};
	kvpi_digest_feed(&out->digest, out->head, out->head_len);
}

static bool complete(const kvpi_tcp_out *out)
{
	return out->head_left == 0 && out->sent == out->len && out->check_left == 0;
}

static void give(kvpi_conn *conn, kvpi_slot *slot)
{
	kvpi_staging_give(&conn->plane->staging, slot);
	conn->out_slot_count--;
}

/* Looks which copies into bounce buffers have ended, and takes back the chunks that will not go out. */
static void reap_slots(kvpi_conn *conn)
{
	bool failed = false;

	KVPI_LIST_FOREACH(pos, nxt, &conn->out_slots) {
		kvpi_slot *slot = slot_of(pos);
		kvpi_tcp_item *item = slot->owner;

		if (slot->event != NULL) {
			const kvp_status status = kvpi_slot_query(slot);

			if (status == KVP_PENDING)
				continue;
			item->jobs--;
			failed = failed || status != KVP_OK;
		}
		if (item->canceled || conn->state != KVPI_TCP_UP)
			give(conn, slot);
	}
	if (failed)
		kvpi_tcp_fail(conn, KVP_E_DEVICE, "a copy from device memory failed");
}

void kvpi_tcp_tx_reap(kvpi_conn *conn)
{
	reap_slots(conn);
	KVPI_LIST_FOREACH(pos, nxt, &conn->puts) {
		if (item_of(pos)->canceled && item_of(pos)->jobs == 0)
			kvpi_tcp_put_free(conn, item_of(pos));
	}
}

/* Fills bounce buffers with what comes next of the put. */
static void gather(kvpi_conn *conn, kvpi_tcp_item *item)
{
	const kvpi_layout *layout = &item->transfer.local;
	kvpi_staging *staging = &conn->plane->staging;
	const uint64_t chunk = kvpi_staging_chunk(staging, layout);

	while (item->framed < layout->bytes && conn->out_slot_count < SLOTS * (uint32_t)conn->streams &&
	       conn->state == KVPI_TCP_UP) {
		kvpi_slot *slot = kvpi_staging_take(staging, KVPI_OUTWARD);
		kvp_status status;

		if (slot == NULL)
			return;
		slot->owner = item;
		slot->offset = item->framed;
		slot->len = layout->bytes - item->framed < chunk ? layout->bytes - item->framed : chunk;
		kvpi_list_append(&conn->out_slots, &slot->node);
		conn->out_slot_count++;
		status = kvpi_slot_gather(staging, slot, layout);
		if (slot->event != NULL)
			item->jobs++;
		item->framed += slot->len;
		if (status != KVP_OK)
			kvpi_tcp_fail(conn, status, "%s", kvp_last_error());
	}
}

static bool begin_staged(kvpi_tcp_lane *lane, kvpi_tcp_item *item)
{
	kvpi_conn *conn = lane->conn;
	kvpi_slot *slot;

	gather(conn, item);
	if (conn->state != KVPI_TCP_UP || kvpi_list_empty(&conn->out_slots))
		return false;
	slot = slot_of(kvpi_list_first(&conn->out_slots));
	if (slot->event != NULL)
		return false;
	kvpi_list_remove(&slot->node);
	item->begun = slot->offset + slot->len == item->transfer.local.bytes;
	begin(lane, item, slot,
	    (kvpi_tcp_frame){.kind = KVPI_TCP_DATA,
	        .flags = item->begun ? KVPI_TCP_LAST : 0,
	        .offset = slot->offset,
	        .len = slot->len});
	return true;
}

static bool begin_put(kvpi_tcp_lane *lane, kvpi_tcp_item *item)
{
	const uint64_t left = item->transfer.local.bytes - item->framed;
	kvpi_tcp_frame frame = {.kind = KVPI_TCP_DATA, .offset = item->framed, .len = left};

	if (!kvpi_tcp_ready(lane->conn, &item->transfer))
		return false;
	if (kvpi_tcp_staged(&item->transfer.local))
		return begin_staged(lane, item);
	if (lane->conn->streams > 1 && left > KVPI_TCP_STRIPE)
		frame.len = KVPI_TCP_STRIPE;
	item->framed += frame.len;
	item->begun = frame.len == left;
	frame.flags = item->begun ? KVPI_TCP_LAST : 0;
	begin(lane, item, NULL, frame);
	return true;
}

/* How many data frames went before it on the other lanes: the receiver holds it back until they are in. */
static void begin_note(kvpi_tcp_lane *lane, kvpi_tcp_item *item)
{
	for (int i = 1; i < lane->conn->streams; i++) {
		const uint64_t count = htole64(lane->conn->lanes[i]->out.frames);

		memcpy(item->data + KVPI_TCP_COUNT_BYTES * (size_t)(i - 1), &count, sizeof(count));
	}
	item->begun = true;
	begin(lane, item, NULL, (kvpi_tcp_frame){.kind = KVPI_TCP_NOTIFY, .len = item->len});
}

kvpi_tcp_item *kvpi_tcp_tx_next(const kvpi_tcp_lane *lane)
{
	const kvpi_conn *conn = lane->conn;

	if (conn->state != KVPI_TCP_UP)
		return NULL;
	KVPI_LIST_FOREACH(pos, nxt, &conn->puts) {
		kvpi_tcp_item *item = item_of(pos);

		if (!item->begun)
			return item->note && lane != conn->lanes[0] ? NULL : item;
	}
	return NULL;
}

static bool begin_next(kvpi_tcp_lane *lane)
{
	kvpi_tcp_item *item = kvpi_tcp_tx_next(lane);

	if (item == NULL || item->canceled) /* which goes when its last device copy has ended */
		return false;
	if (!item->note)
		return begin_put(lane, item);
	begin_note(lane, item);
	return true;
}

/* The frame is out. */
static void finish(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	kvpi_tcp_item *item = lane->out.item;
	kvpi_plane_event sent = {.kind = KVPI_PLANE_SENT};

	if (lane->out.slot != NULL)
		give(conn, lane->out.slot);
	lane->out.open = false;
	lane->out.item = NULL;
	lane->out.slot = NULL;
	if (item == NULL)
		return;
	if (item->note) {
		kvpi_tcp_put_free(conn, item);
		return;
	}
	item->frames--;
	if (!item->begun || item->frames > 0)
		return;
	sent.id = item->transfer.id;
	kvpi_tcp_put_free(conn, item);
	kvpi_tcp_tell(conn, sent);
}

/* Bytes of the body, from `offset` on and at most `max`, as runs. */
static size_t body_iov(const kvpi_tcp_out *out, uint64_t offset, uint64_t max, struct iovec *iov, size_t count)
{
	const kvpi_tcp_item *item = out->item;
	uint64_t at = offset;

	if (max == 0)
		return 0;
	if (out->slot == NULL && !item->note) {
		at += out->start;
		return kvpi_layout_iov(&item->transfer.local, &at, max, iov, count);
	}
	iov[0].iov_base = (out->slot != NULL ? (unsigned char *)out->slot->data : (unsigned char *)item->data) + at;
	iov[0].iov_len = max;
	return 1;
}

/* Digests the body up to `end`, and closes the digest at the body's. */
static void digest_to(kvpi_tcp_out *out, uint64_t end)
{
	struct iovec iov[KVPI_TCP_IOV];
	uint64_t check;

	while (out->digested < end) {
		const size_t count = body_iov(out, out->digested, end - out->digested, iov, KVPI_TCP_IOV);

		for (size_t i = 0; i < count; i++) {
			kvpi_digest_feed(&out->digest, iov[i].iov_base, iov[i].iov_len);
			out->digested += iov[i].iov_len;
		}
	}
	if (end < out->len)
		return;
	check = htole64(kvpi_digest_close(&out->digest));
	memcpy(out->check, &check, sizeof(check));
}

/* What of the frame is still to go out, at most about `max` bytes of the body. */
static size_t fill_iov(kvpi_tcp_out *out, uint64_t max, struct iovec *iov)
{
	uint64_t end = out->sent;
	size_t count = 0, body;

	if (out->head_left > 0)
		iov[count++] =
		    (struct iovec){.iov_base = out->head + out->head_len - out->head_left, .iov_len = out->head_left};
	if (out->check_left > 0 && max > DIGEST_BYTES)
		max = DIGEST_BYTES;
	if (max > out->len - out->sent)
		max = out->len - out->sent;
	body = body_iov(out, out->sent, max, iov + count, KVPI_TCP_IOV);
	for (size_t i = 0; i < body; i++)
		end += iov[count + i].iov_len;
	count += body;
	if (out->check_left == 0)
		return count;
	if (out->check_left == sizeof(out->check))
		digest_to(out, end);
	if (end == out->len)
		iov[count++] = (struct iovec){
		    .iov_base = out->check + sizeof(out->check) - out->check_left, .iov_len = out->check_left};
	return count;
}

/* One system call.  Returns the bytes of the body that went out; *gone is false when nothing could go. */
static uint64_t push(kvpi_tcp_lane *lane, uint64_t max, bool *gone)
{
	kvpi_tcp_out *out = &lane->out;
	struct iovec iov[KVPI_TCP_IOV + 2];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = fill_iov(out, max, iov)};
	uint64_t body;
	size_t head;
	ssize_t n;

	if (kvpi_fault("tcp.write.short")) {
		msg.msg_iovlen = 1;
		iov[0].iov_len = iov[0].iov_len < 7 ? iov[0].iov_len : 7;
	}
	do {
		n = sendmsg(lane->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (kvpi_fault("tcp.write")) {
			n = -1;
			errno = ECONNRESET;
		}
	} while (n < 0 && errno == EINTR);
	*gone = n >= 0;
	if (n < 0) {
		if (errno == EAGAIN)
			lane->writable = false;
		else
			kvpi_tcp_fail(lane->conn, KVP_E_PEER_LOST, "cannot write to the peer: %s", strerror(errno));
		return 0;
	}
	head = (size_t)n < out->head_left ? (size_t)n : out->head_left;
	out->head_left -= head;
	body = (uint64_t)n - head;
	if (body > out->len - out->sent) {
		out->check_left -= body - (out->len - out->sent);
		body = out->len - out->sent;
	}
	out->sent += body;
	return body;
}

bool kvpi_tcp_tx(kvpi_tcp_lane *lane, uint64_t budget)
{
	kvpi_tcp_out *out = &lane->out;

	while (lane->fd >= 0 && !lane->conn->closed) {
		uint64_t spent = FRAME_COST;
		bool gone;

		if (out->open && complete(out)) {
			finish(lane);
		} else {
			if (!lane->writable || (!out->open && !begin_next(lane)))
				return false;
			if (budget == 0)
				return true;
			spent = push(lane, budget, &gone);
			if (!gone)
				return false;
		}
		budget -= spent < budget ? spent : budget;
	}
	return false;
}

void kvpi_tcp_tx_now(kvpi_conn *conn)
{
	kvpi_tcp_lane *lane = conn->lanes[0];
	bool gone;

	if (!lane->writable || lane->out.open || kvpi_tcp_tx_next(lane) != item_of(conn->puts.prev))
		return;
	if (begin_next(lane))
		(void)push(lane, UINT64_MAX, &gone);
}

bool kvpi_tcp_tx_busy(const kvpi_tcp_lane *lane)
{
	const kvpi_tcp_item *item;

	if (lane->out.open)
		return lane->writable || complete(&lane->out);
	item = lane->writable ? kvpi_tcp_tx_next(lane) : NULL;
	if (item == NULL)
		return false;
	/* One that has nothing to wait for but a bounce buffer which another connection holds is woken by that one. */
	return item->note || !kvpi_tcp_staged(&item->transfer.local) || !kvpi_list_empty(&lane->conn->out_slots) ||
	       (lane->conn->out_slot_count < SLOTS * (uint32_t)lane->conn->streams &&
	           kvpi_staging_has(&lane->conn->plane->staging, KVPI_OUTWARD));
}

/* Takes the frame of a canceled put off the lane, at the connection's cost if the memory may still be read. */
static void recall(kvpi_tcp_lane *lane)
{
	kvpi_tcp_out *out = &lane->out;

	if (complete(out) || out->slot != NULL) {
		out->item = NULL; /* it is out, or goes out whole from the bounce buffer */
	} else if (out->head_left == out->head_len) {
		out->open = false; /* nothing has gone out */
		out->item = NULL;
		out->frames--;
	} else {
		kvpi_tcp_fail(lane->conn, KVP_E_PEER_LOST,
		    "the connection was given up to cancel a transfer that was half-way out");
	}
}

kvp_receipt kvpi_tcp_tx_cancel(kvpi_conn *conn, kvpi_tcp_item *item)
{
	item->canceled = true;
	for (int i = 0; i < conn->streams; i++) {
		if (conn->lanes[i]->out.open && conn->lanes[i]->out.item == item)
			recall(conn->lanes[i]);
	}
	reap_slots(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	kvpi_tcp_put_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_tcp_tx_stop(kvpi_conn *conn)
{
	for (int i = 0; i < conn->streams; i++) {
		kvpi_tcp_out *out = &conn->lanes[i]->out;

		if (out->open && out->slot != NULL)
			give(conn, out->slot);
		out->open = false;
		out->item = NULL;
		out->slot = NULL;
		out->frames = 0;
	}
	reap_slots(conn);
}
