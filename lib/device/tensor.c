/* SPDX-License-Identifier: Apache-2.0
 *
 * The public description of a tensor.  Shapes and strides come from callers and from the network, so every
 * product and sum is checked.
 */
#include <kvpipe/tensor.h>

#include "base/error.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
	kvp_dtype dtype;
	size_t size;
	const char *name;
} dtypes[] = {
    {KVP_DTYPE_NONE, 0, "none"},
    {KVP_DTYPE_BF16, 2, "bf16"},
    {KVP_DTYPE_FP16, 2, "fp16"},
    {KVP_DTYPE_FP32, 4, "fp32"},
    {KVP_DTYPE_FP64, 8, "fp64"},
    {KVP_DTYPE_FP8_E4M3, 1, "fp8-e4m3"},
    {KVP_DTYPE_FP8_E5M2, 1, "fp8-e5m2"},
    {KVP_DTYPE_INT8, 1, "int8"},
    {KVP_DTYPE_INT16, 2, "int16"},
    {KVP_DTYPE_INT32, 4, "int32"},
    {KVP_DTYPE_INT64, 8, "int64"},
    {KVP_DTYPE_UINT8, 1, "uint8"},
    {KVP_DTYPE_BOOL, 1, "bool"},
    {KVP_DTYPE_ANY, 0, "any"},
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

size_t kvp_dtype_size(kvp_dtype dtype)
{
	for (size_t i = 0; i < DTYPE_COUNT; i++) {
		if (dtypes[i].dtype == dtype)
			return dtypes[i].size;
	}
	return 0;
}

const char *kvp_dtype_name(kvp_dtype dtype)
{
	for (size_t i = 0; i < DTYPE_COUNT; i++) {
		if (dtypes[i].dtype == dtype)
			return dtypes[i].name;
	}
	return "?";
}

kvp_status kvp_dtype_from_name(const char *name, kvp_dtype *dtype)
{
	if (name == NULL || dtype == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_dtype_from_name: an argument is NULL");
	for (size_t i = 0; i < DTYPE_COUNT; i++) {
		if (strcmp(dtypes[i].name, name) == 0) {
			*dtype = dtypes[i].dtype;
			return KVP_OK;
		}
	}
	return kvpi_error(KVP_E_NOT_FOUND,
	    "kvp_dtype_from_name: there is no dtype \"%.32s\" (try fp32, bf16, int8 ...)", name);
}

/* The product of the shape, false on overflow.  An empty tensor has no product to overflow. */
static bool count_elements(const int64_t *shape, int ndim, uint64_t *elements)
{
	uint64_t product = 1;

	for (int i = 0; i < ndim; i++) {
		if (shape[i] == 0) {
			*elements = 0;
			return true;
		}
	}
	for (int i = 0; i < ndim; i++) {
		if (__builtin_mul_overflow(product, (uint64_t)shape[i], &product))
			return false;
	}
	*elements = product;
	return true;
}

static kvp_status check_shape(const char *call, kvp_dtype dtype, int ndim, const int64_t *shape)
{
	uint64_t elements, bytes;

	if (kvp_dtype_size(dtype) == 0)
		return kvpi_error(KVP_E_INVALID, "%s: dtype %d is not the type of an element", call, (int)dtype);
	if (ndim < 0 || ndim > KVP_MAX_DIMS)
		return kvpi_error(
		    KVP_E_INVALID, "%s: ndim is %d, it must be 0 to %d", call, ndim, KVP_MAX_DIMS);
	for (int i = 0; i < ndim; i++) {
		if (shape[i] < 0)
			return kvpi_error(KVP_E_INVALID, "%s: shape[%d] is %lld, it must not be negative", call, i,
			    (long long)shape[i]);
	}
	if (!count_elements(shape, ndim, &elements) ||
	    __builtin_mul_overflow(elements, kvp_dtype_size(dtype), &bytes))
		return kvpi_error(KVP_E_INVALID, "%s: the shape has more than 2^64 bytes", call);
	return KVP_OK;
}

kvp_status kvp_tensor_init(kvp_tensor *tensor, void *data, kvp_dtype dtype, int ndim, const int64_t *shape)
{
	kvp_tensor made = {.size = sizeof(made), .data = data, .dtype = dtype, .ndim = ndim};
	int64_t stride = 1;
	kvp_status status;

	if (tensor == NULL || (shape == NULL && ndim > 0))
		return kvpi_error(KVP_E_INVALID, "kvp_tensor_init: an argument is NULL");
	status = check_shape("kvp_tensor_init", dtype, ndim, shape);
	if (status != KVP_OK)
		return status;

	/* A dimension of 0 counts as 1 here, as everywhere: no stride is 0 that repeats nothing. */
	for (int i = ndim - 1; i >= 0; i--) {
		made.shape[i] = shape[i];
		made.strides[i] = stride;
		if (__builtin_mul_overflow(stride, shape[i] == 0 ? 1 : shape[i], &stride))
			return kvpi_error(KVP_E_INVALID, "kvp_tensor_init: the strides of the shape overflow");
	}
	made.storage_bytes = kvp_tensor_bytes(&made);
	if (data == NULL && made.storage_bytes != 0)
		return kvpi_error(KVP_E_INVALID, "kvp_tensor_init: data is NULL for a tensor of %llu bytes",
		    (unsigned long long)made.storage_bytes);
	*tensor = made;
	return KVP_OK;
}

void kvp_tensor_init_none(kvp_tensor *tensor)
{
	*tensor = (kvp_tensor){.size = sizeof(*tensor)};
}

void kvp_tensor_init_buffer(kvp_tensor *tensor, void *data, uint64_t capacity)
{
	*tensor = (kvp_tensor){
	    .size = sizeof(*tensor), .data = data, .dtype = KVP_DTYPE_ANY, .storage_bytes = capacity};
}

/* Bytes from `data` to the end of the last element; the shape has been checked. */
static kvp_status extent(const kvp_tensor *tensor, uint64_t *bytes)
{
	uint64_t last = 0, elements = 1, step;

	for (int i = 0; i < tensor->ndim; i++) {
		if (tensor->shape[i] == 0)
			elements = 0;
		if (tensor->strides[i] < 0)
			return kvpi_error(KVP_E_INVALID, "tensor: strides[%d] is %lld, it must not be negative", i,
			    (long long)tensor->strides[i]);
	}
	if (elements == 0) {
		*bytes = 0;
		return KVP_OK;
	}
	for (int i = 0; i < tensor->ndim; i++) {
		if (__builtin_mul_overflow((uint64_t)tensor->shape[i] - 1, (uint64_t)tensor->strides[i], &step) ||
		    __builtin_add_overflow(last, step, &last))
			return kvpi_error(KVP_E_INVALID, "tensor: shape and strides overflow at dimension %d", i);
	}
	if (__builtin_add_overflow(last, 1, &last) ||
	    __builtin_mul_overflow(last, kvp_dtype_size(tensor->dtype), bytes))
		return kvpi_error(KVP_E_INVALID, "tensor: shape and strides span more than 2^64 bytes");
	return KVP_OK;
}

static kvp_status check_place(const kvp_tensor *tensor, uint64_t bytes)
{
	uintptr_t end;

	if (bytes > tensor->storage_bytes)
		return kvpi_error(KVP_E_INVALID, "tensor: shape and strides touch %llu bytes, storage_bytes is %llu",
		    (unsigned long long)bytes, (unsigned long long)tensor->storage_bytes);
	if (bytes != 0 && tensor->data == NULL)
		return kvpi_error(
		    KVP_E_INVALID, "tensor: data is NULL for %llu bytes", (unsigned long long)bytes);
	if (__builtin_add_overflow((uintptr_t)tensor->data, bytes, &end))
		return kvpi_error(KVP_E_INVALID, "tensor: %llu bytes at %p pass the end of memory",
		    (unsigned long long)bytes, tensor->data);
	if ((int)tensor->memory < KVP_MEMORY_AUTO || tensor->memory > KVP_MEMORY_FAKE)
		return kvpi_error(KVP_E_INVALID, "tensor: memory kind %d is unknown", (int)tensor->memory);
	if (tensor->device < 0)
		return kvpi_error(
		    KVP_E_INVALID, "tensor: device %d must not be negative", (int)tensor->device);
	return KVP_OK;
}

kvp_status kvp_tensor_check(const kvp_tensor *tensor)
{
	uint64_t bytes = 0;
	kvp_status status;

	if (tensor == NULL)
		return kvpi_error(KVP_E_INVALID, "tensor: it is NULL (kvp_tensor_init_none makes the none marker)");
	if (tensor->dtype == KVP_DTYPE_NONE && (tensor->size == 0 || tensor->size == sizeof(*tensor)))
		return KVP_OK; /* a zeroed struct is the none marker too */
	if (tensor->size != sizeof(*tensor))
		return kvpi_error(KVP_E_INVALID,
		    "tensor: size is %zu, this library's is %zu (fill it with kvp_tensor_init, and compile "
		    "with this library's header)",
		    tensor->size, sizeof(*tensor));
	if (tensor->dtype == KVP_DTYPE_ANY)
		return check_place(tensor, tensor->storage_bytes);
	status = check_shape("tensor", tensor->dtype, tensor->ndim, tensor->shape);
	if (status == KVP_OK)
		status = extent(tensor, &bytes);
	if (status == KVP_OK)
		status = check_place(tensor, bytes);
	return status;
}

uint64_t kvp_tensor_elements(const kvp_tensor *tensor)
{
	uint64_t elements;

	if (tensor == NULL || kvp_dtype_size(tensor->dtype) == 0 || tensor->ndim < 0 ||
	    tensor->ndim > KVP_MAX_DIMS)
		return 0;
	for (int i = 0; i < tensor->ndim; i++) {
		if (tensor->shape[i] < 0)
			return 0;
	}
	return count_elements(tensor->shape, tensor->ndim, &elements) ? elements : 0;
}

uint64_t kvp_tensor_bytes(const kvp_tensor *tensor)
{
	uint64_t bytes, elements = kvp_tensor_elements(tensor);

	if (elements == 0 || __builtin_mul_overflow(elements, kvp_dtype_size(tensor->dtype), &bytes))
		return 0;
	return bytes;
}

int kvp_tensor_is_dense(const kvp_tensor *tensor)
{
	uint64_t expected = 1;

	if (tensor == NULL || tensor->ndim < 0 || tensor->ndim > KVP_MAX_DIMS)
		return 0;
	if (kvp_tensor_elements(tensor) == 0)
		return 1;
	for (int i = tensor->ndim - 1; i >= 0; i--) {
		/* The stride of a dimension of one element is never used. */
		if (tensor->shape[i] == 1)
			continue;
		if (tensor->strides[i] < 0 || (uint64_t)tensor->strides[i] != expected)
			return 0;
		expected *= (uint64_t)tensor->shape[i]; /* at most the number of elements */
	}
	return 1;
}

size_t kvp_tensor_describe(const kvp_tensor *tensor, char *text, size_t capacity)
{
	char full[32 + KVP_MAX_DIMS * 21];
	size_t len;

	if (tensor == NULL || tensor->dtype == KVP_DTYPE_NONE) {
		len = (size_t)snprintf(full, sizeof(full), "none");
	} else if (tensor->dtype == KVP_DTYPE_ANY) {
		len = (size_t)snprintf(full, sizeof(full), "buffer of %llu bytes",
		    (unsigned long long)tensor->storage_bytes);
	} else {
		len = (size_t)snprintf(full, sizeof(full), "%s[", kvp_dtype_name(tensor->dtype));
		for (int i = 0; i < tensor->ndim && i < KVP_MAX_DIMS; i++)
			len += (size_t)snprintf(
			    full + len, sizeof(full) - len, "%s%lld", i == 0 ? "" : ",", (long long)tensor->shape[i]);
		len += (size_t)snprintf(full + len, sizeof(full) - len, "]");
	}
	if (capacity > 0) {
		size_t kept = len < capacity ? len : capacity - 1;

		memcpy(text, full, kept);
		text[kept] = 0;
	}
	return len;
}
