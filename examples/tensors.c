/* SPDX-License-Identifier: Apache-2.0 */
#include "tensors.h"

#define GAP_ELEMENTS 8
#define ALIGNMENT 64                  /* of each tensor's place in the piece */
#define MAX_BYTES (UINT64_C(1) << 40) /* keeps what is computed below far from overflow */

void tensor_plan(kvp_tensor *tensor, kvp_dtype dtype, int ndim, const int64_t *shape, int strided)
{
	static char later; /* kvp_tensor_init wants to see memory; tensors_place() will tell */
	int64_t last = 0;  /* the last element's place */

	if (dtype == KVP_DTYPE_NONE) {
		kvp_tensor_init_none(tensor);
		return;
	}
	must(kvp_tensor_init(tensor, &later, dtype, ndim, shape));
	if (kvp_tensor_bytes(tensor) > MAX_BYTES)
		fail("a tensor of %llu bytes is too large for this program",
		    (unsigned long long)kvp_tensor_bytes(tensor));
	if (!strided || ndim == 0 || kvp_tensor_elements(tensor) == 0)
		return;
	tensor->strides[ndim - 1] = ndim == 1 ? 2 : 1;
	for (int i = ndim - 2; i >= 0; i--)
		tensor->strides[i] =
		    shape[i + 1] * tensor->strides[i + 1] + (i == ndim - 2 ? GAP_ELEMENTS : 0);
	for (int i = 0; i < ndim; i++)
		last += (shape[i] - 1) * tensor->strides[i];
	tensor->storage_bytes = (uint64_t)(last + 1) * kvp_dtype_size(dtype);
}

void *tensors_place(kvp_tensor *tensors, size_t count, uint64_t *bytes)
{
	uint64_t total = 0;
	unsigned char *memory;

	for (size_t i = 0; i < count; i++)
		total += (tensors[i].storage_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	memory = must_alloc(total);
	*bytes = total;
	total = 0;
	for (size_t i = 0; i < count; i++) {
		tensors[i].data = memory + total;
		total += (tensors[i].storage_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	}
	return memory;
}

static uint64_t checksum_bytes(const unsigned char *bytes, size_t count, uint64_t hash)
{
	for (size_t i = 0; i < count; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return hash;
}

static uint64_t checksum_dim(
    const kvp_tensor *tensor, int dim, const unsigned char *at, uint64_t hash)
{
	size_t size = kvp_dtype_size(tensor->dtype);

	if (dim == tensor->ndim)
		return checksum_bytes(at, size, hash);
	for (int64_t i = 0; i < tensor->shape[dim]; i++)
		hash = checksum_dim(
		    tensor, dim + 1, at + (size_t)(i * tensor->strides[dim]) * size, hash);
	return hash;
}

int64_t tensor_checksum(const kvp_tensor *tensor)
{
	uint64_t hash = 0xcbf29ce484222325u;

	if (kvp_tensor_is_dense(tensor)) /* the same, faster */
		hash = checksum_bytes(tensor->data, (size_t)kvp_tensor_bytes(tensor), hash);
	else
		hash = checksum_dim(tensor, 0, tensor->data, hash);
	return (int64_t)hash;
}
