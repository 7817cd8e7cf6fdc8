/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes in: one frame at a time, straight into posted host memory, or through bounce buffers.  Nothing that
 * the peer says is believed: every offset and length is checked against the posted destination.
 *
 * A bounce buffer is held only while there are bytes in it: a peer that stops in the middle of a chunk keeps none
 * from others.
 */
#include "plane/tcp.h"

#include "base/error.h"
#include "base/fault.h"
#include "wire/auth.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define SLOTS 2
#define FRAME_COST 64 /* as in tcp_tx.c */

/* The functions below that return bool return false when the peer, a device or a bounce buffer must be waited for. */

static kvpi_slot *slot_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_slot, node);
}

static kvpi_tcp_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tcp_item, node);
}

static void give(kvpi_conn *conn, kvpi_slot *slot)
{
	kvpi_staging_give(&conn->plane->staging, slot);
	conn->in.slot_count--;
}

/* Looks which copies out of bounce buffers have ended. */
static void reap_slots(kvpi_conn *conn)
{
	bool failed = false;

	KVPI_LIST_FOREACH(pos, nxt, &conn->in.slots) {
		kvpi_slot *slot = slot_of(pos);
		kvpi_tcp_item *item = slot->owner;
		const kvp_status status = kvpi_slot_query(slot);

		if (status == KVP_PENDING)
			continue;
		failed = failed || status != KVP_OK;
		item->jobs--;
		give(conn, slot);
	}
	if (failed)
		kvpi_tcp_fail(conn, KVP_E_DEVICE, "a copy to device memory failed");
}

void kvpi_tcp_rx_reap(kvpi_conn *conn)
{
	reap_slots(conn);
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts) {
		if (item_of(pos)->canceled && item_of(pos)->jobs == 0)
			kvpi_tcp_post_free(conn, item_of(pos));
	}
}

/* Reads what is there, as much as iov holds.  0: nothing, the peer has closed, or the connection failed. */
static size_t take(kvpi_conn *conn, struct iovec *iov, size_t count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n;

	do {
		n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
		if (kvpi_fault("tcp.read")) {
			n = -1;
			errno = ECONNRESET;
		}
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return (size_t)n;
	if (n == 0 && conn->state == KVPI_TCP_GREETING)
		kvpi_tcp_fail(conn, KVP_E_REFUSED, "%s closed the connection instead of greeting back", conn->peer);
	else if (n == 0)
		kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "the peer closed the data connection");
	else if (errno == EAGAIN)
		conn->readable = false;
	else
		kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "cannot read from the peer: %s", strerror(errno));
	return 0;
}

static kvpi_tcp_item *find_post(kvpi_conn *conn, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts) {
		kvpi_tcp_item *item = item_of(pos);

		if (item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt && !item->canceled)
			return item;
	}
	return NULL;
}

static void violation(kvpi_conn *conn, const char *what)
{
	kvpi_tcp_fail(conn, KVP_E_PROTOCOL, "the peer sent %s", what);
}

static void begin_data(kvpi_conn *conn, const kvpi_tcp_frame *frame)
{
	kvpi_tcp_in *in = &conn->in;
	kvpi_tcp_item *post = find_post(conn, (kvpi_transfer_id){frame->seq, frame->attempt});

	in->post = post;
	in->last = (frame->flags & KVPI_TCP_LAST) != 0;
	in->target = KVPI_TCP_TO_NOWHERE;
	if (post == NULL)
		return;
	/* In this order the differences cannot wrap: done <= bytes always. */
	if (frame->offset != post->done || frame->len > post->transfer.local.bytes - post->done)
		violation(conn, "bytes outside of where the posted destination expects them");
	else if (in->last != (frame->len == post->transfer.local.bytes - post->done))
		violation(conn, "a transfer that is not as long as its posted destination");
	else if (frame->len == 0 && post->transfer.local.bytes != 0)
		violation(conn, "an empty frame inside of a transfer");
	else
		in->target =
		    kvpi_tcp_staged(&post->transfer.local) ? KVPI_TCP_TO_SLOT : KVPI_TCP_TO_MEMORY;
}

static void begin(kvpi_conn *conn)
{
	kvpi_tcp_in *in = &conn->in;
	kvpi_tcp_frame frame;

	if (!kvpi_tcp_frame_read(in->head, &frame)) {
		violation(conn, "what is not a frame of this protocol");
		return;
	}
	in->left = frame.len;
	in->post = NULL;
	if (frame.kind == KVPI_TCP_DATA) {
		begin_data(conn, &frame);
	} else {
		in->target = KVPI_TCP_TO_NOTE;
		in->note_got = 0;
	}
}

/* The other end's answer to our greeting. */
static void greeted(kvpi_conn *conn)
{
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	const bool right = kvpi_tcp_hello_read(conn->in.head, KVPI_TCP_ANSWER, token);

	conn->in.head_got = 0;
	if (!right || !kvpi_secret_equal(token, conn->token, sizeof(token))) {
		violation(conn, "what is not this connection's greeting");
		return;
	}
	conn->state = KVPI_TCP_UP;
	kvpi_tcp_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED});
}

static bool read_head(kvpi_conn *conn, uint64_t *budget)
{
	kvpi_tcp_in *in = &conn->in;
	struct iovec iov = {.iov_base = in->head + in->head_got, .iov_len = sizeof(in->head) - in->head_got};

	in->head_got += take(conn, &iov, 1);
	if (in->head_got < sizeof(in->head))
		return true; /* ends the loop when nothing was there */
	*budget -= FRAME_COST < *budget ? FRAME_COST : *budget;
	if (conn->state == KVPI_TCP_UP)
		begin(conn);
	else
		greeted(conn);
	return true;
}

/* Passes the slot's bytes on to where they belong. */
static void flush(kvpi_conn *conn)
{
	kvpi_tcp_in *in = &conn->in;
	kvpi_slot *slot = in->slot;
	kvpi_tcp_item *post = in->post;
	kvp_status status;

	in->slot = NULL;
	if (slot->len == 0) {
		give(conn, slot);
		return;
	}
	slot->owner = post;
	status = kvpi_slot_scatter(&conn->plane->staging, slot, &post->transfer.local);
	if (slot->event != NULL) {
		post->jobs++;
		kvpi_list_append(&in->slots, &slot->node);
	} else {
		give(conn, slot);
	}
	if (status != KVP_OK)
		kvpi_tcp_fail(conn, status, "%s", kvp_last_error());
}

static bool read_to_slot(kvpi_conn *conn, uint64_t max, uint64_t *got)
{
	kvpi_tcp_in *in = &conn->in;
	const uint64_t chunk = kvpi_staging_chunk(&conn->plane->staging, &in->post->transfer.local);
	struct iovec iov;
	uint64_t room;

	if (in->slot == NULL) {
		if (in->slot_count >= SLOTS)
			return false;
		in->slot = kvpi_staging_take(&conn->plane->staging, KVPI_INWARD);
		if (in->slot == NULL)
			return false;
		in->slot_count++;
		in->slot->offset = in->post->done;
	}
	room = chunk - in->slot->len;
	iov = (struct iovec){.iov_base = in->slot->data + in->slot->len, .iov_len = max < room ? max : room};
	*got = take(conn, &iov, 1);
	if (conn->fd < 0)
		return true; /* the slot went with the connection */
	in->slot->len += *got;
	in->post->done += *got;
	if (in->slot->len == chunk || *got == in->left || *got == 0)
		flush(conn);
	return true;
}

static bool read_to_memory(kvpi_conn *conn, uint64_t max, uint64_t *got)
{
	kvpi_tcp_item *post = conn->in.post;
	struct iovec iov[KVPI_TCP_IOV];
	uint64_t offset = post->done;
	const size_t count = kvpi_layout_iov(&post->transfer.local, &offset, max, iov, KVPI_TCP_IOV);

	*got = take(conn, iov, count);
	post->done += *got;
	return true;
}

static bool read_body(kvpi_conn *conn, uint64_t *budget)
{
	kvpi_tcp_in *in = &conn->in;
	const uint64_t max = in->left < *budget ? in->left : *budget;
	uint64_t got = 0;
	struct iovec iov;
	bool go = true;

	switch (in->target) {
	case KVPI_TCP_TO_NOWHERE:
		iov.iov_base = conn->plane->scratch;
		iov.iov_len = max < KVPI_TCP_SCRATCH ? max : KVPI_TCP_SCRATCH;
		got = take(conn, &iov, 1);
		break;
	case KVPI_TCP_TO_NOTE:
		iov.iov_base = in->note + in->note_got;
		iov.iov_len = max;
		got = take(conn, &iov, 1);
		in->note_got += got;
		break;
	case KVPI_TCP_TO_MEMORY:
	case KVPI_TCP_TO_SLOT:
		if (!kvpi_tcp_ready(conn, &in->post->transfer))
			return false;
		go = in->target == KVPI_TCP_TO_SLOT ? read_to_slot(conn, max, &got)
		                                    : read_to_memory(conn, max, &got);
		break;
	}
	if (conn->fd < 0)
		return true; /* which ends the loop */
	in->left -= got;
	*budget -= got;
	return go;
}

/* The frame is in. */
static bool finish(kvpi_conn *conn)
{
	kvpi_tcp_in *in = &conn->in;
	kvpi_tcp_item *post = in->post;
	kvpi_plane_event event = {.kind = KVPI_PLANE_RECEIVED};

	if (post != NULL && in->last && post->jobs > 0)
		return false; /* nothing overtakes a transfer that is still on its way to the device */
	in->head_got = 0;
	in->post = NULL;
	if (in->target == KVPI_TCP_TO_NOTE) {
		event = (kvpi_plane_event){.kind = KVPI_PLANE_NOTIFIED, .data = in->note, .len = in->note_got};
	} else if (post != NULL && in->last) {
		event.id = post->transfer.id;
		kvpi_tcp_post_free(conn, post);
	} else {
		return true;
	}
	kvpi_tcp_tell(conn, event);
	return true;
}

bool kvpi_tcp_rx(kvpi_conn *conn, uint64_t budget)
{
	kvpi_tcp_in *in = &conn->in;

	while (conn->fd >= 0 && !conn->closed) {
		const bool body = in->head_got == sizeof(in->head);
		bool go;

		if (body && in->left == 0) {
			go = finish(conn);
		} else if (!conn->readable) {
			return false;
		} else if (budget == 0) {
			return true;
		} else {
			go = body ? read_body(conn, &budget) : read_head(conn, &budget);
		}
		if (!go)
			return false;
	}
	return false;
}

kvp_receipt kvpi_tcp_rx_cancel(kvpi_conn *conn, kvpi_tcp_item *item)
{
	kvpi_tcp_in *in = &conn->in;

	item->canceled = true;
	if (in->post == item) {
		/* The rest of the frame has no place to go. */
		in->post = NULL;
		in->target = KVPI_TCP_TO_NOWHERE;
		if (in->slot != NULL) {
			give(conn, in->slot);
			in->slot = NULL;
		}
	}
	reap_slots(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	kvpi_tcp_post_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_tcp_rx_stop(kvpi_conn *conn)
{
	kvpi_tcp_in *in = &conn->in;

	if (in->slot != NULL) {
		give(conn, in->slot);
		in->slot = NULL;
	}
	in->post = NULL;
	in->head_got = 0;
	in->left = 0;
}
