/* SPDX-License-Identifier: Apache-2.0 */
#include "base/copy.h"

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

#define LINE 64

void kvpi_copy_stream(void *restrict to, const void *restrict from, size_t len)
{
	const size_t past = (uintptr_t)to % LINE, head = past == 0 ? 0 : LINE - past;
	char *out = to;
	const char *in = from;

	if (len < head + LINE) {
		memcpy(to, from, len);
		return;
	}
	memcpy(out, in, head);
	out += head;
	in += head;
	len -= head;
	for (; len >= LINE; len -= LINE, out += LINE, in += LINE) {
		const __m128i a = _mm_loadu_si128((const __m128i *)in), b = _mm_loadu_si128((const __m128i *)in + 1);
		const __m128i c = _mm_loadu_si128((const __m128i *)in + 2), d = _mm_loadu_si128((const __m128i *)in + 3);

		_mm_stream_si128((__m128i *)out, a);
		_mm_stream_si128((__m128i *)out + 1, b);
		_mm_stream_si128((__m128i *)out + 2, c);
		_mm_stream_si128((__m128i *)out + 3, d);
	}
	_mm_sfence(); /* else these stores could be seen after later ones, which say that the bytes are there */
	memcpy(out, in, len);
}
#else
void kvpi_copy_stream(void *restrict to, const void *restrict from, size_t len)
{
	memcpy(to, from, len);
}
#endif
