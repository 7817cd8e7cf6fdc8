/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection's life: waiting or connecting, up, failed, told.
 */
#include "plane/tcp.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LANE_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

/* How long the connecting end waits until it is connected; more than the other end gives us. */
#define CONNECT_NS (10 * KVPI_NS_PER_S)

void kvpi_tcp_tell(const kvpi_conn *conn, kvpi_plane_event event)
{
	const kvpi_plane_params *params = &conn->plane->params;

	event.conn_user = conn->user;
	params->on_event(params->user, &event);
}

/* Not failed, nor waiting: there are sockets. */
static bool flows(const kvpi_conn *conn)
{
	return !conn->closed && (conn->state == KVPI_TCP_UP || conn->state == KVPI_TCP_GREETING);
}

/* No bytes flow any more. */
static void stop(kvpi_conn *conn)
{
	for (int i = 0; i < conn->streams; i++) {
		kvpi_tcp_lane *lane = conn->lanes[i];

		if (lane->fd >= 0)
			kvpi_tcp_drop(conn->plane, lane->fd);
		lane->fd = -1;
		lane->state = KVPI_TCP_LANE_NONE;
		lane->readable = lane->writable = lane->ended = lane->eof = false;
	}
	conn->state = KVPI_TCP_FAILED;
	conn->deadline_ns = KVPI_NEVER;
	kvpi_tcp_tx_stop(conn);
	kvpi_tcp_rx_stop(conn);
}

void kvpi_tcp_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...)
{
	va_list args;

	if (!flows(conn))
		return;
	conn->status = status;
	va_start(args, fmt);
	vsnprintf(conn->why, sizeof(conn->why), fmt, args);
	va_end(args);
	KVPI_LOG(INFO, "plane", "a tcp data connection is lost: %s", conn->why);
	stop(conn);
}

/* ---- making one ---- */

/* Makes sure that there are so many lanes, the new ones without a socket.  False: no memory. */
static bool lanes_make(kvpi_conn *conn, int count)
{
	for (int i = 0; i < count; i++) {
		if (conn->lanes[i] != NULL)
			continue;
		conn->lanes[i] = KVPI_NEW(kvpi_tcp_lane);
		if (conn->lanes[i] == NULL)
			return false;
		conn->lanes[i]->source = KVPI_TCP_SOURCE_LANE;
		conn->lanes[i]->conn = conn;
		conn->lanes[i]->fd = -1;
	}
	conn->streams = count;
	return true;
}

void kvpi_tcp_conn_free(kvpi_conn *conn)
{
	kvpi_list_remove(&conn->node);
	kvpi_tcp_free_spare(conn);
	for (int i = 0; i < KVPI_TCP_STREAMS_MAX; i++)
		free(conn->lanes[i]);
	free(conn);
}

static kvpi_conn *conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts)
{
	kvpi_conn *conn = KVPI_NEW(kvpi_conn);

	if (conn == NULL)
		return NULL;
	conn->plane = plane;
	conn->user = user;
	conn->accepts = accepts;
	conn->deadline_ns = KVPI_NEVER;
	memcpy(conn->token, token, sizeof(conn->token));
	kvpi_tcp_name(token, conn->name);
	kvpi_list_init(&conn->puts);
	kvpi_list_init(&conn->posts);
	kvpi_list_init(&conn->spare_transfers);
	kvpi_list_init(&conn->spare_notes);
	kvpi_list_init(&conn->out_slots);
	kvpi_list_init(&conn->in_slots);
	if (lanes_make(conn, 1))
		return conn;
	kvpi_tcp_conn_free(conn);
	return NULL;
}

kvp_status kvpi_tcp_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn)
{
	kvpi_conn *made;

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		const kvpi_conn *other = KVPI_CONTAINER_OF(pos, kvpi_conn, node);

		if (other->accepts && !other->closed && kvpi_secret_equal(other->token, token, sizeof(other->token)))
			return kvpi_error(KVP_E_CONFLICT, "another data connection expects the same token");
	}
	made = conn_new(plane, token, conn_user, true);
	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	made->state = KVPI_TCP_WAITING;
	kvpi_list_append(&plane->conns, &made->node);
	*conn = made;
	return KVP_OK;
}

/* Names could need a name server, for which nothing here may wait. */
static bool is_numeric(const char *host)
{
	struct in_addr ignored;

	return strchr(host, ':') != NULL || inet_pton(AF_INET, host, &ignored) == 1;
}

static bool is_loopback(const struct sockaddr_storage *to)
{
	if (to->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)to)->sin6_addr);
	return ntohl(((const struct sockaddr_in *)to)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static void cannot_connect(kvpi_conn *conn, int err)
{
	/* From elsewhere a refusal may be a firewall's.  Here it means that the listener is gone, and its process with it. */
	conn->final = err == ECONNREFUSED && conn->loopback;
	kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "cannot connect to %s: %s", conn->peer, strerror(err));
}

/* Begins to connect the lane.  That it cannot succeed is told as LOST. */
static kvp_status dial(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	struct sockaddr_storage to;
	socklen_t to_len;
	kvp_status status = kvpi_addr_resolve(&conn->to, &to, &to_len);
	int rc, err;

	if (status != KVP_OK)
		return status;
	conn->loopback = is_loopback(&to);
	lane->fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (lane->fd < 0)
		return kvpi_error_errno("cannot make a socket for %s", conn->peer);
	kvpi_tcp_tune(lane->fd);
	rc = connect(lane->fd, (const struct sockaddr *)&to, to_len);
	err = rc == 0 || errno == EINPROGRESS || errno == EINTR ? 0 : errno;
	if (kvpi_fault("tcp.connect"))
		err = ECONNREFUSED;
	status = kvpi_tcp_watch(conn->plane, lane->fd, LANE_EVENTS, lane);
	if (status != KVP_OK) {
		close(lane->fd);
		lane->fd = -1;
		return status;
	}
	lane->state = KVPI_TCP_LANE_CONNECTING;
	if (err != 0)
		cannot_connect(conn, err);
	return KVP_OK;
}

kvp_status kvpi_tcp_connect(kvpi_plane *plane, const void *address, size_t len,
                            const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn)
{
	char text[300];
	kvpi_addr addr;
	kvpi_conn *made;
	kvp_status status;

	if (len == 0 || len >= sizeof(text) || memchr(address, 0, len) != NULL)
		return kvpi_error(KVP_E_INVALID, "the peer's tcp address is no text of the right length");
	memcpy(text, address, len);
	text[len] = 0;
	status = kvpi_addr_parse(text, &addr);
	if (status != KVP_OK)
		return status;
	if (!is_numeric(addr.host) || addr.port == 0)
		return kvpi_error(KVP_E_INVALID, "the peer's tcp address %s is not numeric, or has no port", text);
	made = conn_new(plane, token, conn_user, false);
	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	memcpy(made->peer, text, len + 1);
	made->to = addr;
	made->state = KVPI_TCP_GREETING;
	status = dial(made->lanes[0]);
	if (status != KVP_OK) {
		kvpi_tcp_conn_free(made);
		return status;
	}
	kvpi_list_append(&plane->conns, &made->node);
	if (made->state == KVPI_TCP_GREETING) {
		made->deadline_ns = kvpi_now(&kvpi_clock_real) + CONNECT_NS;
		kvpi_tcp_set_timer(plane);
	}
	*conn = made;
	return KVP_OK;
}

void kvpi_tcp_hangup(kvpi_conn *conn)
{
	kvpi_staging *staging = &conn->plane->staging;

	if (flows(conn))
		stop(conn);
	KVPI_LIST_FOREACH(pos, nxt, &conn->out_slots)
		kvpi_slot_settle(staging, KVPI_CONTAINER_OF(pos, kvpi_slot, node));
	KVPI_LIST_FOREACH(pos, nxt, &conn->in_slots)
		kvpi_slot_settle(staging, KVPI_CONTAINER_OF(pos, kvpi_slot, node));
	kvpi_tcp_drop_all(conn);
	kvpi_tcp_drop_party(conn);
	conn->closed = true;
	if (!conn->plane->in_progress)
		kvpi_tcp_conn_free(conn);
}

/* ---- coming up ---- */

static void come_up(kvpi_conn *conn)
{
	conn->state = KVPI_TCP_UP;
	conn->deadline_ns = KVPI_NEVER;
	kvpi_tcp_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED});
}

/* The kernel has something to say about the connecting. */
static void connected(kvpi_conn *conn, int index)
{
	kvpi_tcp_lane *lane = conn->lanes[index];
	const kvpi_plane_params *params = &conn->plane->params;
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(lane->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (err != 0) {
		cannot_connect(conn, err);
		return;
	}
	if (index == 0)
		kvpi_tcp_hello_make(conn->token, params->streams < 1 ? 1 : params->streams, 0, params->checksum, NULL,
		    &lane->hello);
	else
		kvpi_tcp_hello_make(conn->token, conn->streams, index, conn->checksum, conn->next.session, &lane->hello);
	lane->state = KVPI_TCP_LANE_GREETING;
	kvpi_tcp_tx_greet(lane, &lane->hello);
}

/* The first lane is agreed on: the others follow. */
static void dial_others(kvpi_conn *conn, const kvpi_tcp_greeting *answer)
{
	conn->checksum = (answer->flags & KVPI_TCP_CHECKSUM) != 0;
	memcpy(conn->next.session, answer->first, sizeof(conn->next.session));
	if (!lanes_make(conn, answer->streams)) {
		kvpi_tcp_fail(conn, KVP_E_NOMEM, "no memory for the lanes of a tcp data connection");
		return;
	}
	for (int i = 1; i < conn->streams && flows(conn); i++) {
		const kvp_status status = dial(conn->lanes[i]);

		if (status != KVP_OK)
			kvpi_tcp_fail(conn, status, "%s", kvp_last_error());
	}
}

void kvpi_tcp_answered(kvpi_tcp_lane *lane)
{
	kvpi_conn *conn = lane->conn;
	const bool first = lane == conn->lanes[0];
	kvpi_tcp_greeting answer, confirm;

	memcpy(&answer, lane->in.head, sizeof(answer));
	if (!kvpi_tcp_answer_right(conn->token, &lane->hello, &answer) ||
	    (!first && (answer.streams != conn->streams || (answer.flags != 0) != conn->checksum))) {
		kvpi_tcp_fail(conn, KVP_E_PROTOCOL, "%s does not show that it knows the connection's token", conn->peer);
		return;
	}
	kvpi_tcp_confirm_make(conn->token, &lane->hello, &answer, &confirm);
	kvpi_tcp_tx_greet(lane, &confirm);
	lane->state = KVPI_TCP_LANE_UP;
	if (first)
		dial_others(conn, &answer);
	for (int i = 0; i < conn->streams; i++) {
		if (conn->lanes[i]->state != KVPI_TCP_LANE_UP)
			return;
	}
	come_up(conn);
}

static bool party_complete(const kvpi_conn *conn)
{
	return conn->accepts && conn->next.streams > 0 && conn->next.count == conn->next.streams;
}

/* The party that waits becomes the connection's lanes. */
static void adopt(kvpi_conn *conn)
{
	kvpi_tcp_party *party = &conn->next;
	kvp_status status = lanes_make(conn, party->streams) ? KVP_OK : kvpi_error_nomem("its lanes");

	for (int i = 0; i < party->streams && status == KVP_OK; i++)
		status = kvpi_tcp_watch(conn->plane, party->fds[i], LANE_EVENTS, conn->lanes[i]);
	if (status != KVP_OK) {
		KVPI_LOG(WARN, "plane", "a tcp data connection was turned away: %s", kvp_last_error());
		kvpi_tcp_drop_party(conn); /* the peer sees it and comes again */
		return;
	}
	for (int i = 0; i < party->streams; i++) {
		conn->lanes[i]->fd = party->fds[i];
		conn->lanes[i]->state = KVPI_TCP_LANE_UP;
	}
	conn->checksum = party->checksum;
	party->streams = party->count = 0;
	come_up(conn);
}

/* ---- a step ---- */

/* Tells LOST, once nothing touches the memory of what was outstanding. */
static void lose(kvpi_conn *conn)
{
	if (!kvpi_list_empty(&conn->out_slots) || !kvpi_list_empty(&conn->in_slots))
		return;
	kvpi_tcp_drop_all(conn);
	conn->state = conn->accepts ? KVPI_TCP_WAITING : KVPI_TCP_DEAD;
	kvpi_tcp_tell(
	    conn, (kvpi_plane_event){
	              .kind = KVPI_PLANE_LOST, .status = conn->status, .text = conn->why, .final = conn->final});
}

/* The peer has closed a lane: that is the end, once all that came before on the others is taken. */
static void check_end(kvpi_conn *conn)
{
	const kvpi_tcp_lane *ended = NULL;

	for (int i = 0; i < conn->streams; i++) {
		if (kvpi_tcp_rx_busy(conn->lanes[i]))
			return;
		if (conn->lanes[i]->eof)
			ended = conn->lanes[i];
	}
	if (ended == NULL || !kvpi_list_empty(&conn->in_slots))
		return;
	if (ended->state == KVPI_TCP_LANE_GREETING)
		kvpi_tcp_fail(conn, KVP_E_REFUSED, "%s closed the connection instead of greeting back", conn->peer);
	else
		kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "the peer closed the data connection");
}

/* Both ways on all lanes. */
static bool move(kvpi_conn *conn, uint64_t share)
{
	bool more = false;

	share = share / (uint64_t)conn->streams + 1;
	for (int i = 0; i < conn->streams && flows(conn); i++) {
		if (conn->lanes[i]->state == KVPI_TCP_LANE_CONNECTING && conn->lanes[i]->writable)
			connected(conn, i);
	}
	/* What has come is taken before anything is sent: a peer that has gone may have finished before.  The first lane
	 * comes last: what it brings may wait for the others. */
	for (int i = conn->streams; i-- > 0 && flows(conn);) {
		if (conn->lanes[i]->state > KVPI_TCP_LANE_CONNECTING)
			more = kvpi_tcp_rx(conn->lanes[i], share) || more;
	}
	if (flows(conn))
		check_end(conn);
	for (int i = 0; i < conn->streams && flows(conn); i++) {
		if (conn->lanes[i]->state > KVPI_TCP_LANE_CONNECTING)
			more = kvpi_tcp_tx(conn->lanes[i], share) || more;
	}
	return more;
}

bool kvpi_tcp_step(kvpi_conn *conn, uint64_t share)
{
	bool more = false;

	if (conn->closed)
		return false;
	kvpi_tcp_tx_reap(conn);
	kvpi_tcp_rx_reap(conn);
	if (conn->state == KVPI_TCP_UP && party_complete(conn))
		kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "the peer connected anew");
	if (conn->state == KVPI_TCP_FAILED)
		lose(conn);
	if (!conn->closed && conn->state == KVPI_TCP_WAITING && party_complete(conn))
		adopt(conn);
	if (flows(conn))
		more = move(conn, share);
	if (!conn->closed && conn->state == KVPI_TCP_FAILED)
		lose(conn);
	return more && !conn->closed;
}

bool kvpi_tcp_busy(kvpi_conn *conn)
{
	if (conn->state == KVPI_TCP_FAILED || party_complete(conn) || !kvpi_list_empty(&conn->in_slots))
		return true;
	KVPI_LIST_FOREACH(pos, nxt, &conn->out_slots) {
		if (KVPI_CONTAINER_OF(pos, kvpi_slot, node)->event != NULL)
			return true;
	}
	for (int i = 0; i < conn->streams; i++) {
		const kvpi_tcp_lane *lane = conn->lanes[i];

		if (lane->fd < 0)
			continue;
		if (lane->eof || kvpi_tcp_rx_busy(lane) || kvpi_tcp_tx_busy(lane))
			return true;
		if (lane->state == KVPI_TCP_LANE_CONNECTING && lane->writable)
			return true;
	}
	return false;
}
