/* SPDX-License-Identifier: Apache-2.0
 *
 * The digest of a payload: the one that every plane and every kernel uses (docs/wire.md).
 *
 * It is a sum over the payload's 8-byte words of a function of word and place, so that any number of threads, in any order
 * and in any pieces that begin at a multiple of 8, compute the same digest.  It notices what wires, memories and lost or
 * misplaced pieces do; it is no protection against somebody who wants to deceive.
 */
#ifndef KVPI_WIRE_DIGEST_H
#define KVPI_WIRE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_digest {
	uint64_t a, b; /* partial sums; zeroed: of nothing */
} kvpi_digest;

/* Adds `len` bytes that stand at `offset` of the payload.  offset is a multiple of 8; so is len, but for the piece that
 * ends the payload. */
void kvpi_digest_add(kvpi_digest *digest, const void *bytes, size_t len, uint64_t offset);

/* Of a payload of `bytes` bytes, all of which were added. */
uint64_t kvpi_digest_end(const kvpi_digest *digest, uint64_t bytes);

#endif
