/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting on a stream for words that others write: bounded, and it can be called off.
 */
#include "kvpi_kernels.h"

/* Looking at host memory crosses the bus, so the words come first and this only now and then. */
#define LOOKS_PER_GLANCE 16

static __device__ uint64_t load_acquire_system(const uint64_t *word)
{
	uint64_t value;

	asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
	return value;
}

static __device__ void store_release_system(uint64_t *word, uint64_t value)
{
	asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

static __device__ uint64_t now_ns()
{
	uint64_t now;

	asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
	return now;
}

/* What this lane's entries say: 0 not yet, KVPI_KERNEL_WAIT_OK, KVPI_KERNEL_WAIT_FAILED. */
static __device__ int look(const kvpi_kernel_wait_list *list, uint64_t count)
{
	int reached = KVPI_KERNEL_WAIT_OK;

	for (uint64_t i = threadIdx.x; i < count; i += 32) {
		const uint64_t value = load_acquire_system(list->entry[i].word);

		if (value & KVPI_KERNEL_WORD_FAILED)
			return KVPI_KERNEL_WAIT_FAILED;
		if (value < list->entry[i].generation)
			reached = 0;
	}
	return reached;
}

extern "C" __global__ void kvpi_kernel_wait(const __grid_constant__ kvpi_kernel_wait_args args)
{
	kvpi_kernel_wait_list *list = args.list;
	const uint64_t count = load_acquire_system(&list->count);
	const uint64_t filled = load_acquire_system(&list->filled);
	const uint64_t began = now_ns();
	int result = 0;

	for (unsigned looks = 0; result == 0; looks++) {
		const int seen = look(list, count);

		if (__any_sync(0xffffffffu, seen == KVPI_KERNEL_WAIT_FAILED))
			result = KVPI_KERNEL_WAIT_FAILED;
		else if (__all_sync(0xffffffffu, seen == KVPI_KERNEL_WAIT_OK))
			result = KVPI_KERNEL_WAIT_OK;
		else if (looks % LOOKS_PER_GLANCE == 0 && load_acquire_system(&list->canceled) >= filled)
			result = KVPI_KERNEL_WAIT_FAILED;
		else if (__any_sync(0xffffffffu, now_ns() - began > args.timeout_ns))
			result = KVPI_KERNEL_WAIT_EXPIRED;
		result = __shfl_sync(0xffffffffu, result, 0);
	}
	if (threadIdx.x == 0)
		store_release_system(&list->result, (uint64_t)result);
}
