/* SPDX-License-Identifier: Apache-2.0
 *
 * A session between two endpoints: introduction, agreement, signs of life, goodbye.  A pure state machine:
 * it takes messages, time and orders, and gives messages and changes of state through the functions it
 * was handed; it does no I/O and has no clock.
 *
 *	dialler                                         acceptor
 *	  HELLO {versions, who, service, compat, planes, nonce}  →   judged by the endpoint (hub.h)
 *	  (repeated until answered)                     ←  WELCOME {session, version, plane, address, token, why}
 *	                                                or REFUSE {status, text}
 *	  BEAT / ANNOUNCE / STATE …    both ways, each with the session's number
 *	  BYE {status, text}           either way, the last message
 *
 * Everything may be lost, doubled or late: HELLO and WELCOME are matched by the dialling's nonce, all else by
 * the session number; what matches nothing is dropped.  A peer from which nothing has come for three of *its*
 * heartbeat intervals is lost.  The order in a step is: first all messages, then tick(), so that a worker
 * that was stalled itself does not take a peer for dead whose messages wait in the socket.
 */
#ifndef KVPI_CONTROL_SESSION_H
#define KVPI_CONTROL_SESSION_H

#include "base/clock.h"
#include "wire/msg.h"
#include <kvpipe/status.h>
#include <stdbool.h>
#include <stdint.h>

#define KVPI_SESSION_MISSED_BEATS 3
#define KVPI_SESSION_NAME_MAX 128
#define KVPI_SESSION_TEXT_MAX 512

typedef enum kvpi_session_state {
	KVPI_SESSION_DIALLING, /* dialler: HELLO goes out until answered */
	KVPI_SESSION_OPEN,
	KVPI_SESSION_ENDED
} kvpi_session_state;

/* Who an endpoint is; borrowed by its sessions. */
typedef struct kvpi_identity {
	unsigned char uuid[16];    /* random per endpoint: a restarted peer is another one */
	unsigned char process[16]; /* random per context: equal means the same process */
	unsigned char compat[32];  /* hash of compat_text */
	char name[KVPI_SESSION_NAME_MAX];
	char compat_text[256];     /* what must be equal at both ends, for people */
	char host[400];            /* kvpi_hostid_format */
	int heartbeat_ms;
} kvpi_identity;

typedef struct kvpi_session kvpi_session;

typedef struct kvpi_session_ops {
	/* Sends one message; false when it could not be handed over now (it will be repeated or is not needed). */
	bool (*send)(kvpi_session *session, const kvpi_msg *msg);
	/* Dialler: WELCOME came; its fields are borrowed.  A status other than KVP_OK ends the session with a BYE. */
	kvp_status (*welcomed)(kvpi_session *session, const kvpi_msg_welcome *welcome);
	/* A message of the open session other than those handled here. */
	void (*message)(kvpi_session *session, const kvpi_msg *msg, int64_t now);
	/* The last call for this session: why it is over. */
	void (*ended)(kvpi_session *session, kvp_status status, const char *text);
} kvpi_session_ops;

struct kvpi_session {
	const kvpi_identity *me;
	const kvpi_session_ops *ops;
	void *user;
	kvpi_session_state state;
	bool dialler;
	bool locked_out; /* ended because the peer has another cluster key: no dialling again will help */
	uint64_t id; /* 0 until open */
	unsigned char nonce[16];
	char service[KVPI_SESSION_NAME_MAX];
	char peer_name[KVPI_SESSION_NAME_MAX]; /* the dialled url until WELCOME tells the name */
	unsigned char peer_uuid[16];
	int peer_heartbeat_ms;
	int64_t heard_ns, sent_ns;           /* last message from and to the peer */
	int64_t hello_ns, hello_interval_ns; /* next HELLO, and how long after it the one behind */
	int64_t dial_deadline_ns;
	const kvpi_view *planes; /* dialler: names offered, borrowed until open */
	size_t plane_count;
};

/* A dialling session.  `nonce` is 16 random bytes; `planes` must live until the session is open or ended. */
void kvpi_session_dial(kvpi_session *session, const kvpi_identity *me, const kvpi_session_ops *ops, void *user,
                       const char *service, const char *peer, const unsigned char nonce[16],
                       const kvpi_view *planes, size_t plane_count, int64_t now, int64_t deadline_ns);

/* The accepting half, after the endpoint has decided to WELCOME this HELLO; `id` is random, not 0. */
void kvpi_session_accept(kvpi_session *session, const kvpi_identity *me, const kvpi_session_ops *ops, void *user,
                         const kvpi_msg_hello *hello, uint64_t id, int64_t now);

/* Checks what every acceptor checks (lengths, version, compat) and gives the refusal: KVP_OK, or the status with
 * its sentence in kvp_last_error(). */
kvp_status kvpi_session_check_hello(const kvpi_identity *me, const kvpi_msg_hello *hello);

/* One decoded message of this session.  KVP_E_PROTOCOL when it makes no sense here: the session is unharmed. */
kvp_status kvpi_session_receive(kvpi_session *session, const kvpi_msg *msg, int64_t now);

/* The session a message belongs to; 0 for the introductions and for messages of other protocols. */
uint64_t kvpi_session_number(const kvpi_msg *msg);

/* Timers.  */
void kvpi_session_tick(kvpi_session *session, int64_t now);

/* When tick has something to do next; KVPI_NEVER when ended. */
int64_t kvpi_session_next(const kvpi_session *session);

/* Sends one message of the session (its `session` field filled by the caller from session->id). */
bool kvpi_session_send(kvpi_session *session, const kvpi_msg *msg, int64_t now);

/* Says goodbye and ends here, without calling ended(). */
void kvpi_session_bye(kvpi_session *session, kvp_status status, const char *text, int64_t now);

#endif
