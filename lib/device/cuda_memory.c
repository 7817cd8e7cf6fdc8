/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA memory: whose is a pointer, allocation that can be shared by a POSIX descriptor, and mapping such descriptors.
 */
#include "device/cuda_gpu.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"

#include <unistd.h>

/* A range that was reserved and mapped here: an allocation or an import. */
typedef struct mapping {
	struct mapping *next;
	CUdeviceptr at;
	uint64_t bytes;
	int device;
} mapping;

/* Exist once per process, as its address space does. */
static pthread_mutex_t mappings_mutex = PTHREAD_MUTEX_INITIALIZER;
static mapping *mappings;

bool kvpi_cuda_owns(const void *ptr, int *device)
{
	const kvpi_cuda_driver *driver = kvpi_cuda_driver_if_loaded();
	CUpointer_attribute names[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
	unsigned type = 0;
	int ordinal = -1;
	void *values[] = {&type, &ordinal};

	if (driver == NULL || ptr == NULL ||
	    driver->PointerGetAttributes(2, names, values, kvpi_gpu_address(ptr)) != CUDA_SUCCESS)
		return false;
	if (type != CU_MEMORYTYPE_DEVICE || ordinal < 0)
		return false; /* pinned host memory is host memory */
	*device = ordinal;
	return true;
}

/* ---- mapping ----------------------------------------------------------------------------------------- */

/* Maps the first `bytes` of the handle; the handle stays the caller's. */
static kvp_status map_handle(kvpi_gpu *gpu, CUmemGenericAllocationHandle handle, uint64_t bytes, CUdeviceptr *at)
{
	const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = gpu->device},
	                                .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	mapping *made = KVPI_NEW(mapping);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("a mapping of device memory");
	*made = (mapping){.bytes = bytes, .device = gpu->ordinal};
	status = KVPI_GPU_CALL(gpu, MemAddressReserve, &made->at, bytes, 0, 0, 0);
	if (status != KVP_OK)
		goto err_free;
	status = KVPI_GPU_CALL(gpu, MemMap, made->at, bytes, 0, handle, 0);
	if (status != KVP_OK)
		goto err_address;
	status = KVPI_GPU_CALL(gpu, MemSetAccess, made->at, bytes, &access, 1);
	if (status != KVP_OK)
		goto err_unmap;
	pthread_mutex_lock(&mappings_mutex);
	made->next = mappings;
	mappings = made;
	pthread_mutex_unlock(&mappings_mutex);
	*at = made->at;
	return KVP_OK;

err_unmap:
	gpu->driver->MemUnmap(made->at, bytes);
err_address:
	gpu->driver->MemAddressFree(made->at, bytes);
err_free:
	free(made);
	return status;
}

/* Takes the mapping that holds ptr out of the list. */
static mapping *take_mapping(const void *ptr)
{
	const CUdeviceptr at = kvpi_gpu_address(ptr);
	mapping *found;

	pthread_mutex_lock(&mappings_mutex);
	for (mapping **pos = &mappings; (found = *pos) != NULL; pos = &found->next)
		if (at >= found->at && at - found->at < found->bytes) {
			*pos = found->next;
			break;
		}
	pthread_mutex_unlock(&mappings_mutex);
	return found;
}

static void unmap(int device, const void *ptr)
{
	mapping *found = take_mapping(ptr);
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;

	if (found == NULL) {
		KVPI_LOG(ERROR, "device", "%p is not device memory that the library has mapped; it is left alone", ptr);
		return;
	}
	if (kvpi_gpu_enter_at(device, &gpu, &scope) == KVP_OK) {
		gpu->driver->MemUnmap(found->at, found->bytes);
		gpu->driver->MemAddressFree(found->at, found->bytes);
		kvpi_gpu_leave(&scope);
	}
	free(found);
}

static CUmemAllocationProp shareable_on(const kvpi_gpu *gpu)
{
	return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
	                             .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                             .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = gpu->device}};
}

/* Rounds up to what can be mapped. */
static kvp_status round_up(kvpi_gpu *gpu, uint64_t *bytes)
{
	const CUmemAllocationProp prop = shareable_on(gpu);
	size_t granule = 0;
	kvp_status status =
	    KVPI_GPU_CALL(gpu, MemGetAllocationGranularity, &granule, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);

	if (status != KVP_OK)
		return status;
	if (*bytes > UINT64_MAX - granule)
		return kvpi_error_nomem("device memory");
	*bytes = (*bytes + granule - 1) / granule * granule;
	return KVP_OK;
}

/* ---- allocation -------------------------------------------------------------------------------------- */

static kvp_status alloc_in_scope(kvpi_gpu *gpu, uint64_t bytes, CUdeviceptr *at)
{
	const CUmemAllocationProp prop = shareable_on(gpu);
	CUmemGenericAllocationHandle handle;
	kvp_status status = round_up(gpu, &bytes);

	if (status == KVP_OK)
		status = KVPI_GPU_CALL(gpu, MemCreate, &handle, bytes, &prop, 0);
	if (status != KVP_OK)
		return status;
	status = map_handle(gpu, handle, bytes, at);
	gpu->driver->MemRelease(handle); /* the mapping holds the memory */
	return status;
}

kvp_status kvpi_cuda_alloc(int device, uint64_t bytes, void **ptr)
{
	kvpi_gpu_scope scope;
	CUdeviceptr at = 0;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = alloc_in_scope(gpu, bytes > 0 ? bytes : 1, &at);
	kvpi_gpu_leave(&scope);
	if (status == KVP_OK)
		*ptr = (void *)(uintptr_t)at;
	return status;
}

void kvpi_cuda_free(int device, void *ptr)
{
	if (ptr != NULL)
		unmap(device, ptr);
}

kvp_status kvpi_cuda_pin(int device, void *ptr, uint64_t bytes)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = KVPI_GPU_CALL(gpu, MemHostRegister, ptr, bytes, CU_MEMHOSTREGISTER_PORTABLE);
	kvpi_gpu_leave(&scope);
	return status;
}

void kvpi_cuda_unpin(int device, void *ptr)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;

	if (kvpi_gpu_enter_at(device, &gpu, &scope) != KVP_OK)
		return;
	gpu->driver->MemHostUnregister(ptr);
	kvpi_gpu_leave(&scope);
}

/* ---- sharing ----------------------------------------------------------------------------------------- */

static kvp_status export_in_scope(kvpi_gpu *gpu, void *ptr, uint64_t bytes, kvpi_export *out)
{
	CUmemGenericAllocationHandle handle;
	CUdeviceptr base = 0;
	size_t whole = 0;
	kvp_status status = KVPI_GPU_CALL(gpu, MemGetAddressRange, &base, &whole, kvpi_gpu_address(ptr));

	if (status != KVP_OK)
		return status;
	if (bytes > whole - (kvpi_gpu_address(ptr) - base))
		return kvpi_error(KVP_E_INVALID, "%llu bytes at %p are more than their allocation has",
		                  (unsigned long long)bytes, ptr);
	if (gpu->driver->MemRetainAllocationHandle(&handle, ptr) != CUDA_SUCCESS)
		return kvpi_error(KVP_E_UNSUPPORTED, "the device memory at %p was not allocated so that it can be shared by a "
		                  "descriptor (as cuMemCreate can)", ptr);
	out->fd = -1;
	status = KVPI_GPU_CALL(gpu, MemExportToShareableHandle, &out->fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                       0);
	gpu->driver->MemRelease(handle);
	out->offset = kvpi_gpu_address(ptr) - base;
	out->bytes = bytes;
	out->whole = whole;
	return status;
}

kvp_status kvpi_cuda_export(int device, void *ptr, uint64_t bytes, kvpi_export *out)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = export_in_scope(gpu, ptr, bytes, out);
	kvpi_gpu_leave(&scope);
	return status;
}

static kvp_status import_in_scope(kvpi_gpu *gpu, const kvpi_export *in, CUdeviceptr *at)
{
	CUmemGenericAllocationHandle handle;
	kvp_status status = KVPI_GPU_CALL(gpu, MemImportFromShareableHandle, &handle, (void *)(uintptr_t)in->fd,
	                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);

	if (status != KVP_OK)
		return status;
	status = map_handle(gpu, handle, in->whole, at); /* a part of it cannot be mapped: CUDA_ERROR_NOT_SUPPORTED */
	gpu->driver->MemRelease(handle);
	return status;
}

kvp_status kvpi_cuda_import(int device, const kvpi_export *in, void **ptr)
{
	kvpi_gpu_scope scope;
	CUdeviceptr at = 0;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_get(device, &gpu);

	if (status == KVP_OK && (in->bytes == 0 || in->offset > in->whole || in->bytes > in->whole - in->offset))
		status = kvpi_error(KVP_E_INVALID, "%llu bytes at %llu are not inside of the %llu exported ones",
		                    (unsigned long long)in->bytes, (unsigned long long)in->offset,
		                    (unsigned long long)in->whole);
	if (status == KVP_OK)
		status = kvpi_gpu_enter(gpu, &scope);
	if (status == KVP_OK) {
		status = import_in_scope(gpu, in, &at);
		kvpi_gpu_leave(&scope);
	}
	if (status != KVP_OK)
		return status;
	close(in->fd);
	*ptr = (char *)(uintptr_t)at + in->offset;
	return KVP_OK;
}

void kvpi_cuda_unimport(int device, void *ptr, uint64_t bytes)
{
	(void)bytes;
	if (ptr != NULL)
		unmap(device, ptr);
}
