/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/streams.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include <time.h>

/* A device that has not finished a bounded copy by then hangs. */
#define SETTLE_NS (5 * KVPI_NS_PER_S)
#define SETTLE_PAUSE_NS 20000

void kvpi_streams_fini(kvpi_streams *streams)
{
	for (size_t i = 0; i < streams->count; i++) {
		const kvpi_stream *entry = &streams->entries[i];

		entry->ops->stream_free(entry->device, entry->stream);
	}
	streams->count = 0;
}

kvp_status kvpi_streams_get(kvpi_streams *streams, kvp_memory memory, int device, const kvpi_stream **stream)
{
	kvpi_stream made = {.device = device};
	kvp_status status;

	for (size_t i = 0; i < streams->count; i++) {
		if (streams->entries[i].ops->memory == memory && streams->entries[i].device == device) {
			*stream = &streams->entries[i];
			return KVP_OK;
		}
	}
	made.ops = kvpi_device_find(memory);
	if (made.ops == NULL)
		return kvpi_error(KVP_E_UNSUPPORTED, "memory kind %d is not there", (int)memory);
	if (streams->count == KVPI_STREAMS_MAX)
		return kvpi_error(KVP_E_UNSUPPORTED, "a data plane serves at most %d devices", KVPI_STREAMS_MAX);
	status = made.ops->stream_new(device, &made.stream);
	if (status != KVP_OK)
		return status;
	streams->entries[streams->count] = made;
	*stream = &streams->entries[streams->count++];
	return KVP_OK;
}

void kvpi_streams_drain(kvpi_streams *streams, const kvpi_stream *stream)
{
	kvpi_stream *entry = &streams->entries[stream - streams->entries];

	entry->ops->stream_free(entry->device, entry->stream);
	*entry = streams->entries[--streams->count];
}

unsigned kvpi_streams_memories(void)
{
	static const kvp_memory kinds[] = {KVP_MEMORY_HOST, KVP_MEMORY_CUDA, KVP_MEMORY_FAKE};
	unsigned bits = 0;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (kvpi_device_find(kinds[i]) != NULL)
			bits |= 1u << kinds[i];
	}
	return bits;
}

kvp_status kvpi_stream_settle(const kvpi_device_ops *ops, kvpi_event *event)
{
	const int64_t deadline = kvpi_now(&kvpi_clock_real) + SETTLE_NS;
	const struct timespec pause = {.tv_nsec = SETTLE_PAUSE_NS};

	while (ops->query(event) == KVP_PENDING) {
		if (kvpi_now(&kvpi_clock_real) >= deadline) {
			KVPI_LOG(ERROR, "plane", "a copy on device kind %s does not end, its memory is quarantined",
			    ops->name);
			return kvpi_error(KVP_E_DEVICE, "a copy on device kind %s does not end", ops->name);
		}
		nanosleep(&pause, NULL);
	}
	return KVP_OK;
}
