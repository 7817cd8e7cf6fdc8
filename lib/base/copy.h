/* SPDX-License-Identifier: Apache-2.0
 *
 * Copying more than the caches hold.
 */
#ifndef KVPI_BASE_COPY_H
#define KVPI_BASE_COPY_H

#include <stddef.h>

/* From this size of a whole copy on, memcpy of the C library writes past the caches.  It decides by the size of one call:
 * who copies a large thing in pieces has to say so. */
#define KVPI_COPY_STREAM_BYTES ((size_t)32 << 20)

/* As memcpy, but the destination is written past the caches where the processor can: it saves reading what is
 * overwritten, and leaves the caches to others. */
void kvpi_copy_stream(void *restrict to, const void *restrict from, size_t len);

#endif
