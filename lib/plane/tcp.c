/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `tcp`: a listener, the greetings of those who come, and the loop over the connections.  Nothing
 * blocks; one epoll set per opened plane is all that the worker has to watch.
 */
#include "plane/tcp.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "plane/planes.h"
#include "wire/auth.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BACKLOG 128
#define GREETING_NS (5 * KVPI_NS_PER_S)
/* After the process or the machine had no descriptor left for a peer. */
#define RETRY_NS (100 * KVPI_NS_PER_MS)
#define EVENTS 32

kvp_status kvpi_tcp_watch(kvpi_plane *plane, int fd, uint32_t events, void *source)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (epoll_ctl(plane->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return kvpi_error_errno("cannot watch a socket");
	return KVP_OK;
}

void kvpi_tcp_drop(kvpi_plane *plane, int fd)
{
	/* Not left to close: after a fork the child has copies, which keep the socket open and in the set. */
	epoll_ctl(plane->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

static kvpi_conn *conn_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_conn, node);
}

static kvp_status tcp_judge(const kvpi_facts *mine, const kvpi_facts *theirs, char *why, size_t why_len)
{
	(void)mine;
	(void)theirs;
	snprintf(why, why_len, "sockets reach every peer");
	return KVP_OK;
}

/* ---- opening ---- */

static kvp_status open_descriptors(kvpi_plane *plane)
{
	kvpi_keys keys;
	const bool has_key = kvpi_context_keys(plane->params.context, &keys);
	kvp_status status;

	kvpi_keys_wipe(&keys);
	plane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (plane->epoll_fd < 0)
		return kvpi_error_errno("cannot make an epoll set");
	plane->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (plane->timer_fd < 0)
		return kvpi_error_errno("cannot make a timer");
	status = kvpi_tcp_watch(plane, plane->timer_fd, EPOLLIN, &plane->timer);
	if (status != KVP_OK)
		return status;
	status = kvpi_listen_tcp(&plane->params.listen, has_key, BACKLOG, &plane->listen_fd, &plane->address);
	return status != KVP_OK ? status : kvpi_tcp_watch(plane, plane->listen_fd, EPOLLIN, &plane->listener);
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void plane_free(kvpi_plane *plane)
{
	close_fd(plane->listen_fd);
	close_fd(plane->timer_fd);
	close_fd(plane->epoll_fd);
	free(plane->scratch);
	free(plane);
}

static kvp_status tcp_open(const kvpi_plane_params *params, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	kvpi_plane *made = KVPI_NEW(kvpi_plane);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("the data plane tcp");
	made->params = *params;
	made->epoll_fd = made->listen_fd = made->timer_fd = -1;
	made->listener = KVPI_TCP_SOURCE_LISTENER;
	made->timer = KVPI_TCP_SOURCE_TIMER;
	made->retry_ns = KVPI_NEVER;
	kvpi_list_init(&made->conns);
	for (int i = 0; i < KVPI_TCP_GUESTS; i++)
		made->guests[i] = (kvpi_tcp_guest){.source = KVPI_TCP_SOURCE_GUEST, .fd = -1};
	made->caps = (kvpi_plane_caps){
	    .memories = kvpi_streams_memories(),
	    .survives_reconnect = true,
	    .max_transfers = KVPI_TCP_TRANSFERS,
	    .notify_max = KVPI_PLANE_NOTIFY_MAX,
	};
	made->scratch = kvpi_malloc(KVPI_TCP_SCRATCH);
	if (made->scratch == NULL) {
		status = kvpi_error_nomem("the data plane tcp");
		goto err_free;
	}
	status = open_descriptors(made);
	if (status != KVP_OK)
		goto err_free;
	status = kvpi_staging_init(&made->staging, params->staging_bytes);
	if (status != KVP_OK)
		goto err_free;
	*plane = made;
	*caps = made->caps;
	return KVP_OK;

err_free:
	plane_free(made);
	return status;
}

static void tcp_close(kvpi_plane *plane)
{
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		kvpi_tcp_hangup(conn_of(pos));
	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		if (plane->guests[i].fd >= 0)
			kvpi_tcp_drop(plane, plane->guests[i].fd);
	}
	kvpi_staging_fini(&plane->staging);
	plane_free(plane);
}

static kvp_status tcp_address(kvpi_plane *plane, void *out, size_t *len)
{
	const kvpi_addr *addr = &plane->address;
	const bool ipv6 = strchr(addr->host, ':') != NULL;
	char text[300];

	*len = (size_t)snprintf(
	    text, sizeof(text), "%s%s%s:%u", ipv6 ? "[" : "", addr->host, ipv6 ? "]" : "", (unsigned)addr->port);
	memcpy(out, text, *len);
	return KVP_OK;
}

/* ---- guests: who has connected and not yet shown a token ---- */

static void mute(kvpi_plane *plane, bool muted, int64_t retry_ns)
{
	struct epoll_event event = {.events = muted ? 0 : EPOLLIN, .data.ptr = &plane->listener};

	plane->retry_ns = retry_ns;
	if (plane->muted == muted)
		return;
	plane->muted = muted;
	epoll_ctl(plane->epoll_fd, EPOLL_CTL_MOD, plane->listen_fd, &event);
}

/* Sets the timer to when the first greeting is overdue, or accepting is to be tried again. */
static void set_timer(kvpi_plane *plane)
{
	struct itimerspec spec = {.it_value = {0, 0}};
	int64_t at = plane->retry_ns;

	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		if (plane->guests[i].fd >= 0 && plane->guests[i].deadline_ns < at)
			at = plane->guests[i].deadline_ns;
	}
	if (at != KVPI_NEVER) {
		spec.it_value.tv_sec = (time_t)(at / KVPI_NS_PER_S);
		spec.it_value.tv_nsec = (long)(at % KVPI_NS_PER_S);
	}
	timerfd_settime(plane->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Frees the place; what becomes of the socket is the caller's business. */
static void release_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	guest->fd = -1;
	plane->guest_count--;
	mute(plane, false, KVPI_NEVER);
	set_timer(plane);
}

static void turn_away(kvpi_plane *plane, kvpi_tcp_guest *guest, const char *why)
{
	KVPI_LOG(INFO, "plane", "a tcp data connection was turned away: %s", why);
	kvpi_tcp_drop(plane, guest->fd);
	release_guest(plane, guest);
}

static void greet_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];

	if (!kvpi_tcp_hello_read(guest->hello, KVPI_TCP_HELLO, token)) {
		turn_away(plane, guest, "its greeting is not of this protocol");
		return;
	}
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		kvpi_conn *conn = conn_of(pos);

		if (!conn->accepts || conn->closed || !kvpi_secret_equal(conn->token, token, sizeof(token)))
			continue;
		epoll_ctl(plane->epoll_fd, EPOLL_CTL_DEL, guest->fd, NULL);
		kvpi_tcp_hand_over(conn, guest->fd);
		release_guest(plane, guest);
		return;
	}
	turn_away(plane, guest, "nobody expects its token");
}

static void read_guest(kvpi_plane *plane, kvpi_tcp_guest *guest)
{
	/* No byte behind the greeting is taken: it belongs to the connection. */
	const ssize_t n = recv(guest->fd, guest->hello + guest->got, sizeof(guest->hello) - guest->got, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		turn_away(plane, guest, n == 0 ? "it closed before it had greeted" : strerror(errno));
		return;
	}
	guest->got += (size_t)n;
	if (guest->got == sizeof(guest->hello))
		greet_guest(plane, guest);
}

static void receive_guest(kvpi_plane *plane, int fd)
{
	const int on = 1;
	kvpi_tcp_guest *guest = plane->guests;

	while (guest->fd >= 0) /* there is a free one */
		guest++;
	if (kvpi_tcp_watch(plane, fd, EPOLLIN | EPOLLRDHUP, guest) != KVP_OK) {
		KVPI_LOG(WARN, "plane", "%s", kvp_last_error());
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	guest->fd = fd;
	guest->got = 0;
	guest->deadline_ns = kvpi_now(&kvpi_clock_real) + GREETING_NS;
	if (++plane->guest_count == KVPI_TCP_GUESTS)
		mute(plane, true, KVPI_NEVER);
	set_timer(plane);
}

static void receive_guests(kvpi_plane *plane)
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
			set_timer(plane);
			return;
		}
		/* Any other error is that of a connection which is gone already. */
	}
}

static void check_time(kvpi_plane *plane)
{
	int64_t now;

	if (plane->guest_count == 0 && plane->retry_ns == KVPI_NEVER)
		return;
	now = kvpi_now(&kvpi_clock_real);
	for (int i = 0; i < KVPI_TCP_GUESTS; i++) {
		kvpi_tcp_guest *guest = &plane->guests[i];

		if (guest->fd >= 0 && (now >= guest->deadline_ns || kvpi_fault("tcp.greeting.late")))
			turn_away(plane, guest, "it did not greet in time");
	}
	if (now >= plane->retry_ns) {
		mute(plane, false, KVPI_NEVER);
		set_timer(plane);
	}
}

/* ---- the loop ---- */

static void take_events(kvpi_plane *plane)
{
	struct epoll_event events[EVENTS];
	const int count = epoll_wait(plane->epoll_fd, events, EVENTS, 0);
	uint64_t expirations;

	for (int i = 0; i < count; i++) {
		kvpi_tcp_source *source = events[i].data.ptr;
		const uint32_t what = events[i].events;

		switch (*source) {
		case KVPI_TCP_SOURCE_LISTENER:
			receive_guests(plane);
			break;
		case KVPI_TCP_SOURCE_TIMER:
			if (read(plane->timer_fd, &expirations, sizeof(expirations)) > 0)
				set_timer(plane);
			break;
		case KVPI_TCP_SOURCE_GUEST:
			if (((kvpi_tcp_guest *)source)->fd >= 0)
				read_guest(plane, (kvpi_tcp_guest *)source);
			break;
		case KVPI_TCP_SOURCE_CONN:
			/* Only remembered here: nothing that is told may pull a connection from under this loop. */
			if (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
				((kvpi_conn *)source)->readable = true;
			if (what & (EPOLLOUT | EPOLLHUP | EPOLLERR))
				((kvpi_conn *)source)->writable = true;
			break;
		}
	}
}

static bool tcp_progress(kvpi_plane *plane, uint64_t budget)
{
	uint64_t share = budget, count = 0;
	bool more = false;

	take_events(plane);
	check_time(plane);
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		count++;
	if (count > 1)
		share = budget / count + 1;
	plane->in_progress = true;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (kvpi_tcp_step(conn_of(pos), share))
			more = true;
	}
	plane->in_progress = false;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (conn_of(pos)->closed)
			kvpi_tcp_conn_free(conn_of(pos));
	}
	return more;
}

static bool tcp_arm(kvpi_plane *plane, int *fd)
{
	*fd = plane->epoll_fd;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (kvpi_tcp_busy(conn_of(pos)))
			return false;
	}
	return true;
}

const kvpi_plane_ops kvpi_plane_tcp = {
    .size = sizeof(kvpi_plane_tcp),
    .name = "tcp",
    .preference = 10,
    .judge = tcp_judge,
    .open = tcp_open,
    .close = tcp_close,
    .address = tcp_address,
    .accept = kvpi_tcp_accept,
    .connect = kvpi_tcp_connect,
    .hangup = kvpi_tcp_hangup,
    .register_memory = kvpi_plane_no_register,
    .unregister_memory = kvpi_plane_no_unregister,
    .export_region = kvpi_plane_no_export,
    .attach = kvpi_plane_no_attach,
    .detach = kvpi_plane_no_detach,
    .submit = kvpi_tcp_submit,
    .post_recv = kvpi_tcp_post_recv,
    .notify = kvpi_tcp_notify,
    .cancel = kvpi_tcp_cancel,
    .progress = tcp_progress,
    .arm = tcp_arm,
};
