/* SPDX-License-Identifier: Apache-2.0
 *
 * The way of a kernel, end to end: driver found at run time, embedded image loaded, kernel run on
 * the GPU. Not run through the kit: a CUDA driver that was opened does not survive the fork around each test.
 */
#include "base/error.h"
#include "device/cuda_kernels.h"
#include "kernels/kvpi_kernels.h"
#include "kit/kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int skip(const char *why)
{
	const char *no_skip = getenv("KVP_TEST_NO_SKIP");

	if (no_skip != NULL && strcmp(no_skip, "1") == 0) {
		fprintf(stderr, "FAIL: KVP_TEST_NO_SKIP=1, but %s\n", why);
		return 1;
	}
	printf("SKIP: %s\n", why);
	return 77;
}

#ifdef HAVE_CUDA

#define WORDS KVPI_KERNEL_WORDS_MAX

static void check(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "FAIL: %s (last error: %s)\n", what, kvp_last_error());
	exit(1);
}

#define CHECK(expression) check((expression), #expression)
#define CHECK_CUDA(function, ...)                                                                  \
	CHECK(kvpi_cuda_status(driver, driver->function(__VA_ARGS__), "cu" #function) == KVP_OK)

/*
 * Every second word of the area is listed, in reverse; the others must keep what they hold.  So a
 * kernel that ignores the list, or the value, or the count, is caught.
 */
static void round_trip(const kvpi_cuda_driver *driver, const kvpi_cuda_kernels *kernels,
    CUstream stream, uint64_t *area, size_t count, uint64_t *seed)
{
	uint64_t before[2 * WORDS], after[2 * WORDS], *words[WORDS];
	uint64_t value = kit_random(seed);

	for (size_t i = 0; i < 2 * WORDS; i++)
		before[i] = kit_random(seed);
	for (size_t i = 0; i < count; i++)
		words[i] = area + 2 * (count - 1 - i);
	CHECK_CUDA(MemcpyHtoD, (CUdeviceptr)(uintptr_t)area, before, sizeof(before));

	CHECK(kvpi_cuda_kernels_write_words(kernels, stream, words, count, value) == KVP_OK);
	CHECK_CUDA(StreamSynchronize, stream);

	CHECK_CUDA(MemcpyDtoH, after, (CUdeviceptr)(uintptr_t)area, sizeof(after));
	for (size_t i = 0; i < 2 * WORDS; i++) {
		int listed = i % 2 == 0 && i / 2 < count;

		CHECK(after[i] == (listed ? value : before[i]));
	}
}

static void misuse(const kvpi_cuda_kernels *kernels)
{
	uint64_t *none[1] = {NULL};

	CHECK(kvpi_cuda_kernels_write_words(kernels, NULL, none, 0, 1) == KVP_E_INVALID);
	CHECK(kvpi_cuda_kernels_write_words(kernels, NULL, none, WORDS + 1, 1) == KVP_E_INVALID);
}

static void run(const kvpi_cuda_driver *driver, int ordinal, uint64_t *seed)
{
	kvpi_cuda_kernels *kernels = NULL;
	CUcontext context;
	CUdeviceptr area;
	CUstream stream;
	CUdevice device;

	/* No context is current yet, and loading must not make one. */
	CHECK_CUDA(CtxSetCurrent, NULL);
	CHECK(kvpi_cuda_kernels_load(driver, &kernels) == KVP_E_INVALID && kernels == NULL);
	CHECK_CUDA(CtxGetCurrent, &context);
	CHECK(context == NULL);

	CHECK_CUDA(DeviceGet, &device, ordinal);
	CHECK_CUDA(DevicePrimaryCtxRetain, &context, device);
	CHECK_CUDA(CtxSetCurrent, context);
	CHECK_CUDA(StreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CHECK_CUDA(MemAlloc, &area, 2 * WORDS * sizeof(uint64_t));

	CHECK(kvpi_cuda_kernels_load(driver, &kernels) == KVP_OK);
	for (size_t count = 1; count <= WORDS; count++)
		round_trip(driver, kernels, stream, (uint64_t *)(uintptr_t)area, count, seed);
	misuse(kernels);
	kvpi_cuda_kernels_unload(kernels);

	CHECK_CUDA(MemFree, area);
	CHECK_CUDA(StreamDestroy, stream);
	CHECK_CUDA(CtxSetCurrent, NULL);
	CHECK_CUDA(DevicePrimaryCtxRelease, device);
}

int main(void)
{
	kvpi_cuda_driver *driver = NULL;
	uint64_t seed = 1;
	int count = 0;

	if (kvpi_cuda_driver_open(&driver) != KVP_OK) {
		CHECK(driver == NULL);
		return skip(kvp_last_error());
	}
	CHECK_CUDA(DeviceGetCount, &count);
	if (count == 0)
		return skip("the CUDA driver reports no GPU");
	for (int ordinal = 0; ordinal < count; ordinal++)
		run(driver, ordinal, &seed);
	printf("%d GPU(s): every word is right, up to %d in one launch\n", count, WORDS);
	kvpi_cuda_kernels_unload(NULL);
	kvpi_cuda_driver_close(driver);
	kvpi_cuda_driver_close(NULL);
	return 0;
}

#else

int main(void)
{
	kvpi_cuda_driver *driver = NULL;

	if (kvpi_cuda_driver_open(&driver) != KVP_E_UNSUPPORTED || driver != NULL) {
		fprintf(stderr, "FAIL: a build without CUDA opened the driver\n");
		return 1;
	}
	return skip(kvp_last_error());
}

#endif
