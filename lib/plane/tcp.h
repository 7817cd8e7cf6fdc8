/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the plane `tcp`:
 *	tcp.c        the plane: opening, progress, timers, the table
 *	tcp_guest.c  those who come, until they have shown that they know a token
 *	tcp_conn.c   a connection's life
 *	tcp_queue.c  its puts, notes and posts
 *	tcp_tx.c     what goes out
 *	tcp_rx.c     what comes in
 *	tcp_greet.h  the greeting, tcp_frame.h the frames: pure functions on bytes
 *
 * A connection is one lane (a socket), or several over which large transfers are spread.  The lanes come and go
 * together: what breaks one breaks the connection.  Frames stay in order on a lane only, so a notify, which always takes
 * lane 0, says how many frames went out before it on each of the others.
 *
 * Sockets are registered once, edge-triggered; `readable` and `writable` remember the edge until the kernel has
 * shown that nothing is left.  Only the endpoint's worker enters, so there are no locks.
 */
#ifndef KVPI_PLANE_TCP_H
#define KVPI_PLANE_TCP_H

#include "base/list.h"
#include "plane/plane.h"
#include "plane/staging.h"
#include "plane/tcp_frame.h"
#include "plane/tcp_greet.h"
#include "wire/addr.h"

#define KVPI_TCP_TRANSFERS 256 /* outstanding per connection and direction */
#define KVPI_TCP_NOTES 64
#define KVPI_TCP_GUESTS 8
#define KVPI_TCP_IOV 64
#define KVPI_TCP_SCRATCH (64u << 10)
#define KVPI_TCP_STRIPE (1u << 20)  /* a frame's most, where there are several lanes */
#define KVPI_TCP_COUNT_BYTES 8      /* in front of a notify, for each lane but the first */
#define KVPI_TCP_NOTE_BYTES (KVPI_PLANE_NOTIFY_MAX + KVPI_TCP_COUNT_BYTES * (KVPI_TCP_STREAMS_MAX - 1))
#define KVPI_TCP_AHEAD (KVPI_TCP_HEAD_BYTES + KVPI_PLANE_NOTIFY_MAX) /* bytes read with one call behind what was asked */

/* What an epoll event belongs to: the first member of each such thing. */
typedef enum kvpi_tcp_source {
	KVPI_TCP_SOURCE_LISTENER,
	KVPI_TCP_SOURCE_TIMER,
	KVPI_TCP_SOURCE_GUEST,
	KVPI_TCP_SOURCE_LANE
} kvpi_tcp_source;

/* Somebody who has connected and not yet shown that it knows a token. */
typedef struct kvpi_tcp_guest {
	kvpi_tcp_source source;
	int fd; /* -1: free */
	int64_t deadline_ns;
	bool answered; /* its hello was good, the confirm is awaited */
	size_t got;    /* of hello, or of confirm */
	kvpi_tcp_greeting hello, answer, confirm;
} kvpi_tcp_guest;

/* A put, a post or a notify. */
typedef struct kvpi_tcp_item {
	kvpi_list node;
	bool note;
	kvpi_transfer transfer;
	uint64_t framed;   /* put: bytes put into frames, or gathered for them; post: bytes of frames that began */
	uint64_t done;     /* post: bytes of frames that ended */
	uint64_t edges;    /* post: see kvpi_tcp_rx's begin_data */
	uint32_t frames;   /* put: that are going out */
	bool begun;        /* put, note: its last frame has begun */
	uint32_t jobs;     /* device copies under way that touch its memory */
	bool canceled;     /* and goes when the last of them has ended */
	size_t room, len;  /* note: of data; counts and what the user said */
	unsigned char data[];
} kvpi_tcp_item;

/* The frame, or the greeting, that is going out on a lane. */
typedef struct kvpi_tcp_out {
	unsigned char head[KVPI_TCP_GREETING_BYTES];
	size_t head_len, head_left;
	uint64_t start;      /* data: where the body begins in the transfer */
	uint64_t sent, len;  /* of the body */
	bool open;           /* it has not gone out whole, or nobody was told yet */
	kvpi_tcp_item *item; /* its note or put; NULL: the greeting, or a put that was canceled since */
	kvpi_slot *slot;     /* the body lies here; NULL: in the item's own memory */
	uint64_t frames;     /* data frames that began */
	/* With checksums. */
	uint64_t digested; /* of the body */
	kvpi_digest_stream digest;
	unsigned char check[KVPI_TCP_CHECK_BYTES];
	size_t check_left;
} kvpi_tcp_out;

typedef enum kvpi_tcp_target {
	KVPI_TCP_TO_NOWHERE, /* nobody wants it */
	KVPI_TCP_TO_NOTE,
	KVPI_TCP_TO_MEMORY,
	KVPI_TCP_TO_SLOT
} kvpi_tcp_target;

/* The frame, or the greeting, that is coming in on a lane. */
typedef struct kvpi_tcp_in {
	unsigned char head[KVPI_TCP_GREETING_BYTES];
	size_t head_got;
	uint64_t offset, len, left; /* of the body */
	kvpi_tcp_target target;
	kvpi_tcp_item *post; /* of the body; NULL if none, or canceled since */
	kvpi_slot *slot;     /* being filled */
	uint64_t frames;     /* data frames that ended */
	bool waits;          /* a notify is in, data before it on other lanes is not */
	/* What one read brought behind what it was for. */
	size_t ahead_at, ahead_len;
	unsigned char ahead[KVPI_TCP_AHEAD];
	/* With checksums. */
	kvpi_digest_stream digest;
	unsigned char check[KVPI_TCP_CHECK_BYTES];
	size_t check_got;
} kvpi_tcp_in;

typedef enum kvpi_tcp_lane_state {
	KVPI_TCP_LANE_NONE,
	KVPI_TCP_LANE_CONNECTING, /* until the kernel is done */
	KVPI_TCP_LANE_GREETING,   /* until the answer has come */
	KVPI_TCP_LANE_UP
} kvpi_tcp_lane_state;

typedef struct kvpi_tcp_lane {
	kvpi_tcp_source source;
	kvpi_conn *conn;
	kvpi_tcp_lane_state state;
	int fd; /* -1: none */
	bool readable, writable;
	bool ended;              /* the kernel has said that no more will come: read until that shows */
	bool eof;                /* it has shown */
	kvpi_tcp_greeting hello; /* connecting end: as it was sent */
	kvpi_tcp_out out;
	kvpi_tcp_in in;
} kvpi_tcp_lane;

typedef enum kvpi_tcp_state {
	KVPI_TCP_WAITING,  /* accepting end: nobody has come */
	KVPI_TCP_GREETING, /* connecting end: until all lanes are up */
	KVPI_TCP_UP,
	KVPI_TCP_FAILED, /* lost; told once no device copy is under way */
	KVPI_TCP_DEAD    /* connecting end: LOST was told */
} kvpi_tcp_state;

/* Accepting end: sockets that have shown the token, until they are as many as were agreed. */
typedef struct kvpi_tcp_party {
	int streams; /* 0: nobody */
	int count;
	bool checksum;
	unsigned char session[KVPI_TCP_NONCE_BYTES];
	int64_t deadline_ns;
	int fds[KVPI_TCP_STREAMS_MAX]; /* -1: not yet */
} kvpi_tcp_party;

struct kvpi_conn {
	kvpi_list node;
	kvpi_plane *plane;
	void *user;
	unsigned char token[KVPI_PLANE_TOKEN_BYTES], name[KVPI_TCP_NAME_BYTES];
	bool accepts;
	bool closed; /* hung up from inside on_event; freed when progress ends */
	kvpi_tcp_state state;
	int64_t deadline_ns; /* connecting end, while greeting; KVPI_NEVER else */
	kvpi_addr to;        /* connecting end */
	char peer[300];      /* likewise, for sentences */
	kvpi_tcp_party next; /* waits until the one before is gone */
	kvp_status status;   /* why it failed */
	bool loopback;           /* connecting end: the peer is on this machine */
	bool final;              /* and nobody listens there any more */
	char why[192];
	int streams; /* of `lanes` that are in use */
	bool checksum;
	kvpi_tcp_lane *lanes[KVPI_TCP_STREAMS_MAX]; /* made when first needed, kept until the connection goes */
	kvpi_list puts;  /* puts and notes, in order */
	kvpi_list posts;
	kvpi_list spare_transfers, spare_notes; /* items to use again: as many as were outstanding at a time */
	uint32_t put_count, post_count, note_count;
	kvpi_list out_slots;  /* chunks of the first put that has not begun its last frame: gathered or being gathered */
	kvpi_list in_slots;   /* chunks that are being scattered */
	uint32_t out_slot_count, in_slot_count; /* of all, those that lanes are filling too */
	size_t note_got;
	unsigned char note[KVPI_TCP_NOTE_BYTES]; /* the notify that is coming in, on lane 0 */
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
	int64_t due_ns; /* what the timer is set to; KVPI_NEVER: nothing */
	kvpi_list conns;
	kvpi_staging staging;
	char *scratch; /* where unwanted bytes go */
	bool in_progress;
};

/* ---- tcp.c ---- */
kvp_status kvpi_tcp_watch(kvpi_plane *plane, int fd, uint32_t events, void *source);
void kvpi_tcp_unwatch(kvpi_plane *plane, int fd);
void kvpi_tcp_drop(kvpi_plane *plane, int fd); /* unwatches and closes, whoever else holds a copy */
void kvpi_tcp_tune(int fd);                    /* the options of every data socket */
void kvpi_tcp_set_timer(kvpi_plane *plane);    /* a deadline is new */

/* ---- tcp_guest.c ---- */
void kvpi_tcp_receive_guests(kvpi_plane *plane);
void kvpi_tcp_read_guest(kvpi_plane *plane, kvpi_tcp_guest *guest);
void kvpi_tcp_check_guests(kvpi_plane *plane, int64_t now);
int64_t kvpi_tcp_guests_due(const kvpi_plane *plane); /* KVPI_NEVER: no deadline */
void kvpi_tcp_drop_guests(kvpi_plane *plane);
void kvpi_tcp_drop_party(kvpi_conn *conn); /* conn->next */

/* ---- tcp_conn.c ---- */
kvp_status kvpi_tcp_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn);
kvp_status kvpi_tcp_connect(kvpi_plane *plane, const void *address, size_t len,
                            const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn);
void kvpi_tcp_hangup(kvpi_conn *conn);
void kvpi_tcp_conn_free(kvpi_conn *conn); /* hung up, and taken off the list */

/* What is agreed and due with the lane's answer: its confirm, and the other lanes.  Connecting end. */
void kvpi_tcp_answered(kvpi_tcp_lane *lane);

/* Does up to `share` bytes of work each way and tells what happened.  True when only the share stopped it. */
bool kvpi_tcp_step(kvpi_conn *conn, uint64_t share);
bool kvpi_tcp_busy(kvpi_conn *conn); /* would a step do something, or ask a device? */

/* The connection carries no bytes any more: closes its sockets at once, LOST follows.  The first reason stays. */
void kvpi_tcp_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void kvpi_tcp_tell(const kvpi_conn *conn, kvpi_plane_event event);

/* ---- tcp_queue.c ---- */
kvp_status kvpi_tcp_submit(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_tcp_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_tcp_notify(kvpi_conn *conn, const void *data, size_t len);
kvp_receipt kvpi_tcp_cancel(kvpi_conn *conn, kvpi_transfer_id id);
kvpi_tcp_item *kvpi_tcp_find(kvpi_list *queue, kvpi_transfer_id id);

/* Takes a put, note or post that nothing touches any more out of its queue. */
void kvpi_tcp_put_free(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_post_free(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_drop_all(kvpi_conn *conn);   /* all of them, untold */
void kvpi_tcp_free_spare(kvpi_conn *conn);

/* May the transfer's memory be touched?  A failed event fails the connection. */
bool kvpi_tcp_ready(kvpi_conn *conn, const kvpi_transfer *transfer);

/* Does the layout go through bounce buffers? */
bool kvpi_tcp_staged(const kvpi_layout *layout);

/* ---- tcp_tx.c ---- */
void kvpi_tcp_tx_greet(kvpi_tcp_lane *lane, const kvpi_tcp_greeting *greeting);
bool kvpi_tcp_tx(kvpi_tcp_lane *lane, uint64_t budget);
void kvpi_tcp_tx_now(kvpi_conn *conn);   /* something small was queued: with luck it goes out at once.  Tells nothing */
kvpi_tcp_item *kvpi_tcp_tx_next(const kvpi_tcp_lane *lane); /* the item that the lane would begin; NULL: none */
bool kvpi_tcp_tx_busy(const kvpi_tcp_lane *lane); /* would kvpi_tcp_tx do something? */
void kvpi_tcp_tx_reap(kvpi_conn *conn);  /* looks which device copies have ended */
kvp_receipt kvpi_tcp_tx_cancel(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_tx_stop(kvpi_conn *conn); /* the sockets are gone: gives up what is not under way on a device */

/* ---- tcp_rx.c ---- */
bool kvpi_tcp_rx(kvpi_tcp_lane *lane, uint64_t budget);
bool kvpi_tcp_rx_busy(const kvpi_tcp_lane *lane); /* would kvpi_tcp_rx do something? */
void kvpi_tcp_rx_reap(kvpi_conn *conn);
kvp_receipt kvpi_tcp_rx_cancel(kvpi_conn *conn, kvpi_tcp_item *item);
void kvpi_tcp_rx_stop(kvpi_conn *conn);

/* Bytes in front of each notify. */
static inline size_t kvpi_tcp_counts(const kvpi_conn *conn)
{
	return KVPI_TCP_COUNT_BYTES * (size_t)(conn->streams - 1);
}

#endif
