/* SPDX-License-Identifier: Apache-2.0
 *
 * A tensor as the library sees it: a pointer and its description.  A plain struct on the caller's side; it
 * owns nothing, and is copied by every call that takes it.
 */
#ifndef KVPIPE_TENSOR_H
#define KVPIPE_TENSOR_H

#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_MAX_DIMS 14

/* Values are part of the wire protocol. */
typedef enum kvp_dtype {
	KVP_DTYPE_NONE = 0, /* no tensor: the explicit "none" marker; a zeroed kvp_tensor is one */
	KVP_DTYPE_BF16 = 1,
	KVP_DTYPE_FP16 = 2,
	KVP_DTYPE_FP32 = 3,
	KVP_DTYPE_FP64 = 4,
	KVP_DTYPE_FP8_E4M3 = 5,
	KVP_DTYPE_FP8_E5M2 = 6,
	KVP_DTYPE_INT8 = 7,
	KVP_DTYPE_INT16 = 8,
	KVP_DTYPE_INT32 = 9,
	KVP_DTYPE_INT64 = 10,
	KVP_DTYPE_UINT8 = 11,
	KVP_DTYPE_BOOL = 12, /* one byte each */
	KVP_DTYPE_ANY = 255  /* only for receiving: a raw buffer that takes whatever comes */
} kvp_dtype;

/* Where the memory is. */
typedef enum kvp_memory {
	KVP_MEMORY_AUTO = 0, /* ask the devices that are there; host if none knows the pointer */
	KVP_MEMORY_HOST = 1,
	KVP_MEMORY_CUDA = 2, /* device memory of a GPU whose primary context the program has made active; planes that
	                        cannot reach it copy through pinned host memory */
	KVP_MEMORY_FAKE = 3  /* the library's own test device, a GPU played by a CPU */
} kvp_memory;

typedef struct kvp_tensor {
	size_t size;           /* sizeof(kvp_tensor), filled by the init functions */
	void *data;            /* first element; may be NULL when there are no bytes */
	kvp_dtype dtype;
	int32_t ndim;          /* 0 (a scalar) .. KVP_MAX_DIMS */
	int64_t shape[KVP_MAX_DIMS];   /* elements, each >= 0 */
	int64_t strides[KVP_MAX_DIMS]; /* elements, each >= 0 (0 repeats an element: may be sent, not received into) */
	uint64_t storage_bytes; /* bytes that may be touched from `data` on; never exceeded */
	kvp_memory memory;
	int32_t device;        /* ordinal of a device of that kind in this process; 0 for host */
	void *stream;          /* sender: work queued here has written the data; receiver: see kvp_pipe_recv.
	                          NULL for host memory, or the device's default stream */
} kvp_tensor;

/* All functions here: any thread, no allocation. */

/* A dense row-major host tensor (memory AUTO); sets strides and storage_bytes.  KVP_E_INVALID for a bad
 * dtype, ndim, negative or overflowing shape; *tensor is unchanged then.  Borrows `data` for ever. */
KVP_API kvp_status kvp_tensor_init(kvp_tensor *tensor, void *data, kvp_dtype dtype, int ndim, const int64_t *shape);

/* The explicit none marker. */
KVP_API void kvp_tensor_init_none(kvp_tensor *tensor);

/* A raw receiving buffer of `capacity` bytes (dtype ANY). */
KVP_API void kvp_tensor_init_buffer(kvp_tensor *tensor, void *data, uint64_t capacity);

/* KVP_OK if the description makes sense and stays inside storage_bytes; otherwise KVP_E_INVALID and a
 * sentence with the offending numbers.  Every call that takes a tensor checks this first. */
KVP_API kvp_status kvp_tensor_check(const kvp_tensor *tensor);

/* Elements and payload bytes (dense); 0 for none and for an invalid tensor. */
KVP_API uint64_t kvp_tensor_elements(const kvp_tensor *tensor);
KVP_API uint64_t kvp_tensor_bytes(const kvp_tensor *tensor);

/* 1 when the elements lie row-major without gaps. */
KVP_API int kvp_tensor_is_dense(const kvp_tensor *tensor);

/* Bytes of one element, 0 for NONE, ANY and unknown. */
KVP_API size_t kvp_dtype_size(kvp_dtype dtype);

/* "bf16", "fp8-e4m3" …; "?" if unknown.  And back: KVP_E_NOT_FOUND. */
KVP_API const char *kvp_dtype_name(kvp_dtype dtype);
KVP_API kvp_status kvp_dtype_from_name(const char *name, kvp_dtype *dtype);

/* Writes "fp32[2,3]" or "none" (always 0-ended, cut if need be); returns the full length without the 0. */
KVP_API size_t kvp_tensor_describe(const kvp_tensor *tensor, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
