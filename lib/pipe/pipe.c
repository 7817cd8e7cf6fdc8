/* SPDX-License-Identifier: Apache-2.0 */
#include "pipe/pipe_handle.h"

#include "base/error.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FREE_STOP_MS 5000
/* The worker ends a request at its deadline; if even that does not happen, it is stuck. */
#define STUCK_MS 10000
#define SLICE_MS 1000

static kvp_status check(const kvp_pipe *pipe, const char *call)
{
	return kvpi_handle_check(pipe ? &pipe->handle : NULL, KVPI_PIPE_MAGIC, call);
}

static kvp_status check_open(const kvp_pipe *pipe, const char *call)
{
	kvp_status status = check(pipe, call);

	if (status == KVP_OK && atomic_load(&pipe->closed))
		status = kvpi_error(KVP_E_CLOSED, "%s: the pipe is closed", call);
	return status;
}

static kvp_status check_timeout(int timeout_ms, const char *call)
{
	if (timeout_ms < KVP_TIMEOUT_DEFAULT)
		return kvpi_error(KVP_E_INVALID, "%s: a time-out of %d ms", call, timeout_ms);
	return KVP_OK;
}

/* What waits for the pipe's own thread must not be called on it. */
static kvp_status check_thread(const kvp_pipe *pipe, const char *call)
{
	if (kvpi_engine_is_worker(pipe->engine))
		return kvpi_error(KVP_E_INVALID, "%s: called from a done callback, it would wait for itself", call);
	return KVP_OK;
}

/* Where the tensor lies, and whether the link's plane can reach it. */
static kvp_status place(kvp_pipe *pipe, const kvpi_link *link, kvp_tensor *tensor, const char *call)
{
	const kvpi_engine_plane *plane = link->plane;
	kvp_status status;

	if (kvp_tensor_bytes(tensor) == 0 && tensor->dtype != KVP_DTYPE_ANY)
		tensor->memory = KVP_MEMORY_HOST; /* nothing will be touched */
	status = kvpi_device_resolve(tensor->data, &tensor->memory, &tensor->device);
	if (status != KVP_OK)
		return status;
	if (tensor->memory != KVP_MEMORY_HOST)
		status = kvpi_device_find(tensor->memory)->prepare(tensor->device); /* not on the worker: it may be slow */
	if (status != KVP_OK)
		return status;
	if (pipe->host_only && tensor->memory != KVP_MEMORY_HOST)
		return kvpi_error(KVP_E_UNSUPPORTED, "%s: device memory on a pipe with kv_buffer_device cpu", call);
	if (plane != NULL && !(plane->caps.memories & (1u << tensor->memory)))
		return kvpi_error(KVP_E_UNSUPPORTED, "%s: the data plane %s cannot carry this kind of memory (%s)", call,
		                  plane->ops->name, kvpi_device_find(tensor->memory)->name);
	return KVP_OK;
}

/* ---- sending ------------------------------------------------------------------------------------------ */

static kvp_status make_send(kvp_pipe *pipe, const kvp_tensor *tensor, const kvp_send_options *options,
                            kvp_request **out)
{
	kvp_request *request;
	kvp_status status = kvpi_request_new(pipe->engine->requests, KVPI_REQUEST_SEND, &request);

	if (status != KVP_OK)
		return status;
	request->tensor = *tensor;
	if (tensor->dtype == KVP_DTYPE_NONE)
		kvp_tensor_init_none(&request->tensor); /* nothing else of it counts */
	request->begun_ns = kvpi_now(&kvpi_clock_real);
	request->timeout_ms = pipe->timeout_ms;
	request->done = options->done;
	request->done_user = options->user;
	request->item.tensor = &request->tensor;
	request->item.bytes = request->charged = kvp_tensor_bytes(tensor);
	request->item.deadline_ns = kvpi_pipe_deadline(pipe, options->deadline_ms);
	status = place(pipe, &pipe->engine->out, &request->tensor, "kvp_pipe_send");
	if (status == KVP_OK && request->tensor.memory != KVP_MEMORY_HOST) {
		request->device = kvpi_device_find(request->tensor.memory);
		status = request->device->record(request->tensor.device, request->tensor.stream, &request->after);
	}
	if (status != KVP_OK) {
		kvpi_request_release(request);
		return status;
	}
	*out = request;
	return KVP_OK;
}

/* Room for the bytes and for one more item. */
static kvp_status admit(kvp_pipe *pipe, uint64_t bytes, int64_t deadline_ns)
{
	kvpi_engine *engine = pipe->engine;
	kvp_status status = kvpi_admission_take(&engine->bytes, bytes, deadline_ns);

	if (status != KVP_OK)
		return status;
	status = kvpi_admission_take(&engine->items, 1, deadline_ns);
	if (status == KVP_OK)
		return KVP_OK;
	kvpi_admission_give_back(&engine->bytes, bytes);
	if (status == KVP_E_AGAIN || status == KVP_E_TIMEOUT)
		return kvpi_error(status, "kvp_pipe_send: %d tensors wait for the receiver already", KVPI_ENGINE_ITEMS_MAX);
	return status;
}

/* After a refusal: resets the room event, and looks again lest it came just now. */
static kvp_status admit_again(kvp_pipe *pipe, uint64_t bytes)
{
	kvp_status status;

	kvpi_wakeup_clear(&pipe->room);
	status = admit(pipe, bytes, 0);
	if (status == KVP_OK)
		kvpi_wakeup_post(&pipe->room); /* the event may have been another thread's */
	else
		atomic_fetch_add(&pipe->refused_twice, 1);
	return status;
}

kvp_status kvp_pipe_send(kvp_pipe *pipe, const kvp_tensor *tensor, const kvp_send_options *given,
                         kvp_request **out)
{
	kvp_send_options options;
	kvp_request *request;
	uint64_t bytes;
	kvp_status status = check_open(pipe, "kvp_pipe_send");

	if (status == KVP_OK)
		status = kvpi_options_read(&kvpi_send_option_table, given, &options, "kvp_pipe_send");
	if (status == KVP_OK)
		status = kvp_tensor_check(tensor);
	if (status == KVP_OK && tensor->dtype == KVP_DTYPE_ANY)
		status = kvpi_error(KVP_E_INVALID, "kvp_pipe_send: a raw buffer has no dtype to send");
	if (status == KVP_OK)
		status = kvpi_engine_link_status(pipe->engine, &pipe->engine->out);
	if (status == KVP_OK)
		status = make_send(pipe, tensor, &options, &request);
	if (status != KVP_OK)
		return status;
	bytes = request->charged;
	status = admit(pipe, bytes, kvpi_pipe_deadline(pipe, options.timeout_ms));
	if (status == KVP_E_AGAIN)
		status = admit_again(pipe, bytes);
	if (status != KVP_OK)
		goto err_release;
	kvpi_counter_add(&pipe->engine->metrics.in_flight_bytes, bytes);
	status = kvpi_engine_submit(pipe->engine, request);
	if (status != KVP_OK)
		goto err_give_back;
	if (out != NULL)
		*out = request;
	else
		kvpi_request_release(request);
	return KVP_OK;

err_give_back:
	kvpi_counter_add(&pipe->engine->metrics.in_flight_bytes, -bytes);
	kvpi_admission_give_back(&pipe->engine->items, 1);
	kvpi_admission_give_back(&pipe->engine->bytes, bytes);
err_release:
	if (request->after != NULL)
		request->device->event_free(request->after);
	kvpi_request_release(request);
	return status;
}

kvp_status kvp_pipe_flush(kvp_pipe *pipe, int timeout_ms)
{
	kvp_status status = check(pipe, "kvp_pipe_flush");

	if (status == KVP_OK)
		status = check_timeout(timeout_ms, "kvp_pipe_flush");
	if (status == KVP_OK)
		status = check_thread(pipe, "kvp_pipe_flush");
	return status != KVP_OK ? status : kvpi_engine_flush(pipe->engine, kvpi_pipe_deadline(pipe, timeout_ms));
}

int kvp_pipe_room_fd(const kvp_pipe *pipe)
{
	kvp_status status = check(pipe, "kvp_pipe_room_fd");

	return status == KVP_OK ? pipe->room.fd : (int)status;
}

/* ---- receiving ---------------------------------------------------------------------------------------- */

static kvp_status take_turn(kvp_pipe *pipe, int64_t deadline_ns)
{
	bool taken;

	pthread_mutex_lock(&pipe->turn_mutex);
	while (pipe->turn_taken)
		if (!kvpi_cond_wait_until(&pipe->turn_free, &pipe->turn_mutex, deadline_ns))
			break;
	taken = !pipe->turn_taken;
	pipe->turn_taken = true;
	pthread_mutex_unlock(&pipe->turn_mutex);
	return taken ? KVP_OK
	             : kvpi_error(KVP_E_TIMEOUT, "another thread is receiving through an allocator");
}

static void give_turn(kvp_pipe *pipe)
{
	pthread_mutex_lock(&pipe->turn_mutex);
	pipe->turn_taken = false;
	pthread_cond_signal(&pipe->turn_free);
	pthread_mutex_unlock(&pipe->turn_mutex);
}

static kvp_status check_destination(const kvp_tensor *tensor, const char *call)
{
	kvp_status status = kvp_tensor_check(tensor);

	if (status != KVP_OK)
		return status;
	if (tensor->dtype == KVP_DTYPE_NONE)
		return kvpi_error(KVP_E_INVALID, "%s: the destination is the none marker; describe it, or use "
		                  "kvp_tensor_init_buffer", call);
	for (int i = 0; i < tensor->ndim; i++)
		if (tensor->strides[i] == 0 && tensor->shape[i] > 1)
			return kvpi_error(KVP_E_INVALID, "%s: dimension %d of the destination has stride 0: its elements "
			                  "would overwrite each other", call, i);
	return KVP_OK;
}

static kvp_status submit(kvp_pipe *pipe, kvpi_request_kind kind, const kvp_tensor *tensor, int64_t deadline_ns,
                         bool alone, const char *call, kvp_request **out)
{
	kvp_request *request;
	kvp_status status = kvpi_request_new(pipe->engine->requests, kind, &request);

	if (status != KVP_OK)
		return status;
	request->begun_ns = kvpi_now(&kvpi_clock_real);
	request->timeout_ms = pipe->timeout_ms;
	request->post.tensor = &request->tensor;
	request->post.peek = kind == KVPI_REQUEST_PEEK;
	request->post.alone = alone;
	request->post.deadline_ns = deadline_ns;
	if (tensor != NULL) {
		request->tensor = *tensor;
		status = place(pipe, &pipe->engine->in, &request->tensor, call);
	}
	if (status == KVP_OK)
		status = kvpi_engine_submit(pipe->engine, request);
	if (status != KVP_OK) {
		kvpi_request_release(request);
		return status;
	}
	*out = request;
	return KVP_OK;
}

/* Waits for a request whose deadline is the call's: the worker ends it then, or just after.  Should that fail, it is
 * asked again and given time in slices: a process that was stopped for a minute lost that minute, not its worker. */
static kvp_status await(kvp_request *request, int64_t deadline_ns, kvp_tensor *tensor, bool *quiet)
{
	kvp_status status = kvpi_request_wait_until(request, deadline_ns);
	char text[KVPI_ERROR_MAX];
	bool canceled;

	if (status == KVP_E_TIMEOUT)
		status = kvp_request_wait(request, SLICE_MS);
	canceled = status == KVP_E_TIMEOUT;
	for (int slice = 0; status == KVP_E_TIMEOUT && slice < STUCK_MS / SLICE_MS; slice++)
		status = kvp_request_cancel(request, SLICE_MS, NULL) == KVP_OK ? kvp_request_test(request) : KVP_E_TIMEOUT;
	*quiet = kvp_request_receipt(request) == KVP_RECEIPT_QUIESCENT;
	if (status == KVP_E_TIMEOUT) {
		KVPI_LOG(ERROR, "pipe", "the worker does not react; a receive's memory is quarantined");
		status = kvpi_error(KVP_E_SYSTEM, "the pipe's thread does not react; the tensor's memory may still be "
		                    "written");
	} else if (!*quiet && status != KVP_OK) {
		status = kvpi_error(KVP_E_DEVICE, "a device copy into the tensor's memory does not end; the memory may still "
		                    "be written");
	} else if (status == KVP_E_DEADLINE || (canceled && status == KVP_E_CANCELED)) {
		snprintf(text, sizeof(text), "%s", kvp_last_error());
		status = kvpi_error_set(KVP_E_TIMEOUT, text);
	} else if (status == KVP_OK) {
		*tensor = request->tensor;
	}
	kvpi_request_release(request);
	return status;
}

/* The caller has the turn, or does not need it.  *quiet: nothing touches the memory any more. */
static kvp_status receive(kvp_pipe *pipe, kvp_tensor *tensor, int64_t deadline_ns, bool has_turn, bool *quiet)
{
	kvp_request *request;
	kvp_status status = has_turn ? KVP_OK : take_turn(pipe, deadline_ns);

	if (status != KVP_OK)
		return status;
	status = submit(pipe, KVPI_REQUEST_RECV, tensor, deadline_ns, true, "kvp_pipe_recv", &request);
	if (!has_turn)
		give_turn(pipe);
	*quiet = true;
	return status != KVP_OK ? status : await(request, deadline_ns, tensor, quiet);
}

static kvp_status look(kvp_pipe *pipe, kvp_tensor *description, int64_t deadline_ns)
{
	kvp_request *request;
	bool quiet;
	kvp_status status = submit(pipe, KVPI_REQUEST_PEEK, NULL, deadline_ns, true, "kvp_pipe_peek", &request);

	return status != KVP_OK ? status : await(request, deadline_ns, description, &quiet);
}

kvp_status kvp_pipe_recv(kvp_pipe *pipe, kvp_tensor *tensor, int timeout_ms)
{
	kvp_status status = check_open(pipe, "kvp_pipe_recv");
	bool quiet;

	if (status == KVP_OK)
		status = check_timeout(timeout_ms, "kvp_pipe_recv");
	if (status == KVP_OK)
		status = check_destination(tensor, "kvp_pipe_recv");
	return status != KVP_OK ? status : receive(pipe, tensor, kvpi_pipe_deadline(pipe, timeout_ms), false, &quiet);
}

kvp_status kvp_pipe_peek(kvp_pipe *pipe, kvp_tensor *description, int timeout_ms)
{
	int64_t deadline_ns;
	kvp_status status = check_open(pipe, "kvp_pipe_peek");

	if (status == KVP_OK)
		status = check_timeout(timeout_ms, "kvp_pipe_peek");
	if (status == KVP_OK && description == NULL)
		status = kvpi_error(KVP_E_INVALID, "kvp_pipe_peek: description is NULL");
	if (status != KVP_OK)
		return status;
	deadline_ns = kvpi_pipe_deadline(pipe, timeout_ms);
	status = take_turn(pipe, deadline_ns);
	if (status != KVP_OK)
		return status;
	status = look(pipe, description, deadline_ns);
	give_turn(pipe);
	return status;
}

static kvp_status receive_allocated(kvp_pipe *pipe, const kvp_allocator *allocator, kvp_tensor *tensor,
                                    int64_t deadline_ns)
{
	kvp_tensor next;
	kvp_status status = look(pipe, &next, deadline_ns);
	bool quiet = true;
	char text[160];

	if (status != KVP_OK)
		return status;
	if (next.dtype == KVP_DTYPE_NONE) {
		kvp_tensor_init_buffer(&next, NULL, 0);
	} else if (allocator->alloc(allocator->user, &next) != 0) {
		kvp_tensor_describe(&next, text, sizeof(text));
		return kvpi_error(KVP_E_NOMEM, "kvp_pipe_recv_alloc: the allocator has no place for %s", text);
	}
	*tensor = next;
	status = kvp_tensor_check(&next);
	if (status == KVP_OK)
		status = receive(pipe, tensor, deadline_ns, true, &quiet);
	if (status != KVP_OK && quiet && allocator->undo != NULL && next.dtype != KVP_DTYPE_ANY)
		allocator->undo(allocator->user, &next);
	return status;
}

kvp_status kvp_pipe_recv_alloc(kvp_pipe *pipe, const kvp_allocator *allocator, kvp_tensor *tensor, int timeout_ms)
{
	int64_t deadline_ns;
	kvp_status status = check_open(pipe, "kvp_pipe_recv_alloc");

	if (status == KVP_OK)
		status = check_timeout(timeout_ms, "kvp_pipe_recv_alloc");
	if (status == KVP_OK && (allocator == NULL || allocator->alloc == NULL || tensor == NULL))
		status = kvpi_error(KVP_E_INVALID, "kvp_pipe_recv_alloc: an allocator and a tensor are needed");
	if (status != KVP_OK)
		return status;
	deadline_ns = kvpi_pipe_deadline(pipe, timeout_ms);
	status = take_turn(pipe, deadline_ns);
	if (status != KVP_OK)
		return status;
	status = receive_allocated(pipe, allocator, tensor, deadline_ns);
	give_turn(pipe);
	return status;
}

kvp_status kvp_pipe_post_recv(kvp_pipe *pipe, const kvp_tensor *tensor, int deadline_ms, kvp_request **request)
{
	kvp_status status = check_open(pipe, "kvp_pipe_post_recv");

	if (status == KVP_OK)
		status = check_timeout(deadline_ms, "kvp_pipe_post_recv");
	if (status == KVP_OK && request == NULL)
		status = kvpi_error(KVP_E_INVALID, "kvp_pipe_post_recv: request is NULL");
	if (status == KVP_OK)
		status = check_destination(tensor, "kvp_pipe_post_recv");
	return status != KVP_OK ? status
	                        : submit(pipe, KVPI_REQUEST_RECV, tensor, kvpi_pipe_deadline(pipe, deadline_ms), false,
	                                 "kvp_pipe_post_recv", request);
}

kvp_status kvp_pipe_resume(kvp_pipe *pipe)
{
	kvp_status status = check_open(pipe, "kvp_pipe_resume");

	if (status == KVP_OK)
		kvpi_engine_resume(pipe->engine);
	return status;
}

/* ---- the end ------------------------------------------------------------------------------------------ */

void kvp_pipe_close(kvp_pipe *pipe)
{
	if (check(pipe, "kvp_pipe_close") != KVP_OK || atomic_exchange(&pipe->closed, true))
		return;
	kvpi_admission_close(&pipe->engine->bytes);
	kvpi_admission_close(&pipe->engine->items);
	kvpi_engine_close(pipe->engine);
}

kvp_status kvp_pipe_stop(kvp_pipe *pipe, int timeout_ms)
{
	kvp_status status = check(pipe, "kvp_pipe_stop");

	if (status == KVP_OK)
		status = check_timeout(timeout_ms, "kvp_pipe_stop");
	if (status == KVP_OK)
		status = check_thread(pipe, "kvp_pipe_stop");
	if (status != KVP_OK)
		return status;
	kvp_pipe_close(pipe);
	status = kvpi_engine_drain(pipe->engine, kvpi_pipe_deadline(pipe, timeout_ms));
	if (status != KVP_E_TIMEOUT)
		return KVP_OK; /* how the transfers ended is told by their requests */
	kvpi_engine_cancel_sends(pipe->engine);
	status = kvpi_engine_drain(pipe->engine, kvpi_pipe_deadline(pipe, STUCK_MS));
	if (status != KVP_OK)
		return kvpi_error(KVP_E_SYSTEM, "kvp_pipe_stop: the pipe's thread does not react; memory of transfers "
		                  "may still be touched");
	return kvpi_error(KVP_E_TIMEOUT, "kvp_pipe_stop: some sends had not ended in time and were canceled");
}

void kvp_pipe_free(kvp_pipe *pipe)
{
	if (pipe == NULL || check(pipe, "kvp_pipe_free") != KVP_OK)
		return;
	if (check_thread(pipe, "kvp_pipe_free") != KVP_OK) {
		KVPI_LOG(ERROR, "pipe", "%s; the pipe stays", kvp_last_error());
		return;
	}
	(void)kvp_pipe_stop(pipe, FREE_STOP_MS);
	kvpi_pipe_destroy(pipe);
}

/* ---- looking inside ------------------------------------------------------------------------------------ */

kvp_status kvp_pipe_stats_get(const kvp_pipe *pipe, kvp_pipe_stats *stats)
{
	kvp_status status = check(pipe, "kvp_pipe_stats_get");
	kvpi_engine *engine;
	kvp_pipe_stats now = {0};
	uint64_t items, peak, item_refusals;
	size_t size;

	if (status != KVP_OK)
		return status;
	if (stats == NULL || stats->size == 0 || stats->size > sizeof(*stats))
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_stats_get: stats->size is not set");
	engine = pipe->engine;
	now.sent = kvpi_counter_get(&engine->metrics.sent);
	now.sent_bytes = kvpi_counter_get(&engine->metrics.sent_bytes);
	now.received = kvpi_counter_get(&engine->metrics.received);
	now.received_bytes = kvpi_counter_get(&engine->metrics.received_bytes);
	now.send_failures = kvpi_counter_get(&engine->metrics.send_failures);
	now.recv_failures = kvpi_counter_get(&engine->metrics.recv_failures);
	now.retransmissions = kvpi_counter_get(&engine->metrics.retransmissions);
	now.protocol_errors = kvpi_counter_get(&engine->metrics.protocol_errors);
	kvpi_admission_read(&engine->items, &items, &peak, &item_refusals);
	kvpi_admission_read(&engine->bytes, &now.in_flight_bytes, &now.in_flight_peak_bytes, &now.refusals);
	now.refusals += item_refusals - atomic_load(&pipe->refused_twice);
	size = stats->size;
	memcpy(stats, &now, size);
	stats->size = size;
	return KVP_OK;
}

static void explain(kvpi_buf *out, const kvpi_link *link, const char *direction)
{
	if (!link->used)
		return;
	kvpi_buf_printf(out, "%s \"%s\" by %s%s%s\n", direction, link->peer, link->plane ? link->plane->ops->name : "none",
	                link->status == KVP_OK ? "" : ", over: ", link->status == KVP_OK ? "" : link->text);
	kvpi_buf_printf(out, "  control: on the %s\n",
	                atomic_load(&link->direct) ? "data connection" : "session, the data connection is down");
	if (link->way[0] != '\0')
		kvpi_buf_printf(out, "  bytes: %s\n", link->way);
	for (size_t at = 0, len; link->why[at] != '\0'; at += len + (link->why[at + len] != '\0')) {
		len = strcspn(link->why + at, "\n");
		kvpi_buf_printf(out, "  %.*s\n", (int)len, link->why + at);
	}
}

kvp_status kvp_pipe_explain(const kvp_pipe *pipe, char *text, size_t capacity, size_t *needed)
{
	kvp_status status = check(pipe, "kvp_pipe_explain");
	kvpi_engine *engine;
	kvpi_buf out;

	if (status != KVP_OK)
		return status;
	engine = pipe->engine;
	kvpi_buf_init(&out);
	pthread_mutex_lock(&engine->mutex);
	explain(&out, &engine->out, "to");
	explain(&out, &engine->in, "from");
	pthread_mutex_unlock(&engine->mutex);
	if (needed != NULL && !out.failed)
		*needed = out.len + 1;
	if (out.failed)
		status = kvpi_error_nomem("an explanation");
	else if (text == NULL || capacity < out.len + 1)
		status = kvpi_error(KVP_E_TOO_LARGE, "kvp_pipe_explain: %zu bytes are needed", out.len + 1);
	else
		memcpy(text, out.len ? out.data : "", out.len + 1);
	kvpi_buf_fini(&out);
	return status;
}
