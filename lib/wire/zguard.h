/* SPDX-License-Identifier: Apache-2.0
 *
 * The cluster key at one ZeroMQ socket: CURVE with the pairs made of the key, and what there is to do when keys change
 * or do not fit.  Belongs to the socket's owner, one thread.
 *
 * A bound socket can prove one key only, and a client has to know which one to expect.  So the bound socket uses the
 * first key of the file and lets in clients of both; a client tries the first key, server and own pair, and after a
 * failed handshake the other one.  When the first key of the file is another one than the socket was bound with, it
 * is bound again: connections break and are made anew.
 *
 * A wrong key shows itself only as handshakes that fail, one after the other, for ever.  After
 * KVPI_ZGUARD_HANDSHAKES for each key the client stops trying and says so.
 */
#ifndef KVPI_WIRE_ZGUARD_H
#define KVPI_WIRE_ZGUARD_H

#include "wire/zauth.h"

#define KVPI_ZGUARD_HANDSHAKES 3
#define KVPI_ZGUARD_OVERHEAD 64 /* bytes that CURVE adds to a frame, at most */

typedef struct kvpi_zguard kvpi_zguard;

/* Sets the options of a socket that is not yet bound (server) or connected.  Borrows the socket. */
kvp_status kvpi_zguard_new(kvpi_zauth *auth, void *socket, bool server, kvpi_zguard **guard);

/* Right before the socket is closed.  NULL is fine. */
void kvpi_zguard_free(kvpi_zguard *guard);

/* What zmq_bind or zmq_connect was given, or has chosen: with this it is done again. */
void kvpi_zguard_at(kvpi_zguard *guard, const char *endpoint);

/* Readable when the socket has something or kvpi_zguard_look has something to do. */
int kvpi_zguard_fd(const kvpi_zguard *guard);

/* Does what is to be done; an atomic load when that is nothing.  True when there is trouble that nobody was told of. */
bool kvpi_zguard_look(kvpi_zguard *guard);

/* KVP_OK, or KVP_E_REFUSED with the sentence, about the peer at `url`: nothing is tried any more. */
kvp_status kvpi_zguard_trouble(kvpi_zguard *guard, const char *url);

/* Begins to try again, if handshakes have failed. */
void kvpi_zguard_retry(kvpi_zguard *guard);

#endif
