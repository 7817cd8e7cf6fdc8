/* SPDX-License-Identifier: Apache-2.0
 *
 * A ZAP request, as frames of the lengths that the first bytes say.  Nobody gets in whose last frame is not the key.
 */
#include "fuzz/fuzz.h"

#include "wire/zauth.h"
#include <stdlib.h>
#include <string.h>

#define FRAMES 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned char clients[1][32] = {"this is the one key that gets in"};
	kvpi_view frames[FRAMES] = {{NULL, 0}};
	size_t count = 0, at;

	if (size < FRAMES)
		return 0;
	at = FRAMES;
	while (count < FRAMES && at + data[count] <= size) {
		frames[count] = (kvpi_view){data + at, data[count]};
		at += data[count++];
	}
	if (kvpi_zap_allows(frames, count, clients, 1) &&
	    (count != KVPI_ZAP_FRAMES || frames[count - 1].len != 32 || memcmp(frames[count - 1].data, clients[0], 32) != 0))
		abort();
	return 0;
}
