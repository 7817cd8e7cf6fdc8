/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/staging.h"

#include "base/alloc.h"
#include "base/error.h"

#define DEFAULT_BYTES (4u << 20)
#define SLOT_BYTES (1u << 20)
#define SLOT_BYTES_MIN 4096u
#define SLOTS_MIN 4
#define SLOTS_MAX 64
#define PIECES 64
/* Runs of device memory in one slot. */
#define RUNS_MAX 4096

kvp_status kvpi_staging_init(kvpi_staging *staging, uint64_t bytes)
{
	uint64_t slot_bytes, count;

	if (bytes == 0)
		bytes = DEFAULT_BYTES;
	if (bytes < SLOTS_MIN * SLOT_BYTES_MIN)
		return kvpi_error(KVP_E_INVALID, "%llu bytes are too few for bounce buffers, at least %u are needed",
		    (unsigned long long)bytes, SLOTS_MIN * SLOT_BYTES_MIN);
	slot_bytes = bytes / SLOTS_MIN < SLOT_BYTES ? bytes / SLOTS_MIN : SLOT_BYTES;
	count = bytes / slot_bytes < SLOTS_MAX ? bytes / slot_bytes : SLOTS_MAX;

	*staging = (kvpi_staging){.slot_bytes = slot_bytes, .bytes = count * slot_bytes};
	staging->slots = kvpi_calloc(count, sizeof(*staging->slots));
	staging->memory = kvpi_malloc(count * slot_bytes);
	if (staging->slots == NULL || staging->memory == NULL) {
		free(staging->slots);
		free(staging->memory);
		return kvpi_error_nomem("bounce buffers");
	}
	kvpi_streams_init(&staging->streams);
	kvpi_list_init(&staging->free[KVPI_OUTWARD]);
	kvpi_list_init(&staging->free[KVPI_INWARD]);
	for (uint64_t i = 0; i < count; i++) {
		kvpi_slot *slot = &staging->slots[i];

		slot->way = i % 2 == 0 ? KVPI_OUTWARD : KVPI_INWARD;
		slot->data = staging->memory + i * slot_bytes;
		kvpi_list_append(&staging->free[slot->way], &slot->node);
	}
	return KVP_OK;
}

void kvpi_staging_fini(kvpi_staging *staging)
{
	/* A stream that hangs is not waited for, and memory that it may write to is not given to others. */
	if (staging->leaked)
		return;
	kvpi_streams_fini(&staging->streams);
	if (staging->pinned_by != NULL)
		staging->pinned_by->unpin(staging->pinned_device, staging->memory);
	free(staging->slots);
	free(staging->memory);
}

kvpi_slot *kvpi_staging_take(kvpi_staging *staging, kvpi_way way)
{
	kvpi_list *first = kvpi_list_first(&staging->free[way]);
	kvpi_slot *slot;

	if (first == NULL)
		return NULL;
	kvpi_list_remove(first);
	slot = KVPI_CONTAINER_OF(first, kvpi_slot, node);
	slot->offset = slot->len = 0;
	slot->owner = NULL;
	return slot;
}

void kvpi_staging_give(kvpi_staging *staging, kvpi_slot *slot)
{
	kvpi_list_remove(&slot->node);
	kvpi_list_append(&staging->free[slot->way], &slot->node);
}

bool kvpi_staging_has(const kvpi_staging *staging, kvpi_way way)
{
	return !kvpi_list_empty(&staging->free[way]);
}

uint64_t kvpi_staging_chunk(const kvpi_staging *staging, const kvpi_layout *layout)
{
	const uint64_t run = kvpi_layout_run(layout);

	if (layout->memory == KVP_MEMORY_HOST || run >= staging->slot_bytes / RUNS_MAX)
		return staging->slot_bytes;
	return run * RUNS_MAX;
}

/* Copies from and to plain memory hold up the thread that queues them.  Pinning fails where locked memory is limited:
 * then they are slow. */
static void pin(kvpi_staging *staging, const kvpi_stream *stream)
{
	if (staging->pinned_by != NULL || stream->ops->pin(stream->device, staging->memory, staging->bytes) != KVP_OK)
		return;
	staging->pinned_by = stream->ops;
	staging->pinned_device = stream->device;
}

/* Queues the copies between the slot and device memory; what was queued is under way also when this fails. */
static kvp_status launch(kvpi_staging *staging, kvpi_slot *slot, const kvpi_layout *layout)
{
	const uint64_t end = slot->offset + slot->len;
	const kvpi_stream *stream;
	uint64_t offset = slot->offset;
	char *dense = slot->data;
	bool queued = false;
	kvp_status recorded, status =
	                         kvpi_streams_get(&staging->streams, layout->memory, layout->device, &stream);

	if (status != KVP_OK)
		return status;
	pin(staging, stream);
	while (offset < end && status == KVP_OK) {
		struct iovec runs[PIECES];
		kvpi_piece pieces[PIECES];
		const size_t count = kvpi_layout_iov(layout, &offset, end - offset, runs, PIECES);

		for (size_t i = 0; i < count; i++) {
			char *run = runs[i].iov_base;

			pieces[i] = (kvpi_piece){.to = slot->way == KVPI_OUTWARD ? dense : run,
			    .from = slot->way == KVPI_OUTWARD ? run : dense,
			    .len = runs[i].iov_len};
			dense += runs[i].iov_len;
		}
		status = stream->ops->copy(stream->device, stream->stream, pieces, count);
		queued = queued || status == KVP_OK;
	}
	if (!queued)
		return status;
	slot->ops = stream->ops;
	recorded = stream->ops->record(stream->device, stream->stream, &slot->event);
	if (recorded != KVP_OK) {
		slot->event = NULL;
		kvpi_streams_drain(&staging->streams, stream);
		return recorded;
	}
	return status;
}

kvp_status kvpi_slot_gather(kvpi_staging *staging, kvpi_slot *slot, const kvpi_layout *from)
{
	if (from->memory != KVP_MEMORY_HOST)
		return launch(staging, slot, from);
	kvpi_layout_gather(from, slot->offset, slot->data, slot->len);
	return KVP_OK;
}

kvp_status kvpi_slot_scatter(kvpi_staging *staging, kvpi_slot *slot, const kvpi_layout *to)
{
	if (to->memory != KVP_MEMORY_HOST)
		return launch(staging, slot, to);
	kvpi_layout_scatter(to, slot->offset, slot->data, slot->len);
	return KVP_OK;
}

kvp_status kvpi_slot_query(kvpi_slot *slot)
{
	kvp_status status;

	if (slot->event == NULL)
		return KVP_OK;
	status = slot->ops->query(slot->event);
	if (status == KVP_PENDING)
		return status;
	slot->ops->event_free(slot->event);
	slot->event = NULL;
	return status;
}

void kvpi_slot_settle(kvpi_staging *staging, kvpi_slot *slot)
{
	if (slot->event != NULL && kvpi_stream_settle(slot->ops, slot->event) != KVP_OK) {
		kvpi_list_remove(&slot->node);
		staging->leaked = true;
		return;
	}
	(void)kvpi_slot_query(slot);
	kvpi_staging_give(staging, slot);
}
