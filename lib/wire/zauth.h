/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread "kvp-auth" of a ZeroMQ context that has a cluster key.  It does three things, none of which can wait for
 * the threads that own the sockets, since these may be busy or idle for hours:
 *
 * - it answers ZeroMQ's authentication requests (ZAP): may this client key come in?
 * - it drains the monitors of the connecting sockets: a monitor that nobody reads blocks ZeroMQ's I/O thread;
 * - once a second, and at each of the above, it looks whether the key file has changed.
 *
 * What it finds out it tells the socket's owner through a wake-up.  It sleeps in epoll_wait, holds its lock while it
 * works, and never blocks in ZeroMQ.
 */
#ifndef KVPI_WIRE_ZAUTH_H
#define KVPI_WIRE_ZAUTH_H

#include "base/keyfile.h"
#include "base/list.h"
#include "base/wakeup.h"
#include "wire/auth.h"
#include "wire/view.h"
#include <stdatomic.h>

/* Naming a domain is what makes libzmq ask at all, and refuse peers that speak ZMTP 1 or 2 even where nobody answers:
 * an engine of theirs aborts the process (process_routing_id_msg) when its socket is closed at the moment in which
 * their first frame comes in. */
#define KVPI_ZAP_DOMAIN "kvpipe"

typedef struct kvpi_zauth kvpi_zauth;

/* What the thread knows of one socket. */
typedef struct kvpi_zwatch {
	kvpi_list node;      /* this and the next three: the thread's lock */
	void *pair;          /* end of the monitor; NULL: not monitored */
	kvpi_wakeup *news;   /* the owner's; NULL: it has left */
	int64_t connected_ns; /* when the last handshake began */
	atomic_uint failures; /* handshakes that the peer cut off since the last good one */
	atomic_bool mismatch; /* the peer has no cluster key at all */
	atomic_bool fresh;    /* there is something that the owner has not looked at */
} kvpi_zwatch;

/* `zmq` has no bound socket yet.  Borrows both until stopped. */
kvp_status kvpi_zauth_start(void *zmq, kvpi_keyring *ring, kvpi_zauth **auth);

/* All sockets must be closed; takes what is left of their linger time.  NULL is fine. */
void kvpi_zauth_stop(kvpi_zauth *auth);

kvpi_keyring *kvpi_zauth_keyring(const kvpi_zauth *auth);

/* Any thread.  News of the socket go to `news`, borrowed until left.  `monitored`: of its handshakes too, else of
 * changes of the keys only.  Before the socket connects. */
kvp_status kvpi_zauth_watch(kvpi_zauth *auth, void *socket, bool monitored, kvpi_wakeup *news, kvpi_zwatch **watch);

/* The owner, right before it closes the socket: `watch` must not be used any more.  NULL is fine. */
void kvpi_zauth_leave(kvpi_zauth *auth, kvpi_zwatch *watch);

/* The pairs of a cluster key. */
void kvpi_zauth_server_pair(const unsigned char key[KVPI_KEY_BYTES], kvpi_pair *pair);
void kvpi_zauth_client_pair(const unsigned char key[KVPI_KEY_BYTES], kvpi_pair *pair);

#define KVPI_ZAP_FRAMES 7

/* Whether a ZAP request, its frames without the delimiter, lets a client in: all must be as libzmq 4 writes them, and
 * the client's key one of clients[count]. */
bool kvpi_zap_allows(const kvpi_view *frames, size_t frame_count, const unsigned char (*clients)[32], int count);

#endif
