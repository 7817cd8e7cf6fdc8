/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the plane `self`: two connections of one process and the link between them.
 *
 * Each end is driven by its own worker.  Everything that both touch - the queues of both connections, the
 * device copies under way - is guarded by the link's one mutex.  The sending end copies, in slices under that
 * mutex: who holds it knows that no host copy is under way, which makes a cancel an immediate receipt.
 */
#ifndef KVPI_PLANE_SELF_LINK_H
#define KVPI_PLANE_SELF_LINK_H

#include "base/list.h"
#include "plane/plane.h"
#include "plane/streams.h"
#include <pthread.h>

#define KVPI_SELF_TRANSFERS 256 /* outstanding per connection and direction */
#define KVPI_SELF_NOTES 64

typedef enum kvpi_self_kind { KVPI_SELF_PUT, KVPI_SELF_POST, KVPI_SELF_NOTE } kvpi_self_kind;

/* A put, a posted destination or a notify.  Ended ones wait as events, in the queue of whom they tell. */
typedef struct kvpi_self_item {
	kvpi_list node;
	kvpi_self_kind kind;
	kvpi_transfer transfer;
	uint64_t done; /* put: bytes in place at the peer */
	bool busy;     /* a device copy that touches its memory is under way */
	bool canceled; /* and goes as soon as that copy has ended */
	size_t len;    /* note */
	unsigned char data[];
} kvpi_self_item;

/* The device copy that the put at the head of one end's queue has under way. */
typedef struct kvpi_self_flight {
	kvpi_event *event; /* NULL: none */
	const kvpi_device_ops *ops;
	uint64_t bytes;
	kvpi_self_item *put, *post;
} kvpi_self_flight;

typedef struct kvpi_self_link {
	pthread_mutex_t mutex;
	int holders;
	kvpi_conn *end[2]; /* [0] connected, [1] accepted; NULL: not yet, or not any more */
	bool joined;       /* both ends have been there */
	bool broken;
	kvp_status status;
	char why[128];
	kvpi_self_flight flight[2]; /* by sending end */
} kvpi_self_link;

struct kvpi_conn {
	kvpi_list node;    /* of the plane's connections */
	kvpi_list waiting; /* accepting end: of the meeting place's list */
	kvpi_plane *plane;
	void *user;
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	bool accepts;
	bool up;     /* CONNECTED was told, LOST was not */
	bool lost;   /* connecting end: LOST was told */
	bool closed; /* hung up from inside on_event; freed when progress ends */
	int side;
	kvpi_self_link *link; /* NULL: nobody has come, or refused */
	kvpi_self_link *next; /* accepting end: who comes now; guarded by the meeting place */

	/* Guarded by the link's mutex while there is a link, else this worker's own. */
	kvpi_list puts;   /* puts and notes, in order */
	kvpi_list posts;
	kvpi_list events; /* ended puts and posts, and the peer's notes, to be told */
	uint32_t put_count, post_count, note_count; /* until told */
};

struct kvpi_plane {
	kvpi_plane_params params;
	struct kvpi_self_meeting *meeting;
	kvpi_list conns;
	kvpi_streams streams;
	bool in_progress;
};

/* A link with its first end there.  NULL without memory. */
kvpi_self_link *kvpi_self_link_new(kvpi_conn *first);
void kvpi_self_link_release(kvpi_self_link *link);

/* A lock that is none while there is no link. */
void kvpi_self_lock(kvpi_conn *conn);
void kvpi_self_unlock(kvpi_conn *conn);

/* Ends the link for both ends and wakes them; the first reason stays.  Locked. */
void kvpi_self_break(kvpi_self_link *link, kvp_status status, const char *why);

/* True when no device copy is under way on the link.  Locked. */
bool kvpi_self_quiet(kvpi_self_link *link);

/* Waits until it is quiet, a bounded time.  Locked; gives the lock up in between. */
void kvpi_self_settle(kvpi_self_link *link);

/* Moves up to *budget bytes of what this end has submitted.  Returns true when only the budget stopped it.  Locked. */
bool kvpi_self_pump(kvpi_conn *conn, uint64_t *budget);

/* Ends every put, post, note and event of the connection, untold.  Locked, quiet. */
void kvpi_self_drop_all(kvpi_conn *conn);

kvp_receipt kvpi_self_cancel(kvpi_conn *conn, kvpi_transfer_id id); /* locked */

#endif
