/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the plane `tcp`, in four files:
 *	tcp.c       the plane: listener, greetings of those who come, progress, the table
 *	tcp_conn.c  a connection's life, its queues, cancel
 *	tcp_tx.c    what goes out
 *	tcp_rx.c    what comes in
 *
 * Sockets are registered once, edge-triggered; `readable` and `writable` remember the edge until the kernel says
 * EAGAIN.  Only the endpoint's worker enters, so there are no locks.
 */
#ifndef KVPI_PLANE_TCP_H
#define KVPI_PLANE_TCP_H

#include "base/list.h"
#include "plane/plane.h"
#include "plane/staging.h"
#include "plane/tcp_frame.h"
#include "wire/addr.h"

#define KVPI_TCP_TRANSFERS 256 /* outstanding per connection and direction */
#define KVPI_TCP_NOTES 64
#define KVPI_TCP_GUESTS 8
#define KVPI_TCP_IOV 64
#define KVPI_TCP_SCRATCH (64u << 10)

/* What an epoll event belongs to: the first member of each such thing. */
typedef enum kvpi_tcp_source {
	KVPI_TCP_SOURCE_LISTENER,
	KVPI_TCP_SOURCE_TIMER,
	KVPI_TCP_SOURCE_GUEST,
	KVPI_TCP_SOURCE_CONN
} kvpi_tcp_source;

/* Somebody who has connected and not yet shown a token. */
typedef struct kvpi_tcp_guest {
	kvpi_tcp_source source;
	int fd; /* -1: free */
	int64_t deadline_ns;
	size_t got;
	unsigned char hello[KVPI_TCP_HEAD_BYTES];
} kvpi_tcp_guest;

/* A put, a post or a notify. */
typedef struct kvpi_tcp_item {
	kvpi_list node;
	bool note;
	kvpi_transfer transfer;
	uint64_t done;  /* put: bytes gathered or framed; post: bytes read from the socket */
	uint32_t jobs;  /* device copies under way that touch its memory */
	bool canceled;  /* and goes when the last of them has ended */
	size_t len;     /* note */
	unsigned char data[];
} kvpi_tcp_item;

typedef enum kvpi_tcp_state {
	KVPI_TCP_WAITING,    /* accepting end: nobody has come */
	KVPI_TCP_CONNECTING, /* until the kernel is done */
	KVPI_TCP_GREETING,   /* until the answer has come */
	KVPI_TCP_UP,
	KVPI_TCP_FAILED, /* lost; told once no device copy is under way */
	KVPI_TCP_DEAD    /* connecting end: LOST was told */
} kvpi_tcp_state;

/* The frame that is going out. */
typedef struct kvpi_tcp_out {
	unsigned char head[KVPI_TCP_HEAD_BYTES];
	size_t head_left;
	uint64_t sent, len;  /* of the body */
	bool open;           /* the frame, or the greeting, has not gone out whole */
	kvpi_tcp_item *item; /* its note or put; NULL: the greeting, or a put that was canceled since */
	kvpi_slot *slot;     /* the body lies here; NULL: in the item's own memory */
	kvpi_list slots;     /* chunks of the first put, in order, gathered or being gathered */
	uint32_t slot_count;
} kvpi_tcp_out;

typedef enum kvpi_tcp_target {
	KVPI_TCP_TO_NOWHERE, /* nobody wants it */
	KVPI_TCP_TO_NOTE,
	KVPI_TCP_TO_MEMORY,
	KVPI_TCP_TO_SLOT
} kvpi_tcp_target;

/* The frame that is coming in. */
typedef struct kvpi_tcp_in {
	unsigned char head[KVPI_TCP_HEAD_BYTES];
	size_t head_got;
	uint64_t left; /* of the body */
	kvpi_tcp_target target;
	kvpi_tcp_item *post; /* of the body; NULL if none, or canceled since */
	bool last;
	kvpi_slot *slot;     /* being filled */
	kvpi_list slots;     /* being scattered */
	uint32_t slot_count; /* of both */
	size_t note_got;
	unsigned char note[KVPI_PLANE_NOTIFY_MAX];
} kvpi_tcp_in;

struct kvpi_conn {
	kvpi_tcp_source source;
	kvpi_list node;
	kvpi_plane *plane;
	void *user;
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	bool accepts;
	bool closed; /* hung up from inside on_event; freed when progress ends */
	kvpi_tcp_state state;
	int fd;      /* -1: none */
	int next_fd; /* accepting end: who has shown the token and waits until the one before is gone; -1 */
	bool readable, writable;
	kvp_status status; /* why it failed */
	bool loopback;     /* connecting end: the peer is on this machine */
	bool final;        /* and nobody listens there any more */
	char why[192];
	char peer[300]; /* connecting end: for sentences */
	kvpi_list puts; /* puts and notes, in order */
	kvpi_list posts;
	uint32_t put_count, post_count, note_count;
	kvpi_tcp_out out;
	kvpi_tcp_in in;
};

struct kvpi_plane {
	kvpi_plane_params params;
	kvpi_plane_caps caps;
	int epoll_fd, listen_fd, timer_fd;
	kvpi_tcp_source listener, timer; /* for epoll */
	kvpi_addr address;
	bool muted;           /* the listener waits, for a free guest or until retry_ns */
	int64_t retry_ns;     /* KVPI_NEVER: only for a guest */
	kvpi_tcp_guest guests[KVPI_TCP_GUESTS];
	unsigned guest_count;
	kvpi_list conns;
	kvpi_staging staging;
	char *scratch; /* where unwanted bytes go */
	bool in_progress;
};

/* ---- tcp.c ---- */
kvp_status kvpi_tcp_watch(kvpi_plane *plane, int fd, uint32_t events, void *source);
void kvpi_tcp_drop(kvpi_plane *plane, int fd); /* unwatches and closes, whoever else holds a copy */

/* ---- tcp_conn.c ---- */
kvp_status kvpi_tcp_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn);
kvp_status kvpi_tcp_connect(kvpi_plane *plane, const void *address, size_t len,
                            const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn);
void kvpi_tcp_hangup(kvpi_conn *conn);
void kvpi_tcp_conn_free(kvpi_conn *conn); /* hung up, and taken off the list */
kvp_status kvpi_tcp_submit(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_tcp_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_tcp_notify(kvpi_conn *conn, const void *data, size_t len);
kvp_receipt kvpi_tcp_cancel(kvpi_conn *conn, kvpi_transfer_id id);

/* A socket that has shown the connection's token; taken. */
void kvpi_tcp_hand_over(kvpi_conn *conn, int fd);

/* Does up to `share` bytes of work each way and tells what happened.  True when only the share stopped it. */
bool kvpi_tcp_step(kvpi_conn *conn, uint64_t share);
bool kvpi_tcp_busy(kvpi_conn *conn); /* would a step do something, or ask a device? */

/* The connection carries no bytes any more: closes the socket at once, LOST follows.  The first reason stays. */
void kvpi_tcp_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void kvpi_tcp_tell(const kvpi_conn *conn, kvpi_plane_event event);

/* Takes a put, note or post that nothing touches any more out of its queue. */
void kvpi_tcp_put_free(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_post_free(kvpi_conn *conn, kvpi_tcp_item *item);

/* May the transfer's memory be touched?  A failed event fails the connection. */
bool kvpi_tcp_ready(kvpi_conn *conn, const kvpi_transfer *transfer);

/* Does the layout go through bounce buffers? */
bool kvpi_tcp_staged(const kvpi_layout *layout);

/* ---- tcp_tx.c ---- */
void kvpi_tcp_tx_greet(kvpi_conn *conn, uint16_t kind);
bool kvpi_tcp_tx(kvpi_conn *conn, uint64_t budget);
void kvpi_tcp_tx_reap(kvpi_conn *conn);  /* looks which device copies have ended */
kvp_receipt kvpi_tcp_tx_cancel(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_tx_stop(kvpi_conn *conn); /* the socket is gone: gives up what is not under way on a device */

/* ---- tcp_rx.c ---- */
bool kvpi_tcp_rx(kvpi_conn *conn, uint64_t budget);
void kvpi_tcp_rx_reap(kvpi_conn *conn);
kvp_receipt kvpi_tcp_rx_cancel(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_rx_stop(kvpi_conn *conn);

#endif
