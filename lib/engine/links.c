/* SPDX-License-Identifier: Apache-2.0
 *
 * What connects the pure parts: sessions (hub), planes, and the two halves of the transfer protocol.  Every function
 * here runs on the worker.
 */
#include "engine/engine.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "wire/auth.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SETTLE_NS (5 * KVPI_NS_PER_S) /* how long a device copy may take to end after a cancel */
#define BACKOFF_FIRST_NS (10 * KVPI_NS_PER_MS)
#define BACKOFF_MOST_NS (1 * KVPI_NS_PER_S)
#define GOODBYE_NS (100 * KVPI_NS_PER_MS) /* how long the goodbye of a peer that is gone may be on its way */
#define SILENCE_NS(engine) ((int64_t)(engine)->me.heartbeat_ms * KVPI_NS_PER_MS * KVPI_SESSION_MISSED_BEATS)

static kvpi_engine_plane *find_plane(kvpi_engine *engine, kvpi_view name)
{
	for (size_t i = 0; i < engine->plane_count; i++)
		if (kvpi_view_equal(name, engine->plane_names[i]))
			return &engine->planes[i];
	return NULL;
}

static void publish(kvpi_link *link, kvp_status status, const char *text)
{
	kvpi_engine *engine = link->engine;

	pthread_mutex_lock(&engine->mutex);
	link->status = status;
	snprintf(link->text, sizeof(link->text), "%s", text);
	if (link->session != NULL)
		snprintf(link->peer, sizeof(link->peer), "%s", link->session->peer_name);
	pthread_cond_broadcast(&engine->changed);
	pthread_mutex_unlock(&engine->mutex);
}

/* Up means: session open and data connection made. */
static void publish_if_up(kvpi_link *link)
{
	bool pending;

	pthread_mutex_lock(&link->engine->mutex);
	pending = link->status == KVP_PENDING; /* a redial writes it from another thread */
	pthread_mutex_unlock(&link->engine->mutex);
	if (pending && link->conn_up && link->session != NULL && link->session->state == KVPI_SESSION_OPEN)
		publish(link, KVP_OK, "");
}

void kvpi_link_drop(kvpi_link *link)
{
	if (link->conn != NULL)
		link->plane->ops->hangup(link->conn);
	link->conn = NULL;
	link->conn_up = link->conn_lost = false;
	atomic_store(&link->direct, false);
	link->reconnect_ns = KVPI_NEVER;
}

/* For another sender in the place of one that left. */
static void start_over(kvpi_engine *engine)
{
	unsigned char *room = engine->rx.room;

	kvpi_rx_init(&engine->rx, &kvpi_link_rx_ops, engine, engine->rx.repeat_ns);
	engine->rx.room = room;
}

void kvpi_link_end(kvpi_link *link, kvp_status status, const char *text, int64_t now)
{
	kvpi_engine *engine = link->engine;
	bool may_return;

	link->session = NULL;
	link->gone_ns = KVPI_NEVER;
	link->met = false;
	kvpi_link_drop(link); /* before the requests end: their memory must be quiet by then */
	pthread_mutex_lock(&engine->mutex);
	may_return = link == &engine->in && engine->in_may_return;
	pthread_mutex_unlock(&engine->mutex);
	/* Before the requests end, too: who sees one fail finds the link closed. */
	publish(link, may_return ? KVP_PENDING : status, may_return ? "" : text);
	if (link == &engine->out) {
		kvpi_tx_session(&engine->tx, false);
		kvpi_tx_fail(&engine->tx, status, text, now);
	} else {
		kvpi_rx_session(&engine->rx, false);
		kvpi_rx_fail(&engine->rx, status, text, now);
		if (may_return)
			start_over(engine);
	}
}

/* ---- control ---------------------------------------------------------------------------------------- */

/* Sends a message of the link: on the data connection, in order with the data, when that can; on the session while it
 * is down.  Either may lose it or overtake the other: what is said is a state, and is said again. */
static bool say(kvpi_link *link, const kvpi_msg *msg, int64_t now)
{
	kvpi_engine *engine = link->engine;
	kvp_status status;

	if (link->direct) {
		kvpi_buf_clear(&engine->frame);
		status = kvpi_msg_encode(msg, &engine->frame);
		if (status == KVP_OK && engine->frame.len <= link->plane->caps.notify_max)
			status = link->plane->ops->notify(link->conn, engine->frame.data, engine->frame.len);
		else
			status = KVP_E_TOO_LARGE;
		engine->busy = engine->busy || status == KVP_OK;
		if (status == KVP_OK || status == KVP_E_AGAIN)
			return status == KVP_OK; /* the queue moves before the session would have carried it */
	}
	return kvpi_session_send(link->session, msg, now);
}

/* A message on the data connection: as little to be believed as one of the session. */
static void hear(kvpi_link *link, const void *data, size_t len, int64_t now)
{
	kvpi_engine *engine = link->engine;
	kvp_status status = kvpi_msg_decode(engine->reader, data, len, KVPI_CONTROL_FRAME_MAX, &engine->msg);

	if (status == KVP_OK && engine->msg.id != KVPI_MSG_announce && engine->msg.id != KVPI_MSG_state)
		status = kvpi_error(KVP_E_PROTOCOL, "a %s on the data connection", kvpi_msg_name(engine->msg.id));
	if (status == KVP_OK && link->session != NULL)
		status = kvpi_session_receive(link->session, &engine->msg, now);
	if (status != KVP_OK) {
		engine->bad_messages++;
		KVPI_LOG(WARN, "engine", "threw a message on the data connection of %s away: %s", link->service,
		         kvp_last_error());
	}
}

static void set_conn(kvpi_link *link, bool up)
{
	link->conn_up = up;
	atomic_store(&link->direct, up && link->plane->caps.notify_max > 0);
	if (link == &link->engine->out)
		kvpi_tx_conn(&link->engine->tx, up);
	else
		kvpi_rx_conn(&link->engine->rx, up);
}

/* ---- agreement on a plane -------------------------------------------------------------------------- */

static bool offered(const kvpi_msg_hello *hello, kvpi_view name)
{
	for (size_t i = 0; i < hello->planes.count; i++)
		if (kvpi_view_equal(hello->planes.items[i], name))
			return true;
	return false;
}

/* The best plane that both ends have and whose judgement is good; one line for each says why or why not. */
static kvpi_engine_plane *choose_plane(kvpi_engine *engine, const kvpi_msg_hello *hello, const kvpi_facts *theirs,
                                       char *why, size_t size)
{
	kvpi_engine_plane *chosen = NULL;
	size_t used = 0;

	why[0] = '\0';
	for (size_t i = 0; i < engine->plane_count; i++) {
		kvpi_engine_plane *plane = &engine->planes[i];
		char reason[128] = "";
		const char *verdict = "no";

		if (chosen != NULL) {
			verdict = "not needed";
			snprintf(reason, sizeof(reason), "%s is better", chosen->ops->name);
		} else if (!offered(hello, engine->plane_names[i])) {
			snprintf(reason, sizeof(reason), "the sender does not offer it");
		} else if (plane->ops->judge(&engine->facts, theirs, reason, sizeof(reason)) == KVP_OK) {
			verdict = "yes";
			chosen = plane;
		}
		used += (size_t)snprintf(why + used, size - used, "%s%s: %s, %s", used ? "\n" : "", plane->ops->name,
		                         verdict, reason);
		if (used >= size)
			break;
	}
	return chosen;
}

static kvp_status read_facts(kvpi_view host, kvpi_view process, kvpi_facts *facts)
{
	memset(facts, 0, sizeof(*facts));
	if (!kvpi_hostid_parse(&facts->host, host.data, host.len))
		return kvpi_error(KVP_E_PROTOCOL, "the peer's host facts cannot be read");
	memcpy(facts->process, process.data, sizeof(facts->process));
	return KVP_OK;
}

static kvp_status hub_hello(void *user, const kvpi_msg_hello *hello, kvpi_answer *answer)
{
	kvpi_engine *engine = user;
	kvpi_link *link = &engine->in;
	kvpi_facts theirs;
	kvp_status status;

	(void)kvpi_fault("link.hello"); /* a place to die at */
	if (!link->used || !kvpi_view_equal(hello->service, kvpi_view_text(link->service)))
		return kvpi_error(KVP_E_REFUSED, "%s does not wait for this caller (it may belong to an earlier run)",
		                  engine->me.name);
	if (link->status == KVP_E_NO_PLANE)
		return kvpi_error_set(KVP_E_NO_PLANE, link->text); /* asked again */
	if (link->status != KVP_PENDING || link->session != NULL)
		return kvpi_error(KVP_E_REFUSED, "%s already has its sender", engine->me.name);
	status = read_facts(hello->host, hello->process, &theirs);
	if (status != KVP_OK)
		return status;
	link->plane = choose_plane(engine, hello, &theirs, answer->why, sizeof(answer->why));
	if (link->plane == NULL) {
		status = kvpi_error(KVP_E_NO_PLANE, "no data plane works between the two ends: %s", answer->why);
		publish(link, status, kvp_last_error()); /* who waits for this caller here waits in vain */
		return status;
	}
	answer->address_len = sizeof(answer->address);
	status = link->plane->ops->address(link->plane->plane, answer->address, &answer->address_len);
	if (status != KVP_OK)
		return status;
	kvpi_random(answer->token, sizeof(answer->token));
	status = link->plane->ops->accept(link->plane->plane, answer->token, link, &link->conn);
	if (status != KVP_OK)
		return status;
	answer->user = link;
	answer->plane = link->plane->ops->name;
	pthread_mutex_lock(&engine->mutex);
	snprintf(link->why, sizeof(link->why), "%s", answer->why);
	pthread_mutex_unlock(&engine->mutex);
	return KVP_OK;
}

static void hub_accepted(void *user, kvpi_session *session)
{
	kvpi_engine *engine = user;

	engine->in.session = session;
	kvpi_rx_session(&engine->rx, true);
	publish_if_up(&engine->in);
}

static kvp_status connect_plane(kvpi_link *link)
{
	link->reconnect_ns = KVPI_NEVER;
	return link->plane->ops->connect(link->plane->plane, link->address, link->address_len, link->token, link,
	                                 &link->conn);
}

static kvp_status hub_welcomed(void *user, kvpi_session *session, const kvpi_msg_welcome *welcome)
{
	kvpi_engine *engine = user;
	kvpi_link *link = session->user;
	char reason[128];
	kvpi_facts theirs;
	kvp_status status;

	(void)kvpi_fault("link.welcome"); /* a place to die at */
	link->plane = find_plane(engine, welcome->plane);
	if (link->plane == NULL)
		return kvpi_error(KVP_E_PROTOCOL, "%s chose a data plane that was not offered", session->peer_name);
	status = read_facts(welcome->host, welcome->process, &theirs);
	if (status != KVP_OK)
		return status;
	if (link->plane->ops->judge(&engine->facts, &theirs, reason, sizeof(reason)) != KVP_OK)
		return kvpi_error(KVP_E_NO_PLANE, "%s chose %s, but seen from here: %s", session->peer_name,
		                  link->plane->ops->name, reason);
	memcpy(link->address, welcome->address.data, welcome->address.len);
	link->address_len = welcome->address.len;
	memcpy(link->token, welcome->token.data, sizeof(link->token));
	pthread_mutex_lock(&engine->mutex);
	snprintf(link->why, sizeof(link->why), "%.*s", (int)welcome->why.len, (const char *)welcome->why.data);
	pthread_mutex_unlock(&engine->mutex);
	status = connect_plane(link);
	if (status != KVP_OK)
		return status;
	kvpi_tx_session(&engine->tx, true);
	publish_if_up(link);
	return KVP_OK;
}

static void hub_message(void *user, kvpi_session *session, const kvpi_msg *msg, int64_t now)
{
	kvpi_engine *engine = user;
	kvp_status status = KVP_OK;

	if (msg->id == KVPI_MSG_announce && session->user == &engine->in) {
		/* Made when first needed; without it the bytes come over the plane. */
		if ((msg->u.announce.present & KVPI_HAS(announce, data)) && engine->rx.room == NULL && !kvpi_fault("links.room"))
			engine->rx.room = kvpi_malloc(KVPI_RX_ROOM_BYTES);
		status = kvpi_rx_announce(&engine->rx, &msg->u.announce);
	}
	else if (msg->id == KVPI_MSG_state && session->user == &engine->out)
		status = kvpi_tx_state(&engine->tx, &msg->u.state, now);
	else
		status = kvpi_error(KVP_E_PROTOCOL, "a %s in the wrong direction", kvpi_msg_name(msg->id));
	if (status != KVP_OK) {
		engine->bad_messages++;
		KVPI_LOG(WARN, "engine", "threw a message of %s away: %s", session->peer_name, kvp_last_error());
	}
}

static void hub_ended(void *user, kvpi_session *session, kvp_status status, const char *text)
{
	kvpi_engine *engine = user;
	kvpi_link *link = session->user;

	atomic_store(&link->locked_out, session->locked_out);
	kvpi_link_end(link, status, text, kvpi_now(engine->clock));
}

const kvpi_hub_ops kvpi_link_hub_ops = {
    .hello = hub_hello,
    .accepted = hub_accepted,
    .welcomed = hub_welcomed,
    .message = hub_message,
    .ended = hub_ended,
};

/* ---- planes ----------------------------------------------------------------------------------------- */

void kvpi_link_plane_event(void *user, const kvpi_plane_event *event)
{
	kvpi_engine *engine = user;
	kvpi_link *link = event->conn_user;
	int64_t now = kvpi_now(engine->clock);

	(void)kvpi_fault("link.event"); /* a place to die at */
	switch (event->kind) {
	case KVPI_PLANE_CONNECTED:
		link->backoff_ns = BACKOFF_FIRST_NS;
		link->gone_ns = KVPI_NEVER;
		link->met = true;
		pthread_mutex_lock(&engine->mutex);
		snprintf(link->way, sizeof(link->way), "%s", event->text == NULL ? "" : event->text);
		pthread_mutex_unlock(&engine->mutex);
		set_conn(link, true);
		publish_if_up(link);
		break;
	case KVPI_PLANE_LOST:
		KVPI_LOG(INFO, "engine", "data connection of %s lost: %s", link->service, event->text);
		snprintf(link->lost_text, sizeof(link->lost_text), "%s", event->text);
		/* Who was never there is not gone: his address may be one that is not seen from here. */
		if (event->final && link->met && link->gone_ns == KVPI_NEVER)
			link->gone_ns = now + GOODBYE_NS;
		set_conn(link, false);
		/* An accepting end's connection waits for the peer to come back, if the plane can do that. */
		link->conn_lost = link == &engine->out || !link->plane->caps.survives_reconnect;
		break;
	case KVPI_PLANE_SENT:
		kvpi_tx_sent(&engine->tx, event->id, now);
		break;
	case KVPI_PLANE_RECEIVED:
		kvpi_rx_received(&engine->rx, event->id, now);
		break;
	case KVPI_PLANE_NOTIFIED:
		hear(link, event->data, event->len, now);
		break;
	}
	engine->busy = true;
}

static void end_lost(kvpi_link *link, const char *text, int64_t now)
{
	kvpi_hub_hangup(link->engine->hub, link->session, KVP_E_PEER_LOST, text, now);
	kvpi_link_end(link, KVP_E_PEER_LOST, text, now);
}

/* The plane has proven that the peer has ended: so have both links, if the other one goes to the same peer. */
static void bury(kvpi_link *link, int64_t now)
{
	kvpi_link *other = link == &link->engine->out ? &link->engine->in : &link->engine->out;
	char text[KVPI_SESSION_TEXT_MAX];

	link->gone_ns = KVPI_NEVER;
	if (link->session == NULL)
		return;
	snprintf(text, sizeof(text), "%s has ended: %s", link->session->peer_name, link->lost_text);
	if (other->session != NULL && memcmp(other->session->peer_uuid, link->session->peer_uuid, 16) == 0)
		end_lost(other, text, now);
	end_lost(link, text, now);
}

/* A plane that cannot reconnect is over with its connection; the session has a while to say why itself. */
static void give_up(kvpi_link *link, int64_t now)
{
	char text[KVPI_SESSION_TEXT_MAX];

	link->reconnect_ns = KVPI_NEVER;
	if (link->session == NULL)
		return;
	snprintf(text, sizeof(text), "the data connection to %s is lost: %s", link->session->peer_name, link->lost_text);
	end_lost(link, text, now);
}

void kvpi_link_repair(kvpi_link *link, int64_t now)
{
	bool survives = link->plane != NULL && link->plane->caps.survives_reconnect;

	if (link->conn_lost) {
		kvpi_link_drop(link);
		if (link->backoff_ns == 0)
			link->backoff_ns = BACKOFF_FIRST_NS;
		link->reconnect_ns = now + (survives ? link->backoff_ns : SILENCE_NS(link->engine));
		link->backoff_ns = link->backoff_ns * 2 < BACKOFF_MOST_NS ? link->backoff_ns * 2 : BACKOFF_MOST_NS;
	}
	if (now >= link->gone_ns) {
		bury(link, now);
		return;
	}
	if (now < link->reconnect_ns)
		return;
	if (!survives) {
		give_up(link, now);
	} else if (connect_plane(link) != KVP_OK) {
		snprintf(link->lost_text, sizeof(link->lost_text), "%s", kvp_last_error());
		link->conn_lost = true; /* nothing to hang up; tried again after the back-off */
		link->engine->busy = true;
	}
}

void kvpi_link_dial(kvpi_engine *engine, int64_t now)
{
	kvpi_link *link = &engine->out;
	char url[sizeof(engine->dial_url)];
	int64_t deadline_ns;
	kvp_status status;

	pthread_mutex_lock(&engine->mutex);
	engine->dial_wanted = false;
	memcpy(url, engine->dial_url, sizeof(url));
	memcpy(link->service, engine->dial_service, sizeof(link->service));
	deadline_ns = engine->dial_deadline_ns;
	pthread_mutex_unlock(&engine->mutex);
	if (link->session != NULL)
		kvpi_hub_hangup(engine->hub, link->session, KVP_E_CANCELED, "dialled again", now);
	link->session = NULL;
	link->gone_ns = KVPI_NEVER;
	link->met = false;
	kvpi_link_drop(link);
	engine->hub_wanted = true;
	status = kvpi_hub_dial(engine->hub, url, link->service, engine->plane_names, engine->plane_count, link, now,
	                       deadline_ns, &link->session);
	if (status != KVP_OK)
		kvpi_link_end(link, status, kvp_last_error(), now);
}

/* ---- the end of a request -------------------------------------------------------------------------------- */

/* Gives back what the request holds, and tells. */
static void tell_end(kvpi_engine *engine, kvp_request *request, kvp_status status, const char *text,
                     kvp_receipt receipt, int64_t now)
{
	if (request->kind == KVPI_REQUEST_SEND) {
		kvpi_counter_add(&engine->metrics.in_flight_bytes, -request->charged);
		kvpi_admission_give_back(&engine->bytes, request->charged);
		request->charged = 0;
	}
	if (request->kind != KVPI_REQUEST_SEND && !request->post.alone) {
		pthread_mutex_lock(&engine->mutex);
		engine->planned--; /* before the caller is told: he may post the next at once */
		pthread_mutex_unlock(&engine->mutex);
	}
	kvpi_request_end(request, status, text, receipt, now);
	if (request->kind == KVPI_REQUEST_SEND)
		return;
	pthread_mutex_lock(&engine->mutex);
	engine->posts--; /* after: who stops the pipe finds every request ended */
	if (engine->posts == 0)
		pthread_cond_broadcast(&engine->changed);
	pthread_mutex_unlock(&engine->mutex);
}

/* Ends a request, at once if its memory is quiet, else as soon as it is. */
static void finish(kvpi_engine *engine, kvp_request *request, kvpi_transfer_id id, kvp_status status, const char *text,
                   kvp_receipt receipt, int64_t now)
{
	if (receipt != KVP_RECEIPT_QUARANTINED) {
		tell_end(engine, request, status, text, receipt, now);
		return;
	}
	kvpi_request_hold(request);
	request->settling.id = id;
	request->settling.status = status;
	request->settling.until_ns = now + SETTLE_NS;
	snprintf(request->text, sizeof(request->text), "%s", text);
	kvpi_list_append(&engine->settling, &request->settling.node);
}

void kvpi_link_farewell(kvpi_engine *engine, int64_t now)
{
	/* On the session, in front of the goodbye: a state that went by the data connection may have gone with it, and the
	 * sender would take what was delivered last for lost. */
	if (engine->in.session != NULL)
		(void)kvpi_rx_tell(&engine->rx, now);
}

void kvpi_link_settle(kvpi_engine *engine, int64_t now)
{
	KVPI_LIST_FOREACH(pos, next, &engine->settling) {
		kvp_request *request = KVPI_CONTAINER_OF(pos, kvp_request, settling.node);
		kvpi_link *link = request->kind == KVPI_REQUEST_SEND ? &engine->out : &engine->in;
		kvp_receipt receipt = KVP_RECEIPT_QUIESCENT; /* hanging up has waited for it */
		char text[KVPI_ERROR_MAX];

		if (link->conn != NULL)
			receipt = link->plane->ops->cancel(link->conn, request->settling.id);
		if (receipt == KVP_RECEIPT_QUARANTINED && now < request->settling.until_ns)
			continue;
		if (receipt == KVP_RECEIPT_QUARANTINED)
			KVPI_LOG(ERROR, "engine", "a device copy does not end; its memory is quarantined");
		kvpi_list_remove(pos);
		snprintf(text, sizeof(text), "%s", request->text);
		tell_end(engine, request, request->settling.status, text, receipt, now);
		kvpi_request_release(request);
	}
}

/* ---- the sending half --------------------------------------------------------------------------------- */

static kvp_request *request_of_item(const kvpi_tx_item *item)
{
	return KVPI_CONTAINER_OF((kvpi_tx_item *)item, kvp_request, item);
}

/* All bytes in dense order: in place, or packed into the engine's scratch. */
static kvpi_view dense_bytes(kvpi_engine *engine, const kvp_tensor *tensor)
{
	kvpi_layout layout;

	kvpi_layout_of_tensor(tensor, &layout);
	if (layout.block_bytes == layout.bytes)
		return kvpi_view_of(layout.base, layout.bytes);
	kvpi_layout_gather(&layout, 0, engine->packed, layout.bytes);
	return kvpi_view_of(engine->packed, layout.bytes);
}

static bool tx_announce(void *user, kvpi_tx_item *item, int64_t now)
{
	kvpi_engine *engine = user;
	kvpi_msg msg = {.id = KVPI_MSG_announce};
	kvpi_msg_announce *announce = &msg.u.announce;

	if (kvpi_fault("link.announce"))
		return false;
	announce->session = engine->out.session->id;
	announce->seq = item->seq;
	announce->dtype = (uint64_t)item->tensor->dtype;
	announce->shape = (kvpi_ints){item->tensor->shape, (size_t)item->tensor->ndim};
	if (item->withdrawn != 0) {
		announce->withdrawn = item->withdrawn;
		announce->text = kvpi_view_text(item->why);
		announce->present = KVPI_HAS(announce, withdrawn) | KVPI_HAS(announce, text);
	} else if (item->bytes > 0 && item->bytes <= KVPI_LINK_INLINE_MAX && item->tensor->memory == KVP_MEMORY_HOST) {
		announce->data = dense_bytes(engine, item->tensor);
		announce->present = KVPI_HAS(announce, data);
	}
	if (!say(&engine->out, &msg, now))
		return false;
	item->carried = item->carried || (announce->present & KVPI_HAS(announce, data));
	return true;
}

static kvp_status tx_put(void *user, kvpi_tx_item *item, uint32_t attempt)
{
	kvpi_engine *engine = user;
	kvpi_transfer transfer = {
	    .id = {item->seq, attempt}, .direction = KVPI_PUT, .after = request_of_item(item)->after};

	if (engine->out.conn == NULL)
		return KVP_E_PEER_LOST;
	if (kvpi_fault("link.put"))
		return KVP_E_AGAIN;
	kvpi_layout_of_tensor(item->tensor, &transfer.local);
	engine->busy = true;
	return engine->out.plane->ops->submit(engine->out.conn, &transfer);
}

static kvp_receipt tx_cancel(void *user, kvpi_tx_item *item, uint32_t attempt)
{
	kvpi_engine *engine = user;

	if (engine->out.conn == NULL)
		return KVP_RECEIPT_QUIESCENT; /* hanging up quiesced it */
	return engine->out.plane->ops->cancel(engine->out.conn, (kvpi_transfer_id){item->seq, attempt});
}

static void note_failure(kvpi_engine *engine, kvp_status status, const char *text)
{
	pthread_mutex_lock(&engine->mutex);
	if (engine->first_failure == KVP_OK) {
		engine->first_failure = status;
		snprintf(engine->first_failure_text, sizeof(engine->first_failure_text), "%s", text);
	}
	pthread_mutex_unlock(&engine->mutex);
}

static void tx_ended(void *user, kvpi_tx_item *item, kvp_status status, const char *text, kvp_receipt receipt,
                     int64_t now)
{
	kvpi_engine *engine = user;
	kvp_request *request = request_of_item(item);

	if (status == KVP_OK) {
		kvpi_counter_add(&engine->metrics.sent, 1);
		kvpi_counter_add(&engine->metrics.sent_bytes, item->bytes);
		kvpi_histogram_add(&engine->metrics.sent_size_bytes, item->bytes);
		kvpi_histogram_add(&engine->metrics.send_seconds, (uint64_t)(now - request->begun_ns));
	} else {
		kvpi_counter_add(&engine->metrics.send_failures, 1);
		note_failure(engine, status, text);
	}
	finish(engine, request, (kvpi_transfer_id){item->seq, item->put}, status, text, receipt, now);
}

static void tx_release(void *user, kvpi_tx_item *item)
{
	kvpi_engine *engine = user;

	kvpi_admission_give_back(&engine->items, 1);
	kvpi_request_release(request_of_item(item));
}

const kvpi_tx_ops kvpi_link_tx_ops = {
    .announce = tx_announce,
    .put = tx_put,
    .cancel = tx_cancel,
    .ended = tx_ended,
    .release = tx_release,
};

/* ---- the receiving half ------------------------------------------------------------------------------- */

/* Where the bytes of the tensor that the post has met go. */
static void destination(const kvpi_rx_post *post, kvpi_layout *layout)
{
	if (post->tensor->dtype == KVP_DTYPE_ANY)
		kvpi_layout_of_bytes(post->tensor->data, kvp_tensor_bytes(&post->slot->tensor), post->tensor->memory,
		                     post->tensor->device, layout);
	else
		kvpi_layout_of_tensor(post->tensor, layout);
}

static bool rx_fill(void *user, kvpi_rx_post *post, const void *data)
{
	kvpi_layout layout;

	(void)user;
	if (post->tensor->memory != KVP_MEMORY_HOST)
		return false;
	destination(post, &layout);
	kvpi_layout_scatter(&layout, 0, data, layout.bytes);
	return true;
}

static kvp_status rx_post(void *user, kvpi_rx_post *post, kvpi_transfer_id id)
{
	kvpi_engine *engine = user;
	kvpi_transfer transfer = {.id = id, .direction = KVPI_PUT};

	if (engine->in.conn == NULL)
		return KVP_E_PEER_LOST;
	if (kvpi_fault("link.post"))
		return KVP_E_AGAIN;
	destination(post, &transfer.local);
	engine->busy = true;
	return engine->in.plane->ops->post_recv(engine->in.conn, &transfer);
}

static kvp_receipt rx_cancel(void *user, kvpi_transfer_id id)
{
	kvpi_engine *engine = user;

	engine->quarantined = id;
	if (engine->in.conn == NULL)
		return KVP_RECEIPT_QUIESCENT;
	return engine->in.plane->ops->cancel(engine->in.conn, id);
}

static bool rx_state(void *user, const kvpi_msg_state *state, int64_t now)
{
	kvpi_engine *engine = user;
	kvpi_msg msg = {.id = KVPI_MSG_state};

	if (kvpi_fault("link.state"))
		return false;
	msg.u.state = *state;
	msg.u.state.session = engine->in.session->id;
	return say(&engine->in, &msg, now);
}

static void rx_ended(void *user, kvpi_rx_post *post, kvp_status status, const char *text, kvp_receipt receipt,
                     int64_t now)
{
	kvpi_engine *engine = user;
	kvp_request *request = KVPI_CONTAINER_OF(post, kvp_request, post);

	if (!post->peek && status == KVP_OK) {
		kvpi_counter_add(&engine->metrics.received, 1);
		kvpi_counter_add(&engine->metrics.received_bytes, kvp_tensor_bytes(post->tensor));
		kvpi_histogram_add(&engine->metrics.recv_seconds, (uint64_t)(now - request->begun_ns));
	} else if (!post->peek) {
		kvpi_counter_add(&engine->metrics.recv_failures, 1);
	}
	if (!post->alone && status != KVP_OK && status != KVP_E_WITHDRAWN) {
		pthread_mutex_lock(&engine->mutex);
		engine->posts_failed = true;
		pthread_mutex_unlock(&engine->mutex);
	}
	finish(engine, request, engine->quarantined, status, text, receipt, now);
	kvpi_request_release(request);
}

const kvpi_rx_ops kvpi_link_rx_ops = {
    .post = rx_post,
    .cancel = rx_cancel,
    .fill = rx_fill,
    .state = rx_state,
    .ended = rx_ended,
};
