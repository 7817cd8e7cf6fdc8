/* SPDX-License-Identifier: Apache-2.0
 *
 * The bounded scan.  One loop, a stack of counters in place of recursion, no allocation.
 */
#include "wire/scan.h"
#include "base/error.h"
#include <stdbool.h>
#include <stdint.h>

/* What one header says: bytes of its own length field, bytes of payload or values that must follow.
 */
typedef struct token {
	unsigned length_bytes; /* behind the type byte */
	uint64_t payload;      /* bytes, if not a container */
	uint64_t count;        /* values, if a container; a map has two per pair */
	bool container;
	const char *refused; /* why this type is not taken, or NULL */
} token;

static uint64_t read_be(const unsigned char *p, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

/* Everything about a type byte that does not need the bytes behind it. */
static token classify(unsigned char type)
{
	token t = {0};

	if (type <= 0x7f || type >= 0xe0) {
		/* a small integer, complete */
	} else if (type <= 0x8f) {
		t.container = true;
		t.count = 2 * (uint64_t)(type & 0x0f);
	} else if (type <= 0x9f) {
		t.container = true;
		t.count = type & 0x0f;
	} else if (type <= 0xbf) {
		t.payload = type & 0x1f;
	} else {
		switch (type) {
		case 0xc0: /* nil, false, true */
		case 0xc2:
		case 0xc3:
			break;
		case 0xc1:
			t.refused = "the type byte c1, which does not exist";
			break;
		case 0xc4: /* bin, str */
		case 0xd9:
			t.length_bytes = 1;
			break;
		case 0xc5:
		case 0xda:
			t.length_bytes = 2;
			break;
		case 0xc6:
		case 0xdb:
			t.length_bytes = 4;
			break;
		case 0xcc: /* uint, int, float */
		case 0xd0:
			t.payload = 1;
			break;
		case 0xcd:
		case 0xd1:
			t.payload = 2;
			break;
		case 0xca:
		case 0xce:
		case 0xd2:
			t.payload = 4;
			break;
		case 0xcb:
		case 0xcf:
		case 0xd3:
			t.payload = 8;
			break;
		case 0xdc: /* array, map */
		case 0xde:
			t.container = true;
			t.length_bytes = 2;
			break;
		case 0xdd:
		case 0xdf:
			t.container = true;
			t.length_bytes = 4;
			break;
		default: /* c7 c8 c9, d4 .. d8 */
			t.refused = "an extension type";
			break;
		}
	}
	return t;
}

kvp_status kvpi_scan(const void *frame, size_t len, const kvpi_scan_limits *limits)
{
	const unsigned char *bytes = frame;
	const unsigned max_depth =
	    limits->depth < KVPI_SCAN_DEPTH_MAX ? limits->depth : KVPI_SCAN_DEPTH_MAX;
	uint64_t open[KVPI_SCAN_DEPTH_MAX]; /* values that each open container still lacks */
	unsigned depth = 0;
	size_t pos = 0, elements = 0;

	if (len > limits->bytes)
		return kvpi_error(KVP_E_PROTOCOL, "a frame of %zu bytes, at most %zu are taken",
		    len, limits->bytes);

	do {
		const size_t start = pos;

		if (pos == len)
			return kvpi_error(
			    KVP_E_PROTOCOL, "the frame ends at byte %zu inside a value", pos);
		if (elements == limits->elements)
			return kvpi_error(KVP_E_PROTOCOL, "more than %zu values at byte %zu",
			    limits->elements, start);
		elements++;

		const unsigned char type = bytes[pos++];
		token t = classify(type);

		if (t.refused != NULL)
			return kvpi_error(KVP_E_PROTOCOL, "%s at byte %zu", t.refused, start);
		if (t.length_bytes > len - pos)
			return kvpi_error(
			    KVP_E_PROTOCOL, "the frame ends at byte %zu inside a length", len);
		if (t.length_bytes > 0) {
			const uint64_t length = read_be(bytes + pos, t.length_bytes);

			pos += t.length_bytes;
			if (!t.container)
				t.payload = length;
			else if (type == 0xde || type == 0xdf)
				t.count = 2 * length;
			else
				t.count = length;
		}

		if (t.container) {
			if (depth == max_depth)
				return kvpi_error(KVP_E_PROTOCOL,
				    "nesting deeper than %u at byte %zu", max_depth, start);
			if (t.count > len - pos)
				return kvpi_error(KVP_E_PROTOCOL,
				    "a container at byte %zu claims %llu values, %zu bytes follow",
				    start, (unsigned long long)t.count, len - pos);
			if (t.count > 0) {
				open[depth++] = t.count;
				continue;
			}
		}
		if (t.payload > len - pos)
			return kvpi_error(KVP_E_PROTOCOL,
			    "a value at byte %zu claims %llu bytes, %zu follow", start,
			    (unsigned long long)t.payload, len - pos);
		pos += (size_t)t.payload;

		/* A value is complete, and with it every container that lacked only this one. */
		while (depth > 0 && --open[depth - 1] == 0)
			depth--;
	} while (depth > 0);

	if (pos != len)
		return kvpi_error(KVP_E_PROTOCOL,
		    "%zu bytes follow the value that ends at byte %zu", len - pos, pos);
	return KVP_OK;
}
