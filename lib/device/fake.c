/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of the fake device: makes operations of calls.
 */
#include "device/fake.h"

#include "base/alloc.h"
#include "base/error.h"
#include "device/fake_memory.h"
#include "device/fake_queue.h"
#include "device/tables.h"
#include <string.h>

static kvp_status fake_alloc(int device, uint64_t bytes, void **ptr)
{
	kvp_status status = kvpi_fake_hold(device);

	if (status != KVP_OK)
		return status;
	status = kvpi_fake_memory_alloc(device, bytes, ptr);
	if (status != KVP_OK)
		kvpi_fake_release();
	return status;
}

static void fake_free(int device, void *ptr)
{
	(void)device;
	/* Not waited for: an operation that is still to touch this memory is a mistake, and is counted as one. */
	if (ptr != NULL && kvpi_fake_memory_free(ptr, false))
		kvpi_fake_release();
}

static kvp_status fake_export(int device, void *ptr, uint64_t bytes, kvpi_export *out)
{
	(void)device;
	return kvpi_fake_memory_export(ptr, bytes, out);
}

static kvp_status fake_import(int device, const kvpi_export *in, void **ptr)
{
	kvp_status status = kvpi_fake_hold(device);

	if (status != KVP_OK)
		return status;
	status = kvpi_fake_memory_import(device, in, ptr);
	if (status != KVP_OK)
		kvpi_fake_release();
	return status;
}

static void fake_unimport(int device, void *ptr, uint64_t bytes)
{
	(void)device;
	(void)bytes;
	if (kvpi_fake_memory_free(ptr, true))
		kvpi_fake_release();
}

static kvp_status no_memory(kvpi_fake_op *o)
{
	if (o != NULL)
		kvpi_fake_op_free(o);
	return kvpi_error_nomem("an operation of the fake device");
}

static kvp_status fake_record(int device, void *handle, kvpi_event **event)
{
	kvpi_fake_op *o = kvpi_fake_op_new(KVPI_FAKE_RECORD);
	kvpi_event *made = o == NULL ? NULL : KVPI_NEW(kvpi_event);
	kvp_status status;

	if (made == NULL)
		return no_memory(o);
	atomic_init(&made->state, KVP_PENDING);
	atomic_init(&made->holders, 2);
	o->event = made;
	status = kvpi_fake_submit(device, handle, o);
	if (status == KVP_OK)
		*event = made;
	else
		kvpi_fake_event_release(made);
	return status;
}

static kvp_status fake_query(kvpi_event *event)
{
	const kvp_status status = (kvp_status)atomic_load(&event->state);

	if (status == KVP_E_DEVICE)
		return kvpi_error(KVP_E_DEVICE, "fake device: an operation before the event failed");
	return status;
}

static void fake_event_free(kvpi_event *event)
{
	if (event != NULL)
		kvpi_fake_event_release(event);
}

static kvp_status fake_copy(int device, void *handle, const kvpi_piece *pieces, size_t count)
{
	kvpi_fake_op *o = kvpi_fake_op_new(KVPI_FAKE_COPY);
	kvpi_fake_piece *copied;
	int owner;

	if (o == NULL)
		return no_memory(o);
	copied = o->rest = kvpi_calloc(count, sizeof(*copied));
	if (copied == NULL)
		return no_memory(o);
	o->count = count;
	for (size_t i = 0; i < count; i++) {
		copied[i].piece = pieces[i];
		copied[i].to_device = kvpi_fake_memory_owns(pieces[i].to, &owner);
		copied[i].from_device = kvpi_fake_memory_owns(pieces[i].from, &owner);
	}
	return kvpi_fake_submit(device, handle, o);
}

static kvp_status fake_copy_blocks(int device, void *handle, const kvpi_layout *to, const kvpi_layout *from)
{
	const size_t to_ids = to->ids == NULL ? 0 : to->dim[to->id_dim].count;
	const size_t from_ids = from->ids == NULL ? 0 : from->dim[from->id_dim].count;
	uint32_t *ids;
	kvpi_fake_op *o;

	if (to->bytes != from->bytes)
		return kvpi_error(KVP_E_INVALID, "copy_blocks: %llu bytes do not fit into %llu",
		    (unsigned long long)from->bytes, (unsigned long long)to->bytes);
	o = kvpi_fake_op_new(KVPI_FAKE_COPY_BLOCKS);
	if (o == NULL)
		return no_memory(o);
	ids = o->rest = kvpi_calloc(to_ids + from_ids, sizeof(*ids));
	if (ids == NULL)
		return no_memory(o);
	o->to = *to;
	o->from = *from;
	if (to_ids > 0)
		o->to.ids = memcpy(ids, to->ids, to_ids * sizeof(*ids));
	if (from_ids > 0)
		o->from.ids = memcpy(ids + to_ids, from->ids, from_ids * sizeof(*ids));
	return kvpi_fake_submit(device, handle, o);
}

static kvp_status fake_write_word(int device, void *handle, uint64_t *word, uint64_t value)
{
	kvpi_fake_op *o;

	if ((uintptr_t)word % sizeof(*word) != 0)
		return kvpi_error(KVP_E_INVALID, "fake device: %p is no place for a word", (void *)word);
	o = kvpi_fake_op_new(KVPI_FAKE_WORD);
	if (o == NULL)
		return no_memory(o);
	o->word = word;
	o->value = value;
	return kvpi_fake_submit(device, handle, o);
}

static kvp_status fake_wait_list_new(int device, size_t capacity, kvpi_wait_list **list)
{
	kvpi_wait_list *made;

	if (capacity > SIZE_MAX / 2 / sizeof(kvpi_wait_entry))
		return kvpi_error_nomem("a wait list");
	made = kvpi_calloc(1, sizeof(*made) + capacity * sizeof(made->entries[0]));
	if (made == NULL)
		return kvpi_error_nomem("a wait list");
	made->device = device;
	made->holders = 1;
	made->capacity = capacity;
	atomic_init(&made->result, KVPI_WAIT_PENDING);
	*list = made;
	return KVP_OK;
}

static void fake_wait_list_free(kvpi_wait_list *list)
{
	if (list == NULL)
		return;
	kvpi_fake_lock();
	kvpi_fake_list_release(list);
	kvpi_fake_unlock();
}

static kvp_status fake_wait_list_fill(kvpi_wait_list *list, const kvpi_wait_entry *entries, size_t count)
{
	if (count > list->capacity)
		return kvpi_error(KVP_E_TOO_LARGE, "fake device: %zu entries do not fit into a wait list of %zu", count,
		    list->capacity);
	for (size_t i = 0; i < count; i++) {
		if (entries[i].generation >= KVPI_WORD_FAILED ||
		    (uintptr_t)entries[i].word % sizeof(uint64_t) != 0)
			return kvpi_error(
			    KVP_E_INVALID, "fake device: entry %zu of a wait list has no such generation or word", i);
	}
	kvpi_fake_lock();
	if (count > 0)
		memcpy(list->entries, entries, count * sizeof(*entries));
	list->count = count;
	kvpi_fake_unlock();
	return KVP_OK;
}

static kvp_status fake_wait_list_enqueue(kvpi_wait_list *list, void *handle, int64_t timeout_ns)
{
	kvpi_fake_op *o = kvpi_fake_op_new(KVPI_FAKE_WAIT);

	if (o == NULL)
		return no_memory(o);
	o->timeout_ns = timeout_ns > 0 ? timeout_ns : 0;
	o->rest = kvpi_calloc(list->capacity, sizeof(list->entries[0]));
	if (o->rest == NULL)
		return no_memory(o);
	kvpi_fake_lock();
	if (list->count > 0)
		memcpy(o->rest, list->entries, list->count * sizeof(list->entries[0]));
	o->count = list->count;
	o->cancels = list->cancels;
	o->list = list;
	list->holders++;
	kvpi_fake_unlock();
	return kvpi_fake_submit(list->device, handle, o);
}

static void fake_wait_list_cancel(kvpi_wait_list *list)
{
	kvpi_fake_lock();
	list->cancels++;
	kvpi_fake_changed();
	kvpi_fake_unlock();
}

static kvpi_wait_result fake_wait_list_result(const kvpi_wait_list *list)
{
	return (kvpi_wait_result)atomic_load(&list->result);
}

kvp_status kvpi_fake_write(void *ptr, const void *bytes, size_t len)
{
	if (!kvpi_fake_memory_copy(ptr, true, bytes, false, len))
		return kvpi_error(
		    KVP_E_INVALID, "fake device: %zu bytes at %p are not memory of this device", len, ptr);
	/* It may be a word that somebody waits for. */
	kvpi_fake_lock();
	kvpi_fake_changed();
	kvpi_fake_unlock();
	return KVP_OK;
}

static kvp_status fake_prepare(int device)
{
	(void)device;
	return KVP_OK;
}

static kvp_status fake_pin(int device, void *ptr, uint64_t bytes)
{
	(void)device;
	(void)ptr;
	(void)bytes;
	return KVP_OK;
}

static void fake_unpin(int device, void *ptr)
{
	(void)device;
	(void)ptr;
}

const kvpi_device_ops kvpi_fake_device = {
    .size = sizeof(kvpi_fake_device),
    .name = "fake",
    .memory = KVP_MEMORY_FAKE,
    .owns = kvpi_fake_memory_owns,
    .prepare = fake_prepare,
    .pin = fake_pin,
    .unpin = fake_unpin,
    .alloc = fake_alloc,
    .free = fake_free,
    .stream_new = kvpi_fake_stream_new,
    .stream_free = kvpi_fake_stream_free,
    .record = fake_record,
    .query = fake_query,
    .event_free = fake_event_free,
    .copy = fake_copy,
    .copy_blocks = fake_copy_blocks,
    .write_word = fake_write_word,
    .wait_list_new = fake_wait_list_new,
    .wait_list_free = fake_wait_list_free,
    .wait_list_fill = fake_wait_list_fill,
    .wait_list_enqueue = fake_wait_list_enqueue,
    .wait_list_cancel = fake_wait_list_cancel,
    .wait_list_result = fake_wait_list_result,
    .export_memory = fake_export,
    .import_memory = fake_import,
    .unimport = fake_unimport,
};
