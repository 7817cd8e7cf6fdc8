/* SPDX-License-Identifier: Apache-2.0
 *
 * A frame.  What can be decoded can be encoded, in no more bytes, and from then on nothing changes.
 */
#include "fuzz/fuzz.h"

#include "wire/msg.h"
#include <stdlib.h>
#include <string.h>

static void encode(const kvpi_msg *msg, kvpi_buf *out)
{
	kvpi_buf_init(out);
	if (kvpi_msg_encode(msg, out) != KVP_OK)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static kvpi_msg_reader *reader; /* reused, as it is from frame to frame */
	kvpi_buf first, second;
	kvpi_msg msg;

	if (reader == NULL && (reader = kvpi_msg_reader_new()) == NULL)
		abort();
	if (kvpi_msg_decode(reader, data, size, KVPI_CONTROL_FRAME_MAX, &msg) != KVP_OK)
		return 0;
	encode(&msg, &first);
	if (first.len > size)
		abort();
	if (kvpi_msg_decode(reader, first.data, first.len, first.len, &msg) != KVP_OK)
		abort();
	encode(&msg, &second);
	if (first.len != second.len || memcmp(first.data, second.data, first.len) != 0)
		abort();
	kvpi_buf_fini(&first);
	kvpi_buf_fini(&second);
	return 0;
}
