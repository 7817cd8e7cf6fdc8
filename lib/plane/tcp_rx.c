/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes in: on each lane one frame at a time, straight into posted host memory, or through bounce buffers.  Nothing
 * that the peer says is believed: every offset and length is checked against the posted destination.
 *
 * A read that covers the rest of a frame also takes what stands behind it, a bounded number of bytes, so that small
 * frames cost less than a system call each.
 *
 * A bounce buffer is held only while there are bytes in it: a peer that stops in the middle of a chunk keeps none
 * from others.
 */
#include "plane/tcp.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <sys/socket.h>

#define SLOTS 2       /* for each lane, as in tcp_tx.c */
#define FRAME_COST 64 /* likewise */
#define DIGEST_BYTES (256u << 10)

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
	conn->in_slot_count--;
}

/* Looks which copies out of bounce buffers have ended. */
static void reap_slots(kvpi_conn *conn)
{
	bool failed = false;

	KVPI_LIST_FOREACH(pos, nxt, &conn->in_slots) {
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

/* ---- reading ---- */

static bool has_input(const kvpi_tcp_lane *lane)
{
	return lane->readable || lane->in.ahead_len > 0;
}

/* Out of what an earlier read brought. */
static size_t take_ahead(kvpi_tcp_in *in, const struct iovec *iov, size_t count)
{
	size_t got = 0;

	for (size_t i = 0; i < count && in->ahead_len > 0; i++) {
		const size_t n = iov[i].iov_len < in->ahead_len ? iov[i].iov_len : in->ahead_len;

		memcpy(iov[i].iov_base, in->ahead + in->ahead_at, n);
		in->ahead_at += n;
		in->ahead_len -= n;
		got += n;
	}
	return got;
}

/* Reads what is there, as much as iov holds; iov has room for one more.  `rest`: it holds the rest of its frame.  0:
 * nothing was there, the peer has closed, or the connection failed. */
static size_t take(kvpi_tcp_lane *lane, struct iovec *iov, size_t count, bool rest)
{
	kvpi_tcp_in *in = &lane->in;
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	size_t wanted = 0, most;
	ssize_t n;

	if (in->ahead_len > 0)
		return take_ahead(in, iov, count);
	for (size_t i = 0; i < count; i++)
		wanted += iov[i].iov_len;
	most = wanted;
	if (rest) {
		iov[msg.msg_iovlen++] = (struct iovec){.iov_base = in->ahead, .iov_len = sizeof(in->ahead)};
		most += sizeof(in->ahead);
	}
	do {
		n = recvmsg(lane->fd, &msg, MSG_DONTWAIT);
		if (kvpi_fault("tcp.read")) {
			n = -1;
			errno = ECONNRESET;
		}
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN) {
		lane->readable = false;
		return 0;
	}
	if (n < 0) {
		kvpi_tcp_fail(lane->conn, KVP_E_PEER_LOST, "cannot read from the peer: %s", strerror(errno));
		return 0;
	}
	if (n == 0) {
		/* Not the end yet: what has come on other lanes counts. */
		lane->eof = true;
		lane->readable = false;
		return 0;
	}
	if (kvpi_fault("tcp.corrupt"))
		((unsigned char *)iov[0].iov_base)[0] ^= 0x10;
	/* Less than would fit: the socket is empty, and what comes later is a new edge.  Only an end that the kernel has told
	 * already would not be told again. */
	if ((size_t)n < most && !lane->ended)
		lane->readable = false;
	if ((size_t)n <= wanted)
		return (size_t)n;
	in->ahead_at = 0;
	in->ahead_len = (size_t)n - wanted;
	return wanted;
}

static void violation(kvpi_conn *conn, const char *what)
{
	kvpi_tcp_fail(conn, KVP_E_PROTOCOL, "the peer sent %s", what);
}

/* ---- frames ---- */

static kvpi_tcp_item *find_post(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvpi_tcp_item *item = kvpi_tcp_find(&conn->posts, id);

	return item != NULL && !item->canceled ? item : NULL;
}

/* Splitmix64's mixing step. */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Do all frames of the transfer lie side by side?  On several lanes they come in any order.  Each adds mix(its end) -
 * mix(its beginning) to the post's edges: if every beginning but 0 is also an end, and every end but the last a
 * beginning, the sum is that of one frame over all; and if not, then it is not, but for one case in 2^64. */
static bool tiled(const kvpi_tcp_item *post)
{
	return post->edges == mix(post->transfer.local.bytes) - mix(0);
}

static const char *check_data(const kvpi_conn *conn, kvpi_tcp_item *post, const kvpi_tcp_frame *frame)
{
	const uint64_t bytes = post->transfer.local.bytes;

	/* In this order the differences cannot wrap: framed <= bytes always. */
	if (frame->offset > bytes || frame->len > bytes - frame->offset || frame->len > bytes - post->framed ||
	    (conn->streams == 1 && frame->offset != post->framed))
		return "bytes outside of where the posted destination expects them";
	if (((frame->flags & KVPI_TCP_LAST) != 0) != (frame->len == bytes - frame->offset))
		return "a transfer that is not as long as its posted destination";
	if (frame->len == 0 && bytes != 0)
		return "an empty frame inside of a transfer";
	post->framed += frame->len;
	post->edges += mix(frame->offset + frame->len) - mix(frame->offset);
	return post->framed < bytes || tiled(post) || bytes == 0 ? NULL : "frames that lie upon each other";
}

static void begin(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	kvpi_tcp_in *in = &lane->in;
	kvpi_tcp_frame frame;
	const char *wrong = kvpi_tcp_frame_read(in->head, conn->checksum, kvpi_tcp_counts(conn), &frame);

	if (wrong == NULL && frame.kind == KVPI_TCP_NOTIFY && lane != conn->lanes[0])
		wrong = "a notify where none belongs";
	if (wrong != NULL) {
		violation(conn, wrong);
		return;
	}
	in->offset = frame.offset;
	in->left = in->len = frame.len;
	in->post = NULL;
	in->check_got = 0;
	if (conn->checksum) {
		in->digest = (kvpi_digest_stream){.bytes = 0};
		kvpi_digest_feed(&in->digest, in->head, KVPI_TCP_HEAD_BYTES);
	}
	if (frame.kind == KVPI_TCP_NOTIFY) {
		in->target = KVPI_TCP_TO_NOTE;
		conn->note_got = 0;
		return;
	}
	in->target = KVPI_TCP_TO_NOWHERE;
	in->post = find_post(conn, (kvpi_transfer_id){frame.seq, frame.attempt});
	if (in->post == NULL)
		return;
	wrong = check_data(conn, in->post, &frame);
	if (wrong != NULL)
		violation(conn, wrong);
	else
		in->target = kvpi_tcp_staged(&in->post->transfer.local) ? KVPI_TCP_TO_SLOT : KVPI_TCP_TO_MEMORY;
}

/* The first bytes of the other end's answer say whether it speaks our version. */
static void check_version(kvpi_tcp_lane *lane)
{
	unsigned version;

	switch (kvpi_tcp_prefix_check(lane->in.head, KVPI_TCP_ANSWER, &version)) {
	case KVP_OK:
		break;
	case KVP_E_VERSION:
		kvpi_tcp_fail(lane->conn, KVP_E_VERSION,
		    "%s speaks version %u of the tcp data connection, this end version %d", lane->conn->peer, version,
		    KVPI_TCP_VERSION);
		break;
	default:
		violation(lane->conn, "what is no answer to a greeting");
	}
}

static bool read_head(kvpi_tcp_lane *lane, size_t need, uint64_t *budget)
{
	kvpi_tcp_in *in = &lane->in;
	struct iovec iov[2] = {{.iov_base = in->head + in->head_got, .iov_len = need - in->head_got}};

	in->head_got += take(lane, iov, 1, true);
	if (lane->fd < 0)
		return true; /* which ends the loop */
	if (lane->state == KVPI_TCP_LANE_GREETING && in->head_got >= KVPI_TCP_PREFIX_BYTES)
		check_version(lane);
	if (lane->fd < 0 || in->head_got < need)
		return true;
	*budget -= FRAME_COST < *budget ? FRAME_COST : *budget;
	if (lane->state == KVPI_TCP_LANE_UP) {
		begin(lane);
		return true;
	}
	in->head_got = 0;
	kvpi_tcp_answered(lane);
	return true;
}

/* Passes the slot's bytes on to where they belong. */
static void flush(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	kvpi_slot *slot = lane->in.slot;
	kvpi_tcp_item *post = lane->in.post;
	kvp_status status;

	lane->in.slot = NULL;
	if (slot->len == 0) {
		give(conn, slot);
		return;
	}
	slot->owner = post;
	status = kvpi_slot_scatter(&conn->plane->staging, slot, &post->transfer.local);
	if (slot->event != NULL) {
		post->jobs++;
		kvpi_list_append(&conn->in_slots, &slot->node);
	} else {
		give(conn, slot);
	}
	if (status != KVP_OK)
		kvpi_tcp_fail(conn, status, "%s", kvp_last_error());
}

static void digest(kvpi_tcp_lane *lane, const struct iovec *iov, uint64_t got)
{
	for (; got > 0; iov++) {
		const uint64_t n = got < iov->iov_len ? got : iov->iov_len;

		kvpi_digest_feed(&lane->in.digest, iov->iov_base, n);
		got -= n;
	}
}

/* take for bytes of the body. */
static uint64_t take_body(kvpi_tcp_lane *lane, struct iovec *iov, size_t count, uint64_t len)
{
	const uint64_t got = take(lane, iov, count, len == lane->in.left);

	if (lane->conn->checksum && got > 0)
		digest(lane, iov, got);
	return got;
}

static bool read_to_slot(kvpi_tcp_lane *lane, uint64_t max, uint64_t *got)
{
	kvpi_conn *conn = lane->conn;
	kvpi_tcp_in *in = &lane->in;
	const uint64_t chunk = kvpi_staging_chunk(&conn->plane->staging, &in->post->transfer.local);
	struct iovec iov[2];
	uint64_t room;

	if (in->slot == NULL) {
		if (conn->in_slot_count >= SLOTS * (uint32_t)conn->streams)
			return false;
		in->slot = kvpi_staging_take(&conn->plane->staging, KVPI_INWARD);
		if (in->slot == NULL)
			return false;
		conn->in_slot_count++;
		in->slot->offset = in->offset + (in->len - in->left);
	}
	room = chunk - in->slot->len;
	iov[0] = (struct iovec){.iov_base = in->slot->data + in->slot->len, .iov_len = max < room ? max : room};
	*got = take_body(lane, iov, 1, iov[0].iov_len);
	if (lane->fd < 0)
		return true; /* the slot went with the connection */
	in->slot->len += *got;
	if (in->slot->len == chunk || *got == in->left || !has_input(lane))
		flush(lane);
	return true;
}

static void read_to_memory(kvpi_tcp_lane *lane, uint64_t max, uint64_t *got)
{
	kvpi_tcp_in *in = &lane->in;
	struct iovec iov[KVPI_TCP_IOV + 1];
	const uint64_t from = in->offset + (in->len - in->left);
	uint64_t to = from;
	const size_t count = kvpi_layout_iov(&in->post->transfer.local, &to, max, iov, KVPI_TCP_IOV);

	*got = take_body(lane, iov, count, to - from);
}

static bool read_body(kvpi_tcp_lane *lane, uint64_t *budget)
{
	kvpi_conn *conn = lane->conn;
	kvpi_tcp_in *in = &lane->in;
	uint64_t max = in->left < *budget ? in->left : *budget, got = 0;
	struct iovec iov[2];
	bool go = true;

	if (conn->checksum && max > DIGEST_BYTES)
		max = DIGEST_BYTES; /* what was just written is still in the cache */
	switch (in->target) {
	case KVPI_TCP_TO_NOWHERE:
		iov[0].iov_base = conn->plane->scratch;
		iov[0].iov_len = max < KVPI_TCP_SCRATCH ? max : KVPI_TCP_SCRATCH;
		got = take_body(lane, iov, 1, iov[0].iov_len);
		break;
	case KVPI_TCP_TO_NOTE:
		iov[0].iov_base = conn->note + conn->note_got;
		iov[0].iov_len = max;
		got = take_body(lane, iov, 1, max);
		conn->note_got += got;
		break;
	case KVPI_TCP_TO_MEMORY:
	case KVPI_TCP_TO_SLOT:
		if (!kvpi_tcp_ready(conn, &in->post->transfer))
			return false;
		if (in->target == KVPI_TCP_TO_SLOT)
			go = read_to_slot(lane, max, &got);
		else
			read_to_memory(lane, max, &got);
		break;
	}
	if (lane->fd < 0)
		return true; /* which ends the loop */
	in->left -= got;
	*budget -= got;
	return go;
}

static void read_check(kvpi_tcp_lane *lane)
{
	kvpi_tcp_in *in = &lane->in;
	struct iovec iov[2] = {{.iov_base = in->check + in->check_got, .iov_len = sizeof(in->check) - in->check_got}};
	uint64_t check;

	in->check_got += take(lane, iov, 1, true);
	if (lane->fd < 0 || in->check_got < sizeof(in->check))
		return;
	memcpy(&check, in->check, sizeof(check));
	if (le64toh(check) != kvpi_digest_close(&in->digest))
		violation(lane->conn, "bytes that were corrupted in transit: their digest is another one");
}

/* ---- ends of frames ---- */

/* Are the data frames in that went out before the notify on other lanes? */
static bool note_is_next(const kvpi_conn *conn)
{
	for (int i = 1; i < conn->streams; i++) {
		uint64_t count;

		memcpy(&count, conn->note + KVPI_TCP_COUNT_BYTES * (size_t)(i - 1), sizeof(count));
		if (conn->lanes[i]->in.frames < le64toh(count))
			return false;
	}
	return true;
}

static bool finish_note(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	const size_t counts = kvpi_tcp_counts(conn);

	lane->in.waits = !note_is_next(conn);
	if (lane->in.waits)
		return false;
	lane->in.head_got = 0;
	kvpi_tcp_tell(conn,
	    (kvpi_plane_event){
	        .kind = KVPI_PLANE_NOTIFIED, .data = conn->note + counts, .len = conn->note_got - counts});
	return true;
}

/* The frame is in. */
static bool finish(kvpi_tcp_lane *lane)
{
	kvpi_tcp_in *in = &lane->in;
	kvpi_tcp_item *post = in->post;
	kvpi_plane_event event = {.kind = KVPI_PLANE_RECEIVED};
	bool whole;

	if (in->target == KVPI_TCP_TO_NOTE)
		return finish_note(lane);
	whole = post != NULL && post->done + in->len == post->transfer.local.bytes;
	if (whole && post->jobs > 0)
		return false; /* nothing overtakes a transfer that is still on its way to the device */
	in->head_got = 0;
	in->post = NULL;
	in->frames++;
	if (post == NULL)
		return true;
	post->done += in->len;
	if (!whole)
		return true;
	event.id = post->transfer.id;
	kvpi_tcp_post_free(lane->conn, post);
	kvpi_tcp_tell(lane->conn, event);
	return true;
}

bool kvpi_tcp_rx(kvpi_tcp_lane *lane, uint64_t budget)
{
	kvpi_tcp_in *in = &lane->in;

	while (lane->fd >= 0 && !lane->conn->closed) {
		const size_t need =
		    lane->state == KVPI_TCP_LANE_UP ? KVPI_TCP_HEAD_BYTES : KVPI_TCP_GREETING_BYTES;
		const bool head = in->head_got < need, body = !head && in->left > 0;
		bool go = true;

		if (!head && !body && (!lane->conn->checksum || in->check_got == sizeof(in->check))) {
			go = finish(lane);
		} else if (!has_input(lane)) {
			return false;
		} else if (budget == 0) {
			return true;
		} else if (head) {
			go = read_head(lane, need, &budget);
		} else if (body) {
			go = read_body(lane, &budget);
		} else {
			read_check(lane);
		}
		if (!go)
			return false;
	}
	return false;
}

bool kvpi_tcp_rx_busy(const kvpi_tcp_lane *lane)
{
	/* What waits for another lane is woken by that one. */
	return has_input(lane) && !lane->in.waits;
}

kvp_receipt kvpi_tcp_rx_cancel(kvpi_conn *conn, kvpi_tcp_item *item)
{
	item->canceled = true;
	for (int i = 0; i < conn->streams; i++) {
		kvpi_tcp_in *in = &conn->lanes[i]->in;

		if (in->post != item)
			continue;
		/* The rest of the frame has no place to go. */
		in->post = NULL;
		in->target = KVPI_TCP_TO_NOWHERE;
		if (in->slot != NULL)
			give(conn, in->slot);
		in->slot = NULL;
	}
	reap_slots(conn);
	if (item->jobs > 0)
		return KVP_RECEIPT_QUARANTINED;
	kvpi_tcp_post_free(conn, item);
	return KVP_RECEIPT_QUIESCENT;
}

void kvpi_tcp_rx_stop(kvpi_conn *conn)
{
	for (int i = 0; i < conn->streams; i++) {
		kvpi_tcp_in *in = &conn->lanes[i]->in;

		if (in->slot != NULL)
			give(conn, in->slot);
		in->slot = NULL;
		in->post = NULL;
		in->head_got = in->ahead_len = 0;
		in->left = in->frames = 0;
		in->waits = false;
	}
}
