/* SPDX-License-Identifier: Apache-2.0
 *
 * Device words: the 64-bit flags that a receiver waits on.
 */
#include "kvpi_kernels.h"

/* A plain store could pass the data that it announces; see the PTX memory model on st.release. */
static __device__ void store_release_system(uint64_t *word, uint64_t value)
{
	asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

extern "C" __global__ void kvpi_kernel_write_words(const __grid_constant__ kvpi_kernel_write_words_args args)
{
	if (threadIdx.x < args.count)
		store_release_system(args.word[threadIdx.x], args.value);
}
