/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring of messages in memory that two processes share: one writer, one reader, no system calls.
 *
 * A message is a record: a head (one 64-bit word: a mark and the length), then the bytes, padded to a cache line.  A head
 * of 0 means "nothing here yet".  The writer first zeroes the head behind its record, copies the bytes, and publishes the
 * head last; so the reader looks at one word, which lies in the cache line of the message itself: a small message costs one
 * transfer of one line.  The reader's position is shared to give room back, and the writer looks at it only when the ring
 * seems full.
 *
 * The other process is not trusted.  The reader believes nothing but the head, which it reads once and checks, and copies
 * the message out before anybody looks at it; the writer checks the reader's position.  Nonsense ends the connection, not
 * this process.  Positions are absolute 64-bit totals of bytes.
 *
 * Waking.  The reader says in the ring that it sleeps; a writer that finds this after a message must wake it by the means
 * of the connection (an eventfd).  kvpi_ring_sleep and kvpi_ring_put use sequentially consistent accesses for that: either
 * the writer sees that the reader sleeps, or the reader sees the message, so no wake-up is lost.
 */
#ifndef KVPI_SHARE_RING_H
#define KVPI_SHARE_RING_H

#include <kvpipe/status.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_RING_CAPACITY_MIN 4096u
#define KVPI_RING_CAPACITY_MAX (UINT64_C(16) << 20)

/* In shared memory, aligned to 64; `capacity` bytes of data follow it.  `sleeping` has a line of its own, since the writer
 * looks at it after each message, and the reader moves `read` with each. */
typedef struct kvpi_ring_shared {
	_Alignas(64) _Atomic uint64_t read;     /* by the reader */
	_Alignas(64) _Atomic uint32_t sleeping; /* by the reader, cleared by whoever wakes it */
	_Alignas(64) unsigned char data[];
} kvpi_ring_shared;

/* One end's view; what it believes about the ring is here, not in shared memory. */
typedef struct kvpi_ring {
	kvpi_ring_shared *shared;
	uint64_t capacity; /* a power of two, KVPI_RING_CAPACITY_MIN .. KVPI_RING_CAPACITY_MAX */
	uint64_t position; /* own total */
	uint64_t other;    /* writer: the reader's, as last seen */
} kvpi_ring;

/* Bytes of shared memory for a ring of that capacity. */
size_t kvpi_ring_bytes(uint64_t capacity);

/* Both ends, on zeroed memory. */
void kvpi_ring_init(kvpi_ring *ring, void *shared, uint64_t capacity);

/* The longest message: a quarter of the capacity. */
static inline size_t kvpi_ring_message_max(const kvpi_ring *ring)
{
	return (size_t)(ring->capacity / 4);
}

/* Writer.  One message of parts a and b (b may be NULL).  KVP_E_AGAIN: no room (no sentence: it is no error);
 * KVP_E_TOO_LARGE; KVP_E_PROTOCOL: the reader's position is impossible.  *wake: the reader sleeps and must be woken;
 * set only with KVP_OK. */
kvp_status kvpi_ring_put(kvpi_ring *ring, const void *a, size_t a_len, const void *b, size_t b_len, bool *wake);

/* Reader.  Copies the next message to out[capacity].  KVP_E_AGAIN: none (no sentence); KVP_E_PROTOCOL: what is there is no
 * message, or longer than `capacity` or than any message may be; it stays there. */
kvp_status kvpi_ring_get(kvpi_ring *ring, void *out, size_t capacity, size_t *len);

bool kvpi_ring_empty(const kvpi_ring *ring); /* reader: nothing to get (nonsense counts as something) */

/* Reader, before it sleeps: true when the ring is empty and the writer now knows that it has to wake; false: there is a
 * message.  kvpi_ring_awake takes it back. */
bool kvpi_ring_sleep(kvpi_ring *ring);
void kvpi_ring_awake(kvpi_ring *ring);

#endif
