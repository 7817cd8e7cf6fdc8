/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu/gpu_kit.h"

#include "base/error.h"
#include "kit/kit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char no_gpu[] = "no GPU that can be used on this machine";

static int look(void)
{
	kvpi_cuda_driver *driver = NULL;
	int count = 0;

#ifdef HAVE_CUDA
	if (kvpi_cuda_driver_open(&driver) != KVP_OK || driver->DeviceGetCount(&count) != CUDA_SUCCESS)
		return 1;
#else
	(void)driver;
#endif
	return count > 0 ? 0 : 1;
}

const char *gpu_missing(void)
{
	pid_t pid = fork();
	int status = 1;

	if (pid == 0)
		_exit(look());
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		return no_gpu;
	return NULL;
}

#ifdef HAVE_CUDA
const kvpi_cuda_driver *gpu_use(void)
{
	kvpi_cuda_driver *driver;
	CUcontext context;
	CUdevice device;

	kit_handles_may_change("the CUDA driver keeps descriptors and threads");
	KIT_OK(kvpi_cuda_driver_open(&driver));
	GPU_OK(driver, DeviceGet, &device, 0);
	GPU_OK(driver, DevicePrimaryCtxRetain, &context, device);
	GPU_OK(driver, CtxSetCurrent, context);
	return driver;
}

static const kvpi_cuda_driver *loaded(void)
{
	const kvpi_cuda_driver *driver = kvpi_cuda_driver_if_loaded();

	ck_assert_ptr_nonnull(driver);
	return driver;
}

void *gpu_alloc(uint64_t bytes)
{
	CUdeviceptr at;

	GPU_OK(loaded(), MemAlloc, &at, bytes);
	return (void *)(uintptr_t)at;
}

void gpu_fill(void *ptr, size_t len, uint64_t seed)
{
	void *host = malloc(len);

	ck_assert_ptr_nonnull(host);
	kit_random_fill(host, len, seed);
	GPU_OK(loaded(), MemcpyHtoD, (CUdeviceptr)(uintptr_t)ptr, host, len);
	free(host);
}

void gpu_check_fill(const void *ptr, size_t len, uint64_t seed)
{
	void *host = malloc(len);

	ck_assert_ptr_nonnull(host);
	GPU_OK(loaded(), MemcpyDtoH, host, (CUdeviceptr)(uintptr_t)ptr, len);
	kit_check_fill(host, len, seed);
	free(host);
}
#endif
