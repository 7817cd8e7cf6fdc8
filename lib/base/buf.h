/* SPDX-License-Identifier: Apache-2.0
 *
 * A growing byte buffer with a sticky failure, so that a long printf chain is checked once.
 */
#ifndef KVPI_BASE_BUF_H
#define KVPI_BASE_BUF_H

#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct kvpi_buf {
	char *data; /* always followed by a 0 byte once something was added */
	size_t len, capacity;
	bool failed; /* an addition did not get memory; all later ones are dropped */
} kvpi_buf;

void kvpi_buf_init(kvpi_buf *buf);
void kvpi_buf_fini(kvpi_buf *buf);
void kvpi_buf_clear(kvpi_buf *buf); /* keeps the memory and forgets the failure */
void kvpi_buf_add(kvpi_buf *buf, const void *bytes, size_t len);
void kvpi_buf_printf(kvpi_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Where to cut UTF-8 text that is longer than len bytes: at most len, never within a character. */
static inline size_t kvpi_utf8_cut(const char *text, size_t len)
{
	while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
		len--;
	return len;
}

#endif
