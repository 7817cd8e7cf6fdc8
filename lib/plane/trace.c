/* SPDX-License-Identifier: Apache-2.0
 *
 * The wrapper `trace`: every call to another plane and every event of it as one log line at level DEBUG of component
 * "plane", and counters.  A line has the plane and the number of the connection, what happened, the transfer as
 * seq.attempt, bytes, how it went, and the seconds since the plane was opened, by its own clock:
 *
 *	tcp 1 submit 7.1 put 4096 bytes: KVP_OK at 0.001317
 *	tcp 1 sent 7.1 at 0.001402
 *
 * With the level off it costs a check and a counter for each call.
 */
#include "plane/wrap.h"

#include "base/context.h"
#include "base/error.h"
#include "base/log.h"
#include "base/metrics.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct trace_plane {
	kvpi_plane base;
	int64_t opened_ns;
	struct {
		kvpi_counter submits, submit_bytes, posts, post_bytes, notifies, cancels, refusals;
		kvpi_counter events[KVPI_PLANE_NOTIFIED + 1];
	} count;
	kvpi_metric_source source;
} trace_plane;

#define COUNTER(name, field, help)                                                                                     \
	{                                                                                                              \
		"kvpipe_plane_" name "_total", help, KVPI_METRIC_COUNTER, offsetof(trace_plane, count.field)           \
	}

static const kvpi_metric metric_table[] = {
    COUNTER("submits", submits, "Transfers begun at a traced data plane"),
    COUNTER("submit_bytes", submit_bytes, "Bytes of them"),
    COUNTER("posts", posts, "Destinations posted at a traced data plane"),
    COUNTER("post_bytes", post_bytes, "Bytes of them"),
    COUNTER("notifies", notifies, "Notifies given to a traced data plane"),
    COUNTER("cancels", cancels, "Transfers taken back from a traced data plane"),
    COUNTER("refusals", refusals, "Calls that a traced data plane did not take"),
    COUNTER("connected", events[KVPI_PLANE_CONNECTED], "Events CONNECTED of a traced data plane"),
    COUNTER("lost", events[KVPI_PLANE_LOST], "Events LOST of a traced data plane"),
    COUNTER("sent", events[KVPI_PLANE_SENT], "Events SENT of a traced data plane"),
    COUNTER("received", events[KVPI_PLANE_RECEIVED], "Events RECEIVED of a traced data plane"),
    COUNTER("notified", events[KVPI_PLANE_NOTIFIED], "Events NOTIFIED of a traced data plane"),
};

static trace_plane *trace_of(kvpi_plane *plane)
{
	return KVPI_CONTAINER_OF(plane, trace_plane, base);
}

static double seconds(const kvpi_conn *conn)
{
	return (double)(kvpi_now(conn->plane->clock) - trace_of(conn->plane)->opened_ns) / KVPI_NS_PER_S;
}

#define TRACE(conn, fmt, ...)                                                                                          \
	KVPI_LOG(DEBUG, "plane", "%s %" PRIu64 " " fmt " at %.6f", (conn)->plane->ops.name, (conn)->number,            \
	         ##__VA_ARGS__, seconds(conn))

#define ID "%" PRIu64 ".%" PRIu32

static kvp_status refused(kvpi_plane *plane, kvp_status status)
{
	if (status != KVP_OK)
		kvpi_counter_add(&trace_of(plane)->count.refusals, 1);
	return status;
}

static kvp_status trace_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                               kvpi_conn **conn)
{
	kvp_status status = refused(plane, kvpi_wrap_accept(plane, token, conn_user, conn));

	if (status == KVP_OK)
		TRACE(*conn, "accept: %s", kvp_status_name(status));
	else
		KVPI_LOG(DEBUG, "plane", "%s accept: %s", plane->ops.name, kvp_status_name(status));
	return status;
}

static kvp_status trace_connect(kvpi_plane *plane, const void *address, size_t len,
                                const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn)
{
	kvp_status status = refused(plane, kvpi_wrap_connect(plane, address, len, token, conn_user, conn));

	if (status == KVP_OK)
		TRACE(*conn, "connect: %s", kvp_status_name(status));
	else
		KVPI_LOG(DEBUG, "plane", "%s connect: %s", plane->ops.name, kvp_status_name(status));
	return status;
}

static void trace_hangup(kvpi_conn *conn)
{
	TRACE(conn, "hangup");
	kvpi_wrap_hangup(conn);
}

static kvp_status trace_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	trace_plane *trace = trace_of(conn->plane);
	kvp_status status = refused(conn->plane, kvpi_wrap_submit(conn, transfer));

	if (status == KVP_OK) {
		kvpi_counter_add(&trace->count.submits, 1);
		kvpi_counter_add(&trace->count.submit_bytes, transfer->local.bytes);
	}
	TRACE(conn, "submit " ID " %s %" PRIu64 " bytes: %s", transfer->id.seq, transfer->id.attempt,
	      transfer->direction == KVPI_PUT ? "put" : "get", transfer->local.bytes, kvp_status_name(status));
	return status;
}

static kvp_status trace_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	trace_plane *trace = trace_of(conn->plane);
	kvp_status status = refused(conn->plane, kvpi_wrap_post_recv(conn, transfer));

	if (status == KVP_OK) {
		kvpi_counter_add(&trace->count.posts, 1);
		kvpi_counter_add(&trace->count.post_bytes, transfer->local.bytes);
	}
	TRACE(conn, "post " ID " %" PRIu64 " bytes: %s", transfer->id.seq, transfer->id.attempt, transfer->local.bytes,
	      kvp_status_name(status));
	return status;
}

static kvp_status trace_notify(kvpi_conn *conn, const void *data, size_t len)
{
	kvp_status status = refused(conn->plane, kvpi_wrap_notify(conn, data, len));

	if (status == KVP_OK)
		kvpi_counter_add(&trace_of(conn->plane)->count.notifies, 1);
	TRACE(conn, "notify %zu bytes: %s", len, kvp_status_name(status));
	return status;
}

static kvp_receipt trace_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	kvp_receipt receipt = kvpi_wrap_cancel(conn, id);

	kvpi_counter_add(&trace_of(conn->plane)->count.cancels, 1);
	TRACE(conn, "cancel " ID ": %s", id.seq, id.attempt,
	      receipt == KVP_RECEIPT_QUIESCENT ? "quiescent" : "quarantined");
	return receipt;
}

static void on_event(void *user, const kvpi_plane_event *event)
{
	kvpi_conn *conn = event->conn_user;

	kvpi_counter_add(&trace_of(user)->count.events[event->kind], 1);
	switch (event->kind) {
	case KVPI_PLANE_CONNECTED:
		TRACE(conn, "connected");
		break;
	case KVPI_PLANE_LOST:
		TRACE(conn, "lost, %s: %s", kvp_status_name(event->status), event->text);
		break;
	case KVPI_PLANE_SENT:
		TRACE(conn, "sent " ID, event->id.seq, event->id.attempt);
		break;
	case KVPI_PLANE_RECEIVED:
		TRACE(conn, "received " ID, event->id.seq, event->id.attempt);
		break;
	case KVPI_PLANE_NOTIFIED:
		TRACE(conn, "notified %zu bytes", event->len);
		break;
	}
	kvpi_wrap_tell(conn, *event);
}

static void trace_close(kvpi_plane *plane)
{
	kvpi_metrics_remove(kvpi_context_metrics(plane->params.context), &trace_of(plane)->source);
	kvpi_wrap_close(plane);
}

static kvp_status trace_check(kvpi_view text)
{
	return kvpi_plane_settings_read(text, "trace", NULL, 0, NULL);
}

static kvp_status trace_open(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                             const kvpi_plane_ops **ops, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	trace_plane *trace;
	kvpi_plane *made;
	kvp_status status = kvpi_wrap_open(spec, level, params, sizeof(trace_plane), sizeof(kvpi_conn), on_event, &made);

	if (status != KVP_OK)
		return status;
	trace = trace_of(made);
	trace->opened_ns = kvpi_now(made->clock);
	trace->source = (kvpi_metric_source){
	    .table = metric_table, .count = sizeof(metric_table) / sizeof(metric_table[0]), .base = trace};
	kvpi_metrics_label(&trace->source, "plane", made->ops.name);
	kvpi_metrics_add(kvpi_context_metrics(params->context), &trace->source);
	made->ops.close = trace_close;
	made->ops.accept = trace_accept;
	made->ops.connect = trace_connect;
	made->ops.hangup = trace_hangup;
	made->ops.submit = trace_submit;
	made->ops.post_recv = trace_post_recv;
	made->ops.notify = trace_notify;
	made->ops.cancel = trace_cancel;
	*ops = &made->ops;
	*plane = made;
	*caps = made->caps;
	return KVP_OK;
}

const kvpi_plane_wrapper kvpi_plane_trace = {"trace", trace_check, trace_open};
