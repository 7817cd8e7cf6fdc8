/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiving half of a link: which announced tensor meets which posted destination.  Pure, like tx.h.
 *
 * Announcements fill a window of KVPI_LINK_WINDOW slots behind `delivered`; posts wait in order; the n-th
 * post that is not yet matched meets the lowest slot that is not.  A match hands the destination to the
 * plane under (seq, attempt) and grants exactly that to the sender, so data never arrives for which there is no
 * place.  An announcement that carries the bytes fills the destination by itself, at the match: until then they are
 * kept in the slot's part of `room`.  When a post is given up or the data connection breaks, the slot's attempt is raised: bytes of the old
 * one are dropped by the plane, the sender puts again, nothing is lost.
 *
 * Posts end strictly in order: one whose bytes came early waits for those before it.  A post that fails takes all posts behind it along (KVP_E_CANCELED): otherwise tensors would land one place
 * too early.  Only those marked `alone` stay and move up.  A withdrawn tensor is met by one post, which says so, and the posts behind stay right.
 */
#ifndef KVPI_ENGINE_RX_H
#define KVPI_ENGINE_RX_H

#include "base/clock.h"
#include "base/list.h"
#include "engine/tx.h"
#include "plane/plane.h"
#include "wire/msg.h"
#include <kvpipe/pipe.h>
#include <kvpipe/tensor.h>

#define KVPI_RX_POSTS_MAX 64
#define KVPI_RX_ROOM_BYTES ((size_t)KVPI_LINK_WINDOW * KVPI_LINK_INLINE_MAX)

/* What is known of an announced tensor. */
typedef struct kvpi_rx_slot {
	enum { KVPI_SLOT_EMPTY, KVPI_SLOT_ANNOUNCED, KVPI_SLOT_MATCHED } state;
	uint64_t seq;
	kvp_tensor tensor; /* description, dense, no data */
	kvp_status withdrawn;
	char why[128];
	uint32_t attempt;      /* of the present or next match */
	bool in_plane;         /* a destination stands in the plane under that attempt */
	bool arrived;          /* or: all bytes are in it */
	bool kept;             /* the bytes came with the announcement and are in the room */
	struct kvpi_rx_post *post;
} kvpi_rx_slot;

/* One destination, or with peek set one who only asks what comes next; embedded in its request. */
typedef struct kvpi_rx_post {
	kvp_tensor *tensor; /* where; on success completed with what came.  Borrowed until ended */
	bool peek;
	bool alone; /* not one of a planned sequence: when a post before it fails, it takes that one's place */
	int64_t deadline_ns;
	int64_t known_ns, granted_ns, arrived_ns; /* time split; 0 = not yet */
	kvpi_list node;
	kvpi_rx_slot *slot; /* once matched */
} kvpi_rx_post;

typedef struct kvpi_rx_ops {
	/* Hands the destination to the plane.  KVP_OK, KVP_E_AGAIN (later), anything else ends the post. */
	kvp_status (*post)(void *user, kvpi_rx_post *post, kvpi_transfer_id id);
	kvp_receipt (*cancel)(void *user, kvpi_transfer_id id);
	/* Copies all of the slot's bytes, dense at `data`, to the destination.  False: not there; the plane carries them. */
	bool (*fill)(void *user, kvpi_rx_post *post, const void *data);
	/* Sends the whole state.  False: not now, tried again soon. */
	bool (*state)(void *user, const kvpi_msg_state *state, int64_t now);
	/* The post has ended: called once each, its last use here. */
	void (*ended)(void *user, kvpi_rx_post *post, kvp_status status, const char *text, kvp_receipt receipt, int64_t now);
} kvpi_rx_ops;

typedef struct kvpi_rx {
	const kvpi_rx_ops *ops;
	void *user;
	int64_t repeat_ns;
	kvpi_rx_slot slots[KVPI_LINK_WINDOW]; /* seq modulo the window */
	unsigned char *room; /* KVPI_RX_ROOM_BYTES for what announcements carry, the owner's; NULL: nothing is kept */
	uint64_t seen, delivered;
	kvpi_list posts; /* in order; matched ones first */
	kvpi_list peeks;
	bool session_up, conn_up;
	bool dirty;       /* the sender does not know our state */
	bool seen_news;   /* it knows it, but for `seen`, for which it does not wait: told with the next state, or soon */
	int64_t state_ns; /* when to send it again in any case */
	int64_t retry_ns;
} kvpi_rx;

void kvpi_rx_init(kvpi_rx *rx, const kvpi_rx_ops *ops, void *user, int64_t repeat_ns);

/* An ANNOUNCE.  KVP_E_PROTOCOL: outside the window or no tensor; nothing is taken from it. */
kvp_status kvpi_rx_announce(kvpi_rx *rx, const kvpi_msg_announce *announce);

/* A destination or a peek; the caller keeps to KVPI_RX_POSTS_MAX. */
void kvpi_rx_post_add(kvpi_rx *rx, kvpi_rx_post *post);
void kvpi_rx_cancel(kvpi_rx *rx, kvpi_rx_post *post, kvp_status status, const char *text, int64_t now);

void kvpi_rx_received(kvpi_rx *rx, kvpi_transfer_id id, int64_t now); /* plane: all bytes in place */
void kvpi_rx_session(kvpi_rx *rx, bool up);
void kvpi_rx_conn(kvpi_rx *rx, bool up); /* plane: connected, lost */

/* The link is over, or closed from this side: every post ends with `status`. */
void kvpi_rx_fail(kvpi_rx *rx, kvp_status status, const char *text, int64_t now);

/* Sends the state now, whether the sender knows it or not: the last word before a goodbye.  False: it could not. */
bool kvpi_rx_tell(kvpi_rx *rx, int64_t now);

/* Deadlines, matches, the STATE message. */
void kvpi_rx_step(kvpi_rx *rx, int64_t now);
int64_t kvpi_rx_next(const kvpi_rx *rx);

#endif
