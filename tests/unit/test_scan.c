/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "wire/scan.h"
#include <kvpipe/status.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

static const kvpi_scan_limits usual = {.bytes = 1024, .elements = 100, .depth = 8};

/* Scans a copy of exactly that length, so that a sanitizer sees each byte read too far. */
static kvp_status scan(const void *frame, size_t len, const kvpi_scan_limits *limits)
{
	void *copy = malloc(len);

	if (len > 0)
		memcpy(copy, frame, len);
	const kvp_status status = kvpi_scan(copy, len, limits);
	free(copy);
	return status;
}

#define SCAN(text, limits) scan(text, sizeof(text) - 1, limits)

/* The frame is refused with a sentence that says why and where. */
#define REFUSED(text, sentence)                                                                    \
	do {                                                                                       \
		KIT_STATUS(SCAN(text, &usual), KVP_E_PROTOCOL);                                    \
		ck_assert_msg(strstr(kvp_last_error(), sentence) != NULL,                          \
		    "the sentence is \"%s\", not \"%s\"", kvp_last_error(), sentence);             \
	} while (0)

START_TEST(every_type_is_taken)
{
	KIT_OK(SCAN("\x00", &usual));
	KIT_OK(SCAN("\x7f", &usual));
	KIT_OK(SCAN("\xe0", &usual));
	KIT_OK(SCAN("\xff", &usual));
	KIT_OK(SCAN("\xc0", &usual));
	KIT_OK(SCAN("\xc2", &usual));
	KIT_OK(SCAN("\xc3", &usual));
	KIT_OK(SCAN("\xca\1\2\3\4", &usual));
	KIT_OK(SCAN("\xcb\1\2\3\4\5\6\7\x08", &usual));
	KIT_OK(SCAN("\xcc\xff", &usual));
	KIT_OK(SCAN("\xcd\xff\xff", &usual));
	KIT_OK(SCAN("\xce\xff\xff\xff\xff", &usual));
	KIT_OK(SCAN("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", &usual));
	KIT_OK(SCAN("\xd0\xff", &usual));
	KIT_OK(SCAN("\xd1\xff\xff", &usual));
	KIT_OK(SCAN("\xd2\xff\xff\xff\xff", &usual));
	KIT_OK(SCAN("\xd3\xff\xff\xff\xff\xff\xff\xff\xff", &usual));
	KIT_OK(SCAN("\xa0", &usual));
	KIT_OK(SCAN("\xa3"
	            "abc",
	    &usual));
	KIT_OK(SCAN("\xd9\3xyz", &usual));
	KIT_OK(SCAN("\xda\0\3xyz", &usual));
	KIT_OK(SCAN("\xdb\0\0\0\3xyz", &usual));
	KIT_OK(SCAN("\xc4\3xyz", &usual));
	KIT_OK(SCAN("\xc5\0\3xyz", &usual));
	KIT_OK(SCAN("\xc6\0\0\0\3xyz", &usual));
	KIT_OK(SCAN("\x90", &usual));
	KIT_OK(SCAN("\x92\1\2", &usual));
	KIT_OK(SCAN("\xdc\0\2\1\2", &usual));
	KIT_OK(SCAN("\xdd\0\0\0\2\1\2", &usual));
	KIT_OK(SCAN("\x80", &usual));
	KIT_OK(SCAN("\x81\1\2", &usual));
	KIT_OK(SCAN("\xde\0\1\1\2", &usual));
	KIT_OK(SCAN("\xdf\0\0\0\1\1\2", &usual));
}
END_TEST

START_TEST(exactly_one_value_fills_the_frame)
{
	/* Every kind of length, nested: no shorter frame is complete, no longer one ends there. */
	static const char frame[] =
	    "\x94\x82\1\xa2xy\2\xc4\2zz\xdc\0\2\xcd\1\2\x90\xd9\1q\xcb\1\2\3"
	    "\4\5\6\7\x08"
	    "tail";
	const size_t len = sizeof(frame) - 1 - strlen("tail");

	KIT_OK(scan(frame, len, &usual));
	for (size_t cut = 0; cut < len; cut++)
		KIT_STATUS(scan(frame, cut, &usual), KVP_E_PROTOCOL);
	for (size_t more = len + 1; more < sizeof(frame); more++)
		KIT_STATUS(scan(frame, more, &usual), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_scan(NULL, 0, &usual), KVP_E_PROTOCOL);
	REFUSED("\x91\1\2", "1 bytes follow the value that ends at byte 2");
	REFUSED("\x92\xa1x", "the frame ends at byte 3 inside a value");
}
END_TEST

START_TEST(a_count_above_the_bytes_that_follow_is_refused)
{
	REFUSED("\xdd\xff\xff\xff\xff", "byte 0 claims 4294967295 values, 0 bytes follow");
	REFUSED("\xdf\xff\xff\xff\xff", "byte 0 claims 8589934590 values, 0 bytes follow");
	REFUSED("\x91\xdd\xff\xff\xff\xff\1", "byte 1 claims 4294967295 values, 1 bytes follow");
	REFUSED("\xdc\0\4\1\2\3", "claims 4 values, 3 bytes follow");
	REFUSED("\xde\0\2\1\2\3", "claims 4 values, 3 bytes follow");
	REFUSED("\x9f", "claims 15 values");
	REFUSED("\x8f", "claims 30 values");
	REFUSED("\xc6\xff\xff\xff\xff", "claims 4294967295 bytes, 0 follow");
	REFUSED("\xdb\xff\xff\xff\xff", "claims 4294967295 bytes, 0 follow");
	REFUSED("\xd9\4xyz", "claims 4 bytes, 3 follow");
	REFUSED("\xa4xyz", "claims 4 bytes, 3 follow");
	REFUSED("\xcf\1\2\3", "claims 8 bytes, 3 follow");
	REFUSED("\xdd\0\0", "inside a length");
}
END_TEST

START_TEST(types_that_we_do_not_speak_are_refused)
{
	REFUSED("\xc1", "type byte c1");
	REFUSED("\x91\xc7\0\1", "extension type at byte 1");
	REFUSED("\xc8\0\0\1", "extension type");
	REFUSED("\xc9\0\0\0\0\1", "extension type");
	REFUSED("\xd4\1\1", "extension type");
	REFUSED("\xd5\1\1\1", "extension type");
	REFUSED("\xd6\xff\1\1\1\1", "extension type");
	REFUSED("\xd7\xff\1\1\1\1\1\1\1\1", "extension type");
	REFUSED("\xd8\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1", "extension type");
}
END_TEST

START_TEST(limits_hold_to_the_value)
{
	const kvpi_scan_limits three_deep = {.bytes = 100, .elements = 100, .depth = 3};
	const kvpi_scan_limits four_values = {.bytes = 100, .elements = 4, .depth = 8};
	const kvpi_scan_limits four_bytes = {.bytes = 4, .elements = 100, .depth = 8};

	KIT_OK(SCAN("\x91\x91\x91\1", &three_deep));
	KIT_OK(SCAN("\x91\x91\x90", &three_deep));
	KIT_STATUS(SCAN("\x91\x91\x91\x90", &three_deep), KVP_E_PROTOCOL);
	KIT_STATUS(SCAN("\x91\x81\1\x91\x91\1", &three_deep), KVP_E_PROTOCOL);
	/* Depth is of nesting, not of containers that were closed before. */
	KIT_OK(SCAN("\x93\x91\x90\x91\x90\x91\x90", &three_deep));

	KIT_OK(SCAN("\x93\1\2\3", &four_values));
	KIT_STATUS(SCAN("\x93\1\2\x91\3", &four_values), KVP_E_PROTOCOL);
	KIT_STATUS(SCAN("\x82\1\2\3\4", &four_values), KVP_E_PROTOCOL);

	KIT_OK(SCAN("\xa3xyz", &four_bytes));
	KIT_STATUS(SCAN("\xa4xyzz", &four_bytes), KVP_E_PROTOCOL);
}
END_TEST

START_TEST(depth_ends_where_the_stack_ends)
{
	const kvpi_scan_limits deep = {.bytes = 1000, .elements = 1000, .depth = 1000};
	unsigned char frame[KVPI_SCAN_DEPTH_MAX + 2];

	memset(frame, 0x91, sizeof(frame));
	frame[KVPI_SCAN_DEPTH_MAX] = 0;
	KIT_OK(scan(frame, KVPI_SCAN_DEPTH_MAX + 1, &deep));
	frame[KVPI_SCAN_DEPTH_MAX] = 0x91;
	frame[KVPI_SCAN_DEPTH_MAX + 1] = 0;
	KIT_STATUS(scan(frame, KVPI_SCAN_DEPTH_MAX + 2, &deep), KVP_E_PROTOCOL);
}
END_TEST

/* What the scan takes, msgpack-c must take, and end at the same byte. */
START_TEST(msgpack_agrees_with_what_passes)
{
	static const unsigned char types[] = {0x00, 0x81, 0x82, 0x91, 0x92, 0x93, 0xa1, 0xc0, 0xc4,
	    0xc5, 0xca, 0xcc, 0xcd, 0xd0, 0xd3, 0xd9, 0xdc, 0xde, 0xe0, 0xc7, 0xd4};
	uint64_t state = 7;
	size_t taken = 0;

	for (int i = 0; i < 20000; i++) {
		unsigned char frame[24];
		const size_t len = 1 + kit_random(&state) % sizeof(frame);
		msgpack_unpacked unpacked;
		size_t offset = 0;

		for (size_t k = 0; k < len; k++)
			frame[k] = kit_random(&state) % 2
			               ? types[kit_random(&state) % sizeof(types)]
			               : (unsigned char)(kit_random(&state) % 4);
		if (scan(frame, len, &usual) != KVP_OK)
			continue;
		taken++;
		msgpack_unpacked_init(&unpacked);
		ck_assert_int_eq(msgpack_unpack_next(&unpacked, (const char *)frame, len, &offset),
		    MSGPACK_UNPACK_SUCCESS);
		ck_assert_uint_eq(offset, len);
		msgpack_unpacked_destroy(&unpacked);
	}
	ck_assert_uint_gt(taken, 100); /* else the sample says nothing */
}
END_TEST

KIT_MAIN("scan", every_type_is_taken, exactly_one_value_fills_the_frame,
    a_count_above_the_bytes_that_follow_is_refused, types_that_we_do_not_speak_are_refused,
    limits_hold_to_the_value, depth_ends_where_the_stack_ends, msgpack_agrees_with_what_passes)
