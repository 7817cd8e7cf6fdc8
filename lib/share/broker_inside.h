/* SPDX-License-Identifier: Apache-2.0
 *
 * Between broker.c (listening, connecting, proving) and channel.c (packets and what a connection is).
 */
#ifndef KVPI_SHARE_BROKER_INSIDE_H
#define KVPI_SHARE_BROKER_INSIDE_H

#include "base/list.h"
#include "share/broker.h"
#include "share/proof.h"
#include "share/rundir.h"

struct kvpi_channel {
	kvpi_list node; /* of the broker's */
	kvpi_broker *broker;
	kvpi_channel_state state;
	bool accepting;
	unsigned char token[KVPI_BROKER_TOKEN_BYTES];
	unsigned char name[KVPI_PROOF_NAME_BYTES];
	int fd;      /* -1: nobody has come, or LOST */
	int pidfd;   /* of the peer; -1: none */
	pid_t pid;   /* of the peer, 0: not visible */
	bool wants_room; /* a send found the socket full: EPOLLOUT is asked for */
	char why[256];
	/* connecting end, until UP */
	struct sockaddr_un address;
	socklen_t address_len;
	bool connected;
	int64_t deadline, retry;
	unsigned char nonce[KVPI_PROOF_NONCE_BYTES];
};

/* Ends what is there of the connection, keeping pidfd: a later question for the peer's death can be answered. */
void kvpi_channel_lose(kvpi_channel *channel, const char *why);

/* A socket that was full and has room has woken us; it need not do so again. */
void kvpi_channel_look_for_room(kvpi_channel *channel);

/* Takes a descriptor out of the set and closes it. */
void kvpi_broker_unwatch(kvpi_broker *broker, int fd);
void kvpi_broker_watch_room(kvpi_broker *broker, int fd, bool room); /* EPOLLIN, and EPOLLOUT or not */

/* One packet.  KVP_OK, KVP_E_AGAIN (no sentence), KVP_E_PEER_LOST, KVP_E_SYSTEM. */
kvp_status kvpi_packet_send(int fd, const void *data, size_t len, const int *fds, size_t count);

/* One packet into data[capacity]; as kvpi_channel_recv. */
kvp_status kvpi_packet_recv(
    int fd, void *data, size_t capacity, size_t *len, int fds[KVPI_CHANNEL_FDS_MAX], size_t *count);

/* The process at the other end: KVP_OK if it runs as our user.  *pidfd: owned, from the kernel itself (Linux 6.5), or
 * -1. */
kvp_status kvpi_packet_peer(int fd, pid_t *pid, int *pidfd);

#endif
