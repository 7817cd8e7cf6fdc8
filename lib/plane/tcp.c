/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `tcp`: opening it, its deadlines, and the loop over its connections.  Nothing
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
/* Signs of a dead host.  A peer that is only slow to read has longer: it may be stalled in a device call. */
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_INTERVAL_S 2
#define KEEPALIVE_COUNT 3
#define UNACKNOWLEDGED_MS 30000
#define EVENTS 32

kvp_status kvpi_tcp_watch(kvpi_plane *plane, int fd, uint32_t events, void *source)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (epoll_ctl(plane->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return kvpi_error_errno("cannot watch a socket");
	return KVP_OK;
}

void kvpi_tcp_unwatch(kvpi_plane *plane, int fd)
{
	epoll_ctl(plane->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void kvpi_tcp_tune(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
	    {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
	    {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT},
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS},
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
}

void kvpi_tcp_drop(kvpi_plane *plane, int fd)
{
	/* Not left to close: after a fork the child has copies, which keep the socket open and in the set. */
	kvpi_tcp_unwatch(plane, fd);
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
	kvp_status status = kvpi_auth_init();
	kvpi_plane *made;

	if (status != KVP_OK)
		return status;
	if (params->streams < 0 || params->streams > KVPI_TCP_STREAMS_MAX)
		return kvpi_error(KVP_E_INVALID, "%d streams: the data plane tcp has 1 to %d", params->streams,
		    KVPI_TCP_STREAMS_MAX);
	made = KVPI_NEW(kvpi_plane);
	if (made == NULL)
		return kvpi_error_nomem("the data plane tcp");
	made->params = *params;
	made->epoll_fd = made->listen_fd = made->timer_fd = -1;
	made->listener = KVPI_TCP_SOURCE_LISTENER;
	made->timer = KVPI_TCP_SOURCE_TIMER;
	made->retry_ns = made->due_ns = KVPI_NEVER;
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
	kvpi_tcp_drop_guests(plane);
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

/* ---- time ---- */

void kvpi_tcp_set_timer(kvpi_plane *plane)
{
	struct itimerspec spec = {.it_value = {0, 0}};
	int64_t at = kvpi_tcp_guests_due(plane);

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		const kvpi_conn *conn = conn_of(pos);

		at = conn->deadline_ns < at ? conn->deadline_ns : at;
		if (conn->next.streams > 0 && conn->next.deadline_ns < at)
			at = conn->next.deadline_ns;
	}
	plane->due_ns = at;
	if (at != KVPI_NEVER) {
		spec.it_value.tv_sec = (time_t)(at / KVPI_NS_PER_S);
		spec.it_value.tv_nsec = (long)(at % KVPI_NS_PER_S);
	}
	timerfd_settime(plane->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void check_time(kvpi_plane *plane)
{
	int64_t now;

	if (plane->due_ns == KVPI_NEVER)
		return;
	now = kvpi_now(&kvpi_clock_real);
	kvpi_tcp_check_guests(plane, now);
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		kvpi_conn *conn = conn_of(pos);

		if (conn->deadline_ns != KVPI_NEVER && (now >= conn->deadline_ns || kvpi_fault("tcp.connect.late")))
			kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "%s does not greet back", conn->peer);
		if (conn->next.streams > 0 && conn->next.count < conn->next.streams &&
		    (now >= conn->next.deadline_ns || kvpi_fault("tcp.party.late")))
			kvpi_tcp_drop_party(conn);
	}
	if (now >= plane->due_ns)
		kvpi_tcp_set_timer(plane);
}

/* ---- the loop ---- */

/* Only remembered here: nothing that is told may pull a connection from under this loop. */
static void note_edge(kvpi_tcp_lane *lane, uint32_t what)
{
	const uint32_t end = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

	if (what & end)
		lane->ended = true;
	if (what & (EPOLLIN | end))
		lane->readable = true;
	if (what & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		lane->writable = true;
}

static void take_events(kvpi_plane *plane)
{
	struct epoll_event events[EVENTS];
	const int count = epoll_wait(plane->epoll_fd, events, EVENTS, 0);
	uint64_t expirations;

	for (int i = 0; i < count; i++) {
		kvpi_tcp_source *source = events[i].data.ptr;

		switch (*source) {
		case KVPI_TCP_SOURCE_LISTENER:
			kvpi_tcp_receive_guests(plane);
			break;
		case KVPI_TCP_SOURCE_TIMER:
			/* check_time does what is due, and sets it anew. */
			(void)!read(plane->timer_fd, &expirations, sizeof(expirations));
			break;
		case KVPI_TCP_SOURCE_GUEST:
			if (((kvpi_tcp_guest *)source)->fd >= 0)
				kvpi_tcp_read_guest(plane, (kvpi_tcp_guest *)source);
			break;
		case KVPI_TCP_SOURCE_LANE:
			note_edge((kvpi_tcp_lane *)source, events[i].events);
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
