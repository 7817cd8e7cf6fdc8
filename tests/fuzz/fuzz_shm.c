/* SPDX-License-Identifier: Apache-2.0
 *
 * A PUT in a shared ring.  What is believed of a layout stays within the reach that it was given.
 */
#include "fuzz/fuzz.h"

#include "plane/shm_msg.h"
#include <stdlib.h>
#include <string.h>

#define RUNS 64
#define ROUNDS 64 /* sizes are numbers that somebody wrote: nobody walks to their end, nor does */
#define PIECE 65536u /* the plane, which asks for so much at a time: neighbours that touch are joined within it */

static void walk(const kvpi_layout *layout, uint64_t extent)
{
	const uint64_t base = (uint64_t)(uintptr_t)layout->base;
	struct iovec runs[RUNS];
	uint64_t offset = 0;

	for (int round = 0; round < ROUNDS; round++) {
		const size_t count = kvpi_layout_iov(layout, &offset, PIECE, runs, RUNS);

		for (size_t i = 0; i < count; i++) {
			const uint64_t at = (uint64_t)(uintptr_t)runs[i].iov_base - base;

			if (at > extent || runs[i].iov_len > extent - at)
				abort();
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kvpi_shm_put put;
	kvpi_layout layout;
	uint64_t extent = 0;
	void *message = NULL;

	/* As in the ring: aligned, and nothing behind it. */
	if (size > KVPI_SHM_MESSAGE_MAX || posix_memalign(&message, 8, size == 0 ? 8 : size) != 0)
		return 0;
	if (size > 0)
		memcpy(message, data, size);
	if (kvpi_shm_put_read(message, size, &put, &layout, &extent)) {
		if (put.way == KVPI_SHM_INLINE && put.bytes > size)
			abort();
		if (put.way == KVPI_SHM_MAPPED || put.way == KVPI_SHM_REMOTE) {
			layout.base = (char *)(uintptr_t)4096;
			if (extent <= UINT64_MAX - 4096)
				walk(&layout, extent);
		}
	}
	free(message);
	return 0;
}
