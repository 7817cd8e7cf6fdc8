/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cuda_gpu.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdatomic.h>

/* Exist once per process, as the driver does, and until it ends. */
static pthread_mutex_t gpus_mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(kvpi_gpu *) gpus[KVPI_GPUS_MAX];

kvp_status kvpi_gpu_enter(kvpi_gpu *gpu, kvpi_gpu_scope *scope)
{
	kvp_status status;

	*scope = (kvpi_gpu_scope){.driver = gpu->driver, .mode = CU_STREAM_CAPTURE_MODE_RELAXED};
	gpu->driver->ThreadExchangeStreamCaptureMode(&scope->mode);
	status = KVPI_GPU_CALL(gpu, CtxPushCurrent, gpu->context);
	if (status != KVP_OK)
		gpu->driver->ThreadExchangeStreamCaptureMode(&scope->mode);
	return status;
}

void kvpi_gpu_leave(const kvpi_gpu_scope *scope)
{
	CUstreamCaptureMode mode = scope->mode;
	CUcontext context;

	scope->driver->CtxPopCurrent(&context);
	scope->driver->ThreadExchangeStreamCaptureMode(&mode);
}

static kvp_status load_kernels(kvpi_gpu *gpu)
{
	kvpi_gpu_scope scope;
	kvp_status status = kvpi_gpu_enter(gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = kvpi_cuda_kernels_load(gpu->driver, &gpu->kernels);
	kvpi_gpu_leave(&scope);
	return status;
}

static kvp_status gpu_new(int ordinal, kvpi_gpu **out)
{
	const kvpi_cuda_driver *driver = kvpi_cuda_driver_if_loaded();
	unsigned flags = 0;
	int active = 0, count = 0;
	kvpi_gpu *gpu;
	kvp_status status;

	if (driver == NULL)
		return kvpi_error(KVP_E_UNSUPPORTED, "this process does not use CUDA: no driver is loaded");
	status = kvpi_cuda_status(driver, driver->DeviceGetCount(&count), "cuDeviceGetCount");
	if (status == KVP_OK && ordinal >= count)
		status = kvpi_error(KVP_E_UNSUPPORTED, "this process sees %d GPUs, there is no number %d", count, ordinal);
	if (status != KVP_OK)
		return status;
	gpu = KVPI_NEW(kvpi_gpu);
	if (gpu == NULL)
		return kvpi_error_nomem("a GPU's state");
	gpu->driver = driver;
	gpu->ordinal = ordinal;
	pthread_mutex_init(&gpu->mutex, NULL);
	status = KVPI_GPU_CALL(gpu, DeviceGet, &gpu->device, ordinal);
	if (status == KVP_OK)
		status = KVPI_GPU_CALL(gpu, DevicePrimaryCtxGetState, gpu->device, &flags, &active);
	if (status == KVP_OK && !active)
		status = kvpi_error(KVP_E_UNSUPPORTED, "no active context on GPU %d in this process, and the library makes "
		                    "none: use the GPU first (cudaFree(0) will do)", ordinal);
	if (status != KVP_OK)
		goto err_free;
	status = KVPI_GPU_CALL(gpu, DevicePrimaryCtxRetain, &gpu->context, gpu->device);
	if (status != KVP_OK)
		goto err_free;
	status = load_kernels(gpu);
	if (status != KVP_OK)
		goto err_release;
	*out = gpu;
	return KVP_OK;

err_release:
	driver->DevicePrimaryCtxRelease(gpu->device);
err_free:
	free(gpu);
	return status;
}

kvp_status kvpi_gpu_get(int ordinal, kvpi_gpu **gpu)
{
	kvp_status status = KVP_OK;

	if (ordinal < 0 || ordinal >= KVPI_GPUS_MAX)
		return kvpi_error(KVP_E_INVALID, "%d is no GPU's number", ordinal);
	*gpu = atomic_load_explicit(&gpus[ordinal], memory_order_acquire);
	if (*gpu != NULL)
		return KVP_OK;
	pthread_mutex_lock(&gpus_mutex);
	*gpu = atomic_load_explicit(&gpus[ordinal], memory_order_relaxed);
	if (*gpu == NULL)
		status = gpu_new(ordinal, gpu);
	if (status == KVP_OK)
		atomic_store_explicit(&gpus[ordinal], *gpu, memory_order_release);
	pthread_mutex_unlock(&gpus_mutex);
	return status;
}

kvp_status kvpi_gpu_enter_at(int ordinal, kvpi_gpu **gpu, kvpi_gpu_scope *scope)
{
	kvp_status status = kvpi_gpu_get(ordinal, gpu);

	return status != KVP_OK ? status : kvpi_gpu_enter(*gpu, scope);
}
