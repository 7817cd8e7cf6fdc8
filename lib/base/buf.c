/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include "base/alloc.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define FIRST_CAPACITY 256

void kvpi_buf_init(kvpi_buf *buf)
{
	*buf = (kvpi_buf){0};
}

void kvpi_buf_fini(kvpi_buf *buf)
{
	free(buf->data);
	kvpi_buf_init(buf);
}

void kvpi_buf_clear(kvpi_buf *buf)
{
	buf->len = 0;
	buf->failed = false;
	if (buf->data != NULL)
		buf->data[0] = 0;
}

/* Room for `more` bytes and the 0 byte behind them. */
static bool reserve(kvpi_buf *buf, size_t more)
{
	if (buf->failed)
		return false;
	if (buf->data != NULL && more < buf->capacity - buf->len)
		return true;
	if (more > SIZE_MAX / 2 - buf->len - 1) {
		buf->failed = true;
		return false;
	}

	size_t capacity = buf->capacity == 0 ? FIRST_CAPACITY : buf->capacity;
	while (capacity <= buf->len + more)
		capacity *= 2;
	char *data = kvpi_realloc(buf->data, capacity);
	if (data == NULL) {
		buf->failed = true;
		return false;
	}
	buf->data = data;
	buf->capacity = capacity;
	return true;
}

void kvpi_buf_add(kvpi_buf *buf, const void *bytes, size_t len)
{
	if (!reserve(buf, len))
		return;
	if (len != 0)
		memcpy(buf->data + buf->len, bytes, len);
	buf->len += len;
	buf->data[buf->len] = 0;
}

void kvpi_buf_printf(kvpi_buf *buf, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	int len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (len < 0) {
		buf->failed = true;
		return;
	}
	if (!reserve(buf, (size_t)len))
		return;
	va_start(args, fmt);
	vsnprintf(buf->data + buf->len, (size_t)len + 1, fmt, args);
	va_end(args);
	buf->len += (size_t)len;
}
