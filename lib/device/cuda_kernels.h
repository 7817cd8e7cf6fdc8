/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded kernels, loaded into one CUDA context.
 */
#ifndef KVPI_DEVICE_CUDA_KERNELS_H
#define KVPI_DEVICE_CUDA_KERNELS_H

#include "device/cuda_driver.h"

#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_cuda_kernels kvpi_cuda_kernels;

/*
 * Loads every kernel into the context that is current on the calling thread, so that no launch ever
 * loads one: loading may synchronise the context, and would then wait for ever behind a kernel that
 * waits for us. May block for long; call it at open, never on a worker.  Borrows `driver`, which
 * must outlive *out. KVP_E_INVALID if no context is current: the library makes none.  *out is
 * returned owned.
 */
kvp_status kvpi_cuda_kernels_load(const kvpi_cuda_driver *driver, kvpi_cuda_kernels **out);

/* Takes `kernels`; NULL is fine.  No kernel may be running.  May synchronise the context. */
void kvpi_cuda_kernels_unload(kvpi_cuda_kernels *kernels);

/*
 * Queues on `stream` (a CUstream of the kernels' context, which is current) a kernel that writes
 * `value` to count words with release at system scope.  The list is copied, the words are borrowed
 * until the kernel has run.  Does not block.  KVP_E_INVALID if count is 0 or above
 * KVPI_KERNEL_WORDS_MAX.
 */
kvp_status kvpi_cuda_kernels_write_words(const kvpi_cuda_kernels *kernels, void *stream,
    uint64_t *const words[], size_t count, uint64_t value);

/* Queues on `stream` the wait of kvpi_kernels.h for a list that the GPU can address.  Does not block. */
struct kvpi_kernel_wait_list;
kvp_status kvpi_cuda_kernels_wait(
    const kvpi_cuda_kernels *kernels, void *stream, struct kvpi_kernel_wait_list *list, uint64_t timeout_ns);

#endif
