/* SPDX-License-Identifier: Apache-2.0
 *
 * One GPU as the library uses it: the process's own primary context, our kernels in it, a pool of events.
 *
 * The library makes no context: a GPU can be used once the program has made its primary context active, as the runtime
 * API and the frameworks do.  From then on the library holds that context until the process ends, as it does the driver.
 */
#ifndef KVPI_DEVICE_CUDA_GPU_H
#define KVPI_DEVICE_CUDA_GPU_H

#include "device/cuda_kernels.h"
#include "device/device.h"

#include <pthread.h>

#define KVPI_GPUS_MAX 64

struct kvpi_event {
	CUevent event;
	struct kvpi_gpu *gpu;
	struct kvpi_event *next; /* in the pool */
};

typedef struct kvpi_gpu {
	const kvpi_cuda_driver *driver;
	int ordinal;
	CUdevice device;
	CUcontext context;
	kvpi_cuda_kernels *kernels;
	pthread_mutex_t mutex; /* the pool */
	struct kvpi_event *events;
} kvpi_gpu;

/* What a thread had before it entered. */
typedef struct kvpi_gpu_scope {
	const kvpi_cuda_driver *driver;
	CUstreamCaptureMode mode;
} kvpi_gpu_scope;

/* Any thread.  The GPU of that ordinal, made ready on first use (slow then).  KVP_E_UNSUPPORTED with a sentence: no driver in
 * this process, no such GPU, no active context. */
kvp_status kvpi_gpu_get(int ordinal, kvpi_gpu **gpu);

/* Around every group of driver calls: the context is current, and nothing we call spoils a graph that another thread of
 * the program captures.  Pairs on one thread. */
kvp_status kvpi_gpu_enter(kvpi_gpu *gpu, kvpi_gpu_scope *scope);
/* The same for the GPU of that ordinal, with kvpi_gpu_get's codes too. */
kvp_status kvpi_gpu_enter_at(int ordinal, kvpi_gpu **gpu, kvpi_gpu_scope *scope);
void kvpi_gpu_leave(const kvpi_gpu_scope *scope);

/* A status of the driver with the name of the function. */
#define KVPI_GPU_CALL(gpu, function, ...)                                                                                  \
	kvpi_cuda_status((gpu)->driver, (gpu)->driver->function(__VA_ARGS__), "cu" #function)

static inline CUdeviceptr kvpi_gpu_address(const void *ptr)
{
	return (CUdeviceptr)(uintptr_t)ptr;
}

/* cuda_memory.c */
bool kvpi_cuda_owns(const void *ptr, int *device);
kvp_status kvpi_cuda_alloc(int device, uint64_t bytes, void **ptr);
void kvpi_cuda_free(int device, void *ptr);
kvp_status kvpi_cuda_pin(int device, void *ptr, uint64_t bytes);
void kvpi_cuda_unpin(int device, void *ptr);
kvp_status kvpi_cuda_export(int device, void *ptr, uint64_t bytes, kvpi_export *out);
kvp_status kvpi_cuda_import(int device, const kvpi_export *in, void **ptr);
void kvpi_cuda_unimport(int device, void *ptr, uint64_t bytes);

/* cuda_wait.c */
kvp_status kvpi_cuda_wait_list_new(int device, size_t capacity, kvpi_wait_list **list);
void kvpi_cuda_wait_list_free(kvpi_wait_list *list);
kvp_status kvpi_cuda_wait_list_fill(kvpi_wait_list *list, const kvpi_wait_entry *entries, size_t count);
kvp_status kvpi_cuda_wait_list_enqueue(kvpi_wait_list *list, void *stream, int64_t timeout_ns);
void kvpi_cuda_wait_list_cancel(kvpi_wait_list *list);
kvpi_wait_result kvpi_cuda_wait_list_result(const kvpi_wait_list *list);

#endif
