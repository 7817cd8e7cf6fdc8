/* SPDX-License-Identifier: Apache-2.0
 *
 * The digest of a payload: the one that every plane and every kernel uses (docs/wire.md has its definition).
 *
 * It is a sum over the payload's units of 16 bytes, of a function of the unit and its place, so that any number of
 * threads, in any order and in any pieces that begin at a multiple of 16, compute the same digest: a thread of a kernel
 * takes a unit, and the sums are added.  It notices what wires, memories and lost or misplaced pieces do; it is no
 * protection against somebody who wants to deceive.
 *
 * Any thread; nothing is shared.
 */
#ifndef KVPI_WIRE_DIGEST_H
#define KVPI_WIRE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define KVPI_DIGEST_UNIT 16

typedef struct kvpi_digest {
	uint64_t sum; /* modulo 2^64; zeroed: of nothing.  Partial sums add up */
} kvpi_digest;

/* Adds `len` bytes that stand at `offset` of the payload.  offset is a multiple of 16; so is len, but for the piece that
 * ends the payload.  `bytes` needs no alignment. */
void kvpi_digest_add(kvpi_digest *digest, const void *bytes, size_t len, uint64_t offset);

/* Of a payload of `bytes` bytes, all of which were added. */
uint64_t kvpi_digest_end(const kvpi_digest *digest, uint64_t bytes);

/* The same of a payload that comes in order, in pieces of any length. */
typedef struct kvpi_digest_stream {
	kvpi_digest digest;
	uint64_t bytes; /* so far; zeroed: none */
	unsigned char unit[KVPI_DIGEST_UNIT]; /* the last bytes % 16 of them */
} kvpi_digest_stream;

void kvpi_digest_feed(kvpi_digest_stream *stream, const void *bytes, size_t len);
uint64_t kvpi_digest_close(const kvpi_digest_stream *stream);

#endif
