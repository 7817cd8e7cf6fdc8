/* SPDX-License-Identifier: Apache-2.0
 *
 * Guests: who has connected and not yet shown that it knows a token.  They are few and timed.  One that has shown it is
 * put to the party of its connection, until that has as many sockets as were agreed.
 */
#include "plane/tcp.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING_NS (5 * KVPI_NS_PER_S)
/* After the process or the machine had no descriptor left for a peer. */
#define RETRY_NS (100 * KVPI_NS_PER_MS)

static void mute(kvpi_plane *plane, bool muted, int64_t retry_ns)
{
	struct epoll_event event = {.events = muted ? 0 : EPOLLIN, .data.ptr = &plane->listener};

	plane->retry_ns = retry_ns;
	if (plane->muted == muted)
		return;
	plane->muted = muted;
	epoll_ctl(plane->epoll_fd, EPOLL_CTL_MOD, plane->listen_fd, &event);
}

/* ---- the party of a connection ---- */

void kvpi_tcp_drop_party(kvpi_conn *conn)
{
	for (int i = 0; i < conn->next.streams; i++) {
		if (conn->next.fds[i] >= 0)
			kvpi_tcp_drop(conn->plane, conn->next.fds[i]);
	}
	conn->next.streams = conn->next.count = 0;
}

/* Is it the socket of a stream that the party waits for? */
static bool awaited(const kvpi_conn *conn, const kvpi_tcp_greeting *hello)
{
	const kvpi_tcp_party *party = &conn->next;

	return hello->stream < party->streams && party->fds[hello->stream] < 0 && hello->streams == party->streams &&
	       memcmp(hello->session, party->session, sizeof(party->session)) == 0;
}

static void join(kvpi_conn *conn, const kvpi_tcp_guest *guest, int64_t now)
{
	kvpi_tcp_party *party = &conn->next;

	if (guest->hello.stream == 0) {
		/* Of several that come before the worker looks, the last is the one that the peer still knows. */
		kvpi_tcp_drop_party(conn);
		party->streams = guest->answer.streams;
		party->checksum = (guest->answer.flags & KVPI_TCP_CHECKSUM) != 0;
		memcpy(party->session, guest->answer.first, sizeof(party->session));
		party->deadline_ns = now + GREETING_NS;
		for (int i = 0; i < party->streams; i++)
			party->fds[i] = -1;
	}
	party->fds[guest->hello.stream] = guest->fd;
	party->count++;
}

/* ---- one guest ---- */

/* Frees the place; what becomes of the socket is the caller's business. */
static void release_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	guest->fd = -1;
	plane->guest_count--;
	mute(plane, false, KVPI_NEVER);
	kvpi_tcp_set_timer(plane);
}

static void turn_away(kvpi_plane *plane, kvpi_tcp_guest *guest, const char *why)
{
	KVPI_LOG(INFO, "plane", "a tcp data connection was turned away: %s", why);
	kvpi_tcp_drop(plane, guest->fd);
	release_guest(plane, guest);
}

static kvpi_conn *expected(kvpi_plane *plane, const kvpi_tcp_greeting *hello)
{
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		kvpi_conn *conn = KVPI_CONTAINER_OF(pos, kvpi_conn, node);

		if (conn->accepts && !conn->closed && kvpi_secret_equal(conn->name, hello->first, sizeof(conn->name)))
			return hello->stream == 0 || awaited(conn, hello) ? conn : NULL;
	}
	return NULL;
}

static void answer_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	const int limit = plane->params.streams < 1 ? 1 : plane->params.streams;
	const bool wanted = (guest->hello.flags & KVPI_TCP_CHECKSUM) != 0;
	int streams = guest->hello.streams;
	kvpi_conn *conn;

	if (!kvpi_tcp_hello_right(&guest->hello)) {
		turn_away(plane, guest, "its greeting is not of this protocol");
		return;
	}
	conn = expected(plane, &guest->hello);
	if (conn == NULL) {
		turn_away(plane, guest, "nobody expects it");
		return;
	}
	if (guest->hello.stream == 0 && streams > limit)
		streams = limit;
	kvpi_tcp_answer_make(conn->token, &guest->hello, streams,
	    guest->hello.stream == 0 ? wanted || plane->params.checksum : conn->next.checksum, &guest->answer);
	/* A socket that takes less than its first 64 bytes is not one to wait for. */
	if (send(guest->fd, &guest->answer, sizeof(guest->answer), MSG_DONTWAIT | MSG_NOSIGNAL) !=
	    (ssize_t)sizeof(guest->answer)) {
		turn_away(plane, guest, "it does not take its answer");
		return;
	}
	guest->answered = true;
	guest->got = 0;
}

static void admit_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	/* The connection may have gone meanwhile, or have another party. */
	kvpi_conn *conn = expected(plane, &guest->hello);

	if (conn == NULL || !kvpi_tcp_confirm_right(conn->token, &guest->hello, &guest->answer, &guest->confirm)) {
		turn_away(plane, guest, conn == NULL ? "nobody expects it any more" : "it does not know the token");
		return;
	}
	kvpi_tcp_unwatch(plane, guest->fd);
	join(conn, guest, kvpi_now(&kvpi_clock_real));
	release_guest(plane, guest);
}

/* Says our version to a peer of another one, which knows this much of ours; then it goes. */
static void refuse_version(kvpi_plane *plane, kvpi_tcp_guest *guest, unsigned version)
{
	kvpi_tcp_greeting answer = {.magic = htole32(KVPI_TCP_MAGIC),
	    .version = htole16(KVPI_TCP_VERSION),
	    .kind = htole16(KVPI_TCP_ANSWER)};

	(void)!send(guest->fd, &answer, KVPI_TCP_PREFIX_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
	KVPI_LOG(WARN, "plane", "a peer speaks version %u of the tcp data connection, this end version %d", version,
	    KVPI_TCP_VERSION);
	turn_away(plane, guest, "it speaks another version");
}

void kvpi_tcp_read_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	unsigned char *into = (unsigned char *)(guest->answered ? &guest->confirm : &guest->hello);
	unsigned version;
	/* No byte behind the greeting is taken: it belongs to the connection. */
	const ssize_t n = recv(guest->fd, into + guest->got, KVPI_TCP_GREETING_BYTES - guest->got, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		turn_away(plane, guest, n == 0 ? "it closed before it had greeted" : strerror(errno));
		return;
	}
	guest->got += (size_t)n;
	if (!guest->answered && guest->got >= KVPI_TCP_PREFIX_BYTES &&
	    kvpi_tcp_prefix_check(&guest->hello, KVPI_TCP_HELLO, &version) != KVP_OK) {
		if (version != KVPI_TCP_VERSION && le32toh(guest->hello.magic) == KVPI_TCP_MAGIC)
			refuse_version(plane, guest, version);
		else
			turn_away(plane, guest, "its greeting is not of this protocol");
		return;
	}
	if (guest->got < KVPI_TCP_GREETING_BYTES)
		return;
	if (guest->answered)
		admit_guest(plane, guest);
	else
		answer_guest(plane, guest);
}

/* ---- all of them ---- */

static void receive_guest(kvpi_plane *plane, int fd)
{
	kvpi_tcp_guest *guest = plane->guests;

	while (guest->fd >= 0) /* there is a free one */
		guest++;
	if (kvpi_tcp_watch(plane, fd, EPOLLIN | EPOLLRDHUP, guest) != KVP_OK) {
		KVPI_LOG(WARN, "plane", "%s", kvp_last_error());
		close(fd);
		return;
	}
	kvpi_tcp_tune(fd);
	guest->fd = fd;
	guest->got = 0;
	guest->answered = false;
	guest->deadline_ns = kvpi_now(&kvpi_clock_real) + GREETING_NS;
	if (++plane->guest_count == KVPI_TCP_GUESTS)
		mute(plane, true, KVPI_NEVER);
	kvpi_tcp_set_timer(plane);
}

void kvpi_tcp_receive_guests(kvpi_plane *plane)
{
	while (plane->guest_count < KVPI_TCP_GUESTS) {
		const int fd = accept4(plane->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0 && kvpi_fault("tcp.accept")) {
			close(fd);
			continue;
		}
		if (fd >= 0) {
			receive_guest(plane, fd);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			KVPI_LOG(WARN, "plane", "cannot accept a tcp data connection: %m");
			mute(plane, true, kvpi_now(&kvpi_clock_real) + RETRY_NS);
			kvpi_tcp_set_timer(plane);
			return;
		}
		/* Any other error is that of a connection which is gone already. */
	}
}

void kvpi_tcp_check_guests(kvpi_plane *plane, int64_t now)
{
	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		kvpi_tcp_guest *guest = &plane->guests[i];

		if (guest->fd >= 0 && (now >= guest->deadline_ns || kvpi_fault("tcp.greeting.late")))
			turn_away(plane, guest, "it did not greet in time");
	}
	if (now >= plane->retry_ns)
		mute(plane, false, KVPI_NEVER);
}

int64_t kvpi_tcp_guests_due(const kvpi_plane *plane)
{
	int64_t at = plane->retry_ns;

	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		if (plane->guests[i].fd >= 0 && plane->guests[i].deadline_ns < at)
			at = plane->guests[i].deadline_ns;
	}
	return at;
}

void kvpi_tcp_drop_guests(kvpi_plane *plane)
{
	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		if (plane->guests[i].fd >= 0)
			kvpi_tcp_drop(plane, plane->guests[i].fd);
	}
}
