/* SPDX-License-Identifier: Apache-2.0
 *
 * Time, bytes, medians, and two things measured by turns.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t bench_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Word k of the sequence of a seed: splitmix64, of which each word can be had by itself. */
static uint64_t word_at(uint64_t seed, uint64_t k)
{
	uint64_t z = seed + (k + 1) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void bench_fill(void *data, size_t bytes, uint64_t seed)
{
	unsigned char *at = data;
	uint64_t k = 0, word;

	for (; bytes >= sizeof(word); bytes -= sizeof(word), at += sizeof(word)) {
		word = word_at(seed, k++);
		memcpy(at, &word, sizeof(word));
	}
	word = word_at(seed, k);
	memcpy(at, &word, bytes);
}

bool bench_is_filled(const void *data, size_t bytes, uint64_t seed, size_t row, size_t stride)
{
	const unsigned char *const at = data;

	for (size_t i = sizeof(uint64_t); i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
		const size_t from = row > 0 ? i / row * stride + i % row : i;
		uint64_t word;

		memcpy(&word, at + i, sizeof(word));
		if (word != word_at(seed, from / sizeof(word)))
			return false;
	}
	return true;
}

void *bench_buffer(size_t bytes, uint64_t seed)
{
	void *data = NULL;

	if (posix_memalign(&data, 4096, bytes > 0 ? bytes : 1) != 0) {
		bench_complain("out of memory: %zu bytes were wanted", bytes);
		return NULL;
	}
	bench_fill(data, bytes, seed);
	return data;
}

/* ---- figures ---- */

void bench_add(bench_series *series, double value)
{
	if (series->count < BENCH_REPEATS_MAX)
		series->value[series->count++] = value;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t count, double q)
{
	double place;
	size_t below;

	if (count == 0)
		return NAN;
	qsort(values, count, sizeof(*values), compare);
	place = q * (double)(count - 1);
	below = (size_t)place;
	if (below + 1 >= count)
		return values[count - 1];
	return values[below] + (place - (double)below) * (values[below + 1] - values[below]);
}

bench_spread bench_spread_of(const bench_series *series)
{
	double sorted[BENCH_REPEATS_MAX];
	const size_t count = (size_t)series->count;

	memcpy(sorted, series->value, count * sizeof(*sorted));
	return (bench_spread){
	    .median = bench_quantile(sorted, count, 0.5),
	    .min = bench_quantile(sorted, count, 0),
	    .max = bench_quantile(sorted, count, 1),
	};
}

/* ---- by turns ---- */

static bool measure(bench_measure what, void *user, bench_series *series, bool counts)
{
	double value = NAN;

	if (what == NULL)
		return true;
	if (!what(user, &value))
		return false;
	if (counts)
		bench_add(series, value);
	return true;
}

bool bench_versus(bench_run *run, bench_result *result, bench_measure ours, void *ours_user, bench_measure peer,
                  void *peer_user)
{
	for (int round = -1; round < run->repeat; round++) {
		const bool peer_first = round & 1;

		if (peer_first && !measure(peer, peer_user, &result->peer, round >= 0))
			return false;
		if (!measure(ours, ours_user, &result->ours, round >= 0))
			return false;
		if (!peer_first && !measure(peer, peer_user, &result->peer, round >= 0))
			return false;
	}
	return true;
}
