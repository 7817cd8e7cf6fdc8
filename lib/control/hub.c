/* SPDX-License-Identifier: Apache-2.0 */
#include "control/hub.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "wire/auth.h"

#include <stdio.h>
#include <string.h>

#define FRAMES_PER_STEP 128 /* so that a flood cannot keep the worker from its other duties */
#define ACCEPTED_MAX 64     /* sessions dialled in; more HELLOs are refused */

typedef struct peer {
	kvpi_list node;
	kvpi_session session;
	kvpi_hub *hub;
	kvpi_zsock *dealer; /* dialled by us, or NULL: reached through the ROUTER as */
	kvpi_zid zid;       /* the newest identity that showed this session's number */
	kvpi_buf welcome;   /* accepted: the encoded answer, repeated for each repeated HELLO */
} peer;

struct kvpi_hub {
	kvp_context *context;
	kvpi_zctx *zctx;
	kvpi_zsock *router;
	kvpi_msg_reader *reader;
	kvpi_buf out;
	const kvpi_identity *me;
	const kvpi_hub_ops *ops;
	void *user;
	kvpi_list peers;
	unsigned accepted;
	uint64_t protocol_errors;
	bool looked; /* no socket was touched since kvpi_hub_arm found that nothing waits */
	kvpi_msg msg;       /* of the frame being handled; too large for some stacks, like */
	kvpi_answer answer; /* this */
};

static peer *peer_of(kvpi_session *session)
{
	return KVPI_CONTAINER_OF(session, peer, session);
}

static bool peer_send(kvpi_session *session, const kvpi_msg *msg)
{
	peer *to = peer_of(session);
	kvpi_hub *hub = to->hub;
	kvp_status status;

	hub->looked = false;
	kvpi_buf_clear(&hub->out);
	status = kvpi_msg_encode(msg, &hub->out);
	if (status == KVP_OK)
		status = kvpi_zsock_send(to->dealer ? to->dealer : hub->router, to->dealer ? NULL : &to->zid,
		                         hub->out.data, hub->out.len);
	if (status != KVP_OK && status != KVP_E_AGAIN)
		KVPI_LOG(DEBUG, "control", "a %s to %s was not sent: %s", kvpi_msg_name(msg->id),
		         session->peer_name, kvp_last_error());
	return status == KVP_OK;
}

static kvp_status peer_welcomed(kvpi_session *session, const kvpi_msg_welcome *welcome)
{
	kvpi_hub *hub = peer_of(session)->hub;

	return hub->ops->welcomed(hub->user, session, welcome);
}

static void peer_message(kvpi_session *session, const kvpi_msg *msg, int64_t now)
{
	kvpi_hub *hub = peer_of(session)->hub;

	hub->ops->message(hub->user, session, msg, now);
}

static void peer_ended(kvpi_session *session, kvp_status status, const char *text)
{
	kvpi_hub *hub = peer_of(session)->hub;

	hub->ops->ended(hub->user, session, status, text);
}

static const kvpi_session_ops session_ops = {
    .send = peer_send,
    .welcomed = peer_welcomed,
    .message = peer_message,
    .ended = peer_ended,
};

kvp_status kvpi_hub_new(kvp_context *context, const kvpi_listen *listen, const kvpi_identity *me,
                        const kvpi_hub_ops *ops, void *user, kvpi_hub **out)
{
	kvpi_hub *hub = KVPI_NEW(kvpi_hub);
	kvp_status status;

	if (hub == NULL)
		return kvpi_error_nomem("a control hub");
	hub->context = context;
	hub->me = me;
	hub->ops = ops;
	hub->user = user;
	kvpi_list_init(&hub->peers);
	kvpi_buf_init(&hub->out);
	hub->reader = kvpi_msg_reader_new();
	if (hub->reader == NULL) {
		status = kvpi_error_nomem("a message reader");
		goto err_free_hub;
	}
	status = kvpi_zctx_of(context, &hub->zctx);
	if (status != KVP_OK)
		goto err_free_reader;
	status = kvpi_zsock_listen(hub->zctx, listen, KVPI_CONTROL_FRAME_MAX, &hub->router);
	if (status != KVP_OK)
		goto err_free_reader;
	*out = hub;
	return KVP_OK;

err_free_reader:
	kvpi_msg_reader_free(hub->reader);
err_free_hub:
	free(hub);
	return status;
}

static void peer_free(peer *p)
{
	kvpi_list_remove(&p->node);
	if (!p->session.dialler)
		p->hub->accepted--;
	kvpi_zsock_close(p->dealer);
	kvpi_buf_fini(&p->welcome);
	free(p);
}

void kvpi_hub_free(kvpi_hub *hub, int64_t now)
{
	if (hub == NULL)
		return;
	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		peer *p = KVPI_CONTAINER_OF(pos, peer, node);

		kvpi_session_bye(&p->session, KVP_OK, "closed", now);
		peer_free(p);
	}
	kvpi_zsock_close(hub->router);
	kvpi_msg_reader_free(hub->reader);
	kvpi_buf_fini(&hub->out);
	free(hub);
}

const char *kvpi_hub_url(const kvpi_hub *hub)
{
	return kvpi_zsock_url(hub->router);
}

static peer *peer_new(kvpi_hub *hub)
{
	peer *p = KVPI_NEW(peer);

	if (p == NULL) {
		kvpi_error_nomem("a session");
		return NULL;
	}
	p->hub = hub;
	kvpi_buf_init(&p->welcome);
	return p;
}

kvp_status kvpi_hub_dial(kvpi_hub *hub, const char *url, const char *service, const kvpi_view *planes,
                         size_t plane_count, void *session_user, int64_t now, int64_t deadline_ns,
                         kvpi_session **session)
{
	peer *p = peer_new(hub);
	unsigned char nonce[16];
	kvp_status status;

	if (p == NULL)
		return KVP_E_NOMEM;
	status = kvpi_zsock_dealer(hub->zctx, url, KVPI_CONTROL_FRAME_MAX, KVPI_ZDOWN_KEEP, &p->dealer);
	if (status != KVP_OK) {
		free(p);
		return status;
	}
	kvpi_random(nonce, sizeof(nonce));
	kvpi_session_dial(&p->session, hub->me, &session_ops, session_user, service, url, nonce, planes, plane_count,
	                  now, deadline_ns);
	kvpi_list_append(&hub->peers, &p->node);
	hub->looked = false;
	*session = &p->session;
	return KVP_OK;
}

void kvpi_hub_hangup(kvpi_hub *hub, kvpi_session *session, kvp_status status, const char *text, int64_t now)
{
	(void)hub;
	kvpi_session_bye(session, status, text, now);
	peer_free(peer_of(session));
}

static void send_refuse(kvpi_hub *hub, const kvpi_zid *to, const kvpi_msg_hello *hello, kvp_status status)
{
	kvpi_msg msg = {.id = KVPI_MSG_refuse};

	msg.u.refuse.nonce = hello->nonce;
	msg.u.refuse.status = status;
	msg.u.refuse.text = kvpi_view_text(kvp_last_error());
	kvpi_buf_clear(&hub->out);
	KVPI_LOG(INFO, "control", "refused a HELLO: %s", kvp_last_error());
	if (kvpi_msg_encode(&msg, &hub->out) == KVP_OK)
		(void)kvpi_zsock_send(hub->router, to, hub->out.data, hub->out.len); /* the dialler repeats */
}

static kvp_status encode_welcome(kvpi_hub *hub, peer *p)
{
	kvpi_msg msg = {.id = KVPI_MSG_welcome};
	kvpi_msg_welcome *welcome = &msg.u.welcome;
	const kvpi_answer *answer = &hub->answer;

	welcome->version = KVPI_WIRE_VERSION_MAX;
	welcome->session = p->session.id;
	welcome->uuid = kvpi_view_of(hub->me->uuid, sizeof(hub->me->uuid));
	welcome->name = kvpi_view_text(hub->me->name);
	welcome->host = kvpi_view_text(hub->me->host);
	welcome->process = kvpi_view_of(hub->me->process, sizeof(hub->me->process));
	welcome->heartbeat_ms = (uint64_t)hub->me->heartbeat_ms;
	welcome->plane = kvpi_view_text(answer->plane);
	welcome->address = kvpi_view_of(answer->address, answer->address_len);
	welcome->token = kvpi_view_of(answer->token, sizeof(answer->token));
	welcome->why = kvpi_view_text(answer->why);
	welcome->nonce = kvpi_view_of(p->session.nonce, sizeof(p->session.nonce));
	return kvpi_msg_encode(&msg, &p->welcome);
}

static void receive_hello(kvpi_hub *hub, const kvpi_zid *from, const kvpi_msg_hello *hello, int64_t now)
{
	kvp_status status;
	peer *p;

	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		p = KVPI_CONTAINER_OF(pos, peer, node);
		if (!p->session.dialler && hello->nonce.len == 16 &&
		    memcmp(hello->nonce.data, p->session.nonce, 16) == 0) {
			p->zid = *from;
			p->session.heard_ns = now;
			(void)kvpi_zsock_send(hub->router, from, p->welcome.data, p->welcome.len);
			return;
		}
	}
	status = kvpi_session_check_hello(hub->me, hello);
	if (status == KVP_OK && hub->accepted >= ACCEPTED_MAX)
		status = kvpi_error(KVP_E_REFUSED, "%s already has %d sessions", hub->me->name, ACCEPTED_MAX);
	p = NULL;
	if (status == KVP_OK) {
		p = peer_new(hub);
		status = p ? KVP_OK : KVP_E_NOMEM;
	}
	if (status == KVP_OK) {
		memset(&hub->answer, 0, sizeof(hub->answer));
		status = hub->ops->hello(hub->user, hello, &hub->answer);
	}
	if (status != KVP_OK) {
		free(p);
		send_refuse(hub, from, hello, status);
		return;
	}
	p->zid = *from;
	kvpi_session_accept(&p->session, hub->me, &session_ops, hub->answer.user, hello, kvpi_random_u64(), now);
	hub->accepted++;
	kvpi_list_append(&hub->peers, &p->node);
	status = encode_welcome(hub, p);
	hub->ops->accepted(hub->user, &p->session);
	if (status == KVP_OK) {
		(void)kvpi_zsock_send(hub->router, from, p->welcome.data, p->welcome.len);
	} else {
		p->session.state = KVPI_SESSION_ENDED;
		hub->ops->ended(hub->user, &p->session, status, kvp_last_error());
	}
}

/* A frame that is not the protocol harms nobody but its sender's message. */
static void throw_away(kvpi_hub *hub)
{
	hub->protocol_errors++;
	KVPI_LOG(DEBUG, "control", "threw a message away: %s", kvp_last_error());
}

static void route(kvpi_hub *hub, const kvpi_zid *from, int64_t now)
{
	uint64_t number = kvpi_session_number(&hub->msg);

	if (hub->msg.id == KVPI_MSG_hello) {
		receive_hello(hub, from, &hub->msg.u.hello, now);
		return;
	}
	if (number == 0) {
		kvpi_error(KVP_E_PROTOCOL, "a %s does not belong here", kvpi_msg_name(hub->msg.id));
		throw_away(hub);
		return;
	}
	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		peer *p = KVPI_CONTAINER_OF(pos, peer, node);

		if (!p->session.dialler && p->session.id == number) {
			p->zid = *from; /* new after each reconnect */
			if (kvpi_session_receive(&p->session, &hub->msg, now) != KVP_OK)
				throw_away(hub);
			return;
		}
	}
}

/* Returns false when nothing more waits. */
static bool receive_one(kvpi_hub *hub, kvpi_zsock *sock, peer *dialled, int64_t now)
{
	kvpi_view frame;
	kvpi_zid from;
	kvp_status status = kvpi_zsock_recv(sock, &from, &frame);

	if (status == KVP_E_AGAIN)
		return false;
	if (status == KVP_OK)
		status = kvpi_msg_decode(hub->reader, frame.data, frame.len, KVPI_CONTROL_FRAME_MAX, &hub->msg);
	if (status == KVP_OK && dialled != NULL)
		status = kvpi_session_receive(&dialled->session, &hub->msg, now);
	else if (status == KVP_OK)
		route(hub, &from, now);
	if (status != KVP_OK)
		throw_away(hub);
	return true;
}

/* A peer with another cluster key never answers: the dialling ends with that, not with its deadline. */
static void end_if_refused(kvpi_hub *hub, peer *p)
{
	kvp_status status;

	if (p->dealer == NULL || p->session.state == KVPI_SESSION_ENDED)
		return;
	status = kvpi_zsock_trouble(p->dealer);
	if (status == KVP_OK)
		return;
	p->session.locked_out = true;
	p->session.state = KVPI_SESSION_ENDED;
	hub->ops->ended(hub->user, &p->session, status, kvp_last_error());
}

bool kvpi_hub_step(kvpi_hub *hub, int64_t now)
{
	bool more = false;
	int left = FRAMES_PER_STEP;

	hub->looked = false;
	while (left > 0 && receive_one(hub, hub->router, NULL, now))
		left--;
	more = left == 0;
	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		peer *p = KVPI_CONTAINER_OF(pos, peer, node);

		left = p->dealer ? FRAMES_PER_STEP : 0;
		while (left > 0 && receive_one(hub, p->dealer, p, now))
			left--;
		more = more || (p->dealer && left == 0);
	}
	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		peer *p = KVPI_CONTAINER_OF(pos, peer, node);

		kvpi_session_tick(&p->session, now);
		end_if_refused(hub, p);
		if (p->session.state == KVPI_SESSION_ENDED)
			peer_free(p);
	}
	return more;
}

int64_t kvpi_hub_next(const kvpi_hub *hub)
{
	int64_t next_ns = KVPI_NEVER;

	for (const kvpi_list *pos = hub->peers.next; pos != &hub->peers; pos = pos->next) {
		int64_t at = kvpi_session_next(&KVPI_CONTAINER_OF(pos, peer, node)->session);

		next_ns = at < next_ns ? at : next_ns;
	}
	return next_ns;
}

int kvpi_hub_arm(kvpi_hub *hub, struct pollfd *fds, int max)
{
	int count = 0;

	/* Asking ZeroMQ costs system calls, and its descriptors stay readable until it has been asked again: once will do. */
	if (!hub->looked && kvpi_zsock_ready(hub->router))
		return -1;
	if (max > 0)
		fds[count++] = (struct pollfd){kvpi_zsock_fd(hub->router), POLLIN, 0};
	KVPI_LIST_FOREACH(pos, next, &hub->peers) {
		peer *p = KVPI_CONTAINER_OF(pos, peer, node);

		if (p->dealer == NULL)
			continue;
		if (!hub->looked && kvpi_zsock_ready(p->dealer))
			return -1;
		if (count < max)
			fds[count++] = (struct pollfd){kvpi_zsock_fd(p->dealer), POLLIN, 0};
	}
	hub->looked = true;
	return count;
}

uint64_t kvpi_hub_protocol_errors(const kvpi_hub *hub)
{
	return hub->protocol_errors;
}
