/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands in for cuda_driver.c and cuda_kernels.c where configure found no CUDA.
 */
#include "device/cuda_kernels.h"

#include "base/error.h"

static kvp_status built_without(void)
{
	return kvpi_error(
	    KVP_E_UNSUPPORTED, "kvpipe was built without CUDA kernels (see configure --with-cuda)");
}

kvp_status kvpi_cuda_driver_open(kvpi_cuda_driver **out)
{
	(void)out;
	return built_without();
}

void kvpi_cuda_driver_close(kvpi_cuda_driver *driver)
{
	(void)driver;
}

kvp_status kvpi_cuda_kernels_load(const kvpi_cuda_driver *driver, kvpi_cuda_kernels **out)
{
	(void)driver;
	(void)out;
	return built_without();
}

void kvpi_cuda_kernels_unload(kvpi_cuda_kernels *kernels)
{
	(void)kernels;
}

kvp_status kvpi_cuda_kernels_write_words(const kvpi_cuda_kernels *kernels, void *stream,
    uint64_t *const words[], size_t count, uint64_t value)
{
	(void)kernels;
	(void)stream;
	(void)words;
	(void)count;
	(void)value;
	return built_without();
}

const kvpi_cuda_driver *kvpi_cuda_driver_if_loaded(void)
{
	return NULL;
}
