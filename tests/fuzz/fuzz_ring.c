/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring whose shared memory is whatever a peer makes of it, read and written to from this side.
 */
#include "fuzz/fuzz.h"

#include "share/ring.h"
#include <stdlib.h>
#include <string.h>

#define CAPACITY 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t bytes = kvpi_ring_bytes(CAPACITY);
	unsigned char *shared = aligned_alloc(64, (bytes + 63) / 64 * 64);
	unsigned char out[CAPACITY];
	kvpi_ring reader, writer;
	bool wake;

	if (shared == NULL)
		abort();
	memset(shared, 0, bytes);
	kvpi_ring_init(&reader, shared, CAPACITY);
	kvpi_ring_init(&writer, shared, CAPACITY);
	/* In turns: the peer's bytes over a part of it, then everything from this side. */
	for (size_t at = 0; at + 4 <= size;) {
		const size_t where = (data[at] | (size_t)data[at + 1] << 8) % bytes;
		size_t len = data[at + 2];

		at += 4;
		len = len < size - at ? len : size - at;
		len = len < bytes - where ? len : bytes - where;
		memcpy(shared + where, data + at, len);
		at += len;
		for (int i = 0; i < 3; i++) {
			size_t got = 0;

			if (kvpi_ring_get(&reader, out, sizeof(out), &got) == KVP_OK && got > sizeof(out))
				abort();
		}
		(void)kvpi_ring_empty(&reader);
		(void)kvpi_ring_sleep(&reader);
		kvpi_ring_awake(&reader);
		(void)kvpi_ring_put(&writer, data, size < 900 ? size : 900, NULL, 0, &wake);
	}
	free(shared);
	return 0;
}
