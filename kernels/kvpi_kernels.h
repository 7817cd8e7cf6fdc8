/* SPDX-License-Identifier: Apache-2.0
 *
 * What the host and the CUDA kernels agree on: the kernels' names, their arguments, their limits.
 * Plain C, seen by nvcc and by the C compiler; only lib/device and lib/allreduce include it.
 *
 * Each kernel takes one struct by value.  Its layout is the same on both sides because it holds only
 * fixed-width integers and pointers, each aligned to its size.
 */
#ifndef KVPI_KERNELS_H
#define KVPI_KERNELS_H

#include <stdint.h>

/*
 * kvpi_kernel_write_words: writes `value` to word[0] .. word[count - 1], each a 64-bit word that the GPU
 * can address: its own memory, a peer's, or mapped host memory.  The write is a release at system scope:
 * whoever reads the value with an acquire load also sees all that ran before on the kernel's stream.
 * One block of `count` threads.
 */
#define KVPI_KERNEL_WRITE_WORDS "kvpi_kernel_write_words"
#define KVPI_KERNEL_WORDS_MAX 64

typedef struct kvpi_kernel_write_words_args {
	uint64_t value;
	uint64_t count; /* at most KVPI_KERNEL_WORDS_MAX */
	uint64_t *word[KVPI_KERNEL_WORDS_MAX];
} kvpi_kernel_write_words_args;

#endif
