/* SPDX-License-Identifier: Apache-2.0
 *
 * The store server: a ROUTER, a thread, and the core that does the thinking.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/log.h"
#include "base/options.h"
#include "base/thread.h"
#include "base/wakeup.h"
#include "store/core.h"
#include "wire/auth.h"
#include <kvpipe/store.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x6b767373 /* "kvss" */

#define MESSAGES_PER_TURN 64 /* then timers and the outbox get their turn */
#define OUTBOX_BYTES (64u * 1024 * 1024)
#define OUTBOX_RETRY_MS 10
#define BACK_OFF_MS 100

/* A reply that found no room on its way to a client which reads slowly. */
typedef struct parcel {
	kvpi_list node;
	kvpi_zid to;
	size_t len;
	char frame[];
} parcel;

typedef struct server_counters {
	kvpi_counter protocol_errors; /* frames that were dropped */
	kvpi_counter lost_replies;    /* to clients that are gone or do not read */
	kvpi_counter outbox_bytes;    /* gauge */
} server_counters;

struct kvp_store_server {
	kvpi_handle handle;
	kvp_context *context;
	kvpi_metric_source metrics[2];
	bool metrics_added;
	uint64_t incarnation;
	kvpi_wakeup wakeup;
	atomic_bool stop;
	bool running;
	pthread_t thread;
	/* From here the thread's own, while it runs. */
	kvpi_zctx *zctx;
	kvpi_zsock *sock;
	kvpi_store_core *core;
	kvpi_msg_reader *reader;
	kvpi_buf frame;   /* of the reply being made */
	kvpi_list outbox; /* parcels, oldest first */
	server_counters counters;
};

static const kvpi_option option_rows[] = {
    {"bind", KVPI_OPT_STRING, KVPI_OPT_FIELD(kvp_store_server_options, bind),
        .def_text = "127.0.0.1:0", .help = "where to listen, host:port or host:first-last; port 0: any free one"},
    {"max_bytes", KVPI_OPT_BYTES, KVPI_OPT_FIELD(kvp_store_server_options, max_bytes), .min = 1,
        .max = 1e15, .def = 1 << 30, .help = "keys and values together, in bytes"},
    {"max_keys", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_store_server_options, max_keys), .min = 1,
        .max = INT_MAX, .def = 1000000, .help = "number of keys"},
    {"max_waits", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_store_server_options, max_waits), .min = 1,
        .max = INT_MAX, .def = 65536, .help = "number of parked calls of all clients"},
    {"advertise", KVPI_OPT_STRING, KVPI_OPT_FIELD(kvp_store_server_options, advertise),
        .help = "host that clients are told to connect to; else the one that is bound"},
};

static const kvpi_option_table option_table = {"kvp_store_server_options",
    sizeof(kvp_store_server_options), sizeof(option_rows) / sizeof(option_rows[0]), option_rows};

#define REQUESTS(kind)                                                                             \
	{                                                                                          \
		"kvpipe_store_" #kind "_requests_total", "Requests of kind " #kind ".",            \
		    KVPI_METRIC_COUNTER,                                                           \
		    offsetof(kvpi_store_stats, requests) +                                         \
		        sizeof(kvpi_counter) * (KVPI_MSG_store_##kind - KVPI_MSG_store_open)       \
	}

static const kvpi_metric core_metrics[] = {
    REQUESTS(open),
    REQUESTS(ping),
    REQUESTS(set),
    REQUESTS(get),
    REQUESTS(cancel),
    REQUESTS(add),
    REQUESTS(compare_set),
    REQUESTS(delete),
    REQUESTS(list),
    REQUESTS(gather),
    {"kvpipe_store_expired_keys_total", "Keys whose time to live ran out.", KVPI_METRIC_COUNTER,
        offsetof(kvpi_store_stats, expired)},
    {"kvpipe_store_wait_timeouts_total", "Parked calls that ran out of time.", KVPI_METRIC_COUNTER,
        offsetof(kvpi_store_stats, wait_timeouts)},
    {"kvpipe_store_keys", "Keys that have a value.", KVPI_METRIC_GAUGE,
        offsetof(kvpi_store_stats, keys)},
    {"kvpipe_store_bytes", "Bytes of keys and values.", KVPI_METRIC_GAUGE,
        offsetof(kvpi_store_stats, bytes)},
    {"kvpipe_store_gathers", "Gatherings that come together, or whose answers can be had again.",
        KVPI_METRIC_GAUGE, offsetof(kvpi_store_stats, gathers)},
    {"kvpipe_store_parked_waits", "Calls that wait for keys.", KVPI_METRIC_GAUGE,
        offsetof(kvpi_store_stats, waits)},
};

static const kvpi_metric server_metrics[] = {
    {"kvpipe_store_protocol_errors_total", "Frames that were not the protocol.",
        KVPI_METRIC_COUNTER, offsetof(server_counters, protocol_errors)},
    {"kvpipe_store_lost_replies_total", "Replies to clients that are gone or do not read.",
        KVPI_METRIC_COUNTER, offsetof(server_counters, lost_replies)},
    {"kvpipe_store_outbox_bytes", "Replies that wait for room to a client.", KVPI_METRIC_GAUGE,
        offsetof(server_counters, outbox_bytes)},
};

/* ---- replies ---- */

static void free_parcel(kvp_store_server *server, parcel *p)
{
	kvpi_list_remove(&p->node);
	kvpi_counter_add(&server->counters.outbox_bytes, 0 - (uint64_t)p->len);
	free(p);
}

/* Keeps server->frame for later.  A client that never reads must not hold more than the outbox. */
static kvp_status put_into_outbox(kvp_store_server *server, const kvpi_zid *to)
{
	const size_t len = server->frame.len;
	parcel *p;

	if (kvpi_counter_get(&server->counters.outbox_bytes) + len > OUTBOX_BYTES)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "a client does not read its replies, and %u bytes wait", OUTBOX_BYTES);
	p = kvpi_calloc(1, sizeof(*p) + len);
	if (p == NULL)
		return kvpi_error_nomem("a reply");
	p->to = *to;
	p->len = len;
	memcpy(p->frame, server->frame.data, len);
	kvpi_list_append(&server->outbox, &p->node);
	kvpi_counter_add(&server->counters.outbox_bytes, len);
	return KVP_OK;
}

static void flush_outbox(kvp_store_server *server)
{
	KVPI_LIST_FOREACH (pos, nxt, &server->outbox) {
		parcel *p = KVPI_CONTAINER_OF(pos, parcel, node);
		const kvp_status status = kvpi_zsock_send(server->sock, &p->to, p->frame, p->len);

		if (status == KVP_E_AGAIN)
			continue;
		if (status != KVP_OK)
			kvpi_counter_add(&server->counters.lost_replies, 1);
		free_parcel(server, p);
	}
}

static kvp_status encode(kvp_store_server *server, const kvpi_msg_store_reply *reply)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_reply};

	msg.u.store_reply = *reply;
	kvpi_buf_clear(&server->frame);
	return kvpi_msg_encode(&msg, &server->frame);
}

/* The core's way out. */
static kvp_status send_reply(void *user, const kvpi_zid *to, const kvpi_msg_store_reply *reply)
{
	kvp_store_server *server = user;
	const kvp_status encoded = encode(server, reply);
	kvp_status status;

	/* Without memory for all of it, at least the status goes out: the caller need not wait. */
	if (encoded != KVP_OK) {
		const kvpi_msg_store_reply bare = {
		    .id = reply->id, .incarnation = reply->incarnation, .status = encoded};

		KVPI_LOG(ERROR, "store", "cannot write a reply: %s", kvp_last_error());
		if (encode(server, &bare) != KVP_OK)
			return encoded;
	}
	/* As with a connection that breaks: it left, and does not arrive. */
	if (kvpi_fault("store.reply"))
		return encoded;
	status = kvpi_zsock_send(server->sock, to, server->frame.data, server->frame.len);
	if (status == KVP_E_AGAIN)
		status = put_into_outbox(server, to);
	if (status != KVP_OK) {
		KVPI_LOG(DEBUG, "store", "a reply is lost: %s", kvp_last_error());
		kvpi_counter_add(&server->counters.lost_replies, 1);
	}
	return encoded != KVP_OK ? encoded : status;
}

/* ---- the thread ---- */

static void drop_frame(kvp_store_server *server)
{
	KVPI_LOG(DEBUG, "store", "a frame is dropped: %s", kvp_last_error());
	kvpi_counter_add(&server->counters.protocol_errors, 1);
}

/* What became of the requests that had come. */
typedef enum intake {
	INTAKE_EMPTY, /* none is left, so the descriptor will tell of the next one */
	INTAKE_MORE,  /* there may be more */
	INTAKE_TROUBLE
} intake;

/* Takes up to a turn's worth of requests in.  The socket is asked by receiving: to ask for its
 * events first would be a system call per request. */
static intake take_requests(kvp_store_server *server)
{
	for (int i = 0; i < MESSAGES_PER_TURN; i++) {
		kvpi_zid client;
		kvpi_view frame;
		kvpi_msg msg;
		kvp_status status = kvpi_zsock_recv(server->sock, &client, &frame);

		if (status == KVP_E_AGAIN)
			return kvpi_zsock_draining(server->sock) ? INTAKE_MORE : INTAKE_EMPTY;
		if (status != KVP_OK && status != KVP_E_PROTOCOL) {
			KVPI_LOG(ERROR, "store", "server: %s", kvp_last_error());
			return INTAKE_TROUBLE;
		}
		if (status == KVP_OK)
			status = kvpi_msg_decode(
			    server->reader, frame.data, frame.len, KVPI_STORE_FRAME_MAX, &msg);
		if (status == KVP_OK)
			status = kvpi_store_core_handle(
			    server->core, &client, &msg, kvpi_now(&kvpi_clock_real));
		if (status != KVP_OK)
			drop_frame(server);
	}
	return INTAKE_MORE;
}

/* How long the thread may sleep; -1: until something comes. */
static int sleep_ms(const kvp_store_server *server, int64_t now_ns)
{
	const int64_t deadline_ns = kvpi_store_core_deadline(server->core);
	int ms = deadline_ns == KVPI_NEVER ? -1 : kvpi_ms_left(deadline_ns, now_ns);

	/* Room to a client is announced by the descriptor, but receiving may have eaten the news. */
	if (!kvpi_list_empty(&server->outbox) && (ms < 0 || ms > OUTBOX_RETRY_MS))
		ms = OUTBOX_RETRY_MS;
	return ms;
}

/* Nothing is sent between the last look into the socket and the sleep: sending, too, may take from
 * the descriptor what it has to tell. */
static void *run(void *arg)
{
	kvp_store_server *server = arg;
	struct pollfd fds[] = {{.fd = server->wakeup.fd, .events = POLLIN},
	    {.fd = kvpi_zsock_fd(server->sock), .events = POLLIN}};

	while (!atomic_load(&server->stop)) {
		intake in;

		kvpi_store_core_advance(server->core, kvpi_now(&kvpi_clock_real));
		flush_outbox(server);
		in = take_requests(server);
		if (in == INTAKE_EMPTY)
			poll(fds, 2, sleep_ms(server, kvpi_now(&kvpi_clock_real)));
		else if (in == INTAKE_TROUBLE)
			poll(fds, 1, BACK_OFF_MS);
	}
	return NULL;
}

/* ---- start and free ---- */

void kvp_store_server_options_init_sized(kvp_store_server_options *options, size_t size)
{
	kvpi_options_init(&option_table, options, size);
}

static void destroy(kvp_store_server *server)
{
	if (server->running) {
		atomic_store(&server->stop, true);
		kvpi_wakeup_post(&server->wakeup);
		pthread_join(server->thread, NULL);
	}
	if (server->metrics_added)
		for (int i = 0; i < 2; i++)
			kvpi_metrics_remove(
			    kvpi_context_metrics(server->context), &server->metrics[i]);
	kvpi_store_core_free(server->core);
	KVPI_LIST_FOREACH (pos, nxt, &server->outbox)
		free_parcel(server, KVPI_CONTAINER_OF(pos, parcel, node));
	kvpi_msg_reader_free(server->reader);
	kvpi_buf_fini(&server->frame);
	kvpi_zsock_close(server->sock);
	kvpi_zctx_free(server->zctx);
	kvpi_wakeup_fini(&server->wakeup);
	kvpi_context_release(server->context);
	kvpi_handle_fini(&server->handle);
	free(server);
}

static void add_metrics(kvp_store_server *server)
{
	server->metrics[0].table = core_metrics;
	server->metrics[0].count = sizeof(core_metrics) / sizeof(core_metrics[0]);
	server->metrics[0].base = kvpi_store_core_stats(server->core);
	server->metrics[1].table = server_metrics;
	server->metrics[1].count = sizeof(server_metrics) / sizeof(server_metrics[0]);
	server->metrics[1].base = &server->counters;
	for (int i = 0; i < 2; i++) {
		kvpi_metrics_label(&server->metrics[i], "url", kvpi_zsock_url(server->sock));
		kvpi_metrics_add(kvpi_context_metrics(server->context), &server->metrics[i]);
	}
	server->metrics_added = true;
}

/* All that can fail; what was made so far is destroy()'s. */
static kvp_status set_up(
    kvp_store_server *server, kvp_context *context, const kvp_store_server_options *options)
{
	const kvpi_store_limits limits = {.max_bytes = options->max_bytes,
	    .max_keys = (size_t)options->max_keys,
	    .max_waits = (size_t)options->max_waits};
	const kvpi_store_sink sink = {.reply = send_reply, .user = server};
	kvpi_listen listen = {.advertise_host = options->advertise};
	char host[256];
	kvp_status status = kvpi_context_hold(context, &server->context);

	if (status != KVP_OK)
		return status;
	status = kvpi_auth_init();
	if (status != KVP_OK)
		return status;
	/* Its own one: when that is freed, and not before, the port is free for the next server. */
	status = kvpi_zctx_new_in(server->context, &server->zctx);
	if (status != KVP_OK)
		return status;
	status = kvpi_wakeup_init(&server->wakeup);
	if (status != KVP_OK)
		return status;
	status = kvpi_listen_parse(options->bind, host, &listen);
	if (status != KVP_OK)
		return status;
	status = kvpi_zsock_listen(server->zctx, &listen, KVPI_STORE_FRAME_MAX, &server->sock);
	if (status != KVP_OK)
		return status;
	server->incarnation = kvpi_random_u64();
	server->core = kvpi_store_core_new(&limits, kvpi_random_u64(), server->incarnation, sink);
	server->reader = kvpi_msg_reader_new();
	if (server->core == NULL || server->reader == NULL)
		return kvpi_error_nomem("a store server");
	add_metrics(server);
	status = kvpi_thread_start(&server->thread, "kvp-store", run, server);
	server->running = status == KVP_OK;
	return status;
}

kvp_status kvp_store_server_start(
    kvp_context *context, const kvp_store_server_options *options, kvp_store_server **out)
{
	kvp_store_server_options given;
	kvp_store_server *server;
	kvp_status status;

	if (out == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_store_server_start: server is NULL");
	status = kvpi_options_read(&option_table, options, &given, "kvp_store_server_start");
	if (status != KVP_OK)
		return status;
	server = KVPI_NEW(kvp_store_server);
	if (server == NULL)
		return kvpi_error_nomem("a store server");
	kvpi_handle_init(&server->handle, MAGIC);
	kvpi_list_init(&server->outbox);
	server->wakeup.fd = -1;
	status = set_up(server, context, &given);
	if (status != KVP_OK) {
		destroy(server);
		return status;
	}
	KVPI_LOG(INFO, "store", "server %016llx listens at %s",
	    (unsigned long long)server->incarnation, kvpi_zsock_url(server->sock));
	*out = server;
	return KVP_OK;
}

const char *kvp_store_server_url(const kvp_store_server *server)
{
	return server != NULL ? kvpi_zsock_url(server->sock) : NULL;
}

uint64_t kvp_store_server_incarnation(const kvp_store_server *server)
{
	return server != NULL ? server->incarnation : 0;
}

void kvp_store_server_free(kvp_store_server *server)
{
	/* In a forked child the thread and the sockets are the parent's. */
	if (server == NULL ||
	    kvpi_handle_check(&server->handle, MAGIC, "kvp_store_server_free") != KVP_OK)
		return;
	destroy(server);
}
