/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: what a public face (pipe, later connector) stands on.  One endpoint with an outgoing and an
 * incoming link, its sessions, its planes, and one worker that drives them.
 *
 * Threads.  Everything marked "worker" is the worker's alone.  Other threads hand requests over through the inbox
 * and read what the worker publishes, both under `mutex`, which is held for a few instructions only.  Lock
 * order: request->mutex before engine->mutex before admission's.
 *
 * Tests make no thread: they call kvpi_engine_step() by hand, with a manual clock.
 */
#ifndef KVPI_ENGINE_ENGINE_H
#define KVPI_ENGINE_ENGINE_H

#include "base/admission.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/wakeup.h"
#include "control/hub.h"
#include "engine/request.h"
#include "engine/rx.h"
#include "engine/tx.h"
#include "plane/plane.h"
#include <kvpipe/pipe.h>

#define KVPI_ENGINE_PLANES_MAX 8
#define KVPI_ENGINE_ITEMS_MAX 4096 /* sends that have not been passed by the receiver, tombstones included */

typedef struct kvpi_engine kvpi_engine;

/* One opened plane. */
typedef struct kvpi_engine_plane {
	const kvpi_plane_ops *ops;
	kvpi_plane *plane;
	kvpi_plane_caps caps;
	bool wanted; /* has, or may have, something to do though no link uses it: strangers at its door */
} kvpi_engine_plane;

/* One direction: a session, a connection on the agreed plane, and the half of the transfer protocol. */
typedef struct kvpi_link {
	kvpi_engine *engine;
	bool used;
	/* worker */
	char service[KVPI_SESSION_NAME_MAX];
	kvpi_session *session;
	kvpi_engine_plane *plane;
	kvpi_conn *conn;
	bool met;                /* the connection has been up in this session */
	bool conn_up, conn_lost; /* lost: to be hung up after the plane's progress call */
	atomic_bool direct;      /* announcements and states go over the data connection; any thread may look */
	unsigned char address[KVPI_PLANE_ADDRESS_MAX], token[KVPI_PLANE_TOKEN_BYTES];
	size_t address_len;
	int64_t reconnect_ns, backoff_ns; /* KVPI_NEVER when there is nothing to do */
	int64_t gone_ns; /* the peer is proven gone: over then, unless it has said goodbye; KVPI_NEVER */
	char lost_text[256];
	atomic_bool locked_out; /* any thread: the last session ended for the reason of that name (session.h) */
	/* published */
	kvp_status status; /* KVP_PENDING: not up yet; KVP_OK; else why it is over */
	char text[KVPI_ERROR_MAX];
	char peer[KVPI_SESSION_NAME_MAX];
	char why[2048];
	char way[160]; /* what the plane says of how the bytes go; "" = nothing */
} kvpi_link;

struct kvpi_engine {
	kvp_context *context;
	const kvpi_clock *clock;
	kvpi_identity me;
	kvpi_facts facts;
	kvpi_wakeup wakeup;
	pthread_t thread;
	bool threaded;
	/* worker */
	kvpi_hub *hub;
	kvpi_engine_plane planes[KVPI_ENGINE_PLANES_MAX];
	size_t plane_count;
	kvpi_view plane_names[KVPI_ENGINE_PLANES_MAX];
	kvpi_link out, in;
	kvpi_tx tx;
	kvpi_rx rx;
	kvpi_msg_reader *reader; /* of what comes on data connections */
	kvpi_msg msg;
	kvpi_buf frame;          /* what goes out on them */
	unsigned char packed[KVPI_LINK_INLINE_MAX];
	bool busy; /* this step gave a plane something to do */
	bool hub_wanted;     /* the hub has, or may have, something to do */
	int64_t hub_look_ns; /* when to look there even so */
	int64_t step_ns;     /* the time of the step */
	kvpi_list settling;                /* requests that are over but for a device copy that cannot be revoked */
	kvpi_transfer_id quarantined;      /* the transfer that a plane's cancel last said that of */
	uint64_t bad_messages; /* decoded well, but impossible */
	/* inbox and published, under mutex */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	kvpi_list inbox;
	atomic_bool orders; /* something under the mutex waits for the worker: set after it, before the wake-up */
	atomic_bool stop;
	bool closed, cancel_all;
	bool posts_failed; /* a planned receive has failed: the planned ones behind it fail too, until resumed */
	bool in_may_return; /* while opening by name: another sender may take the place of one that left */
	atomic_bool cancel_wanted;
	char dial_url[300];
	char dial_service[KVPI_SESSION_NAME_MAX];
	int64_t dial_deadline_ns;
	bool dial_wanted;
	uint64_t submitted, open_low; /* numbers of sends: handed in last; lowest not ended */
	kvp_status first_failure;     /* of a send since the last flush */
	char first_failure_text[KVPI_ERROR_MAX];
	uint64_t awaited; /* somebody waits until open_low has passed this; UINT64_MAX: nobody does */
	unsigned posts, planned; /* receives and peeks that have not ended; those of them posted ahead */
	bool ended;              /* nothing will be taken up any more */
	bool left, abandoned;    /* the worker has left its loop; nobody waits for that: it tidies up itself */
	/* any thread */
	kvpi_request_pool *requests;
	int64_t poll_ns;
	int worker_cpu;
	kvpi_admission bytes, items;
	struct {
		kvpi_counter sent, sent_bytes, received, received_bytes, send_failures, recv_failures;
		kvpi_counter retransmissions, protocol_errors, in_flight_bytes;
		kvpi_histogram send_seconds, recv_seconds, sent_size_bytes;
	} metrics;
	kvpi_metric_source metric_source;
	void (*on_room)(void *user);
	void *on_room_user;
};

typedef struct kvpi_engine_params {
	kvp_context *context; /* held by the engine */
	const char *name;     /* for people */
	const char *compat_text;
	kvpi_listen listen;  /* where hub and planes listen */
	const char *planes; /* as plane/spec.h has it, best first; "" = all */
	int tcp_streams;
	bool checksum;
	int64_t poll_ns;    /* look for news this long before sleeping */
	int worker_cpu;     /* -1: any; checked by kvpi_engine_check_cpu */
	int heartbeat_ms;
	uint64_t buffer_bytes;
	const kvpi_clock *clock; /* NULL: the real one */
	void (*on_room)(void *user);
	void *on_room_user;
} kvpi_engine_params;

/* KVP_E_INVALID when the list of planes (plane/spec.h) makes no sense; "" and NULL mean all. */
kvp_status kvpi_engine_check_planes(const char *list);

/* Opens hub and planes.  KVP_E_NO_PLANE, system errors.  Returns owned. */
kvp_status kvpi_engine_new(const kvpi_engine_params *params, kvpi_engine **engine);

/* worker.c: is that one of the CPUs that this thread may use (-1: any)?  KVP_E_INVALID.  And how many are there? */
kvp_status kvpi_engine_check_cpu(int cpu);
int kvpi_engine_cpus(void);

/* Starts the worker thread, on its CPU if one was asked for. */
kvp_status kvpi_engine_start(kvpi_engine *engine);

/* Ends the worker, every request (KVP_E_CLOSED) and the sessions, frees.  A worker that does not come back within 10 s
 * is left behind, logged, and tidies up itself should it ever come back.  NULL is fine. */
void kvpi_engine_free(kvpi_engine *engine);

const char *kvpi_engine_url(const kvpi_engine *engine); /* of the hub: what a peer dials */

/* Before start: the incoming link, by the service name the peer will dial. */
void kvpi_engine_expect(kvpi_engine *engine, const char *service);

/* Any thread: the outgoing link.  Dialling again replaces a link that is not up. */
void kvpi_engine_dial(kvpi_engine *engine, const char *url, const char *service, int64_t deadline_ns);

/* Any thread: waits until a link is up; how it ended otherwise, or KVP_E_TIMEOUT with what is missing. */
kvp_status kvpi_engine_wait_link(kvpi_engine *engine, kvpi_link *link, int64_t deadline_ns);

/* While opening by name: from now on the incoming link's end is final.  False if it is not up just now. */
bool kvpi_engine_settle_in(kvpi_engine *engine);

/* Any thread.  KVP_OK when the link can take requests; its end's status and sentence otherwise. */
kvp_status kvpi_engine_link_status(kvpi_engine *engine, const kvpi_link *link);

/* Any thread.  Hands a filled request over (holds it).  RECV: KVP_E_AGAIN beyond KVPI_RX_POSTS_MAX; KVP_E_CLOSED. */
kvp_status kvpi_engine_submit(kvpi_engine *engine, kvp_request *request);

/* Any thread: some request's cancel_wanted was set. */
void kvpi_engine_cancel_wanted(kvpi_engine *engine);

/* Any thread: nothing is taken any more, receives that have not ended end with KVP_E_CLOSED, sends go on. */
void kvpi_engine_close(kvpi_engine *engine);

/* Any thread: waits until every send and receive has ended.  KVP_E_TIMEOUT. */
kvp_status kvpi_engine_drain(kvpi_engine *engine, int64_t deadline_ns);

/* Any thread: planned receives are taken again after one has failed; those handed in before are not. */
void kvpi_engine_resume(kvpi_engine *engine);

/* True on the worker itself, in a done callback. */
bool kvpi_engine_is_worker(const kvpi_engine *engine);

/* Any thread: waits until all sends handed in so far have ended; their first failure. */
kvp_status kvpi_engine_flush(kvpi_engine *engine, int64_t deadline_ns);

/* Any thread: cancels every send that has not ended. */
void kvpi_engine_cancel_sends(kvpi_engine *engine);

/* Worker, or a test in its place: one round of everything.  True when there may be more to do at once. */
bool kvpi_engine_step(kvpi_engine *engine);
int64_t kvpi_engine_next(const kvpi_engine *engine); /* when a timer is due */

/* links.c: the links' callbacks, used by engine.c and worker.c alone. */
extern const kvpi_hub_ops kvpi_link_hub_ops;
extern const kvpi_tx_ops kvpi_link_tx_ops;
extern const kvpi_rx_ops kvpi_link_rx_ops;
void kvpi_link_plane_event(void *user, const kvpi_plane_event *event);
void kvpi_link_dial(kvpi_engine *engine, int64_t now);
void kvpi_link_repair(kvpi_link *link, int64_t now); /* hang up what was lost, connect again when due */
void kvpi_link_end(kvpi_link *link, kvp_status status, const char *text, int64_t now);
void kvpi_link_drop(kvpi_link *link); /* hangs the data connection up: nothing here touches memory any more */
void kvpi_link_farewell(kvpi_engine *engine, int64_t now); /* when all has ended: what the sender must still know */
void kvpi_link_settle(kvpi_engine *engine, int64_t now); /* ends requests whose device copies have ended */

/* engine.c: what remains when the worker has left. */
void kvpi_engine_tidy(kvpi_engine *engine);

#endif
