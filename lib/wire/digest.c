/* SPDX-License-Identifier: Apache-2.0
 *
 * Unit i, as two little-endian words x and y, adds fold((x ^ (A + i B)) * (y ^ (C + i D))): one 64 by 64 bit product,
 * its halves xored.  The constants are digits of pi, the two steps made odd.
 *
 * Why so: a product mixes all bits of both words in one instruction.  A sum of terms that were linear in the place would
 * miss two units that move by the same way in opposite directions; xor and fold are what makes them not linear.
 */
#include "wire/digest.h"

#include <endian.h>
#include <string.h>

#define A UINT64_C(0x243f6a8885a308d3)
#define B UINT64_C(0x13198a2e03707345)
#define C UINT64_C(0xa4093822299f31d0)
#define D UINT64_C(0x082efa98ec4e6c89)
#define E UINT64_C(0x452821e638d01377)

static inline uint64_t term(const unsigned char *unit, uint64_t a, uint64_t c)
{
	uint64_t x, y;
	unsigned __int128 product;

	memcpy(&x, unit, sizeof(x));
	memcpy(&y, unit + sizeof(x), sizeof(y));
	product = (unsigned __int128)(le64toh(x) ^ a) * (le64toh(y) ^ c);
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

void kvpi_digest_add(kvpi_digest *digest, const void *bytes, size_t len, uint64_t offset)
{
	const unsigned char *at = bytes;
	const uint64_t i = offset / KVPI_DIGEST_UNIT;
	uint64_t a = A + i * B, c = C + i * D, even = 0, odd = 0;

	/* Two sums, so that additions do not wait for each other. */
	for (; len >= 2 * KVPI_DIGEST_UNIT; len -= 2 * KVPI_DIGEST_UNIT) {
		even += term(at, a, c);
		odd += term(at + KVPI_DIGEST_UNIT, a + B, c + D);
		at += 2 * KVPI_DIGEST_UNIT;
		a += 2 * B;
		c += 2 * D;
	}
	if (len >= KVPI_DIGEST_UNIT) {
		even += term(at, a, c);
		at += KVPI_DIGEST_UNIT;
		len -= KVPI_DIGEST_UNIT;
		a += B;
		c += D;
	}
	if (len > 0) {
		unsigned char last[KVPI_DIGEST_UNIT] = {0};

		memcpy(last, at, len);
		odd += term(last, a, c);
	}
	digest->sum += even + odd;
}

uint64_t kvpi_digest_end(const kvpi_digest *digest, uint64_t bytes)
{
	uint64_t h = digest->sum + bytes * E;

	/* Each step can be undone, so different sums stay different; all bits of a digest are as good. */
	h = (h ^ h >> 32) * B;
	h = (h ^ h >> 29) * D;
	return h ^ h >> 32;
}

void kvpi_digest_feed(kvpi_digest_stream *stream, const void *bytes, size_t len)
{
	const unsigned char *at = bytes;
	const size_t have = stream->bytes % KVPI_DIGEST_UNIT;

	if (have > 0) {
		const size_t n = len < KVPI_DIGEST_UNIT - have ? len : KVPI_DIGEST_UNIT - have;

		memcpy(stream->unit + have, at, n);
		stream->bytes += n;
		if (have + n < KVPI_DIGEST_UNIT)
			return;
		kvpi_digest_add(&stream->digest, stream->unit, KVPI_DIGEST_UNIT, stream->bytes - KVPI_DIGEST_UNIT);
		at += n;
		len -= n;
	}
	kvpi_digest_add(&stream->digest, at, len - len % KVPI_DIGEST_UNIT, stream->bytes);
	stream->bytes += len;
	memcpy(stream->unit, at + len - len % KVPI_DIGEST_UNIT, len % KVPI_DIGEST_UNIT);
}

uint64_t kvpi_digest_close(const kvpi_digest_stream *stream)
{
	const size_t have = stream->bytes % KVPI_DIGEST_UNIT;
	kvpi_digest digest = stream->digest;

	kvpi_digest_add(&digest, stream->unit, have, stream->bytes - have);
	return kvpi_digest_end(&digest, stream->bytes);
}
