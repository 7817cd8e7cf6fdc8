/* SPDX-License-Identifier: Apache-2.0
 *
 * Wait lists: pinned host memory that a one-warp kernel reads, so that a list can be filled anew for each replay of a
 * captured graph.
 */
#include "device/cuda_gpu.h"

#include "base/alloc.h"
#include "base/error.h"
#include "kernels/kvpi_kernels.h"

#include <string.h>

struct kvpi_wait_list {
	kvpi_gpu *gpu;
	size_t capacity;
	kvpi_kernel_wait_list *shared;
};

_Static_assert(KVPI_KERNEL_WORD_FAILED == KVPI_WORD_FAILED, "one failure bit");
_Static_assert((int)KVPI_KERNEL_WAIT_OK == (int)KVPI_WAIT_OK && (int)KVPI_KERNEL_WAIT_FAILED == (int)KVPI_WAIT_FAILED &&
                   (int)KVPI_KERNEL_WAIT_EXPIRED == (int)KVPI_WAIT_EXPIRED,
    "one numbering of results");

kvp_status kvpi_cuda_wait_list_new(int device, size_t capacity, kvpi_wait_list **out)
{
	kvpi_wait_list *list = KVPI_NEW(kvpi_wait_list);
	kvpi_gpu_scope scope;
	void *shared = NULL;
	size_t bytes;
	kvp_status status;

	if (list == NULL)
		return kvpi_error_nomem("a wait list");
	list->capacity = capacity;
	bytes = sizeof(*list->shared) + capacity * sizeof(list->shared->entry[0]);
	status = kvpi_gpu_get(device, &list->gpu);
	if (status == KVP_OK)
		status = kvpi_gpu_enter(list->gpu, &scope);
	if (status == KVP_OK) {
		status = KVPI_GPU_CALL(list->gpu, MemHostAlloc, &shared, bytes,
		                       CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
		kvpi_gpu_leave(&scope);
	}
	if (status != KVP_OK) {
		free(list);
		return status;
	}
	memset(shared, 0, bytes);
	list->shared = shared;
	*out = list;
	return KVP_OK;
}

void kvpi_cuda_wait_list_free(kvpi_wait_list *list)
{
	kvpi_gpu_scope scope;

	if (list == NULL)
		return;
	if (kvpi_gpu_enter(list->gpu, &scope) == KVP_OK) {
		list->gpu->driver->MemFreeHost(list->shared);
		kvpi_gpu_leave(&scope);
	}
	free(list);
}

kvp_status kvpi_cuda_wait_list_fill(kvpi_wait_list *list, const kvpi_wait_entry *entries, size_t count)
{
	kvpi_kernel_wait_list *shared = list->shared;

	if (count > list->capacity)
		return kvpi_error(KVP_E_TOO_LARGE, "%zu entries for a wait list of %zu", count, list->capacity);
	for (size_t i = 0; i < count; i++)
		shared->entry[i] = (kvpi_kernel_wait_entry){entries[i].word, entries[i].generation};
	__atomic_store_n(&shared->count, count, __ATOMIC_RELEASE);
	__atomic_store_n(&shared->filled, shared->filled + 1, __ATOMIC_RELEASE);
	return KVP_OK;
}

kvp_status kvpi_cuda_wait_list_enqueue(kvpi_wait_list *list, void *stream, int64_t timeout_ns)
{
	kvpi_gpu_scope scope;
	kvp_status status = kvpi_gpu_enter(list->gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = kvpi_cuda_kernels_wait(list->gpu->kernels, stream, list->shared, (uint64_t)timeout_ns);
	kvpi_gpu_leave(&scope);
	return status;
}

void kvpi_cuda_wait_list_cancel(kvpi_wait_list *list)
{
	__atomic_store_n(&list->shared->canceled, list->shared->filled, __ATOMIC_RELEASE);
}

kvpi_wait_result kvpi_cuda_wait_list_result(const kvpi_wait_list *list)
{
	return (kvpi_wait_result)__atomic_load_n(&list->shared->result, __ATOMIC_ACQUIRE);
}
