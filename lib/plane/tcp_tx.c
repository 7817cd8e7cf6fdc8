/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes out: one frame at a time, straight from host memory in one frame for a whole transfer, or chunk by
 * chunk through bounce buffers.
 */
#include "plane/tcp.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* Chunks of one put in bounce buffers: one goes out while the other is gathered. */
#define SLOTS 2

/* What a frame costs of the budget beside its body, so that a thousand empty ones are not free. */
#define FRAME_COST 64

static kvpi_slot *slot_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_slot, node);
}

static kvpi_tcp_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tcp_item, node);
}

void kvpi_tcp_tx_greet(kvpi_conn *conn, uint16_t kind)
{
	kvpi_tcp_out *out = &conn->out;

	kvpi_tcp_hello_write(out->head, kind, conn->token);
	out->head_left = sizeof(out->head);
	out->sent = out->len = 0;
	out->item = NULL;
	out->slot = NULL;
	out->open = true;
}

static void begin(kvpi_tcp_out *out, kvpi_tcp_item *item, kvpi_slot *slot, kvpi_tcp_frame frame)
{
	if (!item->note) {
		frame.seq = item->transfer.id.seq;
		frame.attempt = item->transfer.id.attempt;
	}
	kvpi_tcp_frame_write(out->head, &frame);
	out->head_left = sizeof(out->head);
	out->sent = 0;
	out->len = frame.len;
	out->item = item;
	out->slot = slot;
	out->open = true;
}

static void give(kvpi_conn *conn, kvpi_slot *slot)
{
	kvpi_staging_give(&conn->plane->staging, slot);
	conn->out.slot_count--;
}

/* Looks which copies into bounce buffers have ended, and takes back the chunks that will not go out. */
static void reap_slots(kvpi_conn *conn)
{
	bool failed = false;

	KVPI_LIST_FOREACH(pos, nxt, &conn->out.slots) {
		kvpi_slot *slot = slot_of(pos);
		kvpi_tcp_item *item = slot->owner;

		if (slot->event != NULL) {
			const kvp_status status = kvpi_slot_query(slot);

			if (status == KVP_PENDING)
				continue;
			item->jobs--;
			failed = failed || status != KVP_OK;
		}
		/* The chunk that is half-way out goes out whole. */
		if (slot != conn->out.slot && (item == NULL || item->canceled || conn->fd < 0))
			give(conn, slot);
	}
	if (failed)
		kvpi_tcp_fail(conn, KVP_E_DEVICE, "a copy from device memory failed");
}

void kvpi_tcp_tx_reap(kvpi_conn *conn)
{
	kvpi_list *first;

	reap_slots(conn);
	first = kvpi_list_first(&conn->puts);
	if (first != NULL && item_of(first)->canceled && item_of(first)->jobs == 0)
		kvpi_tcp_put_free(conn, item_of(first));
}

/* Fills bounce buffers with what comes next of the put. */
static void gather(kvpi_conn *conn, kvpi_tcp_item *item)
{
	const kvpi_layout *layout = &item->transfer.local;
	kvpi_staging *staging = &conn->plane->staging;
	const uint64_t chunk = kvpi_staging_chunk(staging, layout);

	while (item->done < layout->bytes && conn->out.slot_count < SLOTS && conn->fd >= 0) {
		kvpi_slot *slot = kvpi_staging_take(staging, KVPI_OUTWARD);
		kvp_status status;

		if (slot == NULL)
			return;
		slot->owner = item;
		slot->offset = item->done;
		slot->len = layout->bytes - item->done < chunk ? layout->bytes - item->done : chunk;
		kvpi_list_append(&conn->out.slots, &slot->node);
		conn->out.slot_count++;
		status = kvpi_slot_gather(staging, slot, layout);
		if (slot->event != NULL)
			item->jobs++;
		item->done += slot->len;
		if (status != KVP_OK)
			kvpi_tcp_fail(conn, status, "%s", kvp_last_error());
	}
}

static bool begin_put(kvpi_conn *conn, kvpi_tcp_item *item)
{
	const uint64_t bytes = item->transfer.local.bytes;
	kvpi_slot *slot;

	if (!kvpi_tcp_ready(conn, &item->transfer))
		return false;
	if (!kvpi_tcp_staged(&item->transfer.local)) {
		begin(&conn->out, item, NULL,
		    (kvpi_tcp_frame){.kind = KVPI_TCP_DATA, .flags = KVPI_TCP_LAST, .len = bytes});
		return true;
	}
	gather(conn, item);
	if (conn->fd < 0 || kvpi_list_empty(&conn->out.slots))
		return false;
	slot = slot_of(kvpi_list_first(&conn->out.slots));
	if (slot->event != NULL)
		return false;
	begin(&conn->out, item, slot,
	    (kvpi_tcp_frame){.kind = KVPI_TCP_DATA,
	        .flags = slot->offset + slot->len == bytes ? KVPI_TCP_LAST : 0,
	        .offset = slot->offset,
	        .len = slot->len});
	return true;
}

static bool begin_next(kvpi_conn *conn)
{
	kvpi_list *first = kvpi_list_first(&conn->puts);
	kvpi_tcp_item *item;

	if (first == NULL || conn->state != KVPI_TCP_UP)
		return false;
	item = item_of(first);
	if (item->canceled)
		return false; /* until its last device copy has ended */
	if (!item->note)
		return begin_put(conn, item);
	begin(&conn->out, item, NULL, (kvpi_tcp_frame){.kind = KVPI_TCP_NOTIFY, .len = item->len});
	return true;
}

/* The frame is out. */
static void finish(kvpi_conn *conn)
{
	kvpi_tcp_item *item = conn->out.item;
	kvpi_slot *slot = conn->out.slot;
	bool last = item != NULL;
	kvpi_plane_event sent = {.kind = KVPI_PLANE_SENT};

	conn->out.open = false;
	conn->out.item = NULL;
	conn->out.slot = NULL;
	if (slot != NULL) {
		last = last && slot->offset + slot->len == item->transfer.local.bytes;
		give(conn, slot);
	}
	if (!last)
		return;
	if (item->note) {
		kvpi_tcp_put_free(conn, item);
		return;
	}
	sent.id = item->transfer.id;
	kvpi_tcp_put_free(conn, item);
	kvpi_tcp_tell(conn, sent);
}

/* What of the frame is still to go out, at most `max` bytes of the body. */
static size_t fill_iov(kvpi_tcp_out *out, uint64_t max, struct iovec *iov)
{
	const uint64_t left = out->len - out->sent < max ? out->len - out->sent : max;
	uint64_t offset = out->sent;
	size_t count = 0;

	if (out->head_left > 0)
		iov[count++] = (struct iovec){
		    .iov_base = out->head + sizeof(out->head) - out->head_left, .iov_len = out->head_left};
	if (left == 0)
		return count;
	if (out->slot != NULL)
		iov[count++] = (struct iovec){.iov_base = out->slot->data + out->sent, .iov_len = left};
	else if (out->item->note)
		iov[count++] = (struct iovec){.iov_base = out->item->data + out->sent, .iov_len = left};
	else
		count += kvpi_layout_iov(
		    &out->item->transfer.local, &offset, left, iov + count, KVPI_TCP_IOV - count);
	return count;
}

/* One system call.  Returns the bytes of the body that went out; *gone is false when nothing could go. */
static uint64_t push(kvpi_conn *conn, uint64_t max, bool *gone)
{
	kvpi_tcp_out *out = &conn->out;
	struct iovec iov[KVPI_TCP_IOV];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = fill_iov(out, max, iov)};
	size_t head;
	ssize_t n;

	if (kvpi_fault("tcp.write.short")) {
		msg.msg_iovlen = 1;
		iov[0].iov_len = iov[0].iov_len < 7 ? iov[0].iov_len : 7;
	}
	do {
		n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (kvpi_fault("tcp.write")) {
			n = -1;
			errno = ECONNRESET;
		}
	} while (n < 0 && errno == EINTR);
	*gone = n >= 0;
	if (n < 0) {
		if (errno == EAGAIN)
			conn->writable = false;
		else
			kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "cannot write to the peer: %s", strerror(errno));
		return 0;
	}
	head = (size_t)n < out->head_left ? (size_t)n : out->head_left;
	out->head_left -= head;
	out->sent += (uint64_t)n - head;
	return (uint64_t)n - head;
}

bool kvpi_tcp_tx(kvpi_conn *conn, uint64_t budget)
{
	kvpi_tcp_out *out = &conn->out;

	while (conn->writable && conn->fd >= 0 && !conn->closed) {
		uint64_t spent;
		bool gone;

		if (!out->open && !begin_next(conn))
			return false;
		if (budget == 0)
			return true;
		spent = push(conn, budget, &gone);
		if (!gone)
			return false;
		if (out->head_left == 0 && out->sent == out->len) {
			spent += FRAME_COST;
			finish(conn);
		}
		budget -= spent < budget ? spent : budget;
	}
	return false;
}

kvp_receipt kvpi_tcp_tx_cancel(kvpi_conn *conn, kvpi_tcp_item *item)
{
	kvpi_tcp_out *out = &conn->out;

	item->canceled = true;
	if (out->open && out->item == item) {
		if (out->slot != NULL) {
			out->slot->owner = out->item = NULL; /* goes out whole, from the bounce buffer */
		} else if (out->head_left == sizeof(out->head)) {
			out->open = false; /* nothing has gone out */
			out->item = NULL;
		} else {
			kvpi_tcp_fail(conn, KVP_E_PEER_LOST,
			    "the connection was given up to cancel a transfer that was half-way out");
		}
	}
	reap_slots(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	kvpi_tcp_put_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_tcp_tx_stop(kvpi_conn *conn)
{
	conn->out.open = false;
	conn->out.item = NULL;
	conn->out.slot = NULL;
	conn->out.head_left = 0;
	reap_slots(conn);
}
