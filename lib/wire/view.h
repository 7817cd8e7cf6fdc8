/* SPDX-License-Identifier: Apache-2.0
 *
 * A borrowed run of bytes: what decoders hand out and encoders take.
 */
#ifndef KVPI_WIRE_VIEW_H
#define KVPI_WIRE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct kvpi_view {
	const void *data;
	size_t len;
} kvpi_view;

static inline kvpi_view kvpi_view_of(const void *data, size_t len)
{
	return (kvpi_view){data, len};
}

static inline kvpi_view kvpi_view_text(const char *text)
{
	return (kvpi_view){text, text ? strlen(text) : 0};
}

static inline bool kvpi_view_equal(kvpi_view a, kvpi_view b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

#endif
