/* SPDX-License-Identifier: Apache-2.0
 *
 * What GPU tests share.  Each test runs in a process of its own, and begins to use CUDA there: the driver does not survive
 * a fork.
 */
#ifndef KVP_TESTS_GPU_KIT_H
#define KVP_TESTS_GPU_KIT_H

#include "device/cuda_driver.h"
#include "device/device.h"

/* A sentence if there is no GPU to test on (asked in a child, so that this process stays clean); NULL otherwise. */
const char *gpu_missing(void);

#ifdef HAVE_CUDA
/* The driver, with the primary context of GPU 0 active and current, as a program that uses CUDA has it. */
const kvpi_cuda_driver *gpu_use(void);

/* Ends the test unless the driver's function succeeds. */
#define GPU_OK(driver, function, ...)                                                                                      \
	KIT_OK(kvpi_cuda_status(driver, (driver)->function(__VA_ARGS__), "cu" #function))

void *gpu_alloc(uint64_t bytes); /* cuMemAlloc, until the process ends */
void gpu_fill(void *ptr, size_t len, uint64_t seed);
void gpu_check_fill(const void *ptr, size_t len, uint64_t seed);
#endif

#endif
