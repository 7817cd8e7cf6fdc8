/* SPDX-License-Identifier: Apache-2.0
 *
 * What producer and consumer agree on.  The producer is rank 0, the consumer rank 1.
 *
 *	producer                                     consumer
 *	rounds     int64[2]: rounds, tensors     →   learns what will come
 *	table      int64[tensors][TABLE_COLUMNS] →   makes the memory
 *	each round:                              ←   none: "the memory is ready"
 *	tensor 0, tensor 1, ...                  →
 *	at the end:
 *	checksums  int64[tensors]                →   compares
 *
 * The first round warms up and is not counted.
 */
#ifndef EXAMPLES_TENSORS_H
#define EXAMPLES_TENSORS_H

#include "common.h"

enum {
	MAX_TENSORS = 100000,
	MAX_ROUNDS = 1000000,
	/* A row of the table describes one tensor: dtype, dimensions, shape. */
	TABLE_DTYPE = 0,
	TABLE_NDIM = 1,
	TABLE_SHAPE = 2,
	TABLE_COLUMNS = TABLE_SHAPE + KVP_MAX_DIMS
};

/* Describes a host tensor that has no memory yet; tensor->storage_bytes says how much it needs.
 * `strided` leaves gaps between its elements, as in a slice of something larger: every second
 * element of a vector, or some elements more after each row of a matrix.  Ends the program if
 * there is no such tensor. */
void tensor_plan(kvp_tensor *tensor, kvp_dtype dtype, int ndim, const int64_t *shape, int strided);

/* Gives planned tensors their memory: one piece, which the caller frees; its size in *bytes. */
void *tensors_place(kvp_tensor *tensors, size_t count, uint64_t *bytes);

/* FNV-1a over the elements in row-major order, wherever they lie: gaps do not count. */
int64_t tensor_checksum(const kvp_tensor *tensor);

#endif
