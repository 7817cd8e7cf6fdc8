/* SPDX-License-Identifier: Apache-2.0
 *
 * The digest of payloads: the same however it is cut, another one for whatever goes wrong with bytes.  All data is
 * drawn from fixed seeds, so nothing here can fail by bad luck tomorrow.
 */
#include "kit/kit.h"

#include "wire/digest.h"
#include <stdlib.h>
#include <string.h>

static uint64_t digest_of(const void *bytes, size_t len)
{
	kvpi_digest digest = {0};

	kvpi_digest_add(&digest, bytes, len, 0);
	return kvpi_digest_end(&digest, len);
}

/* As docs/wire.md defines it, with nothing but shifts and adds: the library's must be the same on every machine. */
static uint64_t by_the_book(const unsigned char *bytes, size_t len)
{
	static const uint64_t a = 0x243f6a8885a308d3, b = 0x13198a2e03707345, c = 0xa4093822299f31d0,
	                      d = 0x082efa98ec4e6c89, e = 0x452821e638d01377;
	uint64_t sum = 0, h;

	for (uint64_t i = 0; 16 * i < len; i++) {
		uint64_t x = 0, y = 0, low = 0, high = 0;

		for (size_t k = 0; k < 8; k++) {
			x |= 16 * i + k < len ? (uint64_t)bytes[16 * i + k] << 8 * k : 0;
			y |= 16 * i + 8 + k < len ? (uint64_t)bytes[16 * i + 8 + k] << 8 * k : 0;
		}
		x ^= a + i * b;
		y ^= c + i * d;
		for (int k = 0; k < 64; k++) {
			const uint64_t add = y >> k & 1 ? x << k : 0;

			low += add;
			high += (low < add) + (k > 0 && y >> k & 1 ? x >> (64 - k) : 0);
		}
		sum += low ^ high;
	}
	h = sum + len * e;
	h = (h ^ h >> 32) * b;
	h = (h ^ h >> 29) * d;
	return h ^ h >> 32;
}

START_TEST(it_is_what_is_written_down)
{
	unsigned char bytes[200];

	kit_random_fill(bytes, sizeof(bytes), 1);
	for (size_t len = 0; len <= sizeof(bytes); len++)
		ck_assert_uint_eq(digest_of(bytes, len), by_the_book(bytes, len));
	/* For those who write another one. */
	ck_assert_uint_eq(digest_of("", 0), UINT64_C(0x0));
	ck_assert_uint_eq(digest_of("kvpipe", 6), UINT64_C(0x8acd230eabbf136a));
	memset(bytes, 0xff, sizeof(bytes));
	ck_assert_uint_eq(digest_of(bytes, 64), UINT64_C(0xdbc7ce91ac7f5917));
}
END_TEST

START_TEST(pieces_in_any_order_are_the_whole)
{
	static unsigned char bytes[10000];
	uint64_t seed = 3;

	kit_random_fill(bytes, sizeof(bytes), 2);
	for (int round = 0; round < 200; round++) {
		const size_t len = 1 + kit_random(&seed) % sizeof(bytes);
		const uint64_t expected = digest_of(bytes, len);
		size_t from[700], count = 0;
		kvpi_digest halves[2] = {{0}, {0}}, sum;

		for (size_t at = 0; at < len; at += 16 * (1 + kit_random(&seed) % 40))
			from[count++] = at;
		from[count] = len;
		/* In an order that is drawn, by one of two threads each: piece (first + i * odd) modulo a power of two. */
		for (size_t i = 0, first = kit_random(&seed), odd = kit_random(&seed) | 1; i < 1024; i++) {
			const size_t k = (first + i * odd) % 1024;

			if (k < count)
				kvpi_digest_add(&halves[i % 2], bytes + from[k], from[k + 1] - from[k], from[k]);
		}
		sum.sum = halves[0].sum + halves[1].sum;
		ck_assert_uint_eq(kvpi_digest_end(&sum, len), expected);
	}
}
END_TEST

START_TEST(a_stream_of_odd_pieces_is_the_whole)
{
	static unsigned char bytes[10000];
	uint64_t seed = 4;

	kit_random_fill(bytes, sizeof(bytes), 5);
	for (int round = 0; round < 500; round++) {
		const size_t len = kit_random(&seed) % sizeof(bytes), most = 1 + kit_random(&seed) % 100;
		kvpi_digest_stream stream = {.bytes = 0};

		for (size_t at = 0; at < len;) {
			size_t n = kit_random(&seed) % (most + 1);

			n = n < len - at ? n : len - at;
			kvpi_digest_feed(&stream, bytes + at, n);
			at += n;
		}
		ck_assert_uint_eq(kvpi_digest_close(&stream), digest_of(bytes, len));
	}
}
END_TEST

/* ---- quality: of all digests in a family none is twice, also when only the low half is looked at ---- */

typedef struct family {
	uint64_t *seen;
	size_t count, room;
} family;

static void family_add(family *f, const void *bytes, size_t len)
{
	ck_assert_uint_lt(f->count, f->room);
	f->seen[f->count++] = digest_of(bytes, len);
}

static family family_new(size_t room)
{
	family f = {calloc(room, sizeof(uint64_t)), 0, room};

	ck_assert_ptr_nonnull(f.seen);
	return f;
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static size_t twins(family *f)
{
	size_t count = 0;

	qsort(f->seen, f->count, sizeof(f->seen[0]), compare);
	for (size_t i = 1; i < f->count; i++)
		count += f->seen[i] == f->seen[i - 1];
	return count;
}

static void family_check(family *f)
{
	/* n draws of 32 bits have n * n / 2^33 twins by chance. */
	const double expected = (double)f->count * (double)f->count / 8589934592.0;
	size_t low, high;

	ck_assert_uint_eq(twins(f), 0);
	for (size_t i = 0; i < f->count; i++)
		f->seen[i] = (f->seen[i] & 0xffffffff) << 32 | f->seen[i] >> 32;
	qsort(f->seen, f->count, sizeof(f->seen[0]), compare);
	low = high = 0;
	for (size_t i = 1; i < f->count; i++)
		low += f->seen[i] >> 32 == f->seen[i - 1] >> 32;
	for (size_t i = 0; i < f->count; i++)
		f->seen[i] &= 0xffffffff;
	high = twins(f);
	ck_assert_msg((double)low < 3 * expected + 10 && (double)high < 3 * expected + 10,
	    "%zu and %zu twins of half digests, %.1f are chance", low, high, expected);
	free(f->seen);
}

/* Random bytes; all zeros; a ramp; few values far apart: real caches have all of these in them. */
static void fill(unsigned char *bytes, size_t len, int kind)
{
	uint64_t seed = 9;

	switch (kind) {
	case 0:
		kit_random_fill(bytes, len, 7);
		break;
	case 1:
		memset(bytes, 0, len);
		break;
	case 2:
		for (size_t i = 0; i < len; i++)
			bytes[i] = (unsigned char)(i / 8);
		break;
	default:
		memset(bytes, 0, len);
		for (size_t i = 0; i < len / 256; i++)
			bytes[kit_random(&seed) % len] = 1;
	}
}
#define KINDS 4

START_TEST(each_bit_and_each_pair_of_bits_counts)
{
	unsigned char bytes[256];
	uint64_t seed = 11;

	for (int kind = 0; kind < KINDS; kind++) {
		family f = family_new(8 * sizeof(bytes) + 60001);

		fill(bytes, sizeof(bytes), kind);
		family_add(&f, bytes, sizeof(bytes));
		for (size_t i = 0; i < 8 * sizeof(bytes); i++) {
			bytes[i / 8] ^= (unsigned char)(1 << i % 8);
			family_add(&f, bytes, sizeof(bytes));
			bytes[i / 8] ^= (unsigned char)(1 << i % 8);
		}
		/* Pairs: all distances from one place, in neighbouring words and far apart. */
		for (size_t k = 0; k < 60000; k++) {
			const size_t i = k * 8 * sizeof(bytes) / 60000 / 64 * 64 + 63;
			const size_t j = kit_random(&seed) % (8 * sizeof(bytes));
			unsigned char saved[sizeof(bytes)];

			if (i == j)
				continue;
			memcpy(saved, bytes, sizeof(bytes));
			bytes[i / 8] ^= (unsigned char)(1 << i % 8);
			bytes[j / 8] ^= (unsigned char)(1 << j % 8);
			if (digest_of(bytes, sizeof(bytes)) == digest_of(saved, sizeof(saved)))
				ck_abort_msg("kind %d: bits %zu and %zu", kind, i, j);
			memcpy(bytes, saved, sizeof(bytes));
		}
		family_check(&f);
	}
}
END_TEST

START_TEST(what_moves_is_noticed)
{
	static unsigned char bytes[8192], moved[8192];

	for (int kind = 0; kind < KINDS; kind++) {
		uint64_t seed = 12;

		if (kind == 1)
			continue; /* zeros are the same wherever they are */
		fill(bytes, sizeof(bytes), kind);
		for (int round = 0; round < 30000; round++) {
			/* Pieces of 1 to 1024 bytes swapped, copied over each other, or turned round. */
			const size_t len = (size_t)1 << kit_random(&seed) % 11;
			const size_t a = kit_random(&seed) % (sizeof(bytes) / len) * len;
			const size_t b = kit_random(&seed) % (sizeof(bytes) / len) * len;

			memcpy(moved, bytes, sizeof(bytes));
			memcpy(moved + a, bytes + b, len);
			if (round % 3 == 0)
				memcpy(moved + b, bytes + a, len);
			if (round % 3 == 1 && a + len < sizeof(bytes))
				memmove(moved + a, bytes + a + len, sizeof(bytes) - a - len);
			if (memcmp(moved, bytes, sizeof(bytes)) == 0)
				continue;
			ck_assert_msg(digest_of(moved, sizeof(moved)) != digest_of(bytes, sizeof(bytes)),
			    "kind %d: %zu bytes at %zu and %zu", kind, len, a, b);
		}
	}
}
END_TEST

/* One unit goes up while its twin elsewhere goes down: sums that are linear in the place see nothing. */
START_TEST(two_moves_that_outweigh_each_other)
{
	unsigned char one[1024], two[1024];
	family f = family_new(64 * 64 * 8);

	for (size_t a = 0; a < 30; a++) {
		for (size_t b = 32; b < 62; b++) {
			for (size_t step = 1; step <= 2; step++) {
				memset(one, 0, sizeof(one));
				memset(two, 0, sizeof(two));
				one[16 * a] = one[16 * (b + step)] = 1;
				two[16 * (a + step)] = two[16 * b] = 1;
				ck_assert_uint_ne(digest_of(one, sizeof(one)), digest_of(two, sizeof(two)));
				family_add(&f, one, sizeof(one));
			}
		}
	}
	/* (a, b + step) is met again with another b and step. */
	qsort(f.seen, f.count, sizeof(f.seen[0]), compare);
	for (size_t i = 2; i < f.count; i++)
		ck_assert(f.seen[i] != f.seen[i - 2]);
	free(f.seen);
}
END_TEST

START_TEST(lengths_of_zeros_differ)
{
	static unsigned char zeros[20000];
	family f = family_new(sizeof(zeros));

	for (size_t len = 0; len < sizeof(zeros); len++)
		family_add(&f, zeros, len);
	family_check(&f);
}
END_TEST

START_TEST(sparse_payloads_differ)
{
	static unsigned char bytes[4096];
	family f = family_new(4096 * 16);

	/* One byte of small value somewhere: the least there can be. */
	for (size_t at = 0; at < sizeof(bytes); at++) {
		for (unsigned value = 1; value <= 16; value++) {
			bytes[at] = (unsigned char)value;
			family_add(&f, bytes, sizeof(bytes));
		}
		bytes[at] = 0;
	}
	family_check(&f);
}
END_TEST

KIT_MAIN("digest", it_is_what_is_written_down, pieces_in_any_order_are_the_whole, a_stream_of_odd_pieces_is_the_whole,
    each_bit_and_each_pair_of_bits_counts, what_moves_is_noticed, two_moves_that_outweigh_each_other,
    lengths_of_zeros_differ, sparse_payloads_differ)
