/* SPDX-License-Identifier: Apache-2.0
 *
 * ZeroMQ.  ROUTER (bound, many peers) and DEALER (connected, one peer), single-frame
 * messages only: a message of several frames is drained and reported as KVP_E_PROTOCOL.  Never blocks,
 * except that kvpi_zctx_free may take the linger time.
 *
 * A socket belongs to one thread.  Its descriptor is edge-triggered and only says "something changed":
 * before sleeping on it, ask kvpi_zsock_ready(); after every send and recv, ask again.
 *
 * Options set on every socket, with ZeroMQ's default that would hurt: linger 200 ms (for ever), maximum
 * frame size (none), high-water marks 1000 messages kept at 256, IMMEDIATE on DEALER if asked for
 * (messages to nobody queue), ROUTER_MANDATORY (drops silently), TCP keepalive and a bound for unacknowledged data, so
 * that a dead host is noticed in about 10 s (hours; not ZeroMQ's heartbeats, see zsock.c), handshake 5 s (30 s), reconnect
 * back-off 50 ms to 2 s (fixed 100 ms), IPv6 on when the address is one, a ZAP domain (none: peers of
 * protocols older than ZMTP 3 get in).
 *
 * In a context with a cluster key every socket speaks CURVE, mutually authenticated and encrypted (zguard.h).
 */
#ifndef KVPI_WIRE_ZSOCK_H
#define KVPI_WIRE_ZSOCK_H

#include "wire/addr.h"
#include "wire/view.h"
#include <kvpipe/context.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct kvpi_zctx kvpi_zctx;
typedef struct kvpi_zsock kvpi_zsock;

/* A peer as a ROUTER names it (assigned by the ROUTER, never by the peer; new after each reconnect).  What
 * a peer with an id of its own sends is KVP_E_PROTOCOL; len is 0 if that id does not fit. */
typedef struct kvpi_zid {
	uint8_t len;
	unsigned char bytes[32];
} kvpi_zid;

kvp_status kvpi_zctx_new(int io_threads, kvpi_zctx **ctx); /* without a cluster key */
void kvpi_zctx_free(kvpi_zctx *ctx); /* all sockets must be closed; NULL is fine */

/* One with the I/O threads and the cluster key of a kvp_context, which must outlive it. */
kvp_status kvpi_zctx_new_in(kvp_context *context, kvpi_zctx **ctx);

/* The one that the kvp_context itself owns, made on first use. */
kvp_status kvpi_zctx_of(kvp_context *context, kvpi_zctx **ctx);

/* Binds where `listen` says: without a cluster key to loopback only. */
kvp_status kvpi_zsock_listen(kvpi_zctx *ctx, const kvpi_listen *listen, size_t max_frame, kvpi_zsock **sock);

/* The same with the address as text, as kvpi_listen_parse takes it. */
kvp_status kvpi_zsock_router(kvpi_zctx *ctx, const char *bind, size_t max_frame, kvpi_zsock **sock);

/* What a DEALER does while its connection is down. */
typedef enum kvpi_zdown {
	KVPI_ZDOWN_REFUSE, /* sends give KVP_E_AGAIN: nothing is said to a later server that was meant for this
	                      one.  But messages that had come and were not read yet are lost with the
	                      connection (seen: the goodbye of a peer that closed at once) */
	KVPI_ZDOWN_KEEP    /* sends queue up to the high-water mark, what had come can still be read */
} kvpi_zdown;

/* Connects in the background. */
kvp_status kvpi_zsock_dealer(kvpi_zctx *ctx, const char *url, size_t max_frame, kvpi_zdown down, kvpi_zsock **sock);
void kvpi_zsock_close(kvpi_zsock *sock); /* what was sent may still go out during linger; NULL is fine */

/* Of a DEALER in a context with a key: KVP_OK, or KVP_E_REFUSED and a sentence when the peer has another key, or none.
 * Then nothing is tried any more, until kvpi_zsock_retry.  kvpi_zsock_ready finds it out, and is true until this was
 * asked.  Without a key always KVP_OK. */
kvp_status kvpi_zsock_trouble(kvpi_zsock *sock);

/* Forgets handshakes that have failed, if any, and tries anew. */
void kvpi_zsock_retry(kvpi_zsock *sock);

/* Of a ROUTER: what peers are told, with the port chosen: "tcp://127.0.0.1:5555".  Of a DEALER: the url. */
const char *kvpi_zsock_url(const kvpi_zsock *sock);

/* `to` names the peer of a ROUTER, NULL on a DEALER.  Copies the frame.  KVP_E_AGAIN: no room or not
 * connected, nothing was sent; KVP_E_PEER_LOST: the ROUTER knows no such peer (any more). */
kvp_status kvpi_zsock_send(kvpi_zsock *sock, const kvpi_zid *to, const void *frame, size_t len);

/* The next message: *frame is borrowed until the next recv or close; *from (may be NULL) gets the
 * peer on a ROUTER.  KVP_E_AGAIN: none.  KVP_E_PROTOCOL: a message of several frames from *from, dropped. */
kvp_status kvpi_zsock_recv(kvpi_zsock *sock, kvpi_zid *from, kvpi_view *frame);

/* After KVP_E_AGAIN of a recv: true when it came amid a long message that is being dropped.  Then recv wants to be
 * called again.  False: nothing is left, and the descriptor tells of the next message, if the socket is left alone
 * until then (a send may eat the news).  A loop that receives until this is false needs no kvpi_zsock_ready, which
 * is a system call. */
bool kvpi_zsock_draining(const kvpi_zsock *sock);

int kvpi_zsock_fd(const kvpi_zsock *sock);  /* poll for POLLIN */
bool kvpi_zsock_ready(kvpi_zsock *sock);    /* a recv would give something: do not sleep */

#endif
