/* SPDX-License-Identifier: Apache-2.0
 *
 * ZeroMQ, met in one file.  ROUTER (bound, many peers) and DEALER (connected, one peer), single-frame
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
 */
#ifndef KVPI_WIRE_ZSOCK_H
#define KVPI_WIRE_ZSOCK_H

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

kvp_status kvpi_zctx_new(int io_threads, kvpi_zctx **ctx);
void kvpi_zctx_free(kvpi_zctx *ctx); /* all sockets must be closed; NULL is fine */

/* The ZeroMQ context of a kvp_context, made on first use and owned by it. */
kvp_status kvpi_zctx_of(kvp_context *context, kvpi_zctx **ctx);

/* Binds; `bind` as kvpi_addr_parse takes it, loopback only (kvpi_addr_check_bind). */
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

/* Of a ROUTER: the address bound, with the port chosen: "tcp://127.0.0.1:5555".  Of a DEALER: the url. */
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
