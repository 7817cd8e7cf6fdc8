/* SPDX-License-Identifier: Apache-2.0 */
#include "control/session.h"

#include "base/error.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* HELLO is repeated quickly at first, since the peer's socket is often just not connected yet. */
#define HELLO_FIRST_NS (10 * KVPI_NS_PER_MS)
#define HELLO_MOST_NS (500 * KVPI_NS_PER_MS)

static void copy_text(char *out, size_t size, kvpi_view text)
{
	size_t len = text.len < size - 1 ? text.len : size - 1;

	if (len > 0)
		memcpy(out, text.data, len);
	out[len] = '\0';
}

/* What a peer may say of why it leaves or refuses: its own state, and that no plane fits.  Anything else would be
 * taken for something that happened here. */
static kvp_status told(int64_t status, kvp_status otherwise)
{
	bool fits = kvp_status_scope((kvp_status)status) == KVP_SCOPE_PEER || status == KVP_E_NO_PLANE;

	return fits ? (kvp_status)status : otherwise;
}

static void end(kvpi_session *session, kvp_status status, const char *text)
{
	session->state = KVPI_SESSION_ENDED;
	KVPI_LOG(INFO, "control", "session with %s ended, %s: %s", session->peer_name, kvp_status_name(status),
	         text);
	session->ops->ended(session, status, text);
}

void kvpi_session_dial(kvpi_session *session, const kvpi_identity *me, const kvpi_session_ops *ops, void *user,
                       const char *service, const char *peer, const unsigned char nonce[16],
                       const kvpi_view *planes, size_t plane_count, int64_t now, int64_t deadline_ns)
{
	memset(session, 0, sizeof(*session));
	session->me = me;
	session->ops = ops;
	session->user = user;
	session->state = KVPI_SESSION_DIALLING;
	session->dialler = true;
	memcpy(session->nonce, nonce, sizeof(session->nonce));
	snprintf(session->service, sizeof(session->service), "%s", service);
	snprintf(session->peer_name, sizeof(session->peer_name), "%s", peer);
	session->planes = planes;
	session->plane_count = plane_count;
	session->heard_ns = session->sent_ns = now;
	session->hello_ns = now;
	session->hello_interval_ns = HELLO_FIRST_NS;
	session->dial_deadline_ns = deadline_ns;
}

void kvpi_session_accept(kvpi_session *session, const kvpi_identity *me, const kvpi_session_ops *ops, void *user,
                         const kvpi_msg_hello *hello, uint64_t id, int64_t now)
{
	memset(session, 0, sizeof(*session));
	session->me = me;
	session->ops = ops;
	session->user = user;
	session->state = KVPI_SESSION_OPEN;
	session->id = id;
	memcpy(session->nonce, hello->nonce.data, sizeof(session->nonce));
	memcpy(session->peer_uuid, hello->uuid.data, sizeof(session->peer_uuid));
	copy_text(session->service, sizeof(session->service), hello->service);
	copy_text(session->peer_name, sizeof(session->peer_name), hello->name);
	session->peer_heartbeat_ms = (int)hello->heartbeat_ms;
	session->heard_ns = session->sent_ns = now;
}

kvp_status kvpi_session_check_hello(const kvpi_identity *me, const kvpi_msg_hello *hello)
{
	if (hello->uuid.len != 16 || hello->process.len != 16 || hello->nonce.len != 16 || hello->compat.len != 32)
		return kvpi_error(KVP_E_PROTOCOL, "a HELLO with an identity of the wrong length");
	if (hello->version_min > KVPI_WIRE_VERSION_MAX || hello->version_max < KVPI_WIRE_VERSION_MIN)
		return kvpi_error(KVP_E_VERSION,
		                  "no common protocol version: the caller speaks %" PRIu64 " to %" PRIu64
		                  ", %s speaks %d to %d",
		                  hello->version_min, hello->version_max, me->name,
		                  KVPI_WIRE_VERSION_MIN, KVPI_WIRE_VERSION_MAX);
	if (memcmp(hello->compat.data, me->compat, sizeof(me->compat)) != 0)
		return kvpi_error(KVP_E_INCOMPATIBLE, "the two ends are set up differently: %.*s against %s at %s",
		                  (int)(hello->compat_text.len < 160 ? hello->compat_text.len : 160),
		                  (const char *)hello->compat_text.data, me->compat_text, me->name);
	return KVP_OK;
}

static void send_hello(kvpi_session *session, int64_t now)
{
	const kvpi_identity *me = session->me;
	kvpi_msg msg = {.id = KVPI_MSG_hello};
	kvpi_msg_hello *hello = &msg.u.hello;

	hello->version_min = KVPI_WIRE_VERSION_MIN;
	hello->version_max = KVPI_WIRE_VERSION_MAX;
	hello->uuid = kvpi_view_of(me->uuid, sizeof(me->uuid));
	hello->name = kvpi_view_text(me->name);
	hello->service = kvpi_view_text(session->service);
	hello->compat = kvpi_view_of(me->compat, sizeof(me->compat));
	hello->compat_text = kvpi_view_text(me->compat_text);
	hello->host = kvpi_view_text(me->host);
	hello->process = kvpi_view_of(me->process, sizeof(me->process));
	hello->heartbeat_ms = (uint64_t)me->heartbeat_ms;
	hello->planes = (kvpi_views){session->planes, session->plane_count};
	hello->nonce = kvpi_view_of(session->nonce, sizeof(session->nonce));
	session->ops->send(session, &msg);
	session->hello_ns = now + session->hello_interval_ns;
	session->hello_interval_ns *= 2;
	if (session->hello_interval_ns > HELLO_MOST_NS)
		session->hello_interval_ns = HELLO_MOST_NS;
}

static kvp_status receive_welcome(kvpi_session *session, const kvpi_msg_welcome *welcome, int64_t now)
{
	kvp_status status;

	if (welcome->nonce.len != 16 || memcmp(welcome->nonce.data, session->nonce, 16) != 0)
		return KVP_OK; /* the answer to an earlier dialling */
	if (session->state == KVPI_SESSION_OPEN)
		return KVP_OK; /* our HELLO was repeated, so was the answer */
	if (welcome->uuid.len != 16 || welcome->process.len != 16 || welcome->token.len != 16 ||
	    welcome->version < KVPI_WIRE_VERSION_MIN || welcome->version > KVPI_WIRE_VERSION_MAX)
		return kvpi_error(KVP_E_PROTOCOL, "a WELCOME from %s that does not fit the HELLO", session->peer_name);
	session->id = welcome->session;
	memcpy(session->peer_uuid, welcome->uuid.data, sizeof(session->peer_uuid));
	copy_text(session->peer_name, sizeof(session->peer_name), welcome->name);
	session->peer_heartbeat_ms = (int)welcome->heartbeat_ms;
	session->state = KVPI_SESSION_OPEN;
	session->heard_ns = now;
	status = session->ops->welcomed(session, welcome);
	if (status != KVP_OK) {
		char text[KVPI_SESSION_TEXT_MAX];

		snprintf(text, sizeof(text), "%s", kvp_last_error());
		kvpi_session_bye(session, status, text, now);
		end(session, status, text);
	}
	return KVP_OK;
}

static kvp_status receive_refuse(kvpi_session *session, const kvpi_msg_refuse *refuse)
{
	char text[KVPI_SESSION_TEXT_MAX];

	if (refuse->nonce.len != 16 || memcmp(refuse->nonce.data, session->nonce, 16) != 0 ||
	    session->state != KVPI_SESSION_DIALLING)
		return KVP_OK;
	copy_text(text, sizeof(text), refuse->text);
	end(session, told(refuse->status, KVP_E_REFUSED), text);
	return KVP_OK;
}

uint64_t kvpi_session_number(const kvpi_msg *msg)
{
	switch (msg->id) {
	case KVPI_MSG_beat:
		return msg->u.beat.session;
	case KVPI_MSG_bye:
		return msg->u.bye.session;
	case KVPI_MSG_announce:
		return msg->u.announce.session;
	case KVPI_MSG_state:
		return msg->u.state.session;
	default:
		return 0;
	}
}

kvp_status kvpi_session_receive(kvpi_session *session, const kvpi_msg *msg, int64_t now)
{
	char text[KVPI_SESSION_TEXT_MAX];

	if (session->state == KVPI_SESSION_ENDED)
		return KVP_OK;
	if (session->dialler && msg->id == KVPI_MSG_welcome)
		return receive_welcome(session, &msg->u.welcome, now);
	if (session->dialler && msg->id == KVPI_MSG_refuse)
		return receive_refuse(session, &msg->u.refuse);
	if (kvpi_session_number(msg) == 0)
		return kvpi_error(KVP_E_PROTOCOL, "a %s from %s where none belongs", kvpi_msg_name(msg->id),
		                  session->peer_name);
	if (session->state != KVPI_SESSION_OPEN || kvpi_session_number(msg) != session->id)
		return KVP_OK; /* late, of another session */
	session->heard_ns = now;
	switch (msg->id) {
	case KVPI_MSG_beat:
		break;
	case KVPI_MSG_bye:
		copy_text(text, sizeof(text), msg->u.bye.text);
		end(session, told(msg->u.bye.status, KVP_E_PEER_CLOSED), text);
		break;
	default:
		session->ops->message(session, msg, now);
		break;
	}
	return KVP_OK;
}

static int64_t silence_ns(const kvpi_session *session)
{
	return (int64_t)session->peer_heartbeat_ms * KVPI_NS_PER_MS * KVPI_SESSION_MISSED_BEATS;
}

void kvpi_session_tick(kvpi_session *session, int64_t now)
{
	char text[KVPI_SESSION_TEXT_MAX];

	if (session->state == KVPI_SESSION_DIALLING) {
		if (now >= session->dial_deadline_ns) {
			snprintf(text, sizeof(text), "%s did not answer", session->peer_name);
			end(session, KVP_E_PEER_LOST, text);
		} else if (now >= session->hello_ns) {
			send_hello(session, now);
		}
	} else if (session->state == KVPI_SESSION_OPEN) {
		if (now - session->heard_ns >= silence_ns(session)) {
			snprintf(text, sizeof(text), "nothing heard from %s for %d ms (%d heartbeats): it died, hangs, "
			         "or the network between is cut",
			         session->peer_name, session->peer_heartbeat_ms * KVPI_SESSION_MISSED_BEATS,
			         KVPI_SESSION_MISSED_BEATS);
			end(session, KVP_E_PEER_LOST, text);
		} else if (now - session->sent_ns >= (int64_t)session->me->heartbeat_ms * KVPI_NS_PER_MS) {
			kvpi_msg msg = {.id = KVPI_MSG_beat};

			msg.u.beat.session = session->id;
			kvpi_session_send(session, &msg, now);
			session->sent_ns = now; /* also when it could not be sent: the next in an interval */
		}
	}
}

int64_t kvpi_session_next(const kvpi_session *session)
{
	int64_t beat, silence;

	switch (session->state) {
	case KVPI_SESSION_DIALLING:
		return session->hello_ns < session->dial_deadline_ns ? session->hello_ns : session->dial_deadline_ns;
	case KVPI_SESSION_OPEN:
		beat = session->sent_ns + (int64_t)session->me->heartbeat_ms * KVPI_NS_PER_MS;
		silence = session->heard_ns + silence_ns(session);
		return beat < silence ? beat : silence;
	default:
		return KVPI_NEVER;
	}
}

bool kvpi_session_send(kvpi_session *session, const kvpi_msg *msg, int64_t now)
{
	if (session->state != KVPI_SESSION_OPEN || !session->ops->send(session, msg))
		return false;
	session->sent_ns = now;
	return true;
}

void kvpi_session_bye(kvpi_session *session, kvp_status status, const char *text, int64_t now)
{
	kvpi_msg msg = {.id = KVPI_MSG_bye};

	if (session->state == KVPI_SESSION_OPEN) {
		msg.u.bye.session = session->id;
		msg.u.bye.status = status;
		msg.u.bye.text = kvpi_view_text(text);
		kvpi_session_send(session, &msg, now);
	}
	session->state = KVPI_SESSION_ENDED;
}
