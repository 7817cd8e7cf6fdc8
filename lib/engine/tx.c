/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tx.h"

#include "base/error.h"

#include <inttypes.h>
#include <string.h>

/* When the socket or the plane had no room: soon again, without spinning. */
#define RETRY_NS (1 * KVPI_NS_PER_MS)

static kvpi_tx_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tx_item, node);
}

void kvpi_tx_init(kvpi_tx *tx, const kvpi_tx_ops *ops, void *user, int64_t repeat_ns)
{
	memset(tx, 0, sizeof(*tx));
	tx->ops = ops;
	tx->user = user;
	tx->repeat_ns = repeat_ns;
	kvpi_list_init(&tx->items);
	kvpi_heap_init(&tx->expiry);
	tx->next_seq = 1;
	tx->retry_ns = KVPI_NEVER;
}

void kvpi_tx_fini(kvpi_tx *tx)
{
	kvpi_heap_fini(&tx->expiry);
}

kvp_status kvpi_tx_add(kvpi_tx *tx, kvpi_tx_item *item, int64_t now)
{
	kvp_status status = kvpi_heap_push(&tx->expiry, &item->expiry, item->deadline_ns);

	if (status != KVP_OK)
		return status;
	item->seq = tx->next_seq++;
	item->announce_ns = now;
	kvpi_list_append(&tx->items, &item->node);
	return KVP_OK;
}

static void end(kvpi_tx *tx, kvpi_tx_item *item, kvp_status status, const char *text, int64_t now)
{
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	if (item->in_plane)
		receipt = tx->ops->cancel(tx->user, item, item->put);
	item->in_plane = false;
	item->ended = true;
	kvpi_heap_remove(&tx->expiry, &item->expiry);
	tx->ops->ended(tx->user, item, status, text, receipt, now);
}

void kvpi_tx_cancel(kvpi_tx *tx, kvpi_tx_item *item, kvp_status status, const char *text, const char *why, int64_t now)
{
	if (item->ended)
		return;
	end(tx, item, status, text, now);
	item->withdrawn = status;
	item->why = why;
	item->announce_ns = now;
}

static void release(kvpi_tx *tx, kvpi_tx_item *item)
{
	kvpi_list_remove(&item->node);
	tx->ops->release(tx->user, item);
}

void kvpi_tx_fail(kvpi_tx *tx, kvp_status status, const char *text, int64_t now)
{
	kvpi_list *node;

	tx->session_up = tx->conn_up = false;
	while ((node = kvpi_list_first(&tx->items)) != NULL) {
		if (!item_of(node)->ended)
			end(tx, item_of(node), status, text, now);
		release(tx, item_of(node));
	}
}

static kvpi_tx_item *find(kvpi_tx *tx, uint64_t seq)
{
	KVPI_LIST_FOREACH(pos, next, &tx->items) {
		if (item_of(pos)->seq == seq)
			return item_of(pos);
		if (item_of(pos)->seq > seq)
			break;
	}
	return NULL;
}

/* Nothing of a STATE is believed before all of it makes sense. */
static kvp_status check_state(kvpi_tx *tx, const kvpi_msg_state *state)
{
	uint64_t highest = tx->delivered + KVPI_LINK_WINDOW;

	if (highest > tx->next_seq - 1)
		highest = tx->next_seq - 1;
	if (state->seen > highest || state->delivered > state->seen)
		return kvpi_error(KVP_E_PROTOCOL, "the receiver claims %" PRIu64 " seen and %" PRIu64
		                  " delivered of %" PRIu64 " announced", state->seen, state->delivered, highest);
	if (state->grants.count % 2 != 0)
		return kvpi_error(KVP_E_PROTOCOL, "the receiver's grants are not pairs");
	for (size_t i = 0; i < state->grants.count; i += 2)
		if (state->grants.items[i] <= state->delivered || state->grants.items[i] > state->seen ||
		    state->grants.items[i + 1] == 0 || state->grants.items[i + 1] > UINT32_MAX)
			return kvpi_error(KVP_E_PROTOCOL, "the receiver grants tensor %" PRIu64 ", attempt %" PRIu64,
			                  state->grants.items[i], state->grants.items[i + 1]);
	KVPI_LIST_FOREACH(pos, next, &tx->items) {
		const kvpi_tx_item *item = item_of(pos);

		if (item->seq > state->delivered)
			break;
		if (!item->ended && item->bytes > 0 && item->put == 0 && !item->carried)
			return kvpi_error(KVP_E_PROTOCOL, "the receiver claims tensor %" PRIu64
			                  ", of which nothing was sent", item->seq);
	}
	return KVP_OK;
}

kvp_status kvpi_tx_state(kvpi_tx *tx, const kvpi_msg_state *state, int64_t now)
{
	kvpi_list *node;
	kvp_status status;

	if (state->delivered < tx->delivered)
		return KVP_OK; /* overtaken by a later one */
	status = check_state(tx, state);
	if (status != KVP_OK)
		return status;
	KVPI_LIST_FOREACH(pos, next, &tx->items) {
		kvpi_tx_item *item = item_of(pos);

		if (item->seq > state->seen)
			break;
		/* A tombstone's announcement is repeated until it has been passed; the others' job is done. */
		if (item->withdrawn == 0)
			item->announce_ns = KVPI_NEVER;
	}
	for (size_t i = 0; i < state->grants.count; i += 2) {
		kvpi_tx_item *item = find(tx, state->grants.items[i]);

		if (item != NULL && (uint32_t)state->grants.items[i + 1] > item->granted)
			item->granted = (uint32_t)state->grants.items[i + 1];
	}
	tx->delivered = state->delivered;
	while ((node = kvpi_list_first(&tx->items)) != NULL && item_of(node)->seq <= tx->delivered) {
		kvpi_tx_item *item = item_of(node);

		if (item->sent_ns == 0)
			item->sent_ns = now;
		if (!item->ended)
			end(tx, item, KVP_OK, "", now);
		release(tx, item);
	}
	/* Whatever is the lowest now must not stay silent for ever: see the header. */
	if (node != NULL && item_of(node)->announce_ns == KVPI_NEVER)
		item_of(node)->announce_ns = now + tx->repeat_ns;
	return KVP_OK;
}

void kvpi_tx_sent(kvpi_tx *tx, kvpi_transfer_id id, int64_t now)
{
	kvpi_tx_item *item = find(tx, id.seq);

	if (item == NULL || item->put != id.attempt || !item->in_plane)
		return; /* an older attempt, or delivered and gone already */
	item->in_plane = false;
	item->sent_ns = now;
}

void kvpi_tx_session(kvpi_tx *tx, bool up)
{
	tx->session_up = up;
}

void kvpi_tx_conn(kvpi_tx *tx, bool up)
{
	tx->conn_up = up;
	KVPI_LIST_FOREACH(pos, next, &tx->items) {
		kvpi_tx_item *item = item_of(pos);

		if (!up)
			item->in_plane = false; /* to be put again under the next attempt */
		else if (item->announced_ns != 0 && item->announce_ns != KVPI_NEVER)
			item->announce_ns = 0; /* what was said on the old connection may be lost */
	}
}

static void announce(kvpi_tx *tx, kvpi_tx_item *item, int64_t now)
{
	if (!tx->ops->announce(tx->user, item, now)) {
		tx->retry_ns = now + RETRY_NS;
		return;
	}
	if (item->announced_ns == 0)
		item->announced_ns = now;
	if (item->carried && item->sent_ns == 0)
		item->put_ns = item->sent_ns = now;
	item->announce_ns = now + tx->repeat_ns;
}

static void put(kvpi_tx *tx, kvpi_tx_item *item, int64_t now)
{
	kvp_status status = tx->ops->put(tx->user, item, item->granted);

	if (status == KVP_E_AGAIN || status == KVP_E_PEER_LOST) {
		tx->retry_ns = now + RETRY_NS; /* or the plane tells CONNECTED, whichever comes first */
	} else if (status != KVP_OK) {
		kvpi_tx_cancel(tx, item, status, kvp_last_error(), "the sender's data plane refused it", now);
	} else {
		if (item->put != 0)
			tx->retransmissions++;
		item->put = item->granted;
		item->in_plane = true;
		if (item->put_ns == 0)
			item->put_ns = now;
	}
}

void kvpi_tx_step(kvpi_tx *tx, int64_t now)
{
	kvpi_heap_node *first;

	while ((first = kvpi_heap_peek(&tx->expiry)) != NULL && first->key <= now)
		kvpi_tx_cancel(tx, KVPI_CONTAINER_OF(first, kvpi_tx_item, expiry), KVP_E_DEADLINE,
		               "the tensor was not delivered within its deadline", "its deadline passed at the sender",
		               now);
	tx->retry_ns = KVPI_NEVER;
	if (!tx->session_up)
		return;
	KVPI_LIST_FOREACH(pos, next, &tx->items) {
		kvpi_tx_item *item = item_of(pos);

		if (item->seq > tx->delivered + KVPI_LINK_WINDOW)
			break;
		if (now >= item->announce_ns)
			announce(tx, item, now);
		if (tx->conn_up && !item->ended && !item->in_plane && item->granted > item->put)
			put(tx, item, now);
		if (tx->retry_ns != KVPI_NEVER)
			break; /* no room: keep the order */
	}
}

int64_t kvpi_tx_next(const kvpi_tx *tx)
{
	const kvpi_heap_node *first = kvpi_heap_peek(&tx->expiry);
	int64_t at = first != NULL ? first->key : KVPI_NEVER;

	if (tx->retry_ns < at)
		at = tx->retry_ns;
	if (!tx->session_up)
		return at;
	for (const kvpi_list *pos = tx->items.next; pos != &tx->items; pos = pos->next) {
		const kvpi_tx_item *item = KVPI_CONTAINER_OF(pos, const kvpi_tx_item, node);

		if (item->seq > tx->delivered + KVPI_LINK_WINDOW)
			break;
		if (item->announce_ns < at && tx->retry_ns == KVPI_NEVER)
			at = item->announce_ns;
	}
	return at;
}

uint64_t kvpi_tx_open_low(const kvpi_tx *tx)
{
	for (const kvpi_list *pos = tx->items.next; pos != &tx->items; pos = pos->next) {
		const kvpi_tx_item *item = KVPI_CONTAINER_OF(pos, const kvpi_tx_item, node);

		if (!item->ended)
			return item->seq;
	}
	return tx->next_seq;
}
