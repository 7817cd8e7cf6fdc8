/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection's life: waiting or connecting, meeting, up, failed, told.
 */
#include "plane/shm.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "wire/auth.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PROOF_NS (200 * KVPI_NS_PER_MS)

static kvpi_shm_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_shm_item, node);
}

bool kvpi_shm_ready(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status;

	if (transfer->after == NULL)
		return true;
	status = kvpi_device_find(transfer->local.memory)->query(transfer->after);
	if (status != KVP_OK && status != KVP_PENDING)
		kvpi_shm_fail(conn, KVP_E_DEVICE, "the work that a transfer was to follow failed on its device");
	return status == KVP_OK;
}

void kvpi_shm_tell(const kvpi_conn *conn, kvpi_plane_event event)
{
	const kvpi_plane_params *params = &conn->plane->params;

	event.conn_user = conn->user;
	params->on_event(params->user, &event);
}

/* No bytes flow any more.  The peer learns it from its channel; what it reads from now on it does not count. */
static void stop(kvpi_conn *conn)
{
	const bool met = conn->mine != NULL;

	conn->state = KVPI_SHM_FAILED;
	if (met) {
		kvpi_shm_tx_stop(conn);
		atomic_store(&conn->mine->left, 1);
	}
	kvpi_shm_rx_stop(conn);
	kvpi_shm_watch_death(conn, false);
	kvpi_channel_close(conn->channel);
	conn->channel = NULL;
}

void kvpi_shm_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...)
{
	va_list args;

	if (conn->state == KVPI_SHM_FAILED || conn->state == KVPI_SHM_DEAD)
		return;
	conn->status = status;
	conn->final = conn->channel != NULL && kvpi_channel_peer_gone(conn->channel);
	va_start(args, fmt);
	vsnprintf(conn->why, sizeof(conn->why), fmt, args);
	va_end(args);
	KVPI_LOG(INFO, "plane", "a shm data connection is lost: %s", conn->why);
	stop(conn);
}

static kvpi_conn *conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts)
{
	kvpi_conn *conn = KVPI_NEW(kvpi_conn);

	if (conn == NULL)
		return NULL;
	conn->plane = plane;
	conn->user = user;
	conn->accepts = accepts;
	conn->page_fd = conn->stage.fd = -1;
	memcpy(conn->token, token, sizeof(conn->token));
	kvpi_random(conn->witness, sizeof(conn->witness));
	kvpi_list_init(&conn->puts);
	kvpi_list_init(&conn->offered);
	kvpi_list_init(&conn->recalled);
	kvpi_list_init(&conn->sent);
	kvpi_list_init(&conn->posts);
	kvpi_list_init(&conn->in.slots);
	return conn;
}

kvp_status kvpi_shm_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn)
{
	kvpi_conn *made;
	kvp_status status;

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		const kvpi_conn *other = KVPI_CONTAINER_OF(pos, kvpi_conn, node);

		if (other->accepts && !other->closed && memcmp(other->token, token, sizeof(other->token)) == 0)
			return kvpi_error(KVP_E_CONFLICT, "another data connection expects the same token");
	}
	made = conn_new(plane, token, conn_user, true);
	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	status = kvpi_broker_expect(plane->broker, token, &made->channel);
	if (status != KVP_OK) {
		free(made);
		return status;
	}
	kvpi_list_append(&plane->conns, &made->node);
	*conn = made;
	return KVP_OK;
}

kvp_status kvpi_shm_connect(kvpi_plane *plane, const void *address, size_t len,
                            const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn)
{
	kvpi_conn *made = conn_new(plane, token, conn_user, false);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	status = kvpi_broker_connect(plane->broker, address, len, token, &made->channel);
	if (status == KVP_E_INVALID || status == KVP_E_NOMEM) {
		free(made);
		return status;
	}
	kvpi_list_append(&plane->conns, &made->node);
	if (status != KVP_OK)
		kvpi_shm_fail(made, status == KVP_E_UNSUPPORTED ? KVP_E_PEER_LOST : status, "%s", kvp_last_error());
	*conn = made;
	return KVP_OK;
}

/* ---- items ---- */

static kvpi_shm_item *item_take(kvpi_plane *plane, const kvpi_transfer *transfer)
{
	kvpi_list *spare = kvpi_list_first(&plane->spare);
	kvpi_shm_item *item;

	if (spare == NULL) {
		item = KVPI_NEW(kvpi_shm_item);
	} else {
		kvpi_list_remove(spare);
		plane->spare_count--;
		item = item_of(spare);
		*item = (kvpi_shm_item){.note = false};
	}
	if (item != NULL)
		item->transfer = *transfer;
	return item;
}

static void item_give(kvpi_plane *plane, kvpi_shm_item *item)
{
	kvpi_list_remove(&item->node);
	kvpi_mem_release(item->memory);
	if (item->note || plane->spare_count >= KVPI_SHM_TRANSFERS) {
		free(item);
		return;
	}
	kvpi_list_append(&plane->spare, &item->node);
	plane->spare_count++;
}

void kvpi_shm_put_free(kvpi_conn *conn, kvpi_shm_item *item)
{
	if (item->note)
		conn->note_count--;
	else
		conn->put_count--;
	item_give(conn->plane, item);
}

void kvpi_shm_post_free(kvpi_conn *conn, kvpi_shm_item *item)
{
	conn->post_count--;
	item_give(conn->plane, item);
}

static void drop_list(kvpi_conn *conn, kvpi_list *list)
{
	KVPI_LIST_FOREACH(pos, nxt, list)
		kvpi_shm_put_free(conn, item_of(pos));
}

/* Ends everything, untold, and forgets the peer.  No device copy is under way, or none that will ever end. */
static void drop_all(kvpi_conn *conn)
{
	kvpi_shm_tx_settle(conn);
	drop_list(conn, &conn->puts);
	drop_list(conn, &conn->offered);
	drop_list(conn, &conn->recalled);
	drop_list(conn, &conn->sent);
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts)
		kvpi_shm_post_free(conn, item_of(pos));
	kvpi_shm_page_free(conn);
	conn->chunks_taken = 0;
	conn->heard_setup = conn->heard_able = conn->import_failed = conn->gone = false;
	conn->took = conn->finished = false;
	conn->in.put.kind = 0;
	conn->in.post = NULL;
}

void kvpi_shm_conn_free(kvpi_conn *conn)
{
	kvpi_list_remove(&conn->node);
	free(conn);
}

void kvpi_shm_hangup(kvpi_conn *conn)
{
	if (conn->state != KVPI_SHM_FAILED && conn->state != KVPI_SHM_DEAD)
		stop(conn);
	KVPI_LIST_FOREACH(pos, nxt, &conn->in.slots)
		kvpi_slot_settle(&conn->plane->staging, KVPI_CONTAINER_OF(pos, kvpi_slot, node));
	drop_all(conn);
	kvpi_channel_close(conn->next);
	conn->next = NULL;
	conn->closed = true;
	if (!conn->plane->in_progress)
		kvpi_shm_conn_free(conn);
}

/* ---- what is asked of it ---- */

static kvp_status check_transfer(const kvpi_conn *conn, const kvpi_transfer *transfer)
{
	if (transfer->direction != KVPI_PUT)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane shm has no get");
	if ((conn->plane->caps.memories & 1u << transfer->local.memory) == 0)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane shm does not reach memory kind %d",
		    (int)transfer->local.memory);
	return KVP_OK;
}

static kvp_status not_connected(void)
{
	return kvpi_error(KVP_E_PEER_LOST, "the shm data connection is not up");
}

static kvp_status too_much(void)
{
	return kvpi_error(KVP_E_AGAIN, "too much is outstanding on this data connection");
}

kvp_status kvpi_shm_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(conn, transfer);
	kvpi_shm_item *item;

	if (status != KVP_OK)
		return status;
	if (conn->state != KVPI_SHM_UP)
		return not_connected();
	if (conn->put_count >= KVPI_SHM_TRANSFERS)
		return too_much();
	item = item_take(conn->plane, transfer);
	if (item == NULL)
		return kvpi_error_nomem("a transfer");
	conn->put_count++;
	kvpi_list_append(&conn->puts, &item->node); /* said in the next round: until then a cancel leaves no trace */
	return KVP_OK;
}

kvp_status kvpi_shm_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(conn, transfer);
	kvpi_shm_item *item;

	if (status != KVP_OK)
		return status;
	if (conn->state == KVPI_SHM_FAILED || conn->state == KVPI_SHM_DEAD)
		return not_connected();
	if (conn->post_count >= KVPI_SHM_TRANSFERS)
		return too_much();
	item = item_take(conn->plane, transfer);
	if (item == NULL)
		return kvpi_error_nomem("a transfer");
	conn->post_count++;
	kvpi_list_append(&conn->posts, &item->node);
	return KVP_OK;
}

/* Behind a put that is not out yet, or while the ring is full. */
static kvp_status enqueue_note(kvpi_conn *conn, const void *data, size_t len)
{
	kvpi_shm_item *item;

	if (conn->note_count >= KVPI_SHM_NOTES)
		return too_much();
	item = kvpi_calloc(1, sizeof(*item) + len);
	if (item == NULL)
		return kvpi_error_nomem("a notify");
	item->note = true;
	item->len = len;
	if (len > 0)
		memcpy(item->data, data, len);
	conn->note_count++;
	kvpi_list_append(&conn->puts, &item->node);
	return KVP_OK;
}

kvp_status kvpi_shm_notify(kvpi_conn *conn, const void *data, size_t len)
{
	static const kvpi_shm_note head = {.kind = KVPI_SHM_NOTE};
	bool wake = false;
	kvp_status status;

	if (len > KVPI_PLANE_NOTIFY_MAX)
		return kvpi_error(KVP_E_TOO_LARGE, "a notify has at most %d bytes", KVPI_PLANE_NOTIFY_MAX);
	if (conn->state != KVPI_SHM_UP)
		return not_connected();
	if (!kvpi_list_empty(&conn->puts))
		return enqueue_note(conn, data, len);
	status = kvpi_ring_put(&conn->out_ring, &head, sizeof(head), data, len, &wake);
	if (status == KVP_OK && wake)
		kvpi_shm_ring_bell(conn);
	if (status == KVP_E_AGAIN)
		return enqueue_note(conn, data, len);
	if (status != KVP_OK) {
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
		return not_connected();
	}
	return KVP_OK;
}

static kvpi_shm_item *find(kvpi_list *queue, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, queue) {
		kvpi_shm_item *item = item_of(pos);

		if (!item->note && item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt)
			return item;
	}
	return NULL;
}

kvp_receipt kvpi_shm_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvpi_list *const queues[] = {&conn->puts, &conn->offered, &conn->recalled, &conn->sent};
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;
	kvpi_shm_item *post = find(&conn->posts, id), *put = NULL;

	for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]) && put == NULL; i++)
		put = find(queues[i], id);
	if (put != NULL)
		receipt = kvpi_shm_tx_cancel(conn, put);
	if (post != NULL && kvpi_shm_rx_cancel(conn, post) == KVP_RECEIPT_QUARANTINED)
		receipt = KVP_RECEIPT_QUARANTINED;
	return receipt;
}

/* ---- a step ---- */

static void expect_next(kvpi_conn *conn, kvpi_channel **channel)
{
	if (kvpi_broker_expect(conn->plane->broker, conn->token, channel) != KVP_OK)
		*channel = NULL; /* tried again at the next look */
}

/* Tells LOST, once nothing here touches the memory of what was outstanding. */
static void lose(kvpi_conn *conn)
{
	if (!kvpi_shm_tx_quiet(conn) || !kvpi_list_empty(&conn->in.slots))
		return;
	drop_all(conn);
	conn->state = KVPI_SHM_DEAD;
	if (conn->accepts) {
		conn->state = KVPI_SHM_WAITING;
		conn->channel = conn->next;
		conn->next = NULL;
	}
	kvpi_shm_tell(conn,
	    (kvpi_plane_event){
	        .kind = KVPI_PLANE_LOST, .status = conn->status, .text = conn->why, .final = conn->final});
}

static void up(kvpi_conn *conn)
{
	static const char *const ways[] = {"staged, as process_vm_readv is forbidden", "read by process_vm_readv one way, staged the other",
	    "read by process_vm_readv"};
	char text[160];

	conn->state = KVPI_SHM_UP;
	snprintf(text, sizeof(text), "memory from kvp_mem_alloc is mapped, other memory is %s",
	    ways[(int)conn->reads + (int)conn->able]);
	KVPI_LOG(INFO, "plane", "a shm data connection with process %d is up: %s", (int)conn->pid, text);
	kvpi_shm_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED, .text = text});
}

/* Nobody is there yet: has somebody come? */
static void look_for_peer(kvpi_conn *conn)
{
	if (conn->accepts && conn->channel == NULL)
		expect_next(conn, &conn->channel);
	if (conn->channel == NULL)
		return;
	if (kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_UP) {
		kvpi_shm_meet(conn);
	} else if (kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_LOST && conn->accepts) {
		kvpi_channel_close(conn->channel);
		conn->channel = NULL;
	} else if (kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_LOST) {
		kvpi_shm_fail(conn, KVP_E_REFUSED, "%s", kvpi_channel_why(conn->channel));
	}
}

/* Has another come in its place? */
static void look_for_next(kvpi_conn *conn)
{
	if (conn->next == NULL)
		expect_next(conn, &conn->next);
	if (conn->next == NULL)
		return;
	if (kvpi_channel_state_of(conn->next) == KVPI_CHANNEL_UP) {
		kvpi_shm_fail(conn, KVP_E_PEER_LOST, "the peer connected anew");
	} else if (kvpi_channel_state_of(conn->next) == KVPI_CHANNEL_LOST) {
		kvpi_channel_close(conn->next);
		conn->next = NULL;
	}
}

/* What the sockets have to say. */
static void look(kvpi_conn *conn)
{
	if (conn->state == KVPI_SHM_WAITING)
		look_for_peer(conn);
	if (conn->state == KVPI_SHM_MEETING || conn->state == KVPI_SHM_UP)
		kvpi_shm_listen(conn);
	if (conn->state == KVPI_SHM_MEETING && conn->heard_setup && conn->heard_able)
		up(conn);
	if (conn->closed)
		return;
	if (conn->accepts && (conn->state == KVPI_SHM_MEETING || conn->state == KVPI_SHM_UP))
		look_for_next(conn);
	if (conn->state == KVPI_SHM_UP && !conn->gone) {
		conn->gone = kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_LOST || kvpi_channel_peer_gone(conn->channel);
		conn->gone_ns = conn->gone ? kvpi_now(&kvpi_clock_real) : 0;
	} else if (conn->state == KVPI_SHM_MEETING && kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_LOST) {
		kvpi_shm_fail(conn, KVP_E_PEER_LOST, "%s", kvpi_channel_why(conn->channel));
	}
}

/* Is the put that comes in waiting for something here, and not for the peer? */
static bool held_up_here(const kvpi_conn *conn)
{
	const kvpi_shm_in *in = &conn->in;

	return in->put.kind != 0 && in->post != NULL &&
	       (in->copied || in->put.way != KVPI_SHM_STAGED || in->dense != NULL);
}

/* A process that ends closes its sockets first, and a moment later its pidfd tells: the proof is worth the moment. */
static bool proof_may_come(const kvpi_conn *conn)
{
	return kvpi_channel_pidfd(conn->channel) >= 0 && !kvpi_channel_peer_gone(conn->channel) &&
	       atomic_load(&conn->theirs->left) == 0 && kvpi_now(&kvpi_clock_real) - conn->gone_ns < PROOF_NS;
}

bool kvpi_shm_step(kvpi_conn *conn, uint64_t share, bool sockets)
{
	bool more = false;

	if (conn->closed)
		return false;
	kvpi_shm_tx_reap(conn);
	kvpi_shm_rx_reap(conn);
	if (conn->state == KVPI_SHM_FAILED)
		lose(conn);
	if (!conn->closed && sockets)
		look(conn);
	if (!conn->closed && conn->state == KVPI_SHM_UP) {
		kvpi_shm_tx_tell(conn);
		/* What has come is taken before anything is sent: a peer that has gone may have finished before. */
		more = !conn->closed && kvpi_shm_rx(conn, share);
	}
	if (!conn->closed && conn->state == KVPI_SHM_UP && conn->gone && !more && !held_up_here(conn) &&
	    !proof_may_come(conn))
		kvpi_shm_fail(conn, KVP_E_PEER_LOST, "%s",
		    kvpi_channel_state_of(conn->channel) == KVPI_CHANNEL_LOST ? kvpi_channel_why(conn->channel)
		                                                             : "the peer's process has ended");
	if (!conn->closed && conn->state == KVPI_SHM_UP && !conn->gone) {
		more = kvpi_shm_tx(conn, share) || more;
		kvpi_shm_tx_tell(conn);
	}
	if (!conn->closed && conn->state == KVPI_SHM_FAILED)
		lose(conn);
	return more && !conn->closed;
}

bool kvpi_shm_settled(const kvpi_conn *conn)
{
	return (conn->state == KVPI_SHM_UP && !conn->gone) || conn->state == KVPI_SHM_DEAD;
}

/* Has its channel, or the next, something to say that no descriptor will tell again? */
static bool channels_quiet(const kvpi_conn *conn)
{
	if (conn->next != NULL && kvpi_channel_state_of(conn->next) != KVPI_CHANNEL_WAITING)
		return false;
	if (conn->accepts && conn->state == KVPI_SHM_WAITING && conn->channel == NULL)
		return false;
	if (conn->channel == NULL)
		return true;
	switch (kvpi_channel_state_of(conn->channel)) {
	case KVPI_CHANNEL_WAITING:
		return true;
	case KVPI_CHANNEL_UP:
		return conn->state != KVPI_SHM_WAITING;
	default:
		return false;
	}
}

bool kvpi_shm_sleep(kvpi_conn *conn)
{
	if (conn->state == KVPI_SHM_FAILED || conn->gone || !channels_quiet(conn))
		return false;
	if (conn->state != KVPI_SHM_UP)
		return true;
	if (held_up_here(conn) || !kvpi_shm_tx_quiet(conn) || !kvpi_list_empty(&conn->in.slots) ||
	    !kvpi_list_empty(&conn->sent) || !kvpi_shm_tx_waits(conn))
		return false;
	/* First said, then looked once more: either the peer sees that we sleep, or we see what it has done. */
	if (!kvpi_ring_sleep(&conn->in_ring))
		return false;
	if (!kvpi_list_empty(&conn->puts)) {
		atomic_store(&conn->mine->waiting, 1);
		if (kvpi_shm_tx(conn, KVPI_SHM_CHUNK_MAX))
			return false;
	}
	kvpi_shm_tx_reap(conn);
	return conn->state == KVPI_SHM_UP && kvpi_list_empty(&conn->sent) && kvpi_shm_tx_quiet(conn) &&
	       kvpi_shm_tx_waits(conn);
}
