/* SPDX-License-Identifier: Apache-2.0
 *
 * The sending half of a link: which tensor is announced, granted, under way, delivered.  Pure: it takes
 * items, the receiver's STATE messages, plane events and time, and acts through the functions it was handed.
 *
 * Items have consecutive numbers.  At most KVPI_LINK_WINDOW of them, counted from the receiver's `delivered`,
 * are announced; that bounds the receiver's memory.  An item's way:
 *
 *	queued → announced (repeated until seen) → granted (seq, attempt) → put → sent → delivered: ended with KVP_OK
 *
 * Few bytes of host memory travel inside the announcement, and with each repetition of it; the receiver then needs
 * neither grant nor put, but may use them all the same.
 *
 * The receiver may raise the attempt at any time (its post was given up, or the data connection broke):
 * then the item is put again.  An item that ends otherwise (deadline, cancel) becomes a tombstone: its
 * announcement, now saying "withdrawn", is repeated until the receiver has passed it, so that no later tensor
 * is taken for it.
 *
 * Nothing here depends on a message arriving: the lowest undelivered item is announced again every
 * `repeat_ns`, and the receiver answers each announcement with its whole state.
 */
#ifndef KVPI_ENGINE_TX_H
#define KVPI_ENGINE_TX_H

#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "plane/plane.h"
#include "wire/msg.h"
#include <kvpipe/pipe.h>
#include <kvpipe/tensor.h>

#define KVPI_LINK_WINDOW 64
#define KVPI_LINK_INLINE_MAX 8192 /* bytes that an announcement may carry; the table in messages.def says the same */

/* One tensor to send; embedded in its request, not moved until released. */
typedef struct kvpi_tx_item {
	const kvp_tensor *tensor; /* description and memory; borrowed until ended */
	uint64_t bytes;
	int64_t deadline_ns;
	uint64_t seq; /* given by add */
	/* When things happened, for the time split; 0 = not yet. */
	int64_t announced_ns, put_ns, sent_ns;
	/* tx.c's own */
	kvpi_list node;
	kvpi_heap_node expiry;
	uint32_t granted;   /* newest attempt for which the receiver stands ready; 0: none */
	uint32_t put;       /* newest attempt given to the plane; 0: none */
	bool in_plane;      /* that attempt is under way: neither sent nor lost */
	bool carried;       /* an announcement took all of its bytes along; set by the announce function */
	bool ended;         /* ended() was called; the item only lives on as a tombstone */
	kvp_status withdrawn;
	const char *why;    /* for the receiver; a static text */
	int64_t announce_ns; /* when to announce next; KVPI_NEVER: seen */
} kvpi_tx_item;

typedef struct kvpi_tx_ops {
	/* Announces (item->withdrawn != 0: as withdrawn), with the bytes if it likes and the item has not ended: then it
	 * sets `carried`.  False: not now, tried again soon. */
	bool (*announce)(void *user, kvpi_tx_item *item, int64_t now);
	/* Gives the item to the plane under (seq, attempt).  KVP_OK, KVP_E_AGAIN (later), anything else ends the item. */
	kvp_status (*put)(void *user, kvpi_tx_item *item, uint32_t attempt);
	/* Takes an attempt back from the plane. */
	kvp_receipt (*cancel)(void *user, kvpi_tx_item *item, uint32_t attempt);
	/* The item has ended: called once each. */
	void (*ended)(void *user, kvpi_tx_item *item, kvp_status status, const char *text, kvp_receipt receipt, int64_t now);
	/* The last use of the item: called once each, at or after ended. */
	void (*release)(void *user, kvpi_tx_item *item);
} kvpi_tx_ops;

typedef struct kvpi_tx {
	const kvpi_tx_ops *ops;
	void *user;
	int64_t repeat_ns;
	kvpi_list items; /* in order of seq */
	kvpi_heap expiry;
	uint64_t next_seq, delivered;
	bool session_up, conn_up;
	int64_t retry_ns; /* something could not be done; try again then */
	uint64_t retransmissions;
} kvpi_tx;

void kvpi_tx_init(kvpi_tx *tx, const kvpi_tx_ops *ops, void *user, int64_t repeat_ns);
void kvpi_tx_fini(kvpi_tx *tx); /* after kvpi_tx_fail */

/* Takes the item in; KVP_E_NOMEM leaves it outside. */
kvp_status kvpi_tx_add(kvpi_tx *tx, kvpi_tx_item *item, int64_t now);

/* A STATE of the receiver.  KVP_E_PROTOCOL: it claims what cannot be; nothing is taken from it. */
kvp_status kvpi_tx_state(kvpi_tx *tx, const kvpi_msg_state *state, int64_t now);

void kvpi_tx_sent(kvpi_tx *tx, kvpi_transfer_id id, int64_t now);  /* plane: last byte left */
void kvpi_tx_session(kvpi_tx *tx, bool up);
void kvpi_tx_conn(kvpi_tx *tx, bool up);                            /* plane: connected, lost */
void kvpi_tx_cancel(kvpi_tx *tx, kvpi_tx_item *item, kvp_status status, const char *text, const char *why, int64_t now);

/* The link is over: every item ends with `status` and is released. */
void kvpi_tx_fail(kvpi_tx *tx, kvp_status status, const char *text, int64_t now);

/* Deadlines, announcements, puts. */
void kvpi_tx_step(kvpi_tx *tx, int64_t now);
int64_t kvpi_tx_next(const kvpi_tx *tx);

/* The lowest number not yet ended; next_seq when all are. */
uint64_t kvpi_tx_open_low(const kvpi_tx *tx);

#endif
