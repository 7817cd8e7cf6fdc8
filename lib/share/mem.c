/* SPDX-License-Identifier: Apache-2.0
 *
 * A context's memories, in an array sorted by address.  Looking one up is a binary search under a mutex that nobody holds
 * for longer than moving the array's tail.
 *
 * Lock order: the registry's mutex is a leaf; a memory is unmapped, and its hold on the context given up, outside of it.
 */
#include <kvpipe/memory.h>

#include "base/alloc.h"
#include "base/context.h"
#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "share/mem.h"
#include "wire/auth.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

typedef struct mem {
	kvpi_mem seen; /* what others know of it */
	atomic_uint holds;
	kvp_context *context; /* held */
} mem;

typedef struct registry {
	pthread_mutex_t mutex;
	mem **mems; /* by base */
	size_t count, capacity;
} registry;

static kvp_status registry_create(kvp_context *context, void **object)
{
	registry *r = KVPI_NEW(registry);

	(void)context;
	if (r == NULL)
		return kvpi_error_nomem("the context's list of memories");
	pthread_mutex_init(&r->mutex, NULL);
	*object = r;
	return KVP_OK;
}

/* Nothing is left in it, as each memory holds the context. */
static void registry_destroy(void *object)
{
	registry *r = object;

	pthread_mutex_destroy(&r->mutex);
	free(r->mems);
	free(r);
}

/* How many memories begin at or below the address; with the mutex. */
static size_t upper_bound(const registry *r, uintptr_t address)
{
	size_t low = 0, high = r->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if ((uintptr_t)r->mems[middle]->seen.base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static kvp_status insert(registry *r, mem *m)
{
	kvp_status status = KVP_OK;

	pthread_mutex_lock(&r->mutex);
	if (r->count == r->capacity) {
		size_t capacity = r->capacity == 0 ? 16 : 2 * r->capacity;
		mem **larger = kvpi_realloc(r->mems, capacity * sizeof(*larger));

		if (larger == NULL) {
			status = kvpi_error_nomem("the context's list of memories");
			goto out;
		}
		r->mems = larger;
		r->capacity = capacity;
	}
	size_t at = upper_bound(r, (uintptr_t)m->seen.base);
	memmove(&r->mems[at + 1], &r->mems[at], (r->count - at) * sizeof(r->mems[0]));
	r->mems[at] = m;
	r->count++;
out:
	pthread_mutex_unlock(&r->mutex);
	return status;
}

/* Takes the memory that begins at ptr out; NULL: there is none. */
static mem *take(registry *r, const void *ptr)
{
	mem *found = NULL;

	pthread_mutex_lock(&r->mutex);
	size_t at = upper_bound(r, (uintptr_t)ptr);
	if (at > 0 && r->mems[at - 1]->seen.base == ptr) {
		found = r->mems[at - 1];
		memmove(&r->mems[at - 1], &r->mems[at], (r->count - at) * sizeof(r->mems[0]));
		r->count--;
	}
	pthread_mutex_unlock(&r->mutex);
	return found;
}

kvpi_mem *kvpi_mem_find(kvp_context *context, const void *ptr, uint64_t bytes)
{
	registry *r = kvpi_context_peek(context, KVPI_SLOT_MEM);
	kvpi_mem *found = NULL;

	if (r == NULL)
		return NULL;
	pthread_mutex_lock(&r->mutex);
	size_t at = upper_bound(r, (uintptr_t)ptr);
	if (at > 0) {
		kvpi_mem *below = &r->mems[at - 1]->seen;
		uint64_t offset = (uintptr_t)ptr - (uintptr_t)below->base;

		if (offset < below->bytes && bytes <= below->bytes - offset)
			found = kvpi_mem_hold(below);
	}
	pthread_mutex_unlock(&r->mutex);
	return found;
}

kvpi_mem *kvpi_mem_hold(kvpi_mem *seen)
{
	mem *m = KVPI_CONTAINER_OF(seen, mem, seen);

	atomic_fetch_add_explicit(&m->holds, 1, memory_order_relaxed);
	return seen;
}

void kvpi_mem_release(kvpi_mem *seen)
{
	mem *m;

	if (seen == NULL)
		return;
	m = KVPI_CONTAINER_OF(seen, mem, seen);
	if (atomic_fetch_sub_explicit(&m->holds, 1, memory_order_acq_rel) != 1)
		return;
	kvp_context *context = m->context;
	kvpi_memfd_free(m->seen.fd, m->seen.base, m->seen.bytes);
	free(m);
	kvpi_context_release(context); /* may be the last one */
}

kvp_status kvp_mem_alloc(kvp_context *context, uint64_t bytes, void **ptr)
{
	registry *r;
	void *object;
	kvp_context *held;
	kvp_status status;
	mem *m;

	if (ptr == NULL || bytes == 0)
		return kvpi_error(
		    KVP_E_INVALID, "kvp_mem_alloc: %s", ptr == NULL ? "ptr is NULL" : "0 bytes were asked for");
	status = kvpi_auth_init();
	if (status != KVP_OK)
		return status;
	status = kvpi_context_hold(context, &held);
	if (status != KVP_OK)
		return status;
	status = kvpi_context_get(held, KVPI_SLOT_MEM, registry_create, registry_destroy, &object);
	if (status != KVP_OK)
		goto err_release;
	r = object;
	m = KVPI_NEW(mem);
	if (m == NULL) {
		status = kvpi_error_nomem("the description of a memory");
		goto err_release;
	}
	status = kvpi_memfd_new_readable("kvpipe", bytes, &m->seen.fd, &m->seen.base);
	if (status != KVP_OK)
		goto err_free;
	m->seen.bytes = kvpi_memfd_bytes(bytes);
	m->context = held;
	atomic_init(&m->holds, 1);
	kvpi_random(m->seen.id, sizeof(m->seen.id));
	status = insert(r, m);
	if (status != KVP_OK)
		goto err_unmap;
	*ptr = m->seen.base;
	return KVP_OK;

err_unmap:
	kvpi_memfd_free(m->seen.fd, m->seen.base, m->seen.bytes);
err_free:
	free(m);
err_release:
	kvpi_context_release(held);
	return status;
}

void kvp_mem_free(kvp_context *context, void *ptr)
{
	registry *r;
	kvp_context *held;
	mem *m;

	if (ptr == NULL)
		return;
	if (kvpi_context_hold(context, &held) != KVP_OK) {
		KVPI_LOG(ERROR, "share", "kvp_mem_free: %p is not freed: %s", ptr, kvp_last_error());
		return;
	}
	r = kvpi_context_peek(held, KVPI_SLOT_MEM);
	m = r == NULL ? NULL : take(r, ptr);
	if (m == NULL)
		KVPI_LOG(ERROR, "share",
		    "kvp_mem_free: %p is not the start of a memory of this context, and is left alone", ptr);
	else
		kvpi_mem_release(&m->seen);
	kvpi_context_release(held);
}
