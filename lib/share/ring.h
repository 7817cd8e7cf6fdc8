/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring of messages in memory that two processes share: one writer, one reader, no system calls.
 *
 * The other process is not trusted: positions are read once and checked, a message is copied out before anybody looks at
 * it, and nonsense ends the connection, not this process.  Positions are absolute 64-bit totals of bytes.
 *
 * Waking.  The reader says in the ring that it sleeps; a writer that finds this after a message must wake it by the means
 * of the connection (an eventfd).  kvpi_ring_sleep and kvpi_ring_put use sequentially consistent accesses for that, so
 * that no wake-up is lost.
 */
#ifndef KVPI_SHARE_RING_H
#define KVPI_SHARE_RING_H

#include <kvpipe/status.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In shared memory, aligned to 64; `capacity` bytes of data follow it.  Reader's and writer's fields have cache lines of
 * their own. */
typedef struct kvpi_ring_shared {
	_Alignas(64) _Atomic uint64_t written; /* by the writer */
	_Alignas(64) _Atomic uint64_t read;    /* by the reader */
	_Atomic uint32_t sleeping;             /* by the reader, cleared by whoever wakes it */
	_Alignas(64) unsigned char data[];
} kvpi_ring_shared;

/* One end's view; what it believes about the ring is here, not in shared memory. */
typedef struct kvpi_ring {
	kvpi_ring_shared *shared;
	uint64_t capacity; /* a power of two, 4 KiB .. 16 MiB */
	uint64_t position; /* own total */
	uint64_t other;    /* the other end's, as last seen */
} kvpi_ring;

/* Bytes of shared memory for a ring of that capacity. */
size_t kvpi_ring_bytes(uint64_t capacity);

/* Both ends, on zeroed memory.  The longest message is a quarter of the capacity. */
void kvpi_ring_init(kvpi_ring *ring, void *shared, uint64_t capacity);

/* Writer.  One message of parts a and b (b may be NULL).  KVP_E_AGAIN: no room; KVP_E_TOO_LARGE; KVP_E_PROTOCOL: the
 * reader's position is impossible.  *wake: the reader sleeps and must be woken. */
kvp_status kvpi_ring_put(kvpi_ring *ring, const void *a, size_t a_len, const void *b, size_t b_len, bool *wake);

/* Reader.  Copies the next message to out[capacity].  KVP_E_AGAIN: none; KVP_E_PROTOCOL: what is there is no message, or
 * longer than `capacity`. */
kvp_status kvpi_ring_get(kvpi_ring *ring, void *out, size_t capacity, size_t *len);

bool kvpi_ring_empty(kvpi_ring *ring); /* reader: nothing to get */

/* Reader, before it sleeps: true when the ring is empty and the writer now knows that it has to wake; false: there is a
 * message.  kvpi_ring_awake takes it back. */
bool kvpi_ring_sleep(kvpi_ring *ring);
void kvpi_ring_awake(kvpi_ring *ring);

#endif
