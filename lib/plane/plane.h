/* SPDX-License-Identifier: Apache-2.0
 *
 * A data plane is one table.  A new plane is one file with one table, and one line in registry.c and
 * plane.am; the conformance suite, the pipe and the tools pick it up from the registry.
 *
 * A plane carries bytes between two endpoints and knows nothing of tensors, requests or stores.  It is driven by one
 * thread, the endpoint's worker: every function here is called from that thread alone, none blocks, and
 * everything that happened is told through on_event, only from inside progress().
 *
 * Two-sided planes (tcp, self, nccl): the receiver posts a destination under a transfer id, then the sender
 * submits a put under the same id.  The protocol above guarantees that order (credits only against posted
 * destinations), so a plane never has to hold bytes for which there is no place: data without a post is
 * dropped, and means that the post was canceled.
 * One-sided planes (shm, p2p): the sender writes (put) or the receiver reads (get) the peer's memory under a
 * grant; post_recv is then the owner's side of the grant.
 */
#ifndef KVPI_PLANE_PLANE_H
#define KVPI_PLANE_PLANE_H

#include "base/clock.h"
#include "base/hostid.h"
#include "device/device.h"
#include "device/layout.h"
#include "wire/addr.h"
#include <kvpipe/context.h>
#include <kvpipe/pipe.h>
#include <kvpipe/status.h>

#define KVPI_PLANE_ADDRESS_MAX 1024
#define KVPI_PLANE_TOKEN_BYTES 16
#define KVPI_PLANE_NOTIFY_MAX 9216
#define KVPI_PLANE_NAME_MAX 32

typedef struct kvpi_plane kvpi_plane;   /* one opened plane of one endpoint; each plane's own struct */
typedef struct kvpi_conn kvpi_conn;     /* one connection to one peer; likewise */
typedef struct kvpi_region kvpi_region; /* registered memory; likewise */

/* What both ends know of each other when they choose. */
typedef struct kvpi_facts {
	kvpi_hostid host;
	unsigned char process[16]; /* random per context: equal means the same process */
} kvpi_facts;

/* What an opened plane can do; the conformance suite holds it to this. */
typedef struct kvpi_plane_caps {
	unsigned memories;      /* bit 1u << kvp_memory for each kind it can read from and write to */
	bool one_sided_put, one_sided_get;
	bool survives_reconnect; /* after LOST a new connect under the same token continues the connection */
	uint32_t max_transfers; /* outstanding per connection and direction; more: KVP_E_AGAIN */
	size_t notify_max;      /* bytes; 0: no notify */
} kvpi_plane_caps;

typedef enum kvpi_event_kind {
	KVPI_PLANE_CONNECTED, /* conn: both ends have shown the token; text: how the bytes go, where there is a choice, or
	                         NULL */
	KVPI_PLANE_LOST,      /* conn, status, text: no bytes flow any more; no SENT or RECEIVED follows for what was
	                         outstanding, and its memory here is not touched any more.  The accepting end's conn
	                         stays and may see CONNECTED again; the connecting end hangs up and connects anew */
	KVPI_PLANE_SENT,      /* conn, id: a put's source memory was read for the last time */
	KVPI_PLANE_RECEIVED,  /* conn, id: all bytes of a posted destination are in place.  In the order of submitting, but
	                         with several streams in any */
	KVPI_PLANE_NOTIFIED   /* conn, data, len (borrowed): a notify, after all data submitted before it */
} kvpi_event_kind;

/* Names a transfer on a connection, the same at both ends.  A transfer that must be begun again gets the next
 * attempt, so that late bytes of an old one are recognised and dropped. */
typedef struct kvpi_transfer_id {
	uint64_t seq;
	uint32_t attempt;
} kvpi_transfer_id;

typedef struct kvpi_plane_event {
	kvpi_event_kind kind;
	void *conn_user; /* as handed to accept or connect */
	kvpi_transfer_id id;
	kvp_status status;
	const char *text; /* borrowed */
	bool final;       /* LOST: proven that the peer will not come back: its process has ended, or on this machine nobody
	                     listens any more where it did */
	const void *data;
	size_t len;
} kvpi_plane_event;

typedef struct kvpi_plane_params {
	kvp_context *context;  /* held by the endpoint longer than the plane */
	kvpi_listen listen;    /* where to listen, and what address() tells; loopback, or with a key anything */
	int streams;           /* parallel connections per direction, where the plane has such; 1..16, 0 = 1 */
	bool checksum;         /* carry a digest of every payload (wire/digest.h) and check it, where bytes cross a wire */
	uint64_t staging_bytes; /* bound of bounce buffers for memory that the plane cannot reach directly */
	const kvpi_clock *clock; /* for what waits for a time; outlives the plane; NULL: the real one */
	void (*on_event)(void *user, const kvpi_plane_event *event);
	void (*wake)(void *user); /* any thread: makes the worker call progress() soon */
	void *user;
} kvpi_plane_params;

typedef enum kvpi_direction { KVPI_PUT, KVPI_GET } kvpi_direction;

/* One transfer, one call, whatever the number of blocks. */
typedef struct kvpi_transfer {
	kvpi_transfer_id id;
	kvpi_direction direction;
	kvpi_layout local;          /* copied; ids are borrowed until SENT/RECEIVED or cancel's receipt */
	const kvpi_layout *remote;  /* one-sided planes: the peer's layout, base relative to `region`; else NULL */
	const kvpi_region *region;  /* one-sided planes: attached memory of the peer; else NULL */
	kvpi_event *after;          /* local memory is ready when this is reached; NULL: now.  Borrowed likewise */
	uint64_t *signal;           /* one-sided planes: device word at the peer, written with signal_value after the last
	                               byte; NULL: none */
	uint64_t signal_value;
	uint32_t grant;             /* one-sided planes: slot that allows it */
} kvpi_transfer;

typedef struct kvpi_plane_ops {
	size_t size; /* sizeof, first */
	const char *name;
	int preference; /* higher is tried first */

	/* May the two ends use this plane?  Pure, any thread: decides on facts alone.  KVP_OK or KVP_E_UNSUPPORTED; in
	 * both cases why[] (0-ended) says why in a few words: "same process", "the peer is another process". */
	kvp_status (*judge)(const kvpi_facts *mine, const kvpi_facts *theirs, char *why, size_t why_len);

	/* Opens for one endpoint (listening, if it listens).  KVP_E_SYSTEM, KVP_E_NOMEM, KVP_E_UNSUPPORTED (this
	 * machine cannot), KVP_E_INVALID (bind_host, staging_bytes).  What is wrapped opens through spec.h only. */
	kvp_status (*open)(const kvpi_plane_params *params, kvpi_plane **plane, kvpi_plane_caps *caps);
	/* Hangs up everything.  Afterwards no memory of any transfer is touched by this end. */
	void (*close)(kvpi_plane *plane);

	/* Where a peer connects to; the plane's own format, at most KVPI_PLANE_ADDRESS_MAX bytes. */
	kvp_status (*address)(kvpi_plane *plane, void *out, size_t *len);

	/* The accepting end expects a peer that shows `token`; the connecting end shows it.  Both return at once with the
	 * connection; CONNECTED or LOST follows.  A second connect under the token of a living connection takes its
	 * place: the accepting end sees LOST, then CONNECTED.  accept: KVP_E_CONFLICT (the token is expected already).
	 * connect: KVP_E_INVALID or KVP_E_UNSUPPORTED for an address that makes no sense here; it comes from the peer. */
	kvp_status (*accept)(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
	                     kvpi_conn **conn);
	kvp_status (*connect)(kvpi_plane *plane, const void *address, size_t len,
	                      const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn);
	/* Ends it at once and frees it.  Afterwards this end touches no memory of its transfers; no event of it follows.
	 * Copies under way on a device are waited for, a bounded time: who must not wait cancels first.  May be called
	 * from inside on_event, also for the event's own connection; close may not. */
	void (*hangup)(kvpi_conn *conn);

	/* Memory that one-sided planes need to know beforehand; others accept and ignore it.  Slow: not on the worker
	 * (the exception to the rule above).  export_region fills what the peer needs to attach. */
	kvp_status (*register_memory)(kvpi_plane *plane, void *base, uint64_t bytes, kvp_memory memory, int device,
	                              kvpi_region **region);
	void (*unregister_memory)(kvpi_plane *plane, kvpi_region *region);
	kvp_status (*export_region)(kvpi_region *region, void *out, size_t *len, int *fd);
	kvp_status (*attach)(kvpi_conn *conn, const void *exported, size_t len, int fd, kvpi_region **region);
	void (*detach)(kvpi_conn *conn, kvpi_region *region);

	/* Begins a transfer whose memory is here.  KVP_E_AGAIN: too many outstanding, nothing was taken;
	 * KVP_E_PEER_LOST: not connected; KVP_E_UNSUPPORTED: memory kind or direction. */
	kvp_status (*submit)(kvpi_conn *conn, const kvpi_transfer *transfer);

	/* Two-sided planes: the destination of the put that the peer will submit under this id.  Same codes; allowed before
	 * CONNECTED.  After LOST the posts that had not been RECEIVED are gone. */
	kvp_status (*post_recv)(kvpi_conn *conn, const kvpi_transfer *transfer);

	/* A small message to the peer, delivered after all data submitted before it.  KVP_E_AGAIN, KVP_E_PEER_LOST,
	 * KVP_E_TOO_LARGE. */
	kvp_status (*notify)(kvpi_conn *conn, const void *data, size_t len);

	/* Ends a submitted or posted transfer, if it has not ended (both, if this end has one of each under this id).
	 * QUIESCENT: its memory is not touched any more.  QUARANTINED: a device copy that was queued here is under way
	 * and cannot be revoked; asked again after a later progress, cancel says QUIESCENT once it has ended.  Either way
	 * no event of the transfer follows.  It may cost the connection (LOST follows at the next progress) when bytes
	 * are half-way out. */
	kvp_receipt (*cancel)(kvpi_conn *conn, kvpi_transfer_id id);

	/* Moves up to about `budget` bytes and reports events.  Returns true when there may be more to do at once. */
	bool (*progress)(kvpi_plane *plane, uint64_t budget);

	/* Before sleeping: true = may sleep, *fd (poll for POLLIN; -1: none, `wake` tells) wakes it; false = busy, call
	 * progress: also while a device event is awaited, which nothing but asking shows. */
	bool (*arm)(kvpi_plane *plane, int *fd);
} kvpi_plane_ops;

/* All planes of this build, best first; NULL-ended. */
const kvpi_plane_ops *const *kvpi_plane_registry(void);
const kvpi_plane_ops *kvpi_plane_find(const char *name, size_t len); /* NULL if there is none */

/* Typed answers for slots that a plane does not have, so that nobody tests for NULL. */
kvp_status kvpi_plane_no_register(kvpi_plane *plane, void *base, uint64_t bytes, kvp_memory memory, int device,
                                  kvpi_region **region); /* KVP_OK and a region of nothing */
void kvpi_plane_no_unregister(kvpi_plane *plane, kvpi_region *region);
kvp_status kvpi_plane_no_export(kvpi_region *region, void *out, size_t *len, int *fd); /* KVP_E_UNSUPPORTED */
kvp_status kvpi_plane_no_attach(kvpi_conn *conn, const void *exported, size_t len, int fd, kvpi_region **region);
void kvpi_plane_no_detach(kvpi_conn *conn, kvpi_region *region);

#endif
