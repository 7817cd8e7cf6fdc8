/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/rx.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS (1 * KVPI_NS_PER_MS)
#define SEEN_PART 4 /* that announcements have come is told within this part of an interval, before they are repeated */

static kvpi_rx_post *post_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_rx_post, node);
}

static kvpi_rx_slot *slot_at(kvpi_rx *rx, uint64_t seq)
{
	return &rx->slots[seq % KVPI_LINK_WINDOW];
}

void kvpi_rx_init(kvpi_rx *rx, const kvpi_rx_ops *ops, void *user, int64_t repeat_ns)
{
	memset(rx, 0, sizeof(*rx));
	rx->ops = ops;
	rx->user = user;
	rx->repeat_ns = repeat_ns;
	kvpi_list_init(&rx->posts);
	kvpi_list_init(&rx->peeks);
	rx->state_ns = rx->retry_ns = KVPI_NEVER;
}

static unsigned char *room_of(const kvpi_rx *rx, const kvpi_rx_slot *slot)
{
	return rx->room + slot->seq % KVPI_LINK_WINDOW * KVPI_LINK_INLINE_MAX;
}

static kvpi_transfer_id id_of(const kvpi_rx_slot *slot)
{
	return (kvpi_transfer_id){slot->seq, slot->attempt};
}

/* Takes a slot's destination back from the plane; the next match is another attempt. */
static kvp_receipt unmatch(kvpi_rx *rx, kvpi_rx_slot *slot)
{
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	if (slot->in_plane)
		receipt = rx->ops->cancel(rx->user, id_of(slot));
	if (slot->in_plane || slot->arrived)
		slot->attempt++;
	slot->in_plane = slot->arrived = false;
	slot->post = NULL;
	slot->state = KVPI_SLOT_ANNOUNCED;
	rx->dirty = true;
	return receipt;
}

static void end(kvpi_rx *rx, kvpi_rx_post *post, kvp_status status, const char *text, int64_t now)
{
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	kvpi_list_remove(&post->node);
	if (post->slot != NULL)
		receipt = unmatch(rx, post->slot);
	rx->ops->ended(rx->user, post, status, text, receipt, now);
}

/* The post goes back to waiting, for an earlier tensor than the one it had met; unless something still writes the
 * later one's bytes to its memory. */
static void move_up(kvpi_rx *rx, kvpi_rx_post *post, int64_t now)
{
	kvp_receipt receipt = unmatch(rx, post->slot);

	post->slot = NULL;
	if (receipt == KVP_RECEIPT_QUIESCENT)
		return;
	kvpi_list_remove(&post->node);
	rx->ops->ended(rx->user, post, KVP_E_CANCELED, "a receive before this one failed", receipt, now);
}

void kvpi_rx_cancel(kvpi_rx *rx, kvpi_rx_post *post, kvp_status status, const char *text, int64_t now)
{
	kvpi_list *behind = post->node.next;

	if (!kvpi_list_linked(&post->node))
		return;
	if (post->peek) {
		end(rx, post, status, text, now);
		return;
	}
	end(rx, post, status, text, now);
	while (behind != &rx->posts) {
		kvpi_list *next = behind->next;

		if (!post_of(behind)->alone)
			end(rx, post_of(behind), KVP_E_CANCELED, "a receive posted before this one failed", now);
		else if (post_of(behind)->slot != NULL)
			move_up(rx, post_of(behind), now);
		behind = next;
	}
}

void kvpi_rx_fail(kvpi_rx *rx, kvp_status status, const char *text, int64_t now)
{
	kvpi_list *node;

	while ((node = kvpi_list_first(&rx->posts)) != NULL)
		end(rx, post_of(node), status, text, now);
	while ((node = kvpi_list_first(&rx->peeks)) != NULL)
		end(rx, post_of(node), status, text, now);
}

void kvpi_rx_post_add(kvpi_rx *rx, kvpi_rx_post *post)
{
	kvpi_list_append(post->peek ? &rx->peeks : &rx->posts, &post->node);
}

kvp_status kvpi_rx_announce(kvpi_rx *rx, const kvpi_msg_announce *announce)
{
	const bool has_data = (announce->present & KVPI_HAS(announce, data)) != 0;
	kvpi_rx_slot *slot = slot_at(rx, announce->seq);
	kvp_tensor tensor;

	/* Whatever it says: that it is said again means that the sender does not know our state. */
	if (announce->seq <= rx->delivered || announce->seq <= rx->seen)
		rx->dirty = true;
	else
		rx->seen_news = true;
	if (announce->seq <= rx->delivered)
		return KVP_OK;
	if (announce->seq > rx->delivered + KVPI_LINK_WINDOW)
		return kvpi_error(KVP_E_PROTOCOL, "tensor %" PRIu64 " announced beyond the window at %" PRIu64,
		                  announce->seq, rx->delivered);
	if (announce->dtype == KVP_DTYPE_NONE) {
		kvp_tensor_init_none(&tensor);
	} else {
		/* A description only; the place is not known yet, and init wants one. */
		kvp_status status = kvp_tensor_init(&tensor, &tensor, (kvp_dtype)announce->dtype,
		                                    (int)announce->shape.count, announce->shape.items);

		tensor.data = NULL;
		if (status != KVP_OK || announce->dtype == KVP_DTYPE_ANY)
			return kvpi_error(KVP_E_PROTOCOL, "tensor %" PRIu64 " announced with a description that is none",
			                  announce->seq);
	}
	if (has_data && (announce->data.len == 0 || announce->data.len > KVPI_LINK_INLINE_MAX ||
	                 announce->data.len != kvp_tensor_bytes(slot->state == KVPI_SLOT_EMPTY ? &tensor : &slot->tensor)))
		return kvpi_error(KVP_E_PROTOCOL, "tensor %" PRIu64 " announced with %zu bytes, which is not what it has",
		                  announce->seq, announce->data.len);
	if (slot->state == KVPI_SLOT_EMPTY) {
		memset(slot, 0, sizeof(*slot));
		slot->state = KVPI_SLOT_ANNOUNCED;
		slot->seq = announce->seq;
		slot->attempt = 1;
		slot->tensor = tensor;
		while (rx->seen < rx->delivered + KVPI_LINK_WINDOW &&
		       slot_at(rx, rx->seen + 1)->state != KVPI_SLOT_EMPTY && slot_at(rx, rx->seen + 1)->seq == rx->seen + 1)
			rx->seen++;
	}
	if (has_data && rx->room != NULL && !slot->kept) {
		memcpy(room_of(rx, slot), announce->data.data, announce->data.len);
		slot->kept = true;
	}
	if (announce->present & KVPI_HAS(announce, withdrawn)) {
		slot->withdrawn = (kvp_status)announce->withdrawn;
		snprintf(slot->why, sizeof(slot->why), "%.*s",
		         (int)(announce->text.len < sizeof(slot->why) ? announce->text.len : sizeof(slot->why) - 1),
		         announce->text.len ? (const char *)announce->text.data : "");
	}
	return KVP_OK;
}

/* The lowest slot's post has its tensor, whole. */
static void complete(kvpi_rx *rx, kvpi_rx_slot *slot, int64_t now)
{
	kvpi_rx_post *post = slot->post;
	kvp_tensor *to = post->tensor;

	if (slot->tensor.dtype == KVP_DTYPE_NONE) {
		to->dtype = KVP_DTYPE_NONE;
		to->ndim = 0;
	} else if (to->dtype == KVP_DTYPE_ANY) {
		to->dtype = slot->tensor.dtype;
		to->ndim = slot->tensor.ndim;
		memcpy(to->shape, slot->tensor.shape, sizeof(to->shape));
		memcpy(to->strides, slot->tensor.strides, sizeof(to->strides));
	}
	post->slot = NULL;
	end(rx, post, KVP_OK, "", now);
}

static void withdraw(kvpi_rx *rx, kvpi_rx_slot *slot, kvpi_rx_post *post, int64_t now)
{
	char text[200];
	kvp_receipt receipt = unmatch(rx, slot);

	snprintf(text, sizeof(text), "the sender gave tensor %" PRIu64 " up: %s", slot->seq, slot->why);
	post->slot = NULL;
	kvpi_list_remove(&post->node);
	rx->ops->ended(rx->user, post, KVP_E_WITHDRAWN, text, receipt, now);
}

static void deliver(kvpi_rx *rx)
{
	slot_at(rx, ++rx->delivered)->state = KVPI_SLOT_EMPTY;
	rx->dirty = true;
}

/* Does the arriving tensor fit?  The sentence shows both. */
static kvp_status check_fit(const kvp_tensor *to, const kvp_tensor *from)
{
	char a[160], b[160];
	bool fits;

	if (from->dtype == KVP_DTYPE_NONE)
		return KVP_OK;
	if (to->dtype == KVP_DTYPE_ANY)
		fits = kvp_tensor_bytes(from) <= to->storage_bytes;
	else
		fits = to->dtype == from->dtype && to->ndim == from->ndim &&
		       memcmp(to->shape, from->shape, sizeof(to->shape[0]) * (size_t)to->ndim) == 0;
	if (fits)
		return KVP_OK;
	kvp_tensor_describe(from, b, sizeof(b));
	if (to->dtype == KVP_DTYPE_ANY)
		return kvpi_error(KVP_E_MISMATCH, "%s of %" PRIu64 " bytes does not fit a buffer of %" PRIu64 " bytes", b,
		                  kvp_tensor_bytes(from), to->storage_bytes);
	kvp_tensor_describe(to, a, sizeof(a));
	return kvpi_error(KVP_E_MISMATCH, "%s arrives where %s is expected", b, a);
}

/* Gives a matched slot's destination to the plane, unless there are no bytes to wait for. */
static void hand_over(kvpi_rx *rx, kvpi_rx_slot *slot, int64_t now)
{
	kvp_status status;

	if (kvp_tensor_bytes(&slot->tensor) == 0 ||
	    (slot->kept && rx->ops->fill(rx->user, slot->post, room_of(rx, slot)))) {
		slot->arrived = true;
		slot->post->arrived_ns = now;
		return;
	}
	status = rx->ops->post(rx->user, slot->post, id_of(slot));
	if (status == KVP_OK) {
		slot->in_plane = true;
		slot->post->granted_ns = now;
		rx->dirty = true;
	} else if (status == KVP_E_AGAIN || status == KVP_E_PEER_LOST) {
		rx->retry_ns = now + RETRY_NS;
	} else {
		kvpi_rx_cancel(rx, slot->post, status, kvp_last_error(), now);
	}
}

/* The lowest slot without a post meets the next one.  False: it has to wait. */
static bool match(kvpi_rx *rx, kvpi_rx_slot *slot, kvpi_rx_post *post, int64_t now)
{
	kvp_status status;

	post->known_ns = now;
	if (post->peek && slot->withdrawn != 0) {
		if (slot->seq != rx->delivered + 1)
			return false; /* in order: those before it have not ended */
		withdraw(rx, slot, post, now);
		deliver(rx);
		return true;
	}
	if (post->peek) {
		*post->tensor = slot->tensor;
		end(rx, post, KVP_OK, "", now);
		return true;
	}
	status = slot->withdrawn != 0 ? KVP_OK : check_fit(post->tensor, &slot->tensor);
	if (status != KVP_OK) {
		kvpi_rx_cancel(rx, post, status, kvp_last_error(), now);
		return true;
	}
	slot->state = KVPI_SLOT_MATCHED;
	slot->post = post;
	post->slot = slot;
	return true;
}

/* The first post that has met nothing yet; peeks look at what no post will take. */
static kvpi_rx_post *next_post(kvpi_rx *rx)
{
	KVPI_LIST_FOREACH(pos, next, &rx->posts)
		if (post_of(pos)->slot == NULL)
			return post_of(pos);
	return kvpi_list_empty(&rx->peeks) ? NULL : post_of(rx->peeks.next);
}

/* Ends the posts at the front whose tensors are there, or will never be. */
static void deliver_all(kvpi_rx *rx, int64_t now)
{
	while (rx->delivered < rx->seen) {
		kvpi_rx_slot *slot = slot_at(rx, rx->delivered + 1);

		if (slot->state != KVPI_SLOT_MATCHED || (!slot->arrived && slot->withdrawn == 0))
			break;
		if (slot->arrived)
			complete(rx, slot, now);
		else
			withdraw(rx, slot, slot->post, now);
		deliver(rx);
	}
}

static void match_all(kvpi_rx *rx, int64_t now)
{
	kvpi_rx_post *post;

	for (uint64_t seq = rx->delivered + 1; seq <= rx->seen;) {
		kvpi_rx_slot *slot = slot_at(rx, seq);

		if (slot->state == KVPI_SLOT_ANNOUNCED) {
			post = next_post(rx);
			if (post == NULL || !match(rx, slot, post, now))
				break;
			if (seq <= rx->delivered)
				seq = rx->delivered + 1;
			continue; /* matched now; or a peek or a misfit left it for the next */
		}
		if (!slot->in_plane && !slot->arrived && slot->withdrawn == 0) {
			hand_over(rx, slot, now); /* a fresh match, or after a lost connection */
			if (rx->retry_ns != KVPI_NEVER)
				break; /* keep the order */
			if (slot->state != KVPI_SLOT_MATCHED)
				continue;
		}
		seq++;
	}
	deliver_all(rx, now);
}

void kvpi_rx_received(kvpi_rx *rx, kvpi_transfer_id id, int64_t now)
{
	kvpi_rx_slot *slot = slot_at(rx, id.seq);

	if (slot->state != KVPI_SLOT_MATCHED || slot->seq != id.seq || slot->attempt != id.attempt || !slot->in_plane)
		return;
	slot->in_plane = false;
	slot->arrived = true;
	slot->post->arrived_ns = now;
	deliver_all(rx, now);
}

void kvpi_rx_session(kvpi_rx *rx, bool up)
{
	rx->session_up = up;
	rx->dirty = true;
}

void kvpi_rx_conn(kvpi_rx *rx, bool up)
{
	rx->conn_up = up;
	rx->dirty = true; /* what was said on the old connection may be lost */
	if (up)
		return;
	for (size_t i = 0; i < KVPI_LINK_WINDOW; i++) {
		kvpi_rx_slot *slot = &rx->slots[i];

		if (slot->state == KVPI_SLOT_MATCHED && slot->in_plane) {
			slot->in_plane = false; /* the plane has forgotten it */
			slot->attempt++;
		}
	}
}

bool kvpi_rx_tell(kvpi_rx *rx, int64_t now)
{
	uint64_t grants[2 * KVPI_LINK_WINDOW];
	kvpi_msg_state state = {.seen = rx->seen, .delivered = rx->delivered, .grants = {grants, 0}};

	for (uint64_t seq = rx->delivered + 1; seq <= rx->seen; seq++) {
		const kvpi_rx_slot *slot = slot_at(rx, seq);

		if (slot->state == KVPI_SLOT_MATCHED && slot->in_plane) {
			grants[state.grants.count++] = slot->seq;
			grants[state.grants.count++] = slot->attempt;
		}
	}
	return rx->ops->state(rx->user, &state, now);
}

static void expire(kvpi_rx *rx, kvpi_list *list, int64_t now)
{
	for (kvpi_list *pos = list->next; pos != list;) {
		if (post_of(pos)->deadline_ns <= now) {
			kvpi_rx_cancel(rx, post_of(pos), KVP_E_DEADLINE, "nothing arrived within the deadline", now);
			pos = list->next; /* more may have gone with it */
		} else {
			pos = pos->next;
		}
	}
}

void kvpi_rx_step(kvpi_rx *rx, int64_t now)
{
	/* First what is there: a post whose time is up already still takes what needs no transfer. */
	rx->retry_ns = KVPI_NEVER;
	match_all(rx, now);
	expire(rx, &rx->posts, now);
	expire(rx, &rx->peeks, now);
	if (rx->seen_news && rx->state_ns > now + rx->repeat_ns / SEEN_PART)
		rx->state_ns = now + rx->repeat_ns / SEEN_PART;
	rx->seen_news = false;
	if (!rx->session_up || (!rx->dirty && now < rx->state_ns))
		return;
	if (kvpi_rx_tell(rx, now)) {
		rx->dirty = false;
		/* Grants that stand are told again: a lost STATE must not cost a transfer. */
		rx->state_ns = kvpi_list_empty(&rx->posts) ? KVPI_NEVER : now + rx->repeat_ns;
	} else {
		rx->retry_ns = now + RETRY_NS;
	}
}

int64_t kvpi_rx_next(const kvpi_rx *rx)
{
	const kvpi_list *lists[2] = {&rx->posts, &rx->peeks};
	int64_t at = rx->retry_ns;

	for (size_t i = 0; i < 2; i++)
		for (const kvpi_list *pos = lists[i]->next; pos != lists[i]; pos = pos->next)
			if (KVPI_CONTAINER_OF(pos, const kvpi_rx_post, node)->deadline_ns < at)
				at = KVPI_CONTAINER_OF(pos, const kvpi_rx_post, node)->deadline_ns;
	if (rx->session_up && rx->state_ns < at && rx->retry_ns == KVPI_NEVER)
		at = rx->state_ns;
	return at;
}
