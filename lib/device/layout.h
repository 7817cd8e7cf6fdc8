/* SPDX-License-Identifier: Apache-2.0
 *
 * Where bytes lie, compactly: nested strides around contiguous runs, optionally picked by block ids.
 * A contiguous tensor is one run; a strided tensor a few dimensions; a list of KV blocks over many layers is
 * {layers × K/V × ids × block bytes} in one layout, never a list of descriptors.
 *
 * Bytes are numbered 0 .. bytes-1 in dense order (row-major over the dimensions), so that a transfer can be
 * cut anywhere and two layouts of equal size describe a copy.
 */
#ifndef KVPI_DEVICE_LAYOUT_H
#define KVPI_DEVICE_LAYOUT_H

#include <kvpipe/status.h>
#include <kvpipe/tensor.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct kvpi_dim {
	uint64_t count;  /* at least 1 */
	uint64_t stride; /* bytes */
} kvpi_dim;

typedef struct kvpi_layout {
	char *base;
	kvp_memory memory; /* resolved, never AUTO */
	int device;
	uint32_t ndim;                  /* outermost first */
	kvpi_dim dim[KVP_MAX_DIMS];
	uint64_t block_bytes;           /* the innermost contiguous run */
	const uint32_t *ids;            /* NULL, or: dimension id_dim runs over ids[0..count-1], */
	uint32_t id_dim;                /* its stride multiplied by the id instead of the index (borrowed) */
	uint64_t bytes;                 /* in all: product of counts × block_bytes; 0 = nothing */
} kvpi_layout;

/* From a checked tensor (kvp_tensor_check passed, memory resolved): neighbouring dimensions without gaps are
 * merged, so a dense tensor becomes one run. */
void kvpi_layout_of_tensor(const kvp_tensor *tensor, kvpi_layout *layout);

/* One contiguous run of host or device memory. */
void kvpi_layout_of_bytes(void *base, uint64_t bytes, kvp_memory memory, int device, kvpi_layout *layout);

/* Where byte `offset` lies and how many bytes follow it contiguously (at least 1; merged over neighbours
 * that happen to touch is not required).  offset < layout->bytes. */
char *kvpi_layout_at(const kvpi_layout *layout, uint64_t offset, uint64_t *run);

/* Bytes of the shortest contiguous run: says whether vectored I/O pays or a gather copy is better. */
static inline uint64_t kvpi_layout_run(const kvpi_layout *layout)
{
	return layout->block_bytes;
}

/* Host copies between a layout's bytes [offset, offset+len) and dense memory. */
void kvpi_layout_gather(const kvpi_layout *from, uint64_t offset, void *dense, uint64_t len);
void kvpi_layout_scatter(const kvpi_layout *to, uint64_t offset, const void *dense, uint64_t len);

/* Fills iov[] with the contiguous runs of the bytes from *offset on, at most max runs and max_bytes in all;
 * advances *offset.  Returns the number of runs; 0 at the end. */
size_t kvpi_layout_iov(const kvpi_layout *layout, uint64_t *offset, uint64_t max_bytes, struct iovec *iov, size_t max);

/* One contiguous piece of a copy between two layouts of equal size. */
typedef struct kvpi_piece {
	void *to;
	const void *from;
	uint64_t len;
} kvpi_piece;

/* Fills pieces[] for the bytes from *offset on, at most max pieces and max_bytes in all; advances *offset.
 * Returns the number of pieces; 0 at the end. */
size_t kvpi_layout_pieces(const kvpi_layout *to, const kvpi_layout *from, uint64_t *offset, uint64_t max_bytes,
                          kvpi_piece *pieces, size_t max);

#endif
