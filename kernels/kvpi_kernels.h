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

/*
 * kvpi_kernel_wait: one warp that ends when every word of the list has reached its generation, or one shows the failure
 * bit, or the list is canceled, or timeout_ns have passed since it began.  It writes which of these into the list, last.
 * The list lies in host memory that the GPU can address; the words where a GPU can read them.  Words are read with
 * acquire at system scope: what was written before them is seen by all that runs behind it on the stream.
 */
#define KVPI_KERNEL_WAIT "kvpi_kernel_wait"
#define KVPI_KERNEL_WORD_FAILED (UINT64_C(1) << 63)

enum { KVPI_KERNEL_WAIT_OK = 1, KVPI_KERNEL_WAIT_FAILED = 2, KVPI_KERNEL_WAIT_EXPIRED = 3 };

typedef struct kvpi_kernel_wait_entry {
	const uint64_t *word;
	uint64_t generation;
} kvpi_kernel_wait_entry;

typedef struct kvpi_kernel_wait_list {
	uint64_t count;    /* entries */
	uint64_t filled;   /* how often the list was filled */
	uint64_t canceled; /* the fillings up to this number are canceled */
	uint64_t result;   /* of the last wait that ended */
	kvpi_kernel_wait_entry entry[];
} kvpi_kernel_wait_list;

typedef struct kvpi_kernel_wait_args {
	kvpi_kernel_wait_list *list;
	uint64_t timeout_ns;
} kvpi_kernel_wait_args;

#endif
