/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks over layouts.  A cursor is an odometer: found by division once, then stepped.
 */
#include "device/layout.h"

#include <string.h>

typedef struct cursor {
	const kvpi_layout *layout;
	uint64_t index[KVP_MAX_DIMS];
	char *at;
	uint64_t run; /* bytes from `at` to the end of the block */
} cursor;

/* Where the block with these indices begins. */
static char *block_at(const kvpi_layout *layout, const uint64_t *index)
{
	char *at = layout->base;

	for (uint32_t d = 0; d < layout->ndim; d++) {
		uint64_t step = layout->ids != NULL && d == layout->id_dim ? layout->ids[index[d]] : index[d];

		at += step * layout->dim[d].stride;
	}
	return at;
}

/* offset < layout->bytes */
static void cursor_start(cursor *c, const kvpi_layout *layout, uint64_t offset)
{
	uint64_t block = offset / layout->block_bytes, within = offset % layout->block_bytes;

	c->layout = layout;
	for (uint32_t d = layout->ndim; d-- > 0;) {
		c->index[d] = block % layout->dim[d].count;
		block /= layout->dim[d].count;
	}
	c->at = block_at(layout, c->index) + within;
	c->run = layout->block_bytes - within;
}

/* Passes n bytes, at most the run.  At the end of the layout the cursor wraps to its beginning. */
static void cursor_pass(cursor *c, uint64_t n)
{
	const kvpi_layout *layout = c->layout;
	uint32_t d = layout->ndim;

	c->at += n;
	c->run -= n;
	if (c->run > 0)
		return;
	c->run = layout->block_bytes;
	/* The usual step, along the innermost dimension, needs no sum over all of them. */
	if (d > 0 && (layout->ids == NULL || layout->id_dim != d - 1) &&
	    c->index[d - 1] + 1 < layout->dim[d - 1].count) {
		c->index[d - 1]++;
		c->at = c->at - layout->block_bytes + layout->dim[d - 1].stride;
		return;
	}
	while (d-- > 0) {
		if (++c->index[d] < layout->dim[d].count)
			break;
		c->index[d] = 0;
	}
	c->at = block_at(layout, c->index);
}

void kvpi_layout_of_bytes(void *base, uint64_t bytes, kvp_memory memory, int device, kvpi_layout *layout)
{
	*layout = (kvpi_layout){
	    .base = base, .memory = memory, .device = device, .block_bytes = bytes, .bytes = bytes};
}

void kvpi_layout_of_tensor(const kvp_tensor *tensor, kvpi_layout *layout)
{
	const uint64_t bytes =
	    tensor->dtype == KVP_DTYPE_ANY ? tensor->storage_bytes : kvp_tensor_bytes(tensor);
	const uint64_t element = kvp_dtype_size(tensor->dtype);
	kvpi_dim dim[KVP_MAX_DIMS];
	uint32_t n = 0;

	kvpi_layout_of_bytes(tensor->data, bytes, tensor->memory, tensor->device, layout);
	if (bytes == 0 || element == 0)
		return;

	for (int i = 0; i < tensor->ndim; i++) {
		const kvpi_dim next = {
		    .count = (uint64_t)tensor->shape[i], .stride = (uint64_t)tensor->strides[i] * element};

		if (next.count == 1)
			continue;
		/* One step outside is a whole round inside: the two are one dimension. */
		if (n > 0 && dim[n - 1].stride == next.stride * next.count) {
			dim[n - 1].count *= next.count;
			dim[n - 1].stride = next.stride;
		} else {
			dim[n++] = next;
		}
	}
	layout->block_bytes = element;
	if (n > 0 && dim[n - 1].stride == element)
		layout->block_bytes = element * dim[--n].count;
	layout->ndim = n;
	memcpy(layout->dim, dim, n * sizeof(dim[0]));
}

char *kvpi_layout_at(const kvpi_layout *layout, uint64_t offset, uint64_t *run)
{
	cursor c;

	cursor_start(&c, layout, offset);
	*run = c.run;
	return c.at;
}

void kvpi_layout_gather(const kvpi_layout *from, uint64_t offset, void *dense, uint64_t len)
{
	char *to = dense;
	cursor c;

	if (len == 0)
		return;
	cursor_start(&c, from, offset);
	while (len > 0) {
		const uint64_t n = len < c.run ? len : c.run;

		memcpy(to, c.at, n);
		to += n;
		len -= n;
		cursor_pass(&c, n);
	}
}

void kvpi_layout_scatter(const kvpi_layout *to, uint64_t offset, const void *dense, uint64_t len)
{
	const char *from = dense;
	cursor c;

	if (len == 0)
		return;
	cursor_start(&c, to, offset);
	while (len > 0) {
		const uint64_t n = len < c.run ? len : c.run;

		memcpy(c.at, from, n);
		from += n;
		len -= n;
		cursor_pass(&c, n);
	}
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

size_t kvpi_layout_iov(const kvpi_layout *layout, uint64_t *offset, uint64_t max_bytes, struct iovec *iov, size_t max)
{
	uint64_t left = smaller(max_bytes, layout->bytes - *offset);
	size_t count = 0;
	cursor c;

	if (left == 0 || max == 0)
		return 0;
	cursor_start(&c, layout, *offset);
	while (left > 0) {
		const uint64_t n = smaller(left, c.run);

		/* Neighbours that touch, as consecutive ids do, are one run. */
		if (count > 0 && (char *)iov[count - 1].iov_base + iov[count - 1].iov_len == c.at) {
			iov[count - 1].iov_len += n;
		} else {
			if (count == max)
				break;
			iov[count++] = (struct iovec){.iov_base = c.at, .iov_len = n};
		}
		left -= n;
		*offset += n;
		cursor_pass(&c, n);
	}
	return count;
}

size_t kvpi_layout_pieces(const kvpi_layout *to, const kvpi_layout *from, uint64_t *offset, uint64_t max_bytes,
                          kvpi_piece *pieces, size_t max)
{
	uint64_t left = smaller(max_bytes, to->bytes - *offset);
	size_t count = 0;
	cursor t, f;

	if (left == 0 || max == 0)
		return 0;
	cursor_start(&t, to, *offset);
	cursor_start(&f, from, *offset);
	while (left > 0) {
		const uint64_t n = smaller(left, smaller(t.run, f.run));
		kvpi_piece *last = count > 0 ? &pieces[count - 1] : NULL;

		if (last != NULL && (char *)last->to + last->len == t.at &&
		    (const char *)last->from + last->len == f.at) {
			last->len += n;
		} else {
			if (count == max)
				break;
			pieces[count++] = (kvpi_piece){.to = t.at, .from = f.at, .len = n};
		}
		left -= n;
		*offset += n;
		cursor_pass(&t, n);
		cursor_pass(&f, n);
	}
	return count;
}
