/* SPDX-License-Identifier: Apache-2.0 */

#include "device/cuda_kernels.h"

#include "kernels/images.h"
#include "kernels/kvpi_kernels.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

struct kvpi_cuda_kernels {
	const kvpi_cuda_driver *driver;
	CUlibrary word_library, wait_library;
	CUfunction write_words, wait;
};

static kvp_status load_function(
    const kvpi_cuda_driver *driver, CUlibrary library, const char *name, CUfunction *function)
{
	kvp_status status;
	CUkernel kernel;

	status = kvpi_cuda_status(
	    driver, driver->LibraryGetKernel(&kernel, library, name), "cuLibraryGetKernel");
	if (status != KVP_OK)
		return status;
	status = kvpi_cuda_status(
	    driver, driver->KernelGetFunction(function, kernel), "cuKernelGetFunction");
	if (status != KVP_OK)
		return status;
	return kvpi_cuda_status(driver, driver->FuncLoad(*function), "cuFuncLoad");
}

/* One image, one function of it. */
static kvp_status load_image(const kvpi_cuda_driver *driver, const void *image, const char *name, CUlibrary *library,
    CUfunction *function)
{
	kvp_status status;

	status = kvpi_cuda_status(
	    driver, driver->LibraryLoadData(library, image, NULL, NULL, 0, NULL, NULL, 0), "cuLibraryLoadData");
	if (status != KVP_OK)
		return status;
	status = load_function(driver, *library, name, function);
	if (status != KVP_OK)
		driver->LibraryUnload(*library);
	return status;
}

static kvp_status load_all(kvpi_cuda_kernels *kernels)
{
	const kvpi_cuda_driver *driver = kernels->driver;
	kvp_status status;

	status = load_image(driver, kvpi_image_word, KVPI_KERNEL_WRITE_WORDS, &kernels->word_library,
	    &kernels->write_words);
	if (status != KVP_OK)
		return status;
	status = load_image(driver, kvpi_image_wait, KVPI_KERNEL_WAIT, &kernels->wait_library, &kernels->wait);
	if (status != KVP_OK)
		driver->LibraryUnload(kernels->word_library);
	return status;
}

kvp_status kvpi_cuda_kernels_load(const kvpi_cuda_driver *driver, kvpi_cuda_kernels **out)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	kvpi_cuda_kernels *kernels;
	CUcontext context = NULL;
	kvp_status status;

	status = kvpi_cuda_status(driver, driver->CtxGetCurrent(&context), "cuCtxGetCurrent");
	if (status != KVP_OK)
		return status;
	if (context == NULL)
		return kvpi_error(KVP_E_INVALID,
		    "no CUDA context is current on this thread; make one current first");

	kernels = calloc(1, sizeof(*kernels));
	if (kernels == NULL)
		return kvpi_error_nomem("the CUDA kernels");
	kernels->driver = driver;

	/* In any other mode, loading would spoil a graph that the user is capturing meanwhile. */
	driver->ThreadExchangeStreamCaptureMode(&mode);
	status = load_all(kernels);
	driver->ThreadExchangeStreamCaptureMode(&mode);

	if (status != KVP_OK)
		free(kernels);
	else
		*out = kernels;
	return status;
}

void kvpi_cuda_kernels_unload(kvpi_cuda_kernels *kernels)
{
	if (kernels == NULL)
		return;
	/* Fails only where the context is already gone, and the kernels with it. */
	kernels->driver->LibraryUnload(kernels->wait_library);
	kernels->driver->LibraryUnload(kernels->word_library);
	free(kernels);
}

kvp_status kvpi_cuda_kernels_write_words(const kvpi_cuda_kernels *kernels, void *stream,
    uint64_t *const words[], size_t count, uint64_t value)
{
	kvpi_kernel_write_words_args args = {.value = value, .count = count};
	void *params[] = {&args};
	CUlaunchConfig config = {
	    .gridDimX = 1,
	    .gridDimY = 1,
	    .gridDimZ = 1,
	    .blockDimX = (unsigned)count,
	    .blockDimY = 1,
	    .blockDimZ = 1,
	    .hStream = stream,
	};

	if (count == 0 || count > KVPI_KERNEL_WORDS_MAX)
		return kvpi_error(KVP_E_INVALID, "one launch writes 1 to %d words, not %zu",
		    KVPI_KERNEL_WORDS_MAX, count);
	memcpy(args.word, words, count * sizeof(words[0]));
	return kvpi_cuda_status(kernels->driver,
	    kernels->driver->LaunchKernelEx(&config, kernels->write_words, params, NULL),
	    "cuLaunchKernelEx");
}

kvp_status kvpi_cuda_kernels_wait(
    const kvpi_cuda_kernels *kernels, void *stream, kvpi_kernel_wait_list *list, uint64_t timeout_ns)
{
	kvpi_kernel_wait_args args = {.list = list, .timeout_ns = timeout_ns};
	void *params[] = {&args};
	const CUlaunchConfig config = {
	    .gridDimX = 1,
	    .gridDimY = 1,
	    .gridDimZ = 1,
	    .blockDimX = 32,
	    .blockDimY = 1,
	    .blockDimZ = 1,
	    .hStream = stream,
	};

	return kvpi_cuda_status(kernels->driver, kernels->driver->LaunchKernelEx(&config, kernels->wait, params, NULL),
	    "cuLaunchKernelEx");
}
