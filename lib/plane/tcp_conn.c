/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection's life: waiting or connecting, up, failed, told.
 */
#include "plane/tcp.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Below this an iovec costs more than copying what it names. */
#define VECTOR_BYTES 4096

static kvpi_tcp_item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_tcp_item, node);
}

bool kvpi_tcp_staged(const kvpi_layout *layout)
{
	if (layout->bytes == 0)
		return false;
	if (layout->memory != KVP_MEMORY_HOST)
		return true;
	return kvpi_layout_run(layout) < VECTOR_BYTES && kvpi_layout_run(layout) < layout->bytes;
}

bool kvpi_tcp_ready(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status;

	if (transfer->after == NULL)
		return true;
	status = kvpi_device_find(transfer->local.memory)->query(transfer->after);
	if (status != KVP_OK && status != KVP_PENDING)
		kvpi_tcp_fail(conn, KVP_E_DEVICE, "the work that a transfer was to follow failed on its device");
	return status == KVP_OK;
}

void kvpi_tcp_tell(const kvpi_conn *conn, kvpi_plane_event event)
{
	const kvpi_plane_params *params = &conn->plane->params;

	event.conn_user = conn->user;
	params->on_event(params->user, &event);
}

/* No bytes flow any more. */
static void stop(kvpi_conn *conn)
{
	kvpi_tcp_drop(conn->plane, conn->fd);
	conn->fd = -1;
	conn->readable = conn->writable = false;
	conn->state = KVPI_TCP_FAILED;
	kvpi_tcp_tx_stop(conn);
	kvpi_tcp_rx_stop(conn);
}

void kvpi_tcp_fail(kvpi_conn *conn, kvp_status status, const char *fmt, ...)
{
	va_list args;

	if (conn->fd < 0)
		return;
	conn->status = status;
	va_start(args, fmt);
	vsnprintf(conn->why, sizeof(conn->why), fmt, args);
	va_end(args);
	KVPI_LOG(INFO, "plane", "a tcp data connection is lost: %s", conn->why);
	stop(conn);
}

static kvpi_conn *conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts)
{
	kvpi_conn *conn = KVPI_NEW(kvpi_conn);

	if (conn == NULL)
		return NULL;
	conn->source = KVPI_TCP_SOURCE_CONN;
	conn->plane = plane;
	conn->user = user;
	conn->accepts = accepts;
	conn->fd = conn->next_fd = -1;
	memcpy(conn->token, token, sizeof(conn->token));
	kvpi_list_init(&conn->puts);
	kvpi_list_init(&conn->posts);
	kvpi_list_init(&conn->out.slots);
	kvpi_list_init(&conn->in.slots);
	return conn;
}

kvp_status kvpi_tcp_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                           kvpi_conn **conn)
{
	kvpi_conn *made;

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		const kvpi_conn *other = KVPI_CONTAINER_OF(pos, kvpi_conn, node);

		if (other->accepts && !other->closed && memcmp(other->token, token, sizeof(other->token)) == 0)
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

/* A socket whose connecting has begun.  That it cannot succeed is told as LOST. */
static kvp_status dial(kvpi_conn *conn, const kvpi_addr *addr)
{
	const int on = 1;
	struct sockaddr_storage to;
	socklen_t to_len;
	kvp_status status = kvpi_addr_resolve(addr, &to, &to_len);
	int rc, err;

	if (status != KVP_OK)
		return status;
	conn->loopback = is_loopback(&to);
	conn->fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (conn->fd < 0)
		return kvpi_error_errno("cannot make a socket for %s", conn->peer);
	setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	rc = connect(conn->fd, (const struct sockaddr *)&to, to_len);
	err = rc == 0 || errno == EINPROGRESS || errno == EINTR ? 0 : errno;
	if (kvpi_fault("tcp.connect"))
		err = ECONNREFUSED;
	status = kvpi_tcp_watch(conn->plane, conn->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn);
	if (status != KVP_OK) {
		close(conn->fd);
		return status;
	}
	conn->state = KVPI_TCP_CONNECTING;
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
	status = dial(made, &addr);
	if (status != KVP_OK) {
		free(made);
		return status;
	}
	kvpi_list_append(&plane->conns, &made->node);
	*conn = made;
	return KVP_OK;
}

void kvpi_tcp_hand_over(kvpi_conn *conn, int fd)
{
	/* Of several that come before the worker looks, the last is the one that the peer still knows. */
	if (conn->next_fd >= 0)
		kvpi_tcp_drop(conn->plane, conn->next_fd);
	conn->next_fd = fd;
}

void kvpi_tcp_put_free(kvpi_conn *conn, kvpi_tcp_item *item)
{
	kvpi_list_remove(&item->node);
	if (item->note)
		conn->note_count--;
	else
		conn->put_count--;
	free(item);
}

void kvpi_tcp_post_free(kvpi_conn *conn, kvpi_tcp_item *item)
{
	kvpi_list_remove(&item->node);
	conn->post_count--;
	free(item);
}

/* Ends all puts, notes and posts, untold.  No device copy is under way, or none that will ever end. */
static void drop_all(kvpi_conn *conn)
{
	KVPI_LIST_FOREACH(pos, nxt, &conn->puts)
		kvpi_tcp_put_free(conn, item_of(pos));
	KVPI_LIST_FOREACH(pos, nxt, &conn->posts)
		kvpi_tcp_post_free(conn, item_of(pos));
}

void kvpi_tcp_conn_free(kvpi_conn *conn)
{
	kvpi_list_remove(&conn->node);
	free(conn);
}

void kvpi_tcp_hangup(kvpi_conn *conn)
{
	kvpi_staging *staging = &conn->plane->staging;

	if (conn->fd >= 0)
		stop(conn);
	KVPI_LIST_FOREACH(pos, nxt, &conn->out.slots)
		kvpi_slot_settle(staging, KVPI_CONTAINER_OF(pos, kvpi_slot, node));
	KVPI_LIST_FOREACH(pos, nxt, &conn->in.slots)
		kvpi_slot_settle(staging, KVPI_CONTAINER_OF(pos, kvpi_slot, node));
	drop_all(conn);
	if (conn->next_fd >= 0)
		kvpi_tcp_drop(conn->plane, conn->next_fd);
	conn->next_fd = -1;
	conn->closed = true;
	if (!conn->plane->in_progress)
		kvpi_tcp_conn_free(conn);
}

static kvp_status check_transfer(const kvpi_conn *conn, const kvpi_transfer *transfer)
{
	if (transfer->direction != KVPI_PUT)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane tcp has no get");
	if ((conn->plane->caps.memories & 1u << transfer->local.memory) == 0)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane tcp does not reach memory kind %d",
		    (int)transfer->local.memory);
	return KVP_OK;
}

static kvp_status enqueue(kvpi_list *queue, uint32_t *count, uint32_t limit, const kvpi_transfer *transfer,
                          const void *data, size_t len)
{
	kvpi_tcp_item *item;

	if (*count >= limit)
		return kvpi_error(KVP_E_AGAIN, "too much is outstanding on this data connection");
	item = kvpi_calloc(1, sizeof(*item) + len);
	if (item == NULL)
		return kvpi_error_nomem("a transfer");
	item->note = transfer == NULL;
	if (transfer != NULL)
		item->transfer = *transfer;
	item->len = len;
	if (len > 0)
		memcpy(item->data, data, len);
	++*count;
	kvpi_list_append(queue, &item->node);
	return KVP_OK;
}

static kvp_status not_connected(void)
{
	return kvpi_error(KVP_E_PEER_LOST, "the tcp data connection is not up");
}

kvp_status kvpi_tcp_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(conn, transfer);

	if (status != KVP_OK)
		return status;
	if (conn->state != KVPI_TCP_UP)
		return not_connected();
	return enqueue(&conn->puts, &conn->put_count, KVPI_TCP_TRANSFERS, transfer, NULL, 0);
}

kvp_status kvpi_tcp_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(conn, transfer);

	if (status != KVP_OK)
		return status;
	if (conn->state == KVPI_TCP_FAILED || conn->state == KVPI_TCP_DEAD)
		return not_connected();
	return enqueue(&conn->posts, &conn->post_count, KVPI_TCP_TRANSFERS, transfer, NULL, 0);
}

kvp_status kvpi_tcp_notify(kvpi_conn *conn, const void *data, size_t len)
{
	if (len > KVPI_PLANE_NOTIFY_MAX)
		return kvpi_error(KVP_E_TOO_LARGE, "a notify has at most %d bytes", KVPI_PLANE_NOTIFY_MAX);
	if (conn->state != KVPI_TCP_UP)
		return not_connected();
	return enqueue(&conn->puts, &conn->note_count, KVPI_TCP_NOTES, NULL, data, len);
}

static kvpi_tcp_item *find(kvpi_list *queue, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, nxt, queue) {
		kvpi_tcp_item *item = item_of(pos);

		if (!item->note && item->transfer.id.seq == id.seq && item->transfer.id.attempt == id.attempt)
			return item;
	}
	return NULL;
}

kvp_receipt kvpi_tcp_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvpi_tcp_item *put = find(&conn->puts, id), *post = find(&conn->posts, id);
	kvp_receipt receipt = KVP_RECEIPT_QUIESCENT;

	if (put != NULL)
		receipt = kvpi_tcp_tx_cancel(conn, put);
	if (post != NULL && kvpi_tcp_rx_cancel(conn, post) == KVP_RECEIPT_QUARANTINED)
		receipt = KVP_RECEIPT_QUARANTINED;
	return receipt;
}

/* The kernel has something to say about the connecting. */
static void connected(kvpi_conn *conn)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (err != 0) {
		cannot_connect(conn, err);
		return;
	}
	conn->state = KVPI_TCP_GREETING;
	kvpi_tcp_tx_greet(conn, KVPI_TCP_HELLO);
}

/* The peer that waits in next_fd becomes the connection's. */
static void adopt(kvpi_conn *conn)
{
	conn->fd = conn->next_fd;
	conn->next_fd = -1;
	if (kvpi_tcp_watch(conn->plane, conn->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn) != KVP_OK) {
		KVPI_LOG(WARN, "plane", "%s", kvp_last_error());
		kvpi_tcp_drop(conn->plane, conn->fd); /* the peer sees it and comes again */
		conn->fd = -1;
		return;
	}
	conn->state = KVPI_TCP_UP;
	kvpi_tcp_tx_greet(conn, KVPI_TCP_ANSWER);
	kvpi_tcp_tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED});
}

static bool has_jobs(const kvpi_conn *conn)
{
	return !kvpi_list_empty(&conn->out.slots) || !kvpi_list_empty(&conn->in.slots);
}

/* Tells LOST, once nothing touches the memory of what was outstanding. */
static void lose(kvpi_conn *conn)
{
	if (has_jobs(conn))
		return;
	drop_all(conn);
	conn->state = conn->accepts ? KVPI_TCP_WAITING : KVPI_TCP_DEAD;
	kvpi_tcp_tell(
	    conn, (kvpi_plane_event){
	              .kind = KVPI_PLANE_LOST, .status = conn->status, .text = conn->why, .final = conn->final});
}

bool kvpi_tcp_step(kvpi_conn *conn, uint64_t share)
{
	bool more = false;

	if (conn->closed)
		return false;
	kvpi_tcp_tx_reap(conn);
	kvpi_tcp_rx_reap(conn);
	if (conn->state == KVPI_TCP_UP && conn->next_fd >= 0)
		kvpi_tcp_fail(conn, KVP_E_PEER_LOST, "the peer connected anew");
	if (conn->state == KVPI_TCP_FAILED)
		lose(conn);
	if (!conn->closed && conn->state == KVPI_TCP_WAITING && conn->next_fd >= 0)
		adopt(conn);
	if (!conn->closed && conn->state == KVPI_TCP_CONNECTING && conn->writable)
		connected(conn);

	/* What has come is taken before anything is sent: a peer that has gone may have finished before. */
	if (!conn->closed && (conn->state == KVPI_TCP_UP || conn->state == KVPI_TCP_GREETING))
		more = kvpi_tcp_rx(conn, share);
	if (!conn->closed && (conn->state == KVPI_TCP_UP || conn->state == KVPI_TCP_GREETING))
		more = kvpi_tcp_tx(conn, share) || more;
	if (!conn->closed && conn->state == KVPI_TCP_FAILED)
		lose(conn);
	return more && !conn->closed;
}

/* Has the first put nothing to wait for but a bounce buffer that another connection holds? */
static bool starved(const kvpi_conn *conn)
{
	return !conn->out.open && kvpi_list_empty(&conn->out.slots) && !kvpi_list_empty(&conn->puts) &&
	       !item_of(conn->puts.next)->note && kvpi_tcp_staged(&item_of(conn->puts.next)->transfer.local) &&
	       !kvpi_staging_has(&conn->plane->staging, KVPI_OUTWARD);
}

bool kvpi_tcp_busy(kvpi_conn *conn)
{
	bool sends;

	if (conn->state == KVPI_TCP_FAILED || conn->next_fd >= 0 || conn->readable)
		return true;
	if (!kvpi_list_empty(&conn->in.slots))
		return true;
	KVPI_LIST_FOREACH(pos, nxt, &conn->out.slots) {
		if (KVPI_CONTAINER_OF(pos, kvpi_slot, node)->event != NULL)
			return true;
	}
	sends = conn->state == KVPI_TCP_CONNECTING || conn->out.open || !kvpi_list_empty(&conn->puts);
	return conn->writable && sends && !starved(conn);
}
