/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the plane `shm`: two endpoints of one host.  What they say to each other is in shm_msg.h.  In these files:
 *	shm.c       the plane: judgement, opening, progress, sleeping, the table
 *	shm_conn.c  a connection's life: meeting, its queues, cancel, loss
 *	shm_peer.c  the channel and the page: set-up, the peer's memories, its process
 *	shm_tx.c    what goes out
 *	shm_rx.c    what comes in: the receiver copies
 *	shm_msg.c   layouts in messages
 *
 * Only the endpoint's worker enters, so there are no locks; the peer's worker is met in the pages alone.
 *
 * No system call is made while both ends are awake: the sockets are looked at after a sleep, while a connection is being
 * made, and else once in KVPI_SHM_LOOK rounds.
 */
#ifndef KVPI_PLANE_SHM_H
#define KVPI_PLANE_SHM_H

#include "base/list.h"
#include "plane/plane.h"
#include "plane/shm_msg.h"
#include "plane/staging.h"
#include "share/broker.h"
#include "share/ring.h"
#include <sys/types.h>

#define KVPI_SHM_TRANSFERS KVPI_GRANTS /* outstanding per connection and direction */
#define KVPI_SHM_NOTES 64              /* that wait for a put before them */
#define KVPI_SHM_PIECE (1u << 20)      /* bytes between two looks for a recall */
#define KVPI_SHM_CHUNKS 4              /* of one sender's staging memory */
#define KVPI_SHM_CHUNK_MAX (256u << 10)
#define KVPI_SHM_MEMORIES 64           /* announced at a time */
#define KVPI_SHM_LOOK 32

typedef struct kvpi_shm_page {
	kvpi_grant_slot grants[KVPI_GRANTS];
	_Alignas(64) _Atomic uint32_t waiting;
	_Atomic uint32_t left;
	_Alignas(64) _Atomic uint64_t taken;
	kvpi_ring_shared ring; /* the last member: its data follow */
} kvpi_shm_page;

/* A put, a post or a notify. */
typedef struct kvpi_shm_item {
	kvpi_list node;
	bool note;
	kvpi_transfer transfer;
	kvpi_shm_way way;  /* put, once it is chosen; 0: not yet */
	kvpi_grant grant;  /* put, offered: MAPPED, REMOTE */
	bool offered;      /* it is in `offered` or `recalled` */
	kvpi_mem *memory;  /* put, MAPPED: held */
	bool begun;        /* put, STAGED: the peer was told */
	uint64_t done;     /* put, STAGED: bytes gathered; post: bytes copied */
	uint32_t jobs;     /* device copies under way that touch its memory */
	bool canceled;     /* and goes when the last of them, or the peer, is done */
	size_t len;        /* note */
	unsigned char data[];
} kvpi_shm_item;

/* Memory of this process that the peer was told of. */
typedef struct kvpi_shm_announced {
	bool used;
	unsigned char id[KVPI_MEM_ID_BYTES];
	void *base;
	uint64_t bytes;
} kvpi_shm_announced;

/* The sender's staging memory, made when it is first needed.  Chunks are numbered for ever; number n lies in slot
 * n % KVPI_SHM_CHUNKS, and taken <= told <= filled <= taken + KVPI_SHM_CHUNKS. */
typedef struct kvpi_shm_stage {
	int fd; /* -1: none */
	char *base;
	uint64_t bytes, chunk_bytes;
	unsigned char id[KVPI_MEM_ID_BYTES];
	bool told_memory; /* the peer has its descriptor */
	uint64_t filled, told, taken;
	kvpi_slot slots[KVPI_SHM_CHUNKS];
} kvpi_shm_stage;

/* The message that is being worked on. */
typedef struct kvpi_shm_in {
	kvpi_shm_put put; /* kind 0: none */
	kvpi_shm_item *post; /* NULL: nobody wants it, or not any more */
	kvpi_layout source;  /* MAPPED, REMOTE */
	const char *dense;   /* INLINE, and the present chunk of STAGED: its bytes; NULL: the next chunk is awaited */
	uint64_t dense_at, dense_len; /* of the transfer */
	uint64_t done;
	bool claimed, copied;
	bool canceled; /* there may be canceled posts with copies under way */
	kvpi_list slots; /* bounce buffers that are being scattered */
	uint32_t slot_count;
	_Alignas(8) unsigned char message[KVPI_SHM_MESSAGE_MAX];
} kvpi_shm_in;

typedef enum kvpi_shm_state {
	KVPI_SHM_WAITING, /* until the channel is up */
	KVPI_SHM_MEETING, /* until both have said SETUP and ABLE */
	KVPI_SHM_UP,
	KVPI_SHM_FAILED, /* lost; told once no device copy is under way */
	KVPI_SHM_DEAD    /* connecting end: LOST was told */
} kvpi_shm_state;

struct kvpi_conn {
	kvpi_list node;
	kvpi_plane *plane;
	void *user;
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	bool accepts;
	bool closed; /* hung up from inside on_event; freed when progress ends */
	kvpi_shm_state state;
	kvp_status status; /* why it failed */
	char why[192];
	kvpi_channel *channel; /* NULL: none */
	kvpi_channel *next;    /* accepting end, while up: who comes now takes the place */

	/* The peer. */
	pid_t pid;    /* 0: not visible from here */
	bool reads;   /* we can read its memory */
	bool able;    /* it can read ours */
	bool heard_setup, heard_able;
	bool watched; /* its pidfd is in the plane's set */
	unsigned char witness[16]; /* what the peer reads to find that out; random */
	kvpi_imports *imports;
	kvpi_shm_announced announced[KVPI_SHM_MEMORIES];
	uint64_t announced_bytes;

	/* Pages: `mine` with my ring and the grants of my puts, `theirs`. */
	kvpi_shm_page *mine, *theirs;
	int page_fd; /* of mine */
	kvpi_ring out_ring, in_ring;
	kvpi_grants grants;

	kvpi_list puts;    /* puts and notes, in order, not (or not whole) in the ring */
	kvpi_list offered; /* puts in the ring whose memory the peer may read */
	kvpi_list recalled; /* canceled ones that it may be reading still */
	kvpi_list sent;    /* puts that have ended, to be told */
	kvpi_list posts;
	uint32_t put_count, post_count, note_count;
	kvpi_shm_stage stage;
	kvpi_shm_in in;
	uint64_t chunks_taken;
	bool import_failed;  /* there was no room here for a memory of the peer's */
	bool gone;           /* the channel has ended; what is in the ring is still taken */
	int64_t gone_ns;     /* since when */
	bool final;          /* it was lost since the peer's process has ended */
	bool took, finished; /* something of the ring, a grant: the peer may wait for that */
	unsigned forget_next;
	uint64_t by_way[KVPI_SHM_STAGED + 1]; /* bytes received */
};

struct kvpi_plane {
	kvpi_plane_params params;
	kvpi_plane_caps caps;
	int epoll_fd, timer_fd;
	kvpi_broker *broker;
	int64_t timer_ns; /* what the timer is set to; KVPI_NEVER */
	kvpi_list conns;
	kvpi_staging staging;
	kvpi_list spare; /* items to be used again */
	uint32_t spare_count;
	unsigned rounds;  /* since the sockets were looked at */
	bool slept, in_progress;
	unsigned char dense[KVPI_SHM_INLINE_MAX]; /* a small strided tensor on its way into a message */
};

/* ---- shm_conn.c ---- */
kvp_status kvpi_shm_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn);
kvp_status kvpi_shm_connect(kvpi_plane *plane, const void *address, size_t len,
                            const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn);
void kvpi_shm_hangup(kvpi_conn *conn);
void kvpi_shm_conn_free(kvpi_conn *conn); /* hung up */
kvp_status kvpi_shm_submit(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_shm_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_shm_notify(kvpi_conn *conn, const void *data, size_t len);
kvp_receipt kvpi_shm_cancel(kvpi_conn *conn, kvpi_transfer_id id);

/* Does up to `share` bytes of work each way and tells what happened.  True when only the share stopped it. */
bool kvpi_shm_step(kvpi_conn *conn, uint64_t share, bool sockets);
bool kvpi_shm_settled(const kvpi_conn *conn); /* nothing happens to it but through the ring, for now */
bool kvpi_shm_sleep(kvpi_conn *conn);         /* true: the peer knows that it has to wake us */

/* The connection carries no bytes any more: recalls everything, LOST follows.  The first reason stays. */
void kvpi_shm_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void kvpi_shm_tell(const kvpi_conn *conn, kvpi_plane_event event);

/* Takes an item that nothing touches any more out of its queue. */
void kvpi_shm_put_free(kvpi_conn *conn, kvpi_shm_item *item);
void kvpi_shm_post_free(kvpi_conn *conn, kvpi_shm_item *item);

/* May the transfer's memory be touched?  A failed event fails the connection. */
bool kvpi_shm_ready(kvpi_conn *conn, const kvpi_transfer *transfer);

/* ---- shm_peer.c ---- */
kvp_status kvpi_shm_page_new(kvpi_conn *conn);
void kvpi_shm_page_free(kvpi_conn *conn); /* the peer's too */
void kvpi_shm_meet(kvpi_conn *conn);      /* says SETUP */
void kvpi_shm_listen(kvpi_conn *conn);    /* takes what has come over the channel */
void kvpi_shm_watch_death(kvpi_conn *conn, bool on); /* wakes us when the peer's process ends */
void kvpi_shm_ring_bell(kvpi_conn *conn);

/* What of the peer's memory [base, base + extent) is here; NULL: not announced, or out of its range. */
const char *kvpi_shm_import(kvpi_conn *conn, const unsigned char id[KVPI_MEM_ID_BYTES], uint64_t base, uint64_t extent);

/* Tells the peer of a memory, unless it knows.  KVP_E_AGAIN: the channel is full; KVP_E_TOO_LARGE: no room for it. */
kvp_status kvpi_shm_announce(kvpi_conn *conn, const kvpi_mem *memory);
void kvpi_shm_forget_freed(kvpi_conn *conn); /* takes back what does not exist any more */
kvp_status kvpi_shm_send(kvpi_conn *conn, const kvpi_shm_word *word, int fd); /* fd -1: none */

/* One process_vm_readv of the peer.  Bytes, or -1 with errno. */
ssize_t kvpi_shm_read_peer(const kvpi_conn *conn, const struct iovec *to, size_t to_count, const struct iovec *from,
                           size_t from_count);

/* ---- shm_tx.c ---- */
bool kvpi_shm_tx(kvpi_conn *conn, uint64_t budget);
bool kvpi_shm_tx_waits(const kvpi_conn *conn); /* has something to say, and nothing to do but wait for the peer? */
void kvpi_shm_tx_tell(kvpi_conn *conn);        /* SENT for all that is */
void kvpi_shm_tx_reap(kvpi_conn *conn);
kvp_receipt kvpi_shm_tx_cancel(kvpi_conn *conn, kvpi_shm_item *item);
void kvpi_shm_tx_stop(kvpi_conn *conn);
bool kvpi_shm_tx_quiet(const kvpi_conn *conn); /* no device copy is under way */
void kvpi_shm_tx_settle(kvpi_conn *conn);      /* waits for them, a bounded time, and frees the staging memory */

/* ---- shm_rx.c ---- */
bool kvpi_shm_rx(kvpi_conn *conn, uint64_t budget);
void kvpi_shm_rx_reap(kvpi_conn *conn);
kvp_receipt kvpi_shm_rx_cancel(kvpi_conn *conn, kvpi_shm_item *item);
void kvpi_shm_rx_stop(kvpi_conn *conn);
void kvpi_shm_answer(kvpi_conn *conn); /* wakes the peer if it waits for what was done */

#endif
