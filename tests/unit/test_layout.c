/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts against a walk that nobody can get wrong: one byte at a time, each found by its indices.
 */
#include "kit/kit.h"

#include "device/layout.h"
#include <stdlib.h>
#include <string.h>

#define SPACE 20000

static char space_a[SPACE], space_b[SPACE];

/* Where byte `offset` of the layout lies. */
static char *naive_at(const kvpi_layout *layout, uint64_t offset)
{
	uint64_t block = offset / layout->block_bytes;
	char *at = layout->base + offset % layout->block_bytes;

	for (int d = (int)layout->ndim - 1; d >= 0; d--) {
		uint64_t index = block % layout->dim[d].count;

		block /= layout->dim[d].count;
		if (layout->ids != NULL && layout->id_dim == (uint32_t)d)
			index = layout->ids[index];
		at += index * layout->dim[d].stride;
	}
	return at;
}

static uint64_t below(uint64_t *seed, uint64_t n)
{
	return kit_random(seed) % n;
}

/* Some layout in which no byte lies twice, within SPACE; its ids go to `ids`. */
static void random_layout(uint64_t *seed, char *base, uint32_t *ids, kvpi_layout *layout)
{
	const uint32_t ndim = (uint32_t)below(seed, 4);
	uint64_t span = 1 + below(seed, 9);

	*layout = (kvpi_layout){.base = base, .memory = KVP_MEMORY_HOST, .ndim = ndim, .block_bytes = span};
	layout->bytes = span;
	if (ndim > 0 && below(seed, 2) == 0) {
		layout->ids = ids;
		layout->id_dim = (uint32_t)below(seed, ndim);
	}
	for (int d = (int)ndim - 1; d >= 0; d--) {
		kvpi_dim *dim = &layout->dim[d];
		uint64_t places;

		dim->count = 1 + below(seed, 5);
		dim->stride = span + (below(seed, 2) == 0 ? 0 : below(seed, 7));
		places = dim->count;
		if (layout->ids != NULL && layout->id_dim == (uint32_t)d) {
			/* Ids of distinct places, in any order; some next to each other. */
			places = dim->count + below(seed, 4);
			for (uint64_t i = 0; i < dim->count; i++) {
				bool taken;

				do {
					ids[i] = (uint32_t)below(seed, places);
					taken = false;
					for (uint64_t j = 0; j < i; j++)
						taken = taken || ids[j] == ids[i];
				} while (taken);
			}
		}
		span += (places - 1) * dim->stride;
		layout->bytes *= dim->count;
	}
	ck_assert_uint_le(span, SPACE);
}

/* A layout of the same number of bytes. */
static void random_twin(uint64_t *seed, char *base, uint32_t *ids, const kvpi_layout *like, kvpi_layout *layout)
{
	for (int tries = 0; tries < 200; tries++) {
		random_layout(seed, base, ids, layout);
		if (layout->bytes == like->bytes)
			return;
	}
	kvpi_layout_of_bytes(base, like->bytes, KVP_MEMORY_HOST, 0, layout);
}

START_TEST(at_and_runs_match_a_naive_walk)
{
	uint64_t seed = 1000 + (uint64_t)_i;
	uint32_t ids[16];
	kvpi_layout l;

	for (int round = 0; round < 300; round++) {
		random_layout(&seed, space_a, ids, &l);
		for (uint64_t offset = 0; offset < l.bytes; offset++) {
			uint64_t run = 0;

			ck_assert_ptr_eq(kvpi_layout_at(&l, offset, &run), naive_at(&l, offset));
			ck_assert_uint_ge(run, 1);
			ck_assert_uint_le(run, l.bytes - offset);
			ck_assert_ptr_eq(naive_at(&l, offset + run - 1), naive_at(&l, offset) + run - 1);
		}
		ck_assert_uint_eq(kvpi_layout_run(&l), l.block_bytes);
	}
}
END_TEST

START_TEST(iov_covers_every_byte_once)
{
	uint64_t seed = 2000 + (uint64_t)_i;
	struct iovec iov[8];
	uint32_t ids[16];
	kvpi_layout l;

	for (int round = 0; round < 300; round++) {
		uint64_t offset, expected;
		size_t count, max = 1 + below(&seed, 8);

		random_layout(&seed, space_a, ids, &l);
		offset = expected = below(&seed, l.bytes + 1);
		while (expected < l.bytes) {
			const uint64_t max_bytes = 1 + below(&seed, 40);
			uint64_t covered = 0;

			count = kvpi_layout_iov(&l, &offset, max_bytes, iov, max);
			ck_assert_uint_ge(count, 1);
			ck_assert_uint_le(count, max);
			for (size_t i = 0; i < count; i++) {
				for (size_t b = 0; b < iov[i].iov_len; b++, expected++, covered++)
					ck_assert_ptr_eq((char *)iov[i].iov_base + b, naive_at(&l, expected));
			}
			ck_assert_uint_le(covered, max_bytes);
			ck_assert_uint_eq(offset, expected);
			/* It stops for a reason only. */
			ck_assert(covered == max_bytes || count == max || offset == l.bytes);
		}
		ck_assert_uint_eq(kvpi_layout_iov(&l, &offset, 100, iov, max), 0);
		offset = 0;
		ck_assert_uint_eq(kvpi_layout_iov(&l, &offset, 100, iov, 0), 0);
		ck_assert_uint_eq(kvpi_layout_iov(&l, &offset, 0, iov, max), 0);
	}
}
END_TEST

START_TEST(gather_and_scatter_match_a_naive_walk)
{
	uint64_t seed = 3000 + (uint64_t)_i;
	static char dense[SPACE], expected[SPACE];
	uint32_t ids[16];
	kvpi_layout l;

	for (int round = 0; round < 200; round++) {
		uint64_t offset, len;

		random_layout(&seed, space_a, ids, &l);
		kit_random_fill(space_a, sizeof(space_a), seed);
		kit_random_fill(dense, sizeof(dense), seed + 1);
		memcpy(expected, dense, sizeof(dense));
		offset = below(&seed, l.bytes + 1);
		len = below(&seed, l.bytes - offset + 1);
		for (uint64_t i = 0; i < len; i++)
			expected[i] = *naive_at(&l, offset + i);
		kvpi_layout_gather(&l, offset, dense, len);
		ck_assert(memcmp(dense, expected, sizeof(dense)) == 0);

		kit_random_fill(dense, sizeof(dense), seed + 2);
		memcpy(expected, space_a, sizeof(space_a));
		for (uint64_t i = 0; i < len; i++)
			expected[naive_at(&l, offset + i) - space_a] = dense[i];
		kvpi_layout_scatter(&l, offset, dense, len);
		ck_assert(memcmp(space_a, expected, sizeof(space_a)) == 0);
	}
}
END_TEST

START_TEST(pieces_copy_between_any_two_layouts)
{
	uint64_t seed = 4000 + (uint64_t)_i;
	static char expected[SPACE];
	uint32_t from_ids[16], to_ids[16];
	kvpi_piece pieces[8];
	kvpi_layout from, to;

	for (int round = 0; round < 200; round++) {
		uint64_t begin, offset;
		size_t count;

		random_layout(&seed, space_a, from_ids, &from);
		random_twin(&seed, space_b, to_ids, &from, &to);
		kit_random_fill(space_a, sizeof(space_a), seed);
		kit_random_fill(space_b, sizeof(space_b), seed + 1);
		memcpy(expected, space_b, sizeof(space_b));
		begin = offset = below(&seed, from.bytes + 1);
		for (uint64_t i = begin; i < from.bytes; i++)
			expected[naive_at(&to, i) - space_b] = *naive_at(&from, i);
		for (;;) {
			const uint64_t max_bytes = 1 + below(&seed, 50), before = offset;
			const size_t max = 1 + below(&seed, 8);
			uint64_t covered = 0;

			count = kvpi_layout_pieces(&to, &from, &offset, max_bytes, pieces, max);
			if (count == 0)
				break;
			ck_assert_uint_le(count, max);
			for (size_t i = 0; i < count; i++) {
				memcpy(pieces[i].to, pieces[i].from, pieces[i].len);
				covered += pieces[i].len;
			}
			ck_assert_uint_le(covered, max_bytes);
			ck_assert_uint_eq(offset, before + covered);
		}
		ck_assert_uint_eq(offset, from.bytes);
		ck_assert(memcmp(space_b, expected, sizeof(space_b)) == 0);
	}
}
END_TEST

/* Element by element over all indices, in row-major order. */
static uint64_t naive_gather(const kvp_tensor *t, char *out)
{
	const size_t size = kvp_dtype_size(t->dtype);
	int64_t index[KVP_MAX_DIMS] = {0};
	uint64_t done = 0;
	int d;

	if (kvp_tensor_elements(t) == 0)
		return 0;
	do {
		int64_t at = 0;

		for (d = 0; d < t->ndim; d++)
			at += index[d] * t->strides[d];
		memcpy(out + done, (const char *)t->data + at * (int64_t)size, size);
		done += size;
		for (d = t->ndim - 1; d >= 0; d--) {
			if (++index[d] < t->shape[d])
				break;
			index[d] = 0;
		}
	} while (d >= 0);
	return done;
}

START_TEST(tensors_of_any_strides_gather_right)
{
	static const kvp_dtype dtypes[] = {KVP_DTYPE_INT8, KVP_DTYPE_BF16, KVP_DTYPE_FP32, KVP_DTYPE_FP64};
	static char dense[SPACE], expected[SPACE];
	uint64_t seed = 5000 + (uint64_t)_i;
	kvpi_layout l;
	kvp_tensor t;

	kit_random_fill(space_a, sizeof(space_a), seed);
	for (int round = 0; round < 2000; round++) {
		const int ndim = (int)below(&seed, 5);
		int64_t shape[4], span = 1;
		int order[4] = {0, 1, 2, 3};

		for (int d = 0; d < ndim; d++)
			shape[d] = (int64_t)below(&seed, round % 20 == 0 ? 3 : 5) + (round % 20 != 0);
		KIT_OK(kvp_tensor_init(&t, space_a, dtypes[below(&seed, 4)], ndim, shape));
		/* Transposed, padded, repeated. */
		for (int d = ndim - 1; d > 0; d--) {
			const int e = (int)below(&seed, (uint64_t)d + 1), swap = order[d];

			order[d] = order[e];
			order[e] = swap;
		}
		for (int d = 0; d < ndim; d++) {
			const int at = order[d] < ndim ? order[d] : d;

			t.strides[at] = below(&seed, 8) == 0 ? 0 : span;
			span *= (shape[at] == 0 ? 1 : shape[at]) + (int64_t)(below(&seed, 3) == 0);
		}
		t.storage_bytes = SPACE;
		KIT_OK(kvp_tensor_check(&t));
		kvpi_layout_of_tensor(&t, &l);
		ck_assert_uint_eq(l.bytes, kvp_tensor_bytes(&t));
		ck_assert_uint_eq(naive_gather(&t, expected), l.bytes);
		kvpi_layout_gather(&l, 0, dense, l.bytes);
		ck_assert(memcmp(dense, expected, l.bytes) == 0);
		if (kvp_tensor_is_dense(&t)) {
			ck_assert_uint_eq(l.ndim, 0);
			ck_assert_uint_eq(l.block_bytes, l.bytes);
		}
	}
}
END_TEST

START_TEST(neighbouring_dimensions_merge)
{
	const int64_t shape[] = {3, 1, 4, 5};
	kvpi_layout l;
	kvp_tensor t;

	/* Rows of 5 in a pitch of 8: the outer two are one dimension. */
	KIT_OK(kvp_tensor_init(&t, space_a, KVP_DTYPE_FP32, 4, shape));
	t.strides[2] = 8;
	t.strides[1] = 12345;
	t.strides[0] = 32;
	t.storage_bytes = SPACE;
	kvpi_layout_of_tensor(&t, &l);
	ck_assert_uint_eq(l.ndim, 1);
	ck_assert_uint_eq(l.dim[0].count, 12);
	ck_assert_uint_eq(l.dim[0].stride, 32);
	ck_assert_uint_eq(l.block_bytes, 20);
	ck_assert_uint_eq(l.bytes, 240);

	kvp_tensor_init_buffer(&t, space_a, 1000);
	kvpi_layout_of_tensor(&t, &l);
	ck_assert_uint_eq(l.ndim, 0);
	ck_assert_uint_eq(l.bytes, 1000);
	kvp_tensor_init_none(&t);
	kvpi_layout_of_tensor(&t, &l);
	ck_assert_uint_eq(l.bytes, 0);
}
END_TEST

START_TEST(neighbouring_ids_are_one_run)
{
	static const uint32_t ids[] = {3, 4, 5, 9};
	const kvpi_layout l = {.base = space_a,
	    .memory = KVP_MEMORY_HOST,
	    .ndim = 1,
	    .dim = {{4, 64}},
	    .block_bytes = 64,
	    .ids = ids,
	    .bytes = 256};
	struct iovec iov[4];
	uint64_t offset = 0;

	ck_assert_uint_eq(kvpi_layout_iov(&l, &offset, UINT64_MAX, iov, 4), 2);
	ck_assert_ptr_eq(iov[0].iov_base, space_a + 3 * 64);
	ck_assert_uint_eq(iov[0].iov_len, 192);
	ck_assert_ptr_eq(iov[1].iov_base, space_a + 9 * 64);
	ck_assert_uint_eq(offset, 256);
}
END_TEST

KIT_MAIN_WITH("layout", 4, NULL, at_and_runs_match_a_naive_walk, iov_covers_every_byte_once,
    gather_and_scatter_match_a_naive_walk, pieces_copy_between_any_two_layouts, tensors_of_any_strides_gather_right,
    neighbouring_dimensions_merge, neighbouring_ids_are_one_run)
