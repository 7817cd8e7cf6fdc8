/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"

#include "base/alloc.h"
#include "base/context.h"
#include "base/error.h"
#include "base/log.h"
#include "plane/spec.h"
#include "share/broker.h"
#include "wire/auth.h"

#include <stdio.h>
#include <string.h>

#define STAGING_BYTES (UINT64_C(4) << 20)
#define JOIN_MS 10000

_Static_assert(KVPI_ENGINE_PLANES_MAX >= KVPI_PLANE_SPECS_MAX, "every plane that a list can name has a place");

#define METRIC(kind, field, name, help) {name, help, KVPI_METRIC_##kind, offsetof(kvpi_engine, metrics.field)}

static const kvpi_metric metric_table[] = {
    METRIC(COUNTER, sent, "kvpipe_pipe_sent_total", "Tensors sent and confirmed"),
    METRIC(COUNTER, sent_bytes, "kvpipe_pipe_sent_bytes_total", "Payload bytes of them"),
    METRIC(COUNTER, received, "kvpipe_pipe_received_total", "Tensors received"),
    METRIC(COUNTER, received_bytes, "kvpipe_pipe_received_bytes_total", "Payload bytes of them"),
    METRIC(COUNTER, send_failures, "kvpipe_pipe_send_failures_total", "Sends that ended with an error"),
    METRIC(COUNTER, recv_failures, "kvpipe_pipe_recv_failures_total", "Receives that ended with an error"),
    METRIC(COUNTER, retransmissions, "kvpipe_pipe_retransmissions_total", "Transfers begun again"),
    METRIC(COUNTER, protocol_errors, "kvpipe_pipe_protocol_errors_total", "Messages thrown away"),
    METRIC(GAUGE, in_flight_bytes, "kvpipe_pipe_in_flight_bytes", "Bytes admitted and not yet ended"),
    METRIC(HISTOGRAM, send_seconds, "kvpipe_pipe_send_seconds", "From the call of a send to its end"),
    METRIC(HISTOGRAM, recv_seconds, "kvpipe_pipe_recv_seconds", "From the call of a receive to its end"),
    METRIC(HISTOGRAM_BYTES, sent_size_bytes, "kvpipe_pipe_sent_size_bytes", "Payload of one tensor"),
};

kvp_status kvpi_engine_check_planes(const char *list)
{
	kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
	size_t count;

	return kvpi_plane_specs_parse(list, specs, &count);
}

static void wake(void *user)
{
	kvpi_wakeup_post(&((kvpi_engine *)user)->wakeup);
}

static void room(void *user)
{
	kvpi_engine *engine = user;

	pthread_mutex_lock(&engine->mutex);
	if (engine->on_room != NULL)
		engine->on_room(engine->on_room_user);
	pthread_mutex_unlock(&engine->mutex);
}

static void close_planes(kvpi_engine *engine)
{
	while (engine->plane_count > 0) {
		kvpi_engine_plane *plane = &engine->planes[--engine->plane_count];

		plane->ops->close(plane->plane);
	}
}

static kvp_status open_planes(kvpi_engine *engine, const kvpi_engine_params *params)
{
	kvpi_plane_params plane_params = {.context = engine->context,
	                                  .listen = params->listen,
	                                  .streams = params->tcp_streams,
	                                  .checksum = params->checksum,
	                                  .staging_bytes = STAGING_BYTES,
	                                  .clock = engine->clock,
	                                  .on_event = kvpi_link_plane_event,
	                                  .wake = wake,
	                                  .user = engine};
	kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
	size_t count;
	kvp_status status = kvpi_plane_specs_parse(params->planes, specs, &count);

	if (status != KVP_OK)
		return status;
	for (size_t i = 0; i < count; i++) {
		kvpi_engine_plane *plane = &engine->planes[engine->plane_count];

		status = kvpi_plane_open(&specs[i], &plane_params, &plane->ops, &plane->plane, &plane->caps);
		if (status == KVP_E_UNSUPPORTED) {
			KVPI_LOG(INFO, "engine", "plane %s: %s", specs[i].base->name, kvp_last_error());
			continue;
		}
		if (status != KVP_OK)
			return status;
		engine->plane_names[engine->plane_count++] = kvpi_view_text(specs[i].base->name);
	}
	if (engine->plane_count == 0)
		return kvpi_error(KVP_E_NO_PLANE, "no data plane can be used on this machine");
	return KVP_OK;
}

static void introduce(kvpi_engine *engine, const kvpi_engine_params *params)
{
	kvpi_identity *me = &engine->me;
	kvpi_broker_facts broker;

	kvpi_random(me->uuid, sizeof(me->uuid));
	memcpy(me->process, kvpi_context_uuid(engine->context), sizeof(me->process));
	snprintf(me->name, sizeof(me->name), "%s", params->name);
	snprintf(me->compat_text, sizeof(me->compat_text), "%s", params->compat_text);
	kvpi_hash(me->compat_text, strlen(me->compat_text), me->compat);
	me->heartbeat_ms = params->heartbeat_ms;
	kvpi_hostid_read(&engine->facts.host);
	kvpi_broker_facts_read(&broker);
	engine->facts.host.run_dev = broker.dir_dev;
	engine->facts.host.run_ino = broker.dir_ino;
	kvpi_hostid_format(&engine->facts.host, me->host, sizeof(me->host));
	memcpy(engine->facts.process, me->process, sizeof(me->process));
}

static void init_links(kvpi_engine *engine)
{
	int64_t repeat_ns = (int64_t)engine->me.heartbeat_ms * KVPI_NS_PER_MS;

	engine->out.engine = engine->in.engine = engine;
	engine->out.status = engine->in.status = KVP_PENDING;
	engine->out.reconnect_ns = engine->in.reconnect_ns = KVPI_NEVER;
	engine->out.gone_ns = engine->in.gone_ns = KVPI_NEVER;
	kvpi_tx_init(&engine->tx, &kvpi_link_tx_ops, engine, repeat_ns);
	kvpi_rx_init(&engine->rx, &kvpi_link_rx_ops, engine, repeat_ns);
	engine->open_low = 1;
	engine->awaited = UINT64_MAX;
	engine->hub_wanted = true;
}

kvp_status kvpi_engine_new(const kvpi_engine_params *params, kvpi_engine **out)
{
	kvpi_engine *engine = KVPI_NEW(kvpi_engine);
	kvp_status status;

	if (engine == NULL)
		return kvpi_error_nomem("an engine");
	engine->clock = params->clock ? params->clock : &kvpi_clock_real;
	engine->worker_cpu = params->worker_cpu;
	/* With one CPU, whoever looks for news keeps those from running who make them. */
	engine->poll_ns = kvpi_engine_cpus() > 1 ? params->poll_ns : 0;
	engine->on_room = params->on_room;
	engine->on_room_user = params->on_room_user;
	kvpi_list_init(&engine->inbox);
	kvpi_list_init(&engine->settling);
	pthread_mutex_init(&engine->mutex, NULL);
	status = kvpi_auth_init();
	if (status != KVP_OK)
		goto err_free;
	status = kvpi_cond_init(&engine->changed);
	if (status != KVP_OK)
		goto err_free;
	status = kvpi_context_hold(params->context, &engine->context);
	if (status != KVP_OK)
		goto err_fini_cond;
	introduce(engine, params);
	init_links(engine);
	kvpi_buf_init(&engine->frame);
	engine->reader = kvpi_msg_reader_new();
	if (engine->reader == NULL) {
		status = kvpi_error_nomem("a message reader");
		goto err_release;
	}
	status = kvpi_request_pool_new(engine->poll_ns, &engine->requests);
	if (status != KVP_OK)
		goto err_free_reader;
	status = kvpi_heap_reserve(&engine->tx.expiry, KVPI_ENGINE_ITEMS_MAX);
	if (status != KVP_OK)
		goto err_close_pool;
	status = kvpi_wakeup_init(&engine->wakeup);
	if (status != KVP_OK)
		goto err_fini_tx;
	status = kvpi_admission_init(&engine->bytes, params->buffer_bytes, params->buffer_bytes / 2, room, engine);
	if (status != KVP_OK)
		goto err_fini_wakeup;
	status = kvpi_admission_init(&engine->items, KVPI_ENGINE_ITEMS_MAX, KVPI_ENGINE_ITEMS_MAX / 2, room, engine);
	if (status != KVP_OK)
		goto err_fini_bytes;
	status = kvpi_hub_new(engine->context, &params->listen, &engine->me, &kvpi_link_hub_ops, engine,
	                      &engine->hub);
	if (status != KVP_OK)
		goto err_fini_items;
	status = open_planes(engine, params);
	if (status != KVP_OK)
		goto err_close_planes;
	engine->metric_source = (kvpi_metric_source){
	    .table = metric_table, .count = sizeof(metric_table) / sizeof(metric_table[0]), .base = engine};
	kvpi_metrics_label(&engine->metric_source, "endpoint", engine->me.name);
	kvpi_metrics_add(kvpi_context_metrics(engine->context), &engine->metric_source);
	*out = engine;
	return KVP_OK;

err_close_planes:
	close_planes(engine);
	kvpi_hub_free(engine->hub, 0);
err_fini_items:
	kvpi_admission_fini(&engine->items);
err_fini_bytes:
	kvpi_admission_fini(&engine->bytes);
err_fini_wakeup:
	kvpi_wakeup_fini(&engine->wakeup);
err_fini_tx:
	kvpi_tx_fini(&engine->tx);
err_close_pool:
	kvpi_request_pool_close(engine->requests);
err_free_reader:
	kvpi_msg_reader_free(engine->reader);
err_release:
	kvpi_context_release(engine->context);
err_fini_cond:
	pthread_cond_destroy(&engine->changed);
err_free:
	pthread_mutex_destroy(&engine->mutex);
	free(engine);
	return status;
}

/* Tells the worker to leave and waits for it, but not without end: false leaves it the tidying up. */
static bool join(kvpi_engine *engine)
{
	int64_t deadline_ns = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), JOIN_MS);
	bool left;

	atomic_store(&engine->stop, true);
	if (!engine->threaded)
		return true;
	kvpi_wakeup_post(&engine->wakeup);
	pthread_mutex_lock(&engine->mutex);
	while (!engine->left && kvpi_cond_wait_until(&engine->changed, &engine->mutex, deadline_ns))
		continue;
	left = engine->left;
	if (!left) {
		KVPI_LOG(ERROR, "engine", "the worker of %s did not stop within %d ms and is left behind",
		         engine->me.name, JOIN_MS);
		engine->abandoned = true;
		engine->on_room = NULL; /* whom it would tell goes away now */
		pthread_detach(engine->thread);
	}
	pthread_mutex_unlock(&engine->mutex);
	if (left)
		pthread_join(engine->thread, NULL);
	return left;
}

/* What was handed in and never taken up by the worker. */
static void empty_inbox(kvpi_engine *engine, int64_t now)
{
	kvpi_list *node;

	while ((node = kvpi_list_first(&engine->inbox)) != NULL) {
		kvp_request *request = KVPI_CONTAINER_OF(node, kvp_request, inbox);

		kvpi_list_remove(node);
		if (request->kind == KVPI_REQUEST_SEND)
			(void)kvpi_tx_add(&engine->tx, &request->item, now);
		else
			kvpi_rx_post_add(&engine->rx, &request->post);
	}
}

void kvpi_engine_tidy(kvpi_engine *engine)
{
	int64_t now = kvpi_now(engine->clock);

	pthread_mutex_lock(&engine->mutex);
	engine->ended = true;
	pthread_mutex_unlock(&engine->mutex);
	empty_inbox(engine, now);
	kvpi_link_drop(&engine->out);
	kvpi_link_drop(&engine->in);
	kvpi_tx_fail(&engine->tx, KVP_E_CLOSED, "the handle was freed", now);
	kvpi_rx_fail(&engine->rx, KVP_E_CLOSED, "the handle was freed", now);
	kvpi_link_settle(engine, now);
	kvpi_link_farewell(engine, now);
	kvpi_hub_free(engine->hub, now);
	close_planes(engine);
	kvpi_metrics_remove(kvpi_context_metrics(engine->context), &engine->metric_source);
	kvpi_admission_fini(&engine->items);
	kvpi_admission_fini(&engine->bytes);
	kvpi_wakeup_fini(&engine->wakeup);
	kvpi_tx_fini(&engine->tx);
	kvpi_request_pool_close(engine->requests);
	kvpi_msg_reader_free(engine->reader);
	kvpi_buf_fini(&engine->frame);
	free(engine->rx.room);
	pthread_cond_destroy(&engine->changed);
	pthread_mutex_destroy(&engine->mutex);
	kvpi_context_release(engine->context);
	free(engine);
}

void kvpi_engine_free(kvpi_engine *engine)
{
	if (engine != NULL && join(engine))
		kvpi_engine_tidy(engine);
}

const char *kvpi_engine_url(const kvpi_engine *engine)
{
	return kvpi_hub_url(engine->hub);
}

void kvpi_engine_expect(kvpi_engine *engine, const char *service)
{
	snprintf(engine->in.service, sizeof(engine->in.service), "%s", service);
	engine->in.used = true;
}
