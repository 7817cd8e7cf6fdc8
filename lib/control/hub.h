/* SPDX-License-Identifier: Apache-2.0
 *
 * The thin loop under the sessions of one endpoint: one ROUTER where peers dial in, one DEALER for each peer
 * that was dialled, and the sessions on them.  One thread, the endpoint's worker; nothing blocks.
 */
#ifndef KVPI_CONTROL_HUB_H
#define KVPI_CONTROL_HUB_H

#include "control/session.h"
#include "wire/addr.h"
#include "wire/zsock.h"
#include <kvpipe/context.h>
#include <poll.h>

typedef struct kvpi_hub kvpi_hub;

/* What the endpoint answers to a HELLO it accepts. */
typedef struct kvpi_answer {
	void *user; /* of the session */
	const char *plane;
	unsigned char address[1024];
	size_t address_len;
	unsigned char token[16];
	char why[2048];
} kvpi_answer;

typedef struct kvpi_hub_ops {
	/* A HELLO for a service that passed kvpi_session_check_hello.  KVP_OK and *answer filled accepts it; anything else
	 * refuses it with that status and kvp_last_error(). */
	kvp_status (*hello)(void *user, const kvpi_msg_hello *hello, kvpi_answer *answer);
	/* Acceptor: the session that `answer.user` asked for is open.  It stays valid until ended. */
	void (*accepted)(void *user, kvpi_session *session);
	/* As in kvpi_session_ops; `user` is the hub's, the session's own is session->user. */
	kvp_status (*welcomed)(void *user, kvpi_session *session, const kvpi_msg_welcome *welcome);
	void (*message)(void *user, kvpi_session *session, const kvpi_msg *msg, int64_t now);
	void (*ended)(void *user, kvpi_session *session, kvp_status status, const char *text);
} kvpi_hub_ops;

/* Binds the ROUTER where `listen` says.  Borrows identity and ops.  Returns owned. */
kvp_status kvpi_hub_new(kvp_context *context, const kvpi_listen *listen, const kvpi_identity *me,
                        const kvpi_hub_ops *ops, void *user, kvpi_hub **hub);

/* Says goodbye on every open session (without `ended`), closes, frees.  NULL is fine. */
void kvpi_hub_free(kvpi_hub *hub, int64_t now);

const char *kvpi_hub_url(const kvpi_hub *hub);

/* Dials; the session stays valid until ended.  planes as in kvpi_session_dial. */
kvp_status kvpi_hub_dial(kvpi_hub *hub, const char *url, const char *service, const kvpi_view *planes,
                         size_t plane_count, void *session_user, int64_t now, int64_t deadline_ns,
                         kvpi_session **session);

/* Ends a session from this side: BYE, no `ended`; the session is gone afterwards.  Not from inside a callback. */
void kvpi_hub_hangup(kvpi_hub *hub, kvpi_session *session, kvp_status status, const char *text, int64_t now);

/* Takes in what has come (a bounded number), then the timers.  Returns true when more may wait. */
bool kvpi_hub_step(kvpi_hub *hub, int64_t now);

int64_t kvpi_hub_next(const kvpi_hub *hub); /* when a timer is due */

/* Before sleeping: fills fds (POLLIN), returns how many, or -1 when something waits already. */
int kvpi_hub_arm(kvpi_hub *hub, struct pollfd *fds, int max);

uint64_t kvpi_hub_protocol_errors(const kvpi_hub *hub); /* frames thrown away */

#endif
