/* SPDX-License-Identifier: Apache-2.0 */
#include "share/ring.h"

#include "base/error.h"
#include <inttypes.h>
#include <string.h>

#define LINE 64u /* records begin at cache lines, so a head never wraps */
#define HEAD 8u
#define MARK (UINT64_C(0x4b565047) << 32) /* the upper half of a head; below it the length */

size_t kvpi_ring_bytes(uint64_t capacity)
{
	return sizeof(kvpi_ring_shared) + (size_t)capacity;
}

void kvpi_ring_init(kvpi_ring *ring, void *shared, uint64_t capacity)
{
	*ring = (kvpi_ring){.shared = shared, .capacity = capacity};
}

static _Atomic uint64_t *head_at(const kvpi_ring *ring, uint64_t position)
{
	return (_Atomic uint64_t *)(void *)(ring->shared->data + (position & (ring->capacity - 1)));
}

static uint64_t record_bytes(size_t len)
{
	return ((uint64_t)len + HEAD + LINE - 1) & ~(uint64_t)(LINE - 1);
}

/* The piece that does not wrap of `len` bytes from `position`. */
static size_t until_wrap(const kvpi_ring *ring, uint64_t position, size_t len)
{
	uint64_t left = ring->capacity - (position & (ring->capacity - 1));

	return len < left ? len : (size_t)left;
}

static void copy_in(kvpi_ring *ring, uint64_t position, const void *bytes, size_t len)
{
	size_t first = until_wrap(ring, position, len);

	if (len == 0)
		return;
	memcpy(ring->shared->data + (position & (ring->capacity - 1)), bytes, first);
	if (first < len)
		memcpy(ring->shared->data, (const char *)bytes + first, len - first);
}

static void copy_out(const kvpi_ring *ring, uint64_t position, void *out, size_t len)
{
	size_t first = until_wrap(ring, position, len);

	memcpy(out, ring->shared->data + (position & (ring->capacity - 1)), first);
	if (first < len)
		memcpy((char *)out + first, ring->shared->data, len - first);
}

/* `needed` bytes are free, as far as the reader can be believed. */
static kvp_status make_room(kvpi_ring *ring, uint64_t needed)
{
	uint64_t read;

	if (ring->position + needed - ring->other <= ring->capacity)
		return KVP_OK;
	/* What the reader has copied out before is not overwritten earlier.  And in one order with a word of the connection that
	 * says that the writer waits for room: a reader that does not see it is seen here. */
	read = atomic_load(&ring->shared->read);
	if (read < ring->other || read > ring->position || read % LINE != 0)
		return kvpi_error(KVP_E_PROTOCOL,
		    "the peer's place in a shared ring is %" PRIu64 ", which is not between %" PRIu64 " and %" PRIu64, read,
		    ring->other, ring->position);
	ring->other = read;
	return ring->position + needed - read <= ring->capacity ? KVP_OK : KVP_E_AGAIN;
}

kvp_status kvpi_ring_put(kvpi_ring *ring, const void *a, size_t a_len, const void *b, size_t b_len, bool *wake)
{
	size_t max = kvpi_ring_message_max(ring);
	uint64_t record;
	kvp_status status;

	if (a_len > max || b_len > max - a_len)
		return kvpi_error(KVP_E_TOO_LARGE, "a message of %zu + %zu bytes for a shared ring that takes %zu", a_len,
		    b_len, max);
	record = record_bytes(a_len + b_len);
	status = make_room(ring, record + LINE); /* and the head behind it */
	if (status != KVP_OK)
		return status;
	atomic_store_explicit(head_at(ring, ring->position + record), 0, memory_order_relaxed);
	copy_in(ring, ring->position + HEAD, a, a_len);
	copy_in(ring, ring->position + HEAD + a_len, b, b_len);
	atomic_store(head_at(ring, ring->position), MARK | (a_len + b_len));
	ring->position += record;
	/* A load first: while nobody sleeps, the line stays shared. */
	*wake = atomic_load(&ring->shared->sleeping) != 0 && atomic_exchange(&ring->shared->sleeping, 0) != 0;
	return KVP_OK;
}

kvp_status kvpi_ring_get(kvpi_ring *ring, void *out, size_t capacity, size_t *len)
{
	uint64_t head = atomic_load_explicit(head_at(ring, ring->position), memory_order_acquire);
	uint64_t length = head ^ MARK;

	if (head == 0)
		return KVP_E_AGAIN;
	if (length > kvpi_ring_message_max(ring) || length > capacity)
		return kvpi_error(KVP_E_PROTOCOL,
		    "the peer's record in a shared ring has the head %016" PRIx64 ": no message, or longer than %zu bytes", head,
		    capacity);
	copy_out(ring, ring->position + HEAD, out, (size_t)length);
	ring->position += record_bytes((size_t)length);
	/* Release: the writer may reuse the place once the copy is made. */
	atomic_store_explicit(&ring->shared->read, ring->position, memory_order_release);
	*len = (size_t)length;
	return KVP_OK;
}

bool kvpi_ring_empty(const kvpi_ring *ring)
{
	return atomic_load_explicit(head_at(ring, ring->position), memory_order_relaxed) == 0;
}

bool kvpi_ring_sleep(kvpi_ring *ring)
{
	atomic_store(&ring->shared->sleeping, 1);
	if (atomic_load(head_at(ring, ring->position)) == 0)
		return true;
	kvpi_ring_awake(ring);
	return false;
}

void kvpi_ring_awake(kvpi_ring *ring)
{
	atomic_store_explicit(&ring->shared->sleeping, 0, memory_order_relaxed);
}
