/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the limits, the rest is the frame.  What passes, msgpack-c must take to
 * its last byte, and no shorter piece of it may pass.
 */
#include "fuzz/fuzz.h"

#include "wire/scan.h"
#include <kvpipe/status.h>
#include <msgpack.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;

	const kvpi_scan_limits limits = {
	    .bytes = 4096, .elements = 1 + (size_t)(data[0] & 0x0f) * 64, .depth = data[0] >> 4};
	const char *frame = (const char *)data + 1;
	const size_t len = size - 1;
	msgpack_unpacked unpacked;
	size_t offset = 0;

	if (kvpi_scan(frame, len, &limits) != KVP_OK)
		return 0;
	if (len > limits.bytes || kvpi_scan(frame, len - 1, &limits) == KVP_OK)
		abort();
	msgpack_unpacked_init(&unpacked);
	if (msgpack_unpack_next(&unpacked, frame, len, &offset) != MSGPACK_UNPACK_SUCCESS ||
	    offset != len)
		abort();
	msgpack_unpacked_destroy(&unpacked);
	return 0;
}
