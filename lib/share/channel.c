/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection: packets with descriptors, and who is at the other end.
 */
#include "share/broker_inside.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define CONTROL_BYTES CMSG_SPACE(KVPI_CHANNEL_FDS_MAX * sizeof(int))

/* ---- packets ---- */

kvp_status kvpi_packet_send(int fd, const void *data, size_t len, const int *fds, size_t count)
{
	_Alignas(struct cmsghdr) unsigned char control[CONTROL_BYTES] = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t sent;

	if (count > 0) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	}
	if (kvpi_fault("broker.send")) {
		errno = ECONNRESET;
		sent = -1;
	} else {
		do
			sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		while (sent < 0 && errno == EINTR);
	}
	if (sent >= 0)
		return KVP_OK; /* packets go whole or not at all */
	if (errno == EAGAIN)
		return KVP_E_AGAIN;
	if (errno == EPIPE || errno == ECONNRESET)
		return kvpi_error(KVP_E_PEER_LOST, "the peer's end of the unix socket is closed");
	/* ETOOMANYREFS: descriptors on their way are counted against the limit, too. */
	return kvpi_error_errno("cannot send %zu bytes and %zu descriptors through a unix socket", len, count);
}

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

/* Collects what came; the kernel never gives more than the control buffer holds. */
static size_t take_fds(struct msghdr *message, int fds[KVPI_CHANNEL_FDS_MAX])
{
	size_t count = 0;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
			if (count < KVPI_CHANNEL_FDS_MAX)
				fds[count++] = fd;
			else
				close(fd);
		}
	}
	return count;
}

kvp_status kvpi_packet_recv(
    int fd, void *data, size_t capacity, size_t *len, int fds[KVPI_CHANNEL_FDS_MAX], size_t *count)
{
	_Alignas(struct cmsghdr) unsigned char control[CONTROL_BYTES];
	struct iovec part = {.iov_base = data, .iov_len = capacity};
	struct msghdr message = {
	    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t received;
	size_t got;

	if (kvpi_fault("broker.recv")) {
		errno = ECONNRESET;
		received = -1;
	} else {
		do
			received = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		while (received < 0 && errno == EINTR);
	}
	if (received < 0) {
		if (errno == EAGAIN)
			return KVP_E_AGAIN;
		if (errno == ECONNRESET || errno == EPIPE)
			return kvpi_error(KVP_E_PEER_LOST, "the peer has closed its end of the unix socket");
		return kvpi_error_errno("cannot read a unix socket");
	}
	got = take_fds(&message, fds);
	if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
		close_all(fds, got);
		if ((message.msg_flags & MSG_TRUNC) != 0)
			return kvpi_error(KVP_E_PROTOCOL, "the peer sent a packet of more than %zu bytes", capacity);
		/* The kernel says the same of a full table of descriptors here; then fewer than fit have come. */
		if (got < KVPI_CHANNEL_FDS_MAX)
			return kvpi_error(KVP_E_SYSTEM,
			    "the peer's descriptors cannot be received: this process has too many open (ulimit -n)");
		return kvpi_error(KVP_E_PROTOCOL, "the peer sent more than %d descriptors at once", KVPI_CHANNEL_FDS_MAX);
	}
	if (received == 0) { /* the end, as nobody sends empty packets */
		close_all(fds, got);
		return kvpi_error(KVP_E_PEER_LOST, "the peer has closed its end of the unix socket");
	}
	*len = (size_t)received;
	*count = got;
	return KVP_OK;
}

kvp_status kvpi_packet_peer(int fd, pid_t *pid, int *pidfd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int from_kernel = -1;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
		return kvpi_error_errno("cannot see who is at the other end of a unix socket");
	if (kvpi_fault("broker.uid"))
		peer.uid = geteuid() + 1;
	if (peer.uid != geteuid())
		return kvpi_error(KVP_E_UNSUPPORTED,
		    "the process at the other end of the unix socket runs as user %lu, and this one as %lu",
		    (unsigned long)peer.uid, (unsigned long)geteuid());
	len = sizeof(from_kernel);
	if (kvpi_fault("broker.peerpidfd") || getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &from_kernel, &len) != 0)
		from_kernel = -1;
	*pid = peer.pid;
	*pidfd = from_kernel;
	return KVP_OK;
}

/* ---- the channel ---- */

void kvpi_channel_lose(kvpi_channel *channel, const char *why)
{
	if (channel->state == KVPI_CHANNEL_LOST)
		return;
	channel->state = KVPI_CHANNEL_LOST;
	snprintf(channel->why, sizeof(channel->why), "%s", why);
	kvpi_broker_unwatch(channel->broker, channel->fd);
	channel->fd = -1;
}

void kvpi_channel_look_for_room(kvpi_channel *channel)
{
	struct pollfd p = {.fd = channel->fd, .events = POLLOUT};

	if (!channel->wants_room || channel->state != KVPI_CHANNEL_UP || poll(&p, 1, 0) != 1)
		return;
	channel->wants_room = false;
	kvpi_broker_watch_room(channel->broker, channel->fd, false);
}

kvpi_channel_state kvpi_channel_state_of(const kvpi_channel *channel)
{
	return channel->state;
}

const char *kvpi_channel_why(const kvpi_channel *channel)
{
	return channel->why;
}

pid_t kvpi_channel_pid(const kvpi_channel *channel)
{
	return channel->pid;
}

int kvpi_channel_pidfd(const kvpi_channel *channel)
{
	return channel->pidfd;
}

bool kvpi_channel_peer_gone(const kvpi_channel *channel)
{
	struct pollfd p = {.fd = channel->pidfd, .events = POLLIN};

	return channel->pidfd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

static kvp_status not_up(const kvpi_channel *channel)
{
	if (channel->state == KVPI_CHANNEL_LOST)
		return kvpi_error(KVP_E_PEER_LOST, "%s", channel->why);
	return kvpi_error(KVP_E_PEER_LOST, "the peer has not come yet");
}

kvp_status kvpi_channel_send(kvpi_channel *channel, const void *data, size_t len, const int *fds, size_t count)
{
	kvp_status status;

	if (len == 0 || len > KVPI_CHANNEL_MESSAGE_MAX || count > KVPI_CHANNEL_FDS_MAX)
		return kvpi_error(KVP_E_INVALID,
		    "a message of %zu bytes with %zu descriptors; it may have 1 to %d and at most %d", len, count,
		    KVPI_CHANNEL_MESSAGE_MAX, KVPI_CHANNEL_FDS_MAX);
	if (channel->state != KVPI_CHANNEL_UP)
		return not_up(channel);
	status = kvpi_packet_send(channel->fd, data, len, fds, count);
	if ((status == KVP_E_AGAIN) != channel->wants_room && (status == KVP_E_AGAIN || status == KVP_OK)) {
		channel->wants_room = status == KVP_E_AGAIN;
		kvpi_broker_watch_room(channel->broker, channel->fd, channel->wants_room);
	}
	if (status != KVP_OK && status != KVP_E_AGAIN)
		kvpi_channel_lose(channel, kvp_last_error());
	return status;
}

kvp_status kvpi_channel_recv(
    kvpi_channel *channel, void *data, size_t *len, int fds[KVPI_CHANNEL_FDS_MAX], size_t *count)
{
	kvp_status status;

	if (channel->state != KVPI_CHANNEL_UP)
		return channel->state == KVPI_CHANNEL_WAITING ? KVP_E_AGAIN : not_up(channel);
	status = kvpi_packet_recv(channel->fd, data, KVPI_CHANNEL_MESSAGE_MAX, len, fds, count);
	if (status != KVP_OK && status != KVP_E_AGAIN)
		kvpi_channel_lose(channel, kvp_last_error());
	return status;
}
