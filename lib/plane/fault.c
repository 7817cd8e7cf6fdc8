/* SPDX-License-Identifier: Apache-2.0
 *
 * The wrapper `fault`: another plane on a bad day, drawn from a seed, for tests.  It does nothing that plane.h
 * forbids but where `corrupt`, `drop` and `duplicate` ask for it:
 *
 *	seed=7        what is drawn follows from it and from the number of the connection
 *	delay=5ms     puts, notifies and events are held back, each for a random time up to this; their order stays
 *	reorder=100   per mille of SENT and RECEIVED wait longer, and those of other transfers overtake them.  Never a
 *	              notify, which must come after the data before it and those behind after it
 *	again=100     per mille of submit, post_recv and notify are refused with KVP_E_AGAIN
 *	loss=10       per mille of submits cost the connection.  A reliable plane that loses something is that: LOST
 *	refuse=100    per mille of connects come to nothing: LOST
 *	freeze=10, freeze_time=50ms   per mille of progress calls begin a time in which nothing happens at all.  The fault
 *	              point "fault.freeze" does so for as long as it is armed
 *	drop=10, duplicate=10         per mille of notifies never leave, or leave twice
 *	corrupt=10    per mille of notifies and of destinations in host memory get one bit flipped before it is told: for
 *	              checks from end to end, which find what no plane has promised to find
 *
 * A put or notify that is held back waits here; so does an event.  After a cancel, a hangup or LOST nothing of what
 * they end is told, as if the inner plane had been that slow: what waits here is forgotten with it.
 */
#include "plane/wrap.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"

#include <stdio.h>
#include <string.h>

#define NOTES_MAX 64                     /* notifies held back, each way */
#define LATE_NS (1 * KVPI_NS_PER_MS)     /* what `reorder` takes for the delay where there is none */
#define LATE_TIMES 4                     /* so many delays does it hold back */

typedef struct settings {
	uint64_t seed, reorder, again, loss, refuse, freeze, drop, duplicate, corrupt;
	int64_t delay_ns, freeze_ns;
} settings;

static const kvpi_setting rows[] = {
    {"seed", KVPI_SETTING_NUMBER, offsetof(settings, seed)},
    {"delay", KVPI_SETTING_TIME, offsetof(settings, delay_ns)},
    {"reorder", KVPI_SETTING_MILLE, offsetof(settings, reorder)},
    {"again", KVPI_SETTING_MILLE, offsetof(settings, again)},
    {"loss", KVPI_SETTING_MILLE, offsetof(settings, loss)},
    {"refuse", KVPI_SETTING_MILLE, offsetof(settings, refuse)},
    {"freeze", KVPI_SETTING_MILLE, offsetof(settings, freeze)},
    {"freeze_time", KVPI_SETTING_TIME, offsetof(settings, freeze_ns)},
    {"drop", KVPI_SETTING_MILLE, offsetof(settings, drop)},
    {"duplicate", KVPI_SETTING_MILLE, offsetof(settings, duplicate)},
    {"corrupt", KVPI_SETTING_MILLE, offsetof(settings, corrupt)},
};

typedef enum item_kind { PUT, POST, NOTE, UP, DOWN } item_kind;

/* A transfer from submit or post_recv until its end is told, a notify while it is held back, or a change of the
 * connection until it is told. */
typedef struct item {
	kvpi_list node;
	item_kind kind;
	int64_t due_ns;
	bool late; /* others may overtake it */
	bool twice;
	kvpi_transfer transfer;
	size_t len; /* of a notify, behind this struct */
} item;

typedef struct fault_conn {
	kvpi_conn base;
	uint64_t random;
	bool up;      /* as told */
	bool losing;  /* the inner connection is lost, which has not been told: nothing is taken meanwhile */
	bool doomed;  /* to be broken by the next progress */
	bool waiting; /* an accepting end that could not wait for its peer again yet */
	uint32_t puts, posts, notes_out, notes_in;
	kvpi_list out;   /* puts and notes on their way to the inner plane, in order */
	kvpi_list under; /* puts and posts that the inner plane has */
	kvpi_list in;    /* what is to be told, in order */
	item changes[3]; /* UP, DOWN, UP at most: see on_lost */
	kvp_status lost_status;
	char lost_text[256];
	const char *doom; /* why */
	kvp_status doom_status;
} fault_conn;

typedef struct fault_plane {
	kvpi_plane base;
	settings set;
	uint64_t random;
	int64_t frozen_until_ns;
	bool frozen; /* as the last progress call found it */
} fault_plane;

static fault_conn *conn_of(kvpi_conn *conn)
{
	return KVPI_CONTAINER_OF(conn, fault_conn, base);
}

static fault_plane *plane_of(const fault_conn *conn)
{
	return KVPI_CONTAINER_OF(conn->base.plane, fault_plane, base);
}

static item *item_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, item, node);
}

static int64_t now_of(const fault_conn *conn)
{
	return kvpi_now(conn->base.plane->clock);
}

/* splitmix64 */
static uint64_t draw(uint64_t *random)
{
	uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static bool happens(uint64_t *random, uint64_t mille)
{
	return mille > 0 && draw(random) % 1000 < mille;
}

static int64_t hold_ns(fault_conn *conn)
{
	const int64_t most = plane_of(conn)->set.delay_ns;

	return most > 0 ? (int64_t)(draw(&conn->random) % (uint64_t)(most + 1)) : 0;
}

/* ---- items ---------------------------------------------------------------------------------------------- */

static item *item_new(item_kind kind, const kvpi_transfer *transfer, const void *data, size_t len)
{
	item *made = kvpi_calloc(1, sizeof(*made) + len);

	if (made == NULL)
		return NULL;
	made->kind = kind;
	if (transfer != NULL)
		made->transfer = *transfer;
	made->len = len;
	if (len > 0)
		memcpy(made + 1, data, len);
	return made;
}

/* Out of its list, off its count; gone. */
static void drop(fault_conn *conn, item *gone, bool incoming)
{
	kvpi_list_remove(&gone->node);
	if (gone->kind == PUT)
		conn->puts--;
	else if (gone->kind == POST)
		conn->posts--;
	else if (gone->kind == NOTE)
		*(incoming ? &conn->notes_in : &conn->notes_out) -= 1;
	else
		return; /* the connection's own */
	free(gone);
}

static void drop_all(fault_conn *conn, kvpi_list *list)
{
	KVPI_LIST_FOREACH(pos, next, list)
		drop(conn, item_of(pos), list == &conn->in);
}

static item *find(kvpi_list *list, item_kind kind, kvpi_transfer_id id)
{
	KVPI_LIST_FOREACH(pos, next, list) {
		item *found = item_of(pos);

		if (found->kind == kind && found->transfer.id.seq == id.seq && found->transfer.id.attempt == id.attempt)
			return found;
	}
	return NULL;
}

/* The untold change of this kind that came last, or NULL. */
static item *find_change(fault_conn *conn, item_kind kind)
{
	for (kvpi_list *pos = conn->in.prev; pos != &conn->in; pos = pos->prev)
		if (item_of(pos)->kind == kind)
			return item_of(pos);
	return NULL;
}

/* ---- telling -------------------------------------------------------------------------------------------- */

/* What is told may cancel or hang up: `told` is off every list before. */
static void tell(fault_conn *conn, item *told)
{
	kvpi_plane_event event = {.id = told->transfer.id};
	const item_kind kind = told->kind;

	kvpi_list_remove(&told->node);
	switch (kind) {
	case PUT:
		event.kind = KVPI_PLANE_SENT;
		conn->puts--;
		break;
	case POST:
		event.kind = KVPI_PLANE_RECEIVED;
		conn->posts--;
		break;
	case NOTE:
		event.kind = KVPI_PLANE_NOTIFIED;
		event.data = told + 1;
		event.len = told->len;
		conn->notes_in--;
		break;
	case UP:
		event.kind = KVPI_PLANE_CONNECTED;
		conn->up = true;
		break;
	case DOWN:
		event.kind = KVPI_PLANE_LOST;
		event.status = conn->lost_status;
		event.text = conn->lost_text;
		conn->up = conn->losing = false;
		break;
	}
	kvpi_wrap_tell(&conn->base, event);
	if (kind == PUT || kind == POST || kind == NOTE)
		free(told);
}

/* The next to be told: the first, or if that one is late, one behind it that may overtake it. */
static item *next_due(fault_conn *conn, int64_t now)
{
	KVPI_LIST_FOREACH(pos, next, &conn->in) {
		item *first = item_of(pos);

		if (first->due_ns <= now)
			return first;
		if (!first->late || next == &conn->in || (item_of(next)->kind != PUT && item_of(next)->kind != POST))
			return NULL;
	}
	return NULL;
}

static bool tell_due(fault_conn *conn, int64_t now)
{
	bool told = false;
	item *next;

	while (!conn->base.closed && (next = next_due(conn, now)) != NULL) {
		tell(conn, next);
		told = true;
	}
	return told;
}

static void queue(fault_conn *conn, item *news)
{
	news->due_ns = now_of(conn) + hold_ns(conn);
	kvpi_list_append(&conn->in, &news->node);
}

static void queue_change(fault_conn *conn, item_kind kind)
{
	for (size_t i = 0; i < sizeof(conn->changes) / sizeof(conn->changes[0]); i++)
		if (!kvpi_list_linked(&conn->changes[i].node)) {
			conn->changes[i].kind = kind;
			queue(conn, &conn->changes[i]);
			return;
		}
}

/* ---- the inner plane's events --------------------------------------------------------------------------- */

/* The inner connection is gone, and with it all that had not ended.  If an earlier loss has not been told yet, what
 * came after that was never known to anybody: the two become one.  So at most UP, DOWN, UP wait to be told. */
static void on_lost(fault_conn *conn, kvp_status status, const char *text)
{
	item *untold = find_change(conn, DOWN);

	drop_all(conn, &conn->out);
	drop_all(conn, &conn->under);
	if (untold != NULL) {
		while (untold->node.next != &conn->in)
			drop(conn, item_of(untold->node.next), true);
		return;
	}
	conn->losing = true;
	conn->lost_status = status;
	snprintf(conn->lost_text, sizeof(conn->lost_text), "%s", text);
	queue_change(conn, DOWN);
}

/* One bit of what has arrived.  Device memory stays as it is: it cannot be written from here. */
static void corrupt(fault_conn *conn, const kvpi_layout *layout)
{
	uint64_t offset, run;

	if (layout->memory != KVP_MEMORY_HOST || layout->bytes == 0)
		return;
	offset = draw(&conn->random) % layout->bytes;
	*kvpi_layout_at(layout, offset, &run) ^= (char)(1u << draw(&conn->random) % 8);
}

static void on_end(fault_conn *conn, item_kind kind, kvpi_transfer_id id)
{
	const settings *set = &plane_of(conn)->set;
	item *ended = find(&conn->under, kind, id);

	if (ended == NULL)
		return;
	if (kind == POST && happens(&conn->random, set->corrupt))
		corrupt(conn, &ended->transfer.local);
	kvpi_list_remove(&ended->node);
	queue(conn, ended);
	if (happens(&conn->random, set->reorder)) {
		ended->late = true;
		ended->due_ns += LATE_TIMES * (set->delay_ns > 0 ? set->delay_ns : LATE_NS);
	}
}

static void on_note(fault_conn *conn, const kvpi_plane_event *event)
{
	item *note = item_new(NOTE, NULL, event->data, event->len);

	/* The inner plane thinks that it is rid of it, so who sends may go on: the bound is ours. */
	if (note == NULL || conn->notes_in >= NOTES_MAX)
		(void)tell_due(conn, KVPI_NEVER);
	if (conn->base.closed) {
		free(note);
	} else if (note == NULL) {
		kvpi_wrap_tell(&conn->base, *event);
	} else {
		conn->notes_in++;
		queue(conn, note);
	}
}

static void on_event(void *user, const kvpi_plane_event *event)
{
	fault_conn *conn = conn_of(event->conn_user);

	(void)user;
	switch (event->kind) {
	case KVPI_PLANE_CONNECTED:
		queue_change(conn, UP);
		break;
	case KVPI_PLANE_LOST:
		on_lost(conn, event->status, event->text);
		break;
	case KVPI_PLANE_SENT:
		on_end(conn, PUT, event->id);
		break;
	case KVPI_PLANE_RECEIVED:
		on_end(conn, POST, event->id);
		break;
	case KVPI_PLANE_NOTIFIED:
		on_note(conn, event);
		break;
	}
	(void)tell_due(conn, now_of(conn));
}

/* ---- on the way to the inner plane ---------------------------------------------------------------------- */

static void doom(fault_conn *conn, kvp_status status, const char *why)
{
	conn->doomed = true;
	conn->doom_status = status;
	conn->doom = why;
}

static kvp_status hand_on(fault_conn *conn, item *next)
{
	kvp_status status;

	if (next->kind == PUT)
		return kvpi_wrap_submit(&conn->base, &next->transfer);
	status = kvpi_wrap_notify(&conn->base, next + 1, next->len);
	if (status == KVP_OK && next->twice)
		(void)kvpi_wrap_notify(&conn->base, next + 1, next->len);
	return status;
}

static void handed_on(fault_conn *conn, item *next)
{
	kvpi_list_remove(&next->node);
	if (next->kind == PUT) {
		kvpi_list_append(&conn->under, &next->node);
		return;
	}
	free(next);
	conn->notes_out--;
}

static void release_due(fault_conn *conn, int64_t now)
{
	kvpi_list *first;

	while ((first = kvpi_list_first(&conn->out)) != NULL && item_of(first)->due_ns <= now) {
		const kvp_status status = hand_on(conn, item_of(first));

		if (status != KVP_OK) {
			/* It was taken from the caller: who cannot carry it any more must lose the connection. */
			if (status != KVP_E_AGAIN && status != KVP_E_NOMEM && status != KVP_E_PEER_LOST && !conn->doomed)
				doom(conn, status, "what was held back was refused then");
			return;
		}
		handed_on(conn, item_of(first));
	}
}

static kvp_status check_up(const fault_conn *conn)
{
	if (conn->up && !conn->losing && !conn->doomed)
		return KVP_OK;
	return kvpi_error(KVP_E_PEER_LOST, "the data connection is not up");
}

static kvp_status again(void)
{
	return kvpi_error(KVP_E_AGAIN, "the plane fault has no room by chance");
}

/* Takes the item in, at once if nothing holds it back.  On failure it is gone. */
static kvp_status send_out(fault_conn *conn, item *made)
{
	const int64_t hold = hold_ns(conn);
	kvp_status status;

	if (hold > 0 || !kvpi_list_empty(&conn->out)) {
		made->due_ns = now_of(conn) + hold;
		kvpi_list_append(&conn->out, &made->node);
		return KVP_OK;
	}
	status = hand_on(conn, made);
	if (status == KVP_OK)
		handed_on(conn, made);
	else
		drop(conn, made, false);
	return status;
}

static kvp_status check_transfer(const kvpi_plane *plane, const kvpi_transfer *transfer)
{
	if (transfer->direction == KVPI_GET && !plane->caps.one_sided_get)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane %s has no get", plane->ops.name);
	if ((plane->caps.memories & 1u << transfer->local.memory) == 0)
		return kvpi_error(KVP_E_UNSUPPORTED, "the data plane %s does not reach memory kind %d", plane->ops.name,
		                  (int)transfer->local.memory);
	return KVP_OK;
}

static kvp_status fault_submit(kvpi_conn *base, const kvpi_transfer *transfer)
{
	fault_conn *conn = conn_of(base);
	const settings *set = &plane_of(conn)->set;
	kvp_status status = check_transfer(base->plane, transfer);
	item *made;

	if (status == KVP_OK)
		status = check_up(conn);
	if (status == KVP_OK && (conn->puts >= base->plane->caps.max_transfers || happens(&conn->random, set->again)))
		status = again();
	if (status != KVP_OK)
		return status;
	made = item_new(PUT, transfer, NULL, 0);
	if (made == NULL)
		return kvpi_error_nomem("a transfer");
	conn->puts++;
	status = send_out(conn, made);
	if (status == KVP_OK && happens(&conn->random, set->loss))
		doom(conn, KVP_E_PEER_LOST, "the plane fault broke the data connection by chance");
	return status;
}

static kvp_status fault_post_recv(kvpi_conn *base, const kvpi_transfer *transfer)
{
	fault_conn *conn = conn_of(base);
	item *made;
	kvp_status status;

	/* A post under a loss that was not told yet would be gone, or not, and nobody could know. */
	if (conn->losing || conn->doomed)
		return kvpi_error(KVP_E_PEER_LOST, "the data connection is not up");
	if (conn->posts >= base->plane->caps.max_transfers || happens(&conn->random, plane_of(conn)->set.again))
		return again();
	made = item_new(POST, transfer, NULL, 0);
	if (made == NULL)
		return kvpi_error_nomem("a transfer");
	status = kvpi_wrap_post_recv(base, transfer);
	if (status != KVP_OK) {
		free(made);
		return status;
	}
	conn->posts++;
	kvpi_list_append(&conn->under, &made->node);
	return KVP_OK;
}

static kvp_status fault_notify(kvpi_conn *base, const void *data, size_t len)
{
	fault_conn *conn = conn_of(base);
	const settings *set = &plane_of(conn)->set;
	kvp_status status;
	item *made;

	if (len > base->plane->caps.notify_max)
		return kvpi_error(KVP_E_TOO_LARGE, "a notify has at most %zu bytes", base->plane->caps.notify_max);
	status = check_up(conn);
	if (status == KVP_OK && (conn->notes_out >= NOTES_MAX || happens(&conn->random, set->again)))
		status = again();
	if (status != KVP_OK)
		return status;
	if (happens(&conn->random, set->drop))
		return KVP_OK;
	made = item_new(NOTE, NULL, data, len);
	if (made == NULL)
		return kvpi_error_nomem("a notify");
	made->twice = happens(&conn->random, set->duplicate);
	if (len > 0 && happens(&conn->random, set->corrupt))
		((char *)(made + 1))[draw(&conn->random) % len] ^= (char)(1u << draw(&conn->random) % 8);
	conn->notes_out++;
	return send_out(conn, made);
}

static kvp_receipt fault_cancel(kvpi_conn *base, kvpi_transfer_id id)
{
	fault_conn *conn = conn_of(base);
	kvpi_list *lists[] = {&conn->out, &conn->under, &conn->in};
	item *found;

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		for (item_kind kind = PUT; kind <= POST; kind++)
			if ((found = find(lists[i], kind, id)) != NULL)
				drop(conn, found, false);
	return kvpi_wrap_cancel(base, id);
}

/* ---- connections ---------------------------------------------------------------------------------------- */

static void fault_conn_init(kvpi_conn *base)
{
	fault_conn *conn = conn_of(base);
	uint64_t random = plane_of(conn)->set.seed;

	conn->random = draw(&random) ^ base->number;
	kvpi_list_init(&conn->out);
	kvpi_list_init(&conn->under);
	kvpi_list_init(&conn->in);
}

static kvp_status fault_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                               kvpi_conn **conn)
{
	kvp_status status = kvpi_wrap_accept(plane, token, conn_user, conn);

	if (status == KVP_OK)
		fault_conn_init(*conn);
	return status;
}

static kvp_status fault_connect(kvpi_plane *plane, const void *address, size_t len,
                                const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn)
{
	fault_plane *fault = KVPI_CONTAINER_OF(plane, fault_plane, base);
	const bool refused = happens(&fault->random, fault->set.refuse);
	kvp_status status;

	if (!refused) {
		status = kvpi_wrap_connect(plane, address, len, token, conn_user, conn);
		if (status == KVP_OK)
			fault_conn_init(*conn);
		return status;
	}
	status = kvpi_wrap_conn_new(plane, token, conn_user, false, conn);
	if (status != KVP_OK)
		return status;
	fault_conn_init(*conn);
	on_lost(conn_of(*conn), KVP_E_REFUSED, "the plane fault refused the connection by chance");
	return KVP_OK;
}

static void fault_hangup(kvpi_conn *base)
{
	fault_conn *conn = conn_of(base);

	drop_all(conn, &conn->out);
	drop_all(conn, &conn->under);
	drop_all(conn, &conn->in);
	kvpi_wrap_hangup(base);
}

static void fault_close(kvpi_plane *plane)
{
	KVPI_LIST_FOREACH(pos, next, &plane->conns)
		fault_hangup(KVPI_CONTAINER_OF(pos, kvpi_conn, node));
	kvpi_wrap_close(plane);
}

/* Breaks it as seen from both ends.  An accepting end goes on waiting for its peer under the same token. */
static void break_conn(fault_conn *conn)
{
	kvpi_plane *plane = conn->base.plane;

	conn->doomed = false;
	if (conn->base.inner == NULL)
		return;
	plane->inner_ops->hangup(conn->base.inner);
	conn->base.inner = NULL;
	conn->waiting = conn->base.accepts && plane->caps.survives_reconnect;
	on_lost(conn, conn->doom_status, conn->doom);
}

static void wait_again(fault_conn *conn)
{
	kvpi_plane *plane = conn->base.plane;
	kvpi_conn *inner;

	if (plane->inner_ops->accept(plane->inner, conn->base.token, &conn->base, &inner) != KVP_OK)
		return; /* without memory: tried again */
	conn->base.inner = inner;
	conn->waiting = false;
}

/* ---- the worker ----------------------------------------------------------------------------------------- */

static bool frozen(fault_plane *fault, int64_t now)
{
	if (now >= fault->frozen_until_ns && happens(&fault->random, fault->set.freeze))
		fault->frozen_until_ns = now + fault->set.freeze_ns;
	fault->frozen = now < fault->frozen_until_ns || kvpi_fault("fault.freeze");
	return fault->frozen;
}

static bool fault_progress(kvpi_plane *plane, uint64_t budget)
{
	fault_plane *fault = KVPI_CONTAINER_OF(plane, fault_plane, base);
	int64_t now = kvpi_now(plane->clock);
	bool more;

	if (frozen(fault, now))
		return false;
	plane->in_progress = true;
	KVPI_LIST_FOREACH(pos, next, &plane->conns) {
		fault_conn *conn = conn_of(KVPI_CONTAINER_OF(pos, kvpi_conn, node));

		if (conn->doomed)
			break_conn(conn);
		if (conn->waiting)
			wait_again(conn);
		release_due(conn, now);
	}
	more = plane->inner_ops->progress(plane->inner, budget);
	now = kvpi_now(plane->clock);
	KVPI_LIST_FOREACH(pos, next, &plane->conns)
		more = tell_due(conn_of(KVPI_CONTAINER_OF(pos, kvpi_conn, node)), now) || more;
	plane->in_progress = false;
	kvpi_wrap_reap(plane);
	return more;
}

/* What is held back has a time, and no descriptor tells that it has come. */
static bool fault_arm(kvpi_plane *plane, int *fd)
{
	bool sleeps = plane->inner_ops->arm(plane->inner, fd);

	KVPI_LIST_FOREACH(pos, next, &plane->conns) {
		const fault_conn *conn = conn_of(KVPI_CONTAINER_OF(pos, kvpi_conn, node));

		sleeps = sleeps && kvpi_list_empty(&conn->out) && kvpi_list_empty(&conn->in) && !conn->doomed &&
		         !conn->waiting;
	}
	return sleeps && !KVPI_CONTAINER_OF(plane, fault_plane, base)->frozen;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

static kvp_status read_settings(kvpi_view text, settings *out)
{
	*out = (settings){.freeze_ns = 50 * KVPI_NS_PER_MS};
	return kvpi_plane_settings_read(text, "fault", rows, sizeof(rows) / sizeof(rows[0]), out);
}

static kvp_status fault_check(kvpi_view text)
{
	settings ignored;

	return read_settings(text, &ignored);
}

static kvp_status fault_open(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                             const kvpi_plane_ops **ops, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	settings set;
	fault_plane *fault;
	kvpi_plane *made;
	kvp_status status = read_settings(spec->wrap[level].settings, &set);

	if (status == KVP_OK)
		status = kvpi_wrap_open(spec, level, params, sizeof(fault_plane), sizeof(fault_conn), on_event, &made);
	if (status != KVP_OK)
		return status;
	fault = KVPI_CONTAINER_OF(made, fault_plane, base);
	fault->set = set;
	fault->random = set.seed;
	made->ops.close = fault_close;
	made->ops.accept = fault_accept;
	made->ops.connect = fault_connect;
	made->ops.hangup = fault_hangup;
	made->ops.submit = fault_submit;
	made->ops.post_recv = fault_post_recv;
	made->ops.notify = fault_notify;
	made->ops.cancel = fault_cancel;
	made->ops.progress = fault_progress;
	made->ops.arm = fault_arm;
	*ops = &made->ops;
	*plane = made;
	*caps = made->caps;
	return KVP_OK;
}

const kvpi_plane_wrapper kvpi_plane_fault = {"fault", fault_check, fault_open};
