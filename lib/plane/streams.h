/* SPDX-License-Identifier: Apache-2.0
 *
 * The library streams on which one opened plane queues its copies: one for each device that its transfers
 * have met.  They never wait for a peer.
 */
#ifndef KVPI_PLANE_STREAMS_H
#define KVPI_PLANE_STREAMS_H

#include "device/device.h"

#define KVPI_STREAMS_MAX 16 /* devices that one plane can meet */

typedef struct kvpi_stream {
	const kvpi_device_ops *ops;
	int device;
	void *stream;
} kvpi_stream;

typedef struct kvpi_streams {
	kvpi_stream entries[KVPI_STREAMS_MAX];
	size_t count;
} kvpi_streams;

static inline void kvpi_streams_init(kvpi_streams *streams)
{
	streams->count = 0;
}

/* Nothing may be queued any more. */
void kvpi_streams_fini(kvpi_streams *streams);

/* The stream of that device, made at the first call.  Valid until fini. */
kvp_status kvpi_streams_get(kvpi_streams *streams, kvp_memory memory, int device, const kvpi_stream **stream);

/* When an event could not be recorded: waits for all that is queued by freeing the stream.  The last resort: a
 * slow call. */
void kvpi_streams_drain(kvpi_streams *streams, const kvpi_stream *stream);

/* Bits 1u << kvp_memory of the kinds that this build and machine have. */
unsigned kvpi_streams_memories(void);

/* Asks until the event is reached or has failed, a bounded time: KVP_OK when what stands before it touches no
 * memory any more, KVP_E_DEVICE when that could not be proven (logged; the caller quarantines). */
kvp_status kvpi_stream_settle(const kvpi_device_ops *ops, kvpi_event *event);

#endif
