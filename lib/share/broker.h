/* SPDX-License-Identifier: Apache-2.0
 *
 * The unix-socket broker: processes of one host find each other, prove that they belong together, and pass descriptors
 * (memfds, eventfds, pidfds; later those of GPU memory).
 *
 * Sockets are SOCK_SEQPACKET, so that a message and its descriptors come together; one that was cut (MSG_TRUNC,
 * MSG_CTRUNC) is an error, never half believed, and its descriptors are closed.  The broker listens at a path in a private
 * run directory, which containers can share, and at an abstract name as a fallback (same network namespace):
 * KVPIPE_RUN_DIR, else XDG_RUNTIME_DIR/kvpipe, else /tmp/kvpipe-UID; made 0700, and refused if it belongs to somebody else.
 * Stale sockets of dead processes in it are removed on open.
 *
 * An address names no path: it tells which directory (device and inode) and which random name; the connecting end looks
 * into its own run directory, if it is the same one.
 *
 * Who may come.  Processes of the same user alone, as the kernel says (SO_PEERCRED): without a cluster key the token has
 * travelled in the clear, and other users of the machine must not get at memory with it.  Users that a user namespace does
 * not know all look alike (65534) and are refused, unless that is who we are.
 *
 * Proof.  Both ends know a secret token from the control session; it never travels here.  Packets, each begins with "kvpB",
 * a version (1), a kind and two 0:
 *
 *	1 connecting: name[16], nonce[16]             name = MAC(token, "kvpipe broker name")
 *	2 accepting:  nonce[16], mac[32], own pidfd   mac = MAC(token, "kvpipe broker accepts" | its nonce | own nonce)
 *	3 connecting: mac[32], own pidfd              mac = MAC(token, "kvpipe broker connects" | own nonce | its nonce)
 *
 * MAC is keyed BLAKE2b-256, the name its first half; the name's text has a final 0, the others are filled with 0 to 32
 * bytes.  They differ, so that neither can be thrown back, and both nonces are in them, so that nothing can be said twice.  Where the kernel itself names the peer's process (SO_PEERPIDFD, Linux
 * 6.5) that counts, and not the pidfd that was sent.  Guests that have proven nothing are few (8) and timed (5 s); more
 * wait in the kernel's queue.  A guest whose token is not expected yet waits its time.
 *
 * Everything here is one thread's and does not block.
 */
#ifndef KVPI_SHARE_BROKER_H
#define KVPI_SHARE_BROKER_H

#include "base/clock.h"
#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KVPI_BROKER_TOKEN_BYTES 16
#define KVPI_BROKER_ADDRESS_MAX 512
#define KVPI_CHANNEL_MESSAGE_MAX 4096
#define KVPI_CHANNEL_FDS_MAX 8

typedef struct kvpi_broker kvpi_broker;   /* a listening end with its expectations */
typedef struct kvpi_channel kvpi_channel; /* one connection; proven once KVPI_CHANNEL_UP */

typedef enum kvpi_channel_state {
	KVPI_CHANNEL_WAITING, /* accepting end: nobody has come; connecting end: on its way */
	KVPI_CHANNEL_UP,      /* both have proven that they know the token */
	KVPI_CHANNEL_LOST     /* closed by the peer, refused, or broken; kvpi_channel_why tells */
} kvpi_channel_state;

/* What of the run directory a peer must share to come by path; in the host facts of a plane. */
typedef struct kvpi_broker_facts {
	uint64_t dir_dev, dir_ino; /* 0, 0: no usable directory here */
	uint64_t net_ns;           /* for the abstract name; 0 unknown */
} kvpi_broker_facts;

void kvpi_broker_facts_read(kvpi_broker_facts *facts); /* any thread */

/* Listens.  epoll_fd: a set of the caller's into which the broker and its channels put their descriptors (all with
 * data.ptr = NULL: after any event the caller calls kvpi_broker_step).  KVP_E_SYSTEM with what was tried. */
kvp_status kvpi_broker_open(int epoll_fd, const kvpi_clock *clock, kvpi_broker **broker);
void kvpi_broker_close(kvpi_broker *broker); /* its channels must be closed; removes the socket file; NULL is fine */

/* What a peer needs to connect: at most KVPI_BROKER_ADDRESS_MAX bytes, the broker's own format. */
void kvpi_broker_address(const kvpi_broker *broker, void *out, size_t *len);

/* Accepting end: expects one peer that knows the token.  KVP_E_CONFLICT, KVP_E_NOMEM. */
kvp_status kvpi_broker_expect(kvpi_broker *broker, const unsigned char token[KVPI_BROKER_TOKEN_BYTES],
                              kvpi_channel **channel);
/* Connecting end: by path, else by abstract name.  LOST after 5 s without a proof; kvpi_broker_step has the timer.  KVP_E_INVALID (an address that makes no sense), KVP_E_UNSUPPORTED
 * (neither way leads there: the sentence says what the two do not share), KVP_E_SYSTEM. */
kvp_status kvpi_broker_connect(kvpi_broker *broker, const void *address, size_t len,
                               const unsigned char token[KVPI_BROKER_TOKEN_BYTES], kvpi_channel **channel);
void kvpi_channel_close(kvpi_channel *channel); /* at once; NULL is fine */

/* Accepts, proves, times out: after any event in the set, and at the time that it returned last (KVPI_NEVER: none).  Costs
 * system calls.  Channels are UP or LOST afterwards; messages of those that are UP are for kvpi_channel_recv. */
int64_t kvpi_broker_step(kvpi_broker *broker, int64_t now);

kvpi_channel_state kvpi_channel_state_of(const kvpi_channel *channel);
const char *kvpi_channel_why(const kvpi_channel *channel); /* of LOST */

/* The peer's process, once UP: its pid in our namespace (0: not visible from here), and its pidfd, which it sent with
 * its proof and which becomes readable when, and only when, the process is gone.  Borrowed; -1: the kernel has none. */
pid_t kvpi_channel_pid(const kvpi_channel *channel);
int kvpi_channel_pidfd(const kvpi_channel *channel);
bool kvpi_channel_peer_gone(const kvpi_channel *channel); /* polls the pidfd */

/* One message of 1..KVPI_CHANNEL_MESSAGE_MAX bytes with up to KVPI_CHANNEL_FDS_MAX descriptors (borrowed).  KVP_E_AGAIN: the
 * socket is full, and an event follows when it is not (no sentence); KVP_E_PEER_LOST: LOST now, or WAITING;
 * KVP_E_INVALID; KVP_E_SYSTEM: LOST now. */
kvp_status kvpi_channel_send(kvpi_channel *channel, const void *data, size_t len, const int *fds, size_t count);

/* The next message, into data[KVPI_CHANNEL_MESSAGE_MAX]; fds are the caller's to close.  KVP_E_AGAIN: none (no sentence).
 * After all else the channel is LOST: KVP_E_PROTOCOL: cut, or more descriptors than KVPI_CHANNEL_FDS_MAX; KVP_E_SYSTEM:
 * this process has no room for more descriptors; KVP_E_PEER_LOST. */
kvp_status kvpi_channel_recv(kvpi_channel *channel, void *data, size_t *len, int fds[KVPI_CHANNEL_FDS_MAX],
                             size_t *count);

#endif
