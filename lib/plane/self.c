/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `self`: two endpoints of one process.  They find each other in a meeting place, one per context,
 * and bytes are copied straight from the source into the posted destination, by the sending end's progress.
 *
 * Lock order: the meeting place's mutex before a link's.
 */
#include "plane/planes.h"
#include "plane/self_link.h"

#include "base/alloc.h"
#include "base/context.h"
#include "base/error.h"
#include "wire/auth.h"
#include <stdio.h>
#include <string.h>

typedef struct kvpi_self_meeting {
	pthread_mutex_t mutex;
	kvpi_list waiting; /* accepting connections, all of them */
	unsigned char id[KVPI_UUID_BYTES];
} meeting_place;

static kvp_status meeting_new(kvp_context *context, void **object)
{
	kvp_status status = kvpi_auth_init();
	meeting_place *meeting;

	(void)context;
	if (status != KVP_OK)
		return status;
	meeting = KVPI_NEW(meeting_place);
	if (meeting == NULL || pthread_mutex_init(&meeting->mutex, NULL) != 0) {
		free(meeting);
		return kvpi_error_nomem("the meeting place of endpoints");
	}
	kvpi_list_init(&meeting->waiting);
	kvpi_random(meeting->id, sizeof(meeting->id));
	*object = meeting;
	return KVP_OK;
}

static void meeting_free(void *object)
{
	meeting_place *meeting = object;

	pthread_mutex_destroy(&meeting->mutex);
	free(meeting);
}

static kvpi_conn *conn_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_conn, node);
}

static kvp_status self_judge(const kvpi_facts *mine, const kvpi_facts *theirs, char *why, size_t why_len)
{
	const bool same = memcmp(mine->process, theirs->process, sizeof(mine->process)) == 0;

	snprintf(why, why_len, "%s", same ? "same process" : "the peer is another process");
	return same ? KVP_OK : KVP_E_UNSUPPORTED;
}

static kvp_status self_open(const kvpi_plane_params *params, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	void *meeting;
	kvpi_plane *made;
	kvp_status status = kvpi_context_get(params->context, KVPI_SLOT_SELF, meeting_new, meeting_free, &meeting);

	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(kvpi_plane);
	if (made == NULL)
		return kvpi_error_nomem("the data plane self");
	made->params = *params;
	made->meeting = meeting;
	kvpi_list_init(&made->conns);
	kvpi_streams_init(&made->streams);
	*plane = made;
	*caps = (kvpi_plane_caps){
	    .memories = kvpi_streams_memories(),
	    .survives_reconnect = true,
	    .max_transfers = KVPI_SELF_TRANSFERS,
	    .notify_max = KVPI_PLANE_NOTIFY_MAX,
	};
	return KVP_OK;
}

static kvp_status self_address(kvpi_plane *plane, void *out, size_t *len)
{
	memcpy(out, plane->meeting->id, sizeof(plane->meeting->id));
	*len = sizeof(plane->meeting->id);
	return KVP_OK;
}

static kvpi_conn *conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts)
{
	kvpi_conn *conn = KVPI_NEW(kvpi_conn);

	if (conn == NULL)
		return NULL;
	conn->plane = plane;
	conn->user = user;
	conn->accepts = accepts;
	conn->side = accepts;
	memcpy(conn->token, token, sizeof(conn->token));
	kvpi_list_init(&conn->puts);
	kvpi_list_init(&conn->posts);
	kvpi_list_init(&conn->events);
	return conn;
}

/* The accepting connection that expects the token, or NULL.  Locked. */
static kvpi_conn *find_waiting(meeting_place *meeting, const unsigned char *token)
{
	KVPI_LIST_FOREACH(pos, nxt, &meeting->waiting) {
		kvpi_conn *conn = KVPI_CONTAINER_OF(pos, kvpi_conn, waiting);

		if (kvpi_secret_equal(conn->token, token, sizeof(conn->token)))
			return conn;
	}
	return NULL;
}

static kvp_status self_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                              kvpi_conn **conn)
{
	kvpi_conn *made = conn_new(plane, token, conn_user, true);
	bool taken;

	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	pthread_mutex_lock(&plane->meeting->mutex);
	taken = find_waiting(plane->meeting, token) != NULL;
	if (!taken)
		kvpi_list_append(&plane->meeting->waiting, &made->waiting);
	pthread_mutex_unlock(&plane->meeting->mutex);
	if (taken) {
		free(made);
		return kvpi_error(KVP_E_CONFLICT, "another data connection expects the same token");
	}
	kvpi_list_append(&plane->conns, &made->node);
	*conn = made;
	return KVP_OK;
}

/* Ends a link that one end gave up, and lets go of it. */
static void leave(kvpi_self_link *link, int side, kvp_status status, const char *why)
{
	pthread_mutex_lock(&link->mutex);
	kvpi_self_break(link, status, why);
	link->end[side] = NULL;
	pthread_mutex_unlock(&link->mutex);
	kvpi_self_link_release(link);
}

/* Hangs the link at the connection that expects the token.  The older one that waits there goes. */
static bool offer(meeting_place *meeting, const unsigned char *token, kvpi_self_link *link)
{
	kvpi_self_link *older = NULL;
	kvpi_conn *acceptor;

	pthread_mutex_lock(&meeting->mutex);
	acceptor = find_waiting(meeting, token);
	if (acceptor != NULL) {
		older = acceptor->next;
		link->holders++; /* nobody else knows it yet */
		acceptor->next = link;
		acceptor->plane->params.wake(acceptor->plane->params.user);
	}
	pthread_mutex_unlock(&meeting->mutex);
	if (older != NULL)
		leave(older, 1, KVP_E_PEER_LOST, "another connection took this one's place");
	return acceptor != NULL;
}

static kvp_status self_connect(kvpi_plane *plane, const void *address, size_t len,
                               const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn)
{
	kvpi_conn *made;

	if (len != sizeof(plane->meeting->id) || memcmp(address, plane->meeting->id, len) != 0)
		return kvpi_error(KVP_E_UNSUPPORTED,
		    "the peer lives in another kvp_context of this process; endpoints meet within one only");
	made = conn_new(plane, token, conn_user, false);
	if (made == NULL)
		return kvpi_error_nomem("a data connection");
	made->link = kvpi_self_link_new(made);
	if (made->link == NULL) {
		free(made);
		return kvpi_error_nomem("a data connection");
	}
	kvpi_list_append(&plane->conns, &made->node);
	if (!offer(plane->meeting, token, made->link)) {
		/* LOST tells it, from inside progress. */
		kvpi_self_link_release(made->link);
		made->link = NULL;
	}
	*conn = made;
	return KVP_OK;
}

static void conn_free(kvpi_conn *conn)
{
	kvpi_list_remove(&conn->node);
	free(conn);
}

static void self_hangup(kvpi_conn *conn)
{
	meeting_place *meeting = conn->plane->meeting;
	kvpi_self_link *next = NULL;

	if (conn->accepts) {
		pthread_mutex_lock(&meeting->mutex);
		kvpi_list_remove(&conn->waiting);
		next = conn->next;
		conn->next = NULL;
		pthread_mutex_unlock(&meeting->mutex);
	}
	if (next != NULL)
		leave(next, 1, KVP_E_PEER_LOST, "the peer hung up");

	kvpi_self_lock(conn);
	if (conn->link != NULL) {
		kvpi_self_break(conn->link, KVP_E_PEER_LOST, "the peer hung up");
		kvpi_self_settle(conn->link);
		conn->link->end[conn->side] = NULL;
	}
	kvpi_self_drop_all(conn);
	kvpi_self_unlock(conn);
	if (conn->link != NULL)
		kvpi_self_link_release(conn->link);
	conn->link = NULL;
	conn->closed = true;
	if (!conn->plane->in_progress)
		conn_free(conn);
}

static void self_close(kvpi_plane *plane)
{
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		self_hangup(conn_of(pos));
	kvpi_streams_fini(&plane->streams);
	free(plane);
}

static kvpi_self_item *item_new(kvpi_self_kind kind, const kvpi_transfer *transfer, const void *data, size_t len)
{
	kvpi_self_item *item = kvpi_calloc(1, sizeof(*item) + len);

	if (item == NULL)
		return NULL;
	item->kind = kind;
	if (transfer != NULL)
		item->transfer = *transfer;
	item->len = len;
	if (len > 0)
		memcpy(item->data, data, len);
	return item;
}

static kvp_status check_transfer(const kvpi_transfer *transfer)
{
	if (transfer->direction != KVPI_PUT)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane self has no get");
	if ((kvpi_streams_memories() & 1u << transfer->local.memory) == 0)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane self does not reach memory kind %d",
		    (int)transfer->local.memory);
	return KVP_OK;
}

static kvp_status not_connected(void)
{
	return kvpi_error(KVP_E_PEER_LOST, "the data connection inside this process is not up");
}

/* The counts go down on the peer's thread too, hence inside the lock. */
static kvp_status enqueue(kvpi_conn *conn, kvpi_list *queue, uint32_t *count, uint32_t limit, kvpi_self_item *item)
{
	bool room;

	if (item == NULL)
		return kvpi_error_nomem("a transfer");
	kvpi_self_lock(conn);
	room = *count < limit;
	if (room) {
		++*count;
		kvpi_list_append(queue, &item->node);
	}
	kvpi_self_unlock(conn);
	if (room)
		return KVP_OK;
	free(item);
	return kvpi_error(KVP_E_AGAIN, "too much is outstanding on this data connection");
}

static kvp_status self_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(transfer);

	if (status != KVP_OK)
		return status;
	if (!conn->up)
		return not_connected();
	return enqueue(conn, &conn->puts, &conn->put_count, KVPI_SELF_TRANSFERS,
	    item_new(KVPI_SELF_PUT, transfer, NULL, 0));
}

static kvp_status self_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	const kvp_status status = check_transfer(transfer);

	if (status != KVP_OK)
		return status;
	if (!conn->accepts && conn->link == NULL)
		return not_connected();
	return enqueue(conn, &conn->posts, &conn->post_count, KVPI_SELF_TRANSFERS,
	    item_new(KVPI_SELF_POST, transfer, NULL, 0));
}

static kvp_status self_notify(kvpi_conn *conn, const void *data, size_t len)
{
	if (len > KVPI_PLANE_NOTIFY_MAX)
		return kvpi_error(KVP_E_TOO_LARGE, "a notify has at most %d bytes", KVPI_PLANE_NOTIFY_MAX);
	if (!conn->up)
		return not_connected();
	return enqueue(conn, &conn->puts, &conn->note_count, KVPI_SELF_NOTES,
	    item_new(KVPI_SELF_NOTE, NULL, data, len));
}

static kvp_receipt self_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvp_receipt receipt;

	kvpi_self_lock(conn);
	receipt = kvpi_self_cancel(conn, id);
	kvpi_self_unlock(conn);
	return receipt;
}

static void tell(const kvpi_conn *conn, kvpi_plane_event event)
{
	const kvpi_plane_params *params = &conn->plane->params;

	event.conn_user = conn->user;
	params->on_event(params->user, &event);
}

static void tell_item(const kvpi_conn *conn, const kvpi_self_item *item)
{
	kvpi_plane_event event = {.id = item->transfer.id};

	switch (item->kind) {
	case KVPI_SELF_PUT:
		event.kind = KVPI_PLANE_SENT;
		break;
	case KVPI_SELF_POST:
		event.kind = KVPI_PLANE_RECEIVED;
		break;
	case KVPI_SELF_NOTE:
		event.kind = KVPI_PLANE_NOTIFIED;
		event.data = item->data;
		event.len = item->len;
		break;
	}
	tell(conn, event);
}

/* One at a time, without the lock while told: what is told may cancel what is still in the queue. */
static void tell_events(kvpi_conn *conn)
{
	while (!conn->closed && conn->link != NULL) {
		kvpi_self_item *item = NULL;
		kvpi_list *first;

		kvpi_self_lock(conn);
		first = kvpi_list_first(&conn->events);
		if (first != NULL) {
			item = KVPI_CONTAINER_OF(first, kvpi_self_item, node);
			kvpi_list_remove(first);
			if (item->kind == KVPI_SELF_PUT)
				conn->put_count--;
			else if (item->kind == KVPI_SELF_POST)
				conn->post_count--;
			else if (conn->link->end[!conn->side] != NULL)
				conn->link->end[!conn->side]->note_count--;
		}
		kvpi_self_unlock(conn);
		if (item == NULL)
			return;
		tell_item(conn, item);
		free(item);
	}
}

/* The connection ends for this end, once no device copy is under way. */
static void lose(kvpi_conn *conn)
{
	kvpi_self_link *link = conn->link;
	kvpi_plane_event event = {.kind = KVPI_PLANE_LOST};
	char why[sizeof(link->why)];

	kvpi_self_lock(conn);
	if (!kvpi_self_quiet(link)) {
		kvpi_self_unlock(conn);
		return;
	}
	kvpi_self_drop_all(conn);
	link->end[conn->side] = NULL;
	event.status = link->status;
	memcpy(why, link->why, sizeof(why));
	kvpi_self_unlock(conn);
	kvpi_self_link_release(link);
	conn->link = NULL;
	conn->up = false;
	conn->lost = !conn->accepts;
	event.text = why;
	tell(conn, event);
}

/* Takes the connection that waits in `next`, if it is still there. */
static void adopt(kvpi_conn *conn)
{
	meeting_place *meeting = conn->plane->meeting;
	kvpi_self_link *link;
	bool gone;

	pthread_mutex_lock(&meeting->mutex);
	link = conn->next;
	conn->next = NULL;
	pthread_mutex_unlock(&meeting->mutex);
	if (link == NULL)
		return;
	pthread_mutex_lock(&link->mutex);
	gone = link->broken;
	if (!gone) {
		link->end[1] = conn;
		link->joined = true;
		link->end[0]->plane->params.wake(link->end[0]->plane->params.user);
	}
	pthread_mutex_unlock(&link->mutex);
	if (gone)
		kvpi_self_link_release(link);
	else
		conn->link = link;
}

static bool has_next(kvpi_conn *conn)
{
	bool next;

	pthread_mutex_lock(&conn->plane->meeting->mutex);
	next = conn->next != NULL;
	pthread_mutex_unlock(&conn->plane->meeting->mutex);
	return next;
}

typedef struct link_state {
	bool joined, broken;
} link_state;

static link_state look(kvpi_conn *conn)
{
	link_state state = {false, false};

	kvpi_self_lock(conn);
	if (conn->link != NULL)
		state = (link_state){conn->link->joined, conn->link->broken};
	kvpi_self_unlock(conn);
	return state;
}

/* Whose peer is not here any more, or never was. */
static void step_ends(kvpi_conn *conn)
{
	if (conn->accepts && conn->link != NULL && has_next(conn)) {
		kvpi_self_lock(conn);
		kvpi_self_break(conn->link, KVP_E_PEER_LOST, "the peer connected anew");
		kvpi_self_unlock(conn);
	}
	if (!conn->accepts && conn->link == NULL && !conn->lost) {
		conn->lost = true;
		tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_LOST,
		               .status = KVP_E_REFUSED,
		               .text = "nobody in this process expects this connection's token"});
		return;
	}
	if (look(conn).broken) {
		/* A connection that came and went is told as both. */
		if (!conn->up && look(conn).joined) {
			conn->up = true;
			tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED});
		}
		tell_events(conn);
		if (!conn->closed)
			lose(conn);
	}
}

/* Returns true when only the budget stopped it. */
static bool step(kvpi_conn *conn, uint64_t *budget)
{
	bool more = false;

	if (!conn->closed)
		step_ends(conn);
	if (conn->closed)
		return false;
	if (conn->accepts && conn->link == NULL)
		adopt(conn);
	if (!conn->up && look(conn).joined) {
		conn->up = true;
		tell(conn, (kvpi_plane_event){.kind = KVPI_PLANE_CONNECTED});
	}
	if (conn->closed || !conn->up)
		return false;
	kvpi_self_lock(conn);
	more = kvpi_self_pump(conn, budget);
	kvpi_self_unlock(conn);
	tell_events(conn);
	return more && !conn->closed;
}

static bool self_progress(kvpi_plane *plane, uint64_t budget)
{
	uint64_t share = budget, count = 0;
	bool more = false;

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		count++;
	if (count > 1)
		share = budget / count + 1;
	plane->in_progress = true;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		uint64_t left = share;

		if (step(conn_of(pos), &left))
			more = true;
	}
	plane->in_progress = false;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (conn_of(pos)->closed)
			conn_free(conn_of(pos));
	}
	return more;
}

/* Would a step do something, or ask a device? */
static bool busy(kvpi_conn *conn)
{
	bool work;

	if (!conn->accepts && conn->link == NULL)
		return !conn->lost;
	if (conn->accepts && has_next(conn))
		return true;
	if (conn->link == NULL)
		return false;
	kvpi_self_lock(conn);
	work = conn->link->broken || (conn->link->joined && !conn->up) || !kvpi_list_empty(&conn->events) ||
	       !kvpi_list_empty(&conn->puts);
	kvpi_self_unlock(conn);
	return work;
}

static bool self_arm(kvpi_plane *plane, int *fd)
{
	*fd = -1;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (busy(conn_of(pos)))
			return false;
	}
	return true;
}

const kvpi_plane_ops kvpi_plane_self = {
    .size = sizeof(kvpi_plane_self),
    .name = "self",
    .preference = 100,
    .judge = self_judge,
    .open = self_open,
    .close = self_close,
    .address = self_address,
    .accept = self_accept,
    .connect = self_connect,
    .hangup = self_hangup,
    .register_memory = kvpi_plane_no_register,
    .unregister_memory = kvpi_plane_no_unregister,
    .export_region = kvpi_plane_no_export,
    .attach = kvpi_plane_no_attach,
    .detach = kvpi_plane_no_detach,
    .submit = self_submit,
    .post_recv = self_post_recv,
    .notify = self_notify,
    .cancel = self_cancel,
    .progress = self_progress,
    .arm = self_arm,
};
