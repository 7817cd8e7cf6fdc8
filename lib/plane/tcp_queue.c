/* SPDX-License-Identifier: Apache-2.0
 *
 * What is outstanding on a connection: puts and notes in the order in which they go out, posts as they came.
 */
#include "plane/tcp.h"

#include "base/alloc.h"
#include "base/error.h"

/* Below this an iovec costs more than copying what it names. */
#define VECTOR_BYTES 4096

/* A put of at most this goes out from inside submit, if nothing is before it. */
#define NOW_BYTES (32u << 10)

/* A note of at most this has an item that is used again. */
#define SMALL_NOTE 1024

static kvpi_tcp_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tcp_item, node);
}

bool kvpi_tcp_staged(const kvpi_layout *layout)
{
	if (layout->bytes == 0)
		return false;
	if (layout->memory != KVP_MEMORY_HOST)
		return true;
	return kvpi_layout_run(layout) < VECTOR_BYTES && kvpi_layout_run(layout) < layout->bytes;
}

bool kvpi_tcp_ready(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status;

	if (transfer->after == NULL)
		return true;
	status = kvpi_device_find(transfer->local.memory)->query(transfer->after);
	if (status != KVP_OK && status != KVP_PENDING)
		kvpi_tcp_fail(conn, KVP_E_DEVICE, "the work that a transfer was to follow failed on its device");
	return status == KVP_OK;
}

/* Items are used again, so that a connection in its stride allocates nothing; but not those of large notes. */
static kvpi_list *spare_of(kvpi_conn *conn, size_t room)
{
	if (room == 0)
		return &conn->spare_transfers;
	return room == SMALL_NOTE ? &conn->spare_notes : NULL;
}

static kvpi_tcp_item *item_new(kvpi_conn *conn, size_t len)
{
	const size_t room = len == 0 || len > SMALL_NOTE ? len : SMALL_NOTE;
	kvpi_list *list = spare_of(conn, room), *spare = list != NULL ? kvpi_list_first(list) : NULL;
	kvpi_tcp_item *item = spare != NULL ? item_of(spare) : kvpi_malloc(sizeof(*item) + room);

	if (item == NULL)
		return NULL;
	if (spare != NULL)
		kvpi_list_remove(spare);
	*item = (kvpi_tcp_item){.room = room, .len = len};
	return item;
}

static void item_free(kvpi_conn *conn, kvpi_tcp_item *item)
{
	kvpi_list *list = spare_of(conn, item->room);

	kvpi_list_remove(&item->node);
	if (list != NULL)
		kvpi_list_append(list, &item->node);
	else
		free(item);
}

void kvpi_tcp_put_free(kvpi_conn *conn, kvpi_tcp_item *item)
{
	if (item->note)
		conn->note_count--;
	else
		conn->put_count--;
	item_free(conn, item);
}

void kvpi_tcp_post_free(kvpi_conn *conn, kvpi_tcp_item *item)
{
	conn->post_count--;
	item_free(conn, item);
}

void kvpi_tcp_drop_all(kvpi_conn *conn)
{
	KVPI_LIST_FOREACH(pos, nxt, &conn->puts)
		kvpi_tcp_put_free(conn, item_of(pos));
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts)
		kvpi_tcp_post_free(conn, item_of(pos));
}

void kvpi_tcp_free_spare(kvpi_conn *conn)
{
	KVPI_LIST_FOREACH(pos, nxt, &conn->spare_transfers)
		free(item_of(pos));
	KVPI_LIST_FOREACH(pos, nxt, &conn->spare_notes)
		free(item_of(pos));
}

static kvp_status check_transfer(const kvpi_conn *conn, const kvpi_transfer *transfer)
{
	if (transfer->direction != KVPI_PUT)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane tcp has no get");
	if ((conn->plane->caps.memories & 1u << transfer->local.memory) == 0)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane tcp does not reach memory kind %d",
		    (int)transfer->local.memory);
	return KVP_OK;
}

/* The new last item of the queue; NULL: *status says why. */
static kvpi_tcp_item *enqueue(kvpi_conn *conn, kvpi_list *queue, uint32_t *count, uint32_t limit, size_t len,
                              kvp_status *status)
{
	kvpi_tcp_item *item;

	if (*count >= limit) {
		*status = kvpi_error(KVP_E_AGAIN, "too much is outstanding on this data connection");
		return NULL;
	}
	item = item_new(conn, len);
	if (item == NULL) {
		*status = kvpi_error_nomem("a transfer");
		return NULL;
	}
	++*count;
	kvpi_list_append(queue, &item->node);
	*status = KVP_OK;
	return item;
}

static kvp_status not_connected(void)
{
	return kvpi_error(KVP_E_PEER_LOST, "the tcp data connection is not up");
}

kvp_status kvpi_tcp_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status = check_transfer(conn, transfer);
	kvpi_tcp_item *item;

	if (status != KVP_OK)
		return status;
	if (conn->state != KVPI_TCP_UP)
		return not_connected();
	item = enqueue(conn, &conn->puts, &conn->put_count, KVPI_TCP_TRANSFERS, 0, &status);
	if (item == NULL)
		return status;
	item->transfer = *transfer;
	if (transfer->local.bytes <= NOW_BYTES && transfer->after == NULL && !kvpi_tcp_staged(&transfer->local))
		kvpi_tcp_tx_now(conn);
	return KVP_OK;
}

kvp_status kvpi_tcp_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status = check_transfer(conn, transfer);
	kvpi_tcp_item *item;

	if (status != KVP_OK)
		return status;
	if (conn->state == KVPI_TCP_FAILED || conn->state == KVPI_TCP_DEAD)
		return not_connected();
	item = enqueue(conn, &conn->posts, &conn->post_count, KVPI_TCP_TRANSFERS, 0, &status);
	if (item != NULL)
		item->transfer = *transfer;
	return status;
}

kvp_status kvpi_tcp_notify(kvpi_conn *conn, const void *data, size_t len)
{
	const size_t counts = kvpi_tcp_counts(conn);
	kvpi_tcp_item *item;
	kvp_status status;

	if (len > KVPI_PLANE_NOTIFY_MAX)
		return kvpi_error(KVP_E_TOO_LARGE, "a notify has at most %d bytes", KVPI_PLANE_NOTIFY_MAX);
	if (conn->state != KVPI_TCP_UP)
		return not_connected();
	item = enqueue(conn, &conn->puts, &conn->note_count, KVPI_TCP_NOTES, counts + len, &status);
	if (item == NULL)
		return status;
	item->note = true;
	if (len > 0)
		memcpy(item->data + counts, data, len);
	kvpi_tcp_tx_now(conn);
	return KVP_OK;
}

kvpi_tcp_item *kvpi_tcp_find(kvpi_list *queue, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, queue) {
		kvpi_tcp_item *item = item_of(pos);

		if (!item->note && item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt)
			return item;
	}
	return NULL;
}

kvp_receipt kvpi_tcp_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvpi_tcp_item *put = kvpi_tcp_find(&conn->puts, id), *post = kvpi_tcp_find(&conn->posts, id);
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	if (put != NULL)
		receipt = kvpi_tcp_tx_cancel(conn, put);
	if (post != NULL && kvpi_tcp_rx_cancel(conn, post) == KVP_RECEIPT_QUARANTINED)
		receipt = KVP_RECEIPT_QUARANTINED;
	return receipt;
}
