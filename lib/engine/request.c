/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/request.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "engine/engine.h"

#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define IDLE_MAX 512 /* requests that wait in a pool for their next use */
/* Looking: so many glances, each after a pause of the CPU, before the clock is read and others may run. */
#define GLANCES 64

struct kvpi_request_pool {
	pthread_mutex_t mutex;
	kvpi_list idle;
	unsigned idle_count, members; /* members: all requests of it, idle or not */
	bool closed;
	int64_t poll_ns;
};

kvp_status kvpi_request_pool_new(int64_t poll_ns, kvpi_request_pool **out)
{
	kvpi_request_pool *pool = KVPI_NEW(kvpi_request_pool);

	if (pool == NULL)
		return kvpi_error_nomem("a pool of requests");
	pthread_mutex_init(&pool->mutex, NULL);
	kvpi_list_init(&pool->idle);
	pool->poll_ns = poll_ns;
	*out = pool;
	return KVP_OK;
}

static void destroy(kvp_request *request)
{
	pthread_cond_destroy(&request->ended);
	pthread_mutex_destroy(&request->mutex);
	free(request);
}

static void pool_free(kvpi_request_pool *pool)
{
	pthread_mutex_destroy(&pool->mutex);
	free(pool);
}

void kvpi_request_pool_close(kvpi_request_pool *pool)
{
	kvpi_list *node;
	bool last;

	if (pool == NULL)
		return;
	pthread_mutex_lock(&pool->mutex);
	pool->closed = true;
	while ((node = kvpi_list_first(&pool->idle)) != NULL) {
		kvpi_list_remove(node);
		pool->members--;
		destroy(KVPI_CONTAINER_OF(node, kvp_request, idle));
	}
	last = pool->members == 0;
	pthread_mutex_unlock(&pool->mutex);
	if (last)
		pool_free(pool);
}

/* One that was used before; NULL: none waits. */
static kvp_request *take_idle(kvpi_request_pool *pool)
{
	kvpi_list *node;

	pthread_mutex_lock(&pool->mutex);
	node = kvpi_list_first(&pool->idle);
	if (node != NULL) {
		kvpi_list_remove(node);
		pool->idle_count--;
	}
	pthread_mutex_unlock(&pool->mutex);
	return node != NULL ? KVPI_CONTAINER_OF(node, kvp_request, idle) : NULL;
}

static kvp_status make(kvpi_request_pool *pool, kvp_request **out)
{
	kvp_request *request = KVPI_NEW(kvp_request);
	kvp_status status;

	if (request == NULL)
		return kvpi_error_nomem("a request");
	status = kvpi_cond_init(&request->ended);
	if (status != KVP_OK) {
		free(request);
		return status;
	}
	pthread_mutex_init(&request->mutex, NULL);
	request->pool = pool;
	pthread_mutex_lock(&pool->mutex);
	pool->members++;
	pthread_mutex_unlock(&pool->mutex);
	*out = request;
	return KVP_OK;
}

kvp_status kvpi_request_new(kvpi_request_pool *pool, kvpi_request_kind kind, kvp_request **out)
{
	kvp_request *request = take_idle(pool);

	if (request == NULL) {
		kvp_status status = make(pool, &request);

		if (status != KVP_OK)
			return status;
	}
	memset(request, 0, offsetof(kvp_request, text));
	request->text[0] = '\0';
	kvpi_handle_init(&request->handle, KVPI_REQUEST_MAGIC);
	request->kind = kind;
	request->poll_ns = pool->poll_ns;
	atomic_init(&request->status, KVP_PENDING);
	atomic_init(&request->references, 1);
	*out = request;
	return KVP_OK;
}

void kvpi_request_hold(kvp_request *request)
{
	atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
}

void kvpi_request_release(kvp_request *request)
{
	kvpi_request_pool *pool = request->pool;
	bool keep, last;

	if (atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel) != 1)
		return;
	kvpi_handle_fini(&request->handle);
	pthread_mutex_lock(&pool->mutex);
	keep = !pool->closed && pool->idle_count < IDLE_MAX;
	if (keep) {
		kvpi_list_append(&pool->idle, &request->idle);
		pool->idle_count++;
	} else {
		pool->members--;
	}
	last = pool->closed && pool->members == 0;
	pthread_mutex_unlock(&pool->mutex);
	if (!keep)
		destroy(request);
	if (last)
		pool_free(pool);
}

/* From one point in time to the next; the time of a point that was never reached goes to the next that was. */
static int64_t lap(int64_t *from, int64_t to)
{
	int64_t ns = to > *from ? to - *from : 0;

	if (to > *from)
		*from = to;
	return ns;
}

static void split_times(kvp_request *request, int64_t now)
{
	bool sends = request->kind == KVPI_REQUEST_SEND;
	int64_t at = request->begun_ns;
	kvp_times *times = &request->times;

	times->size = sizeof(*times);
	times->queue_ns = lap(&at, sends ? request->item.announced_ns : request->post.known_ns);
	times->credit_ns = lap(&at, sends ? request->item.put_ns : request->post.granted_ns);
	times->wire_ns = lap(&at, sends ? request->item.sent_ns : request->post.arrived_ns);
	times->notify_ns = lap(&at, now);
	times->total_ns = now - request->begun_ns;
	times->bytes = sends ? request->item.bytes : kvp_tensor_bytes(&request->tensor);
}

void kvpi_request_end(kvp_request *request, kvp_status status, const char *text, kvp_receipt receipt, int64_t now)
{
	if (request->after != NULL)
		request->device->event_free(request->after);
	request->after = NULL;
	if (request->done != NULL)
		request->done(request->done_user, status); /* first: who waits may free `user` when he wakes */
	pthread_mutex_lock(&request->mutex);
	split_times(request, now);
	request->receipt = receipt;
	snprintf(request->text, sizeof(request->text), "%s", text);
	request->engine = NULL;
	atomic_store(&request->status, status);
	pthread_mutex_unlock(&request->mutex);
	/* After: who wakes does not run into the lock.  The engine's hold keeps the request until then. */
	pthread_cond_broadcast(&request->ended);
}

/* Looks for the end for a while before the caller sleeps: waking a thread costs more than a small transfer.  Others get
 * the CPU now and then: where there are few, the worker may be waiting for it. */
static void look(const kvp_request *request, int64_t deadline_ns)
{
	int64_t until_ns = kvpi_now(&kvpi_clock_real) + request->poll_ns;

	if (until_ns > deadline_ns)
		until_ns = deadline_ns;
	do {
		for (int i = 0; i < GLANCES; i++) {
			if (atomic_load_explicit(&request->status, memory_order_acquire) != KVP_PENDING)
				return;
			kvpi_relax();
		}
		sched_yield();
	} while (kvpi_now(&kvpi_clock_real) < until_ns);
}

kvp_status kvpi_request_wait_until(kvp_request *request, int64_t deadline_ns)
{
	kvp_status status;

	if (request->poll_ns > 0)
		look(request, deadline_ns);
	pthread_mutex_lock(&request->mutex);
	while (request->status == KVP_PENDING)
		if (!kvpi_cond_wait_until(&request->ended, &request->mutex, deadline_ns))
			break;
	status = request->status;
	pthread_mutex_unlock(&request->mutex);
	if (status == KVP_PENDING)
		return kvpi_error(KVP_E_TIMEOUT, "the request has not ended yet");
	return status == KVP_OK ? KVP_OK : kvpi_error_set(status, request->text);
}

/* ---- the public face ------------------------------------------------------------------------------ */

static kvp_status check(const kvp_request *request, const char *call)
{
	return kvpi_handle_check(request ? &request->handle : NULL, KVPI_REQUEST_MAGIC, call);
}

kvp_status kvp_request_test(kvp_request *request)
{
	kvp_status status = check(request, "kvp_request_test");

	if (status != KVP_OK)
		return status;
	status = atomic_load(&request->status);
	return status == KVP_OK || status == KVP_PENDING ? status : kvpi_error_set(status, request->text);
}

static int64_t deadline_of(const kvp_request *request, int timeout_ms)
{
	return kvpi_deadline_ms(kvpi_now(&kvpi_clock_real),
	                        timeout_ms == KVP_TIMEOUT_DEFAULT ? request->timeout_ms : timeout_ms);
}

kvp_status kvp_request_wait(kvp_request *request, int timeout_ms)
{
	kvp_status status = check(request, "kvp_request_wait");

	if (status != KVP_OK)
		return status;
	if (timeout_ms < KVP_TIMEOUT_DEFAULT)
		return kvpi_error(KVP_E_INVALID, "kvp_request_wait: a time-out of %d ms", timeout_ms);
	return kvpi_request_wait_until(request, deadline_of(request, timeout_ms));
}

kvp_status kvp_request_cancel(kvp_request *request, int timeout_ms, kvp_receipt *receipt)
{
	kvp_status status = check(request, "kvp_request_cancel");

	if (status != KVP_OK)
		return status;
	if (timeout_ms < KVP_TIMEOUT_DEFAULT)
		return kvpi_error(KVP_E_INVALID, "kvp_request_cancel: a time-out of %d ms", timeout_ms);
	pthread_mutex_lock(&request->mutex);
	if (request->engine != NULL) { /* ended clears it under this lock, so the engine is alive here */
		atomic_store(&request->cancel_wanted, true);
		kvpi_engine_cancel_wanted(request->engine);
	}
	pthread_mutex_unlock(&request->mutex);
	status = kvpi_request_wait_until(request, deadline_of(request, timeout_ms));
	if (status == KVP_E_TIMEOUT)
		return status;
	if (receipt != NULL)
		*receipt = kvp_request_receipt(request);
	return KVP_OK;
}

kvp_receipt kvp_request_receipt(const kvp_request *request)
{
	kvp_request *req = (kvp_request *)request; /* the lock is not part of the promise not to change it */
	kvp_receipt receipt;

	if (check(request, "kvp_request_receipt") != KVP_OK)
		return KVP_RECEIPT_NONE;
	pthread_mutex_lock(&req->mutex);
	receipt = req->receipt;
	pthread_mutex_unlock(&req->mutex);
	return receipt;
}

/* KVP_OK when it ended well; otherwise how it ended, or KVP_PENDING. */
static kvp_status outcome(const kvp_request *request, const char *call)
{
	kvp_status status = check(request, call);

	return status != KVP_OK ? status : kvp_request_test((kvp_request *)request);
}

kvp_status kvp_request_tensor(const kvp_request *request, kvp_tensor *tensor)
{
	kvp_status status = outcome(request, "kvp_request_tensor");

	if (status != KVP_OK)
		return status;
	if (tensor == NULL || request->kind == KVPI_REQUEST_SEND)
		return kvpi_error(KVP_E_INVALID, "kvp_request_tensor: %s", tensor ? "of a send" : "tensor is NULL");
	*tensor = request->tensor;
	return KVP_OK;
}

kvp_status kvp_request_times(const kvp_request *request, kvp_times *times)
{
	kvp_status status = outcome(request, "kvp_request_times");
	size_t size;

	if (times == NULL || times->size == 0 || times->size > sizeof(*times))
		return kvpi_error(KVP_E_INVALID, "kvp_request_times: times->size is not set");
	if (status == KVP_PENDING || status == KVP_E_INVALID || status == KVP_E_FORKED)
		return status;
	size = times->size;
	memcpy(times, &request->times, size);
	times->size = size;
	return KVP_OK;
}

void kvp_request_free(kvp_request *request)
{
	if (request == NULL || check(request, "kvp_request_free") != KVP_OK)
		return;
	kvpi_request_release(request);
}
