/* SPDX-License-Identifier: Apache-2.0 */
#include "base/admission.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include <inttypes.h>

/*
 * Room is handed over, not raced for: whoever frees bytes admits the waiters at the head of the
 * queue before it unlocks.  So a waiter exists only while somebody holds bytes, and a refusal,
 * likewise, is always followed by a give_back that can fire the event.
 */
struct waiter {
	kvpi_list node;
	uint64_t bytes;
	kvp_status result; /* KVP_PENDING while it waits */
};

static bool fits(const kvpi_admission *admission, uint64_t bytes)
{
	return admission->used == 0 ||
	       (bytes <= admission->limit && admission->used <= admission->limit - bytes);
}

static void admit(kvpi_admission *admission, uint64_t bytes)
{
	admission->used += bytes;
	if (admission->used > admission->peak)
		admission->peak = admission->used;
}

/* Admits from the head as many as fit now. */
static void serve(kvpi_admission *admission)
{
	bool served = false;

	KVPI_LIST_FOREACH (pos, next, &admission->waiters) {
		struct waiter *waiter = KVPI_CONTAINER_OF(pos, struct waiter, node);

		if (!fits(admission, waiter->bytes))
			break;
		admit(admission, waiter->bytes);
		waiter->result = KVP_OK;
		kvpi_list_remove(&waiter->node);
		served = true;
	}
	if (served)
		pthread_cond_broadcast(&admission->room);
}

kvp_status kvpi_admission_init(kvpi_admission *admission, uint64_t limit, uint64_t low,
    void (*on_room)(void *user), void *user)
{
	if (low > limit)
		return kvpi_error(KVP_E_INVALID,
		    "the low mark of %" PRIu64 " bytes is above the limit of %" PRIu64, low, limit);
	*admission =
	    (kvpi_admission){.limit = limit, .low = low, .on_room = on_room, .on_room_user = user};
	kvpi_list_init(&admission->waiters);
	kvp_status status = kvpi_cond_init(&admission->room);
	if (status == KVP_OK)
		pthread_mutex_init(&admission->mutex, NULL); /* without attributes it cannot fail */
	return status;
}

void kvpi_admission_fini(kvpi_admission *admission)
{
	pthread_cond_destroy(&admission->room);
	pthread_mutex_destroy(&admission->mutex);
}

/* Called and returns with the lock held. */
static kvp_status wait_in_line(kvpi_admission *admission, uint64_t bytes, int64_t deadline_ns)
{
	struct waiter waiter = {.bytes = bytes, .result = KVP_PENDING};

	kvpi_list_append(&admission->waiters, &waiter.node);
	while (waiter.result == KVP_PENDING) {
		if (!kvpi_cond_wait_until(&admission->room, &admission->mutex, deadline_ns) &&
		    waiter.result == KVP_PENDING) {
			kvpi_list_remove(&waiter.node);
			serve(admission); /* a smaller one behind may fit */
			return KVP_E_TIMEOUT;
		}
	}
	return waiter.result;
}

kvp_status kvpi_admission_take(kvpi_admission *admission, uint64_t bytes, int64_t deadline_ns)
{
	bool try_only = deadline_ns <= kvpi_now(&kvpi_clock_real);
	kvp_status status = KVP_OK;

	pthread_mutex_lock(&admission->mutex);
	/* A try that fits is refused while an earlier refused one waits for the event: else small
	 * items could keep `used` above the low mark for ever. */
	bool in_line = !kvpi_list_empty(&admission->waiters) || (try_only && admission->starved);

	if (admission->closed) {
		status = KVP_E_CLOSED;
	} else if (!in_line && fits(admission, bytes)) {
		admit(admission, bytes);
	} else {
		admission->refusals++;
		if (try_only) {
			admission->starved = true;
			status = KVP_E_AGAIN;
		} else {
			status = wait_in_line(admission, bytes, deadline_ns);
		}
	}
	uint64_t used = admission->used;
	pthread_mutex_unlock(&admission->mutex);

	switch ((int)status) {
	case KVP_OK:
		return KVP_OK;
	case KVP_E_CLOSED:
		return kvpi_error(status, "closed while %" PRIu64 " bytes asked for room", bytes);
	default:
		return kvpi_error(status,
		    "no room for %" PRIu64 " bytes: %" PRIu64 " of %" PRIu64 " are in use; %s",
		    bytes, used, admission->limit,
		    try_only ? "try again after the room event"
		             : "allow more time or a larger limit");
	}
}

void kvpi_admission_give_back(kvpi_admission *admission, uint64_t bytes)
{
	pthread_mutex_lock(&admission->mutex);
	uint64_t excess = bytes > admission->used ? bytes - admission->used : 0;
	admission->used -= bytes - excess;
	serve(admission);
	bool fire = admission->starved && admission->used <= admission->low;
	if (fire)
		admission->starved = false;
	pthread_mutex_unlock(&admission->mutex);

	if (excess != 0)
		KVPI_LOG(
		    ERROR, "base", "%" PRIu64 " bytes given back that were never taken", excess);
	if (fire && admission->on_room != NULL)
		admission->on_room(admission->on_room_user);
}

void kvpi_admission_close(kvpi_admission *admission)
{
	pthread_mutex_lock(&admission->mutex);
	admission->closed = true;
	KVPI_LIST_FOREACH (pos, next, &admission->waiters) {
		KVPI_CONTAINER_OF(pos, struct waiter, node)->result = KVP_E_CLOSED;
		kvpi_list_remove(pos);
	}
	pthread_cond_broadcast(&admission->room);
	bool fire = admission->starved;
	admission->starved = false;
	pthread_mutex_unlock(&admission->mutex);

	if (fire && admission->on_room != NULL)
		admission->on_room(admission->on_room_user);
}

void kvpi_admission_read(kvpi_admission *admission, uint64_t *used, uint64_t *peak, uint64_t *refusals)
{
	pthread_mutex_lock(&admission->mutex);
	*used = admission->used;
	*peak = admission->peak;
	*refusals = admission->refusals;
	pthread_mutex_unlock(&admission->mutex);
}
