/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/self_link.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

/* How long a cancel may find the other end copying; and how much a device copy that cannot be revoked. */
#define SLICE_BYTES (4u << 20)

#define PIECES 64
/* Copy calls per slice, so that a layout of tiny runs does not hold the worker for long. */
#define SLICE_CALLS 64

/* What an item costs of the budget beside its bytes, so that a thousand empty ones are not free. */
#define ITEM_COST 64

#define SETTLE_NS (5 * KVPI_NS_PER_S)
#define SETTLE_PAUSE_NS 20000

static kvpi_self_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_self_item, node);
}

kvpi_self_link *kvpi_self_link_new(kvpi_conn *first)
{
	kvpi_self_link *link = KVPI_NEW(kvpi_self_link);

	if (link == NULL)
		return NULL;
	if (pthread_mutex_init(&link->mutex, NULL) != 0) {
		free(link);
		return NULL;
	}
	link->holders = 1;
	link->end[0] = first;
	return link;
}

void kvpi_self_link_release(kvpi_self_link *link)
{
	pthread_mutex_lock(&link->mutex);
	const bool last = --link->holders == 0;
	pthread_mutex_unlock(&link->mutex);
	if (!last)
		return;
	pthread_mutex_destroy(&link->mutex);
	free(link);
}

void kvpi_self_lock(kvpi_conn *conn)
{
	if (conn->link != NULL)
		pthread_mutex_lock(&conn->link->mutex);
}

void kvpi_self_unlock(kvpi_conn *conn)
{
	if (conn->link != NULL)
		pthread_mutex_unlock(&conn->link->mutex);
}

static void wake(const kvpi_conn *conn)
{
	if (conn != NULL)
		conn->plane->params.wake(conn->plane->params.user);
}

void kvpi_self_break(kvpi_self_link *link, kvp_status status, const char *why)
{
	if (link->broken)
		return;
	link->broken = true;
	link->status = status;
	snprintf(link->why, sizeof(link->why), "%s", why);
	wake(link->end[0]);
	wake(link->end[1]);
}

/* Takes an item that nothing touches any more out of its connection, untold. */
static void drop(kvpi_conn *conn, kvpi_self_item *item)
{
	kvpi_list_remove(&item->node);
	if (item->kind == KVPI_SELF_PUT)
		conn->put_count--;
	else if (item->kind == KVPI_SELF_POST)
		conn->post_count--;
	free(item);
}

/* Looks how the device copy of one sending end stands.  True when there is none under way. */
static bool quiet(kvpi_self_link *link, int side)
{
	kvpi_self_flight *flight = &link->flight[side];
	kvp_status status;

	if (flight->event == NULL)
		return true;
	status = flight->ops->query(flight->event);
	if (status == KVP_PENDING)
		return false;
	flight->ops->event_free(flight->event);
	flight->event = NULL;
	flight->put->busy = flight->post->busy = false;
	if (status == KVP_OK)
		flight->put->done += flight->bytes;
	else
		kvpi_self_break(link, KVP_E_DEVICE, "a device copy failed");
	if (flight->put->canceled)
		drop(link->end[side], flight->put);
	if (flight->post->canceled)
		drop(link->end[!side], flight->post);
	return true;
}

bool kvpi_self_quiet(kvpi_self_link *link)
{
	const bool first = quiet(link, 0);

	return quiet(link, 1) && first;
}

void kvpi_self_settle(kvpi_self_link *link)
{
	const int64_t deadline = kvpi_now(&kvpi_clock_real) + SETTLE_NS;
	const struct timespec pause = {.tv_nsec = SETTLE_PAUSE_NS};

	while (!kvpi_self_quiet(link)) {
		if (kvpi_now(&kvpi_clock_real) >= deadline) {
			KVPI_LOG(ERROR, "plane", "a device copy inside this process does not end, "
			                         "its memory is quarantined");
			/* The events are left to the copies that still refer to them. */
			link->flight[0].event = link->flight[1].event = NULL;
			return;
		}
		/* The device may wait for something that only the other end's worker can bring about. */
		pthread_mutex_unlock(&link->mutex);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&link->mutex);
	}
}

static void drop_list(kvpi_conn *conn, kvpi_list *list)
{
	KVPI_LIST_FOREACH(pos, nxt, list)
		drop(conn, item_of(pos));
}

void kvpi_self_drop_all(kvpi_conn *conn)
{
	drop_list(conn, &conn->puts);
	drop_list(conn, &conn->posts);
	drop_list(conn, &conn->events);
	conn->note_count = 0;
}

static kvpi_self_item *find(kvpi_list *list, kvpi_self_kind kind, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, list) {
		kvpi_self_item *item = item_of(pos);

		if (item->kind == kind && item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt)
			return item;
	}
	return NULL;
}

/* Is the memory of the transfer ready?  A failed event breaks the link. */
static bool ready(kvpi_self_link *link, const kvpi_transfer *transfer)
{
	kvp_status status;

	if (transfer->after == NULL)
		return true;
	status = kvpi_device_find(transfer->local.memory)->query(transfer->after);
	if (status != KVP_OK && status != KVP_PENDING)
		kvpi_self_break(link, KVP_E_DEVICE, "the work that a transfer was to follow failed on its device");
	return status == KVP_OK;
}

/* Copies one slice between host layouts. */
static uint64_t copy_slice(kvpi_self_item *put, const kvpi_self_item *post, uint64_t max)
{
	const uint64_t begin = put->done;
	kvpi_piece pieces[PIECES];

	while (put->done - begin < max) {
		const size_t count = kvpi_layout_pieces(&post->transfer.local, &put->transfer.local, &put->done,
		    max - (put->done - begin), pieces, PIECES);

		if (count == 0)
			break;
		for (size_t i = 0; i < count; i++)
			memcpy(pieces[i].to, pieces[i].from, pieces[i].len);
	}
	return put->done - begin;
}

/* Queues one slice on the device; what then is under way is in link->flight. */
static kvp_status launch_slice(kvpi_conn *conn, kvpi_self_item *put, kvpi_self_item *post, uint64_t max)
{
	const kvpi_layout *from = &put->transfer.local, *to = &post->transfer.local;
	const kvpi_layout *on = from->memory != KVP_MEMORY_HOST ? from : to;
	kvpi_self_flight *flight = &conn->link->flight[conn->side];
	const kvpi_stream *stream;
	kvpi_piece pieces[PIECES];
	uint64_t offset = put->done;
	kvp_status status, recorded;
	bool queued = false;

	if (from->memory != to->memory && from->memory != KVP_MEMORY_HOST && to->memory != KVP_MEMORY_HOST)
		return kvpi_error(KVP_E_UNSUPPORTED, "no copies between two kinds of device memory");
	status = kvpi_streams_get(&conn->plane->streams, on->memory, on->device, &stream);
	if (status != KVP_OK)
		return status;
	for (int i = 0; i < SLICE_CALLS && status == KVP_OK; i++) {
		const size_t count =
		    kvpi_layout_pieces(to, from, &offset, max - (offset - put->done), pieces, PIECES);

		if (count == 0)
			break;
		status = stream->ops->copy(stream->device, stream->stream, pieces, count);
		queued = queued || status == KVP_OK;
	}
	if (!queued)
		return status;

	/* Also when a later call failed: what was queued runs. */
	recorded = stream->ops->record(stream->device, stream->stream, &flight->event);
	if (recorded != KVP_OK) {
		flight->event = NULL;
		kvpi_streams_drain(&conn->plane->streams, stream);
		return recorded;
	}
	flight->ops = stream->ops;
	flight->bytes = offset - put->done;
	flight->put = put;
	flight->post = post;
	put->busy = post->busy = true;
	return status;
}

/* Everything of the put is in place: both ends are to be told. */
static void finish(kvpi_conn *conn, kvpi_conn *peer, kvpi_self_item *put, kvpi_self_item *post)
{
	kvpi_list_remove(&put->node);
	kvpi_list_append(&conn->events, &put->node);
	if (post == NULL)
		return;
	kvpi_list_remove(&post->node);
	kvpi_list_append(&peer->events, &post->node);
	wake(peer);
}

static void pass_note(kvpi_conn *peer, kvpi_self_item *note)
{
	kvpi_list_remove(&note->node);
	kvpi_list_append(&peer->events, &note->node);
	wake(peer);
}

/* One slice of the first put, or all of it.  False when it has to wait for a device, or the link broke. */
static bool push(kvpi_conn *conn, kvpi_conn *peer, kvpi_self_item *put, uint64_t *budget)
{
	kvpi_self_link *link = conn->link;
	kvpi_self_item *post = find(&peer->posts, KVPI_SELF_POST, put->transfer.id);
	uint64_t max, moved = 0;
	kvp_status status;

	if (post == NULL) {
		/* Canceled there: the rest has no place to go. */
		finish(conn, peer, put, NULL);
		return true;
	}
	if (post->transfer.local.bytes != put->transfer.local.bytes) {
		kvpi_self_break(link, KVP_E_PROTOCOL, "the put is not as long as its posted destination");
		return false;
	}
	if (put->done < put->transfer.local.bytes) {
		if (!ready(link, &put->transfer) || !ready(link, &post->transfer))
			return false;
		max = *budget < SLICE_BYTES ? *budget : SLICE_BYTES;
		if (put->transfer.local.memory != KVP_MEMORY_HOST || post->transfer.local.memory != KVP_MEMORY_HOST) {
			status = launch_slice(conn, put, post, max);
			if (status != KVP_OK)
				kvpi_self_break(link, status, kvp_last_error());
			return false;
		}
		moved = copy_slice(put, post, max);
	}
	*budget -= moved < *budget ? moved : *budget;
	if (put->done == put->transfer.local.bytes) {
		finish(conn, peer, put, post);
		*budget -= ITEM_COST < *budget ? ITEM_COST : *budget;
	}
	return true;
}

bool kvpi_self_pump(kvpi_conn *conn, uint64_t *budget)
{
	kvpi_self_link *link = conn->link;
	kvpi_conn *peer = link->end[!conn->side];
	kvpi_list *first;

	while (!link->broken && peer != NULL && quiet(link, conn->side) &&
	       (first = kvpi_list_first(&conn->puts)) != NULL) {
		if (*budget == 0)
			return true;
		if (item_of(first)->kind == KVPI_SELF_NOTE)
			pass_note(peer, item_of(first));
		else if (!push(conn, peer, item_of(first), budget))
			break;
	}
	return false;
}

kvp_receipt kvpi_self_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	static const kvpi_self_kind kinds[] = {KVPI_SELF_PUT, KVPI_SELF_POST};
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	for (int i = 0; i < 2; i++) {
		kvpi_list *queue = kinds[i] == KVPI_SELF_PUT ? &conn->puts : &conn->posts;
		kvpi_self_item *item = find(queue, kinds[i], id);

		if (item == NULL)
			item = find(&conn->events, kinds[i], id); /* ended, not yet told */
		if (item == NULL)
			continue;
		if (!item->busy) {
			drop(conn, item);
			continue;
		}
		/* Marked before looking: a copy that has just ended takes the item with it. */
		item->canceled = true;
		if (!quiet(conn->link, kinds[i] == KVPI_SELF_PUT ? conn->side : !conn->side))
			receipt = KVP_RECEIPT_QUARANTINED;
	}
	return receipt;
}
