/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors in GPU memory through pipes: every plane, dense and strided, sizes up to many bounce buffers, between device and
 * host memory, and data that the producer's stream writes late.
 */
#include "gpu/gpu_kit.h"
#include "kit/kit.h"
#include "kit/pair.h"

#include "device/tables.h"
#include "plane/plane.h"

#include <stdlib.h>
#include <string.h>

#ifdef HAVE_CUDA

static const kvpi_device_ops *const dev = &kvpi_cuda_device;

static kvp_tensor tensor_of(void *data, size_t len)
{
	const int64_t shape[1] = {(int64_t)len};
	kvp_tensor tensor;

	KIT_OK(kvp_tensor_init(&tensor, data, KVP_DTYPE_UINT8, 1, shape));
	return tensor;
}

static void carry(kit_pair *pair, const kvp_tensor *from, kvp_tensor *to)
{
	kvp_request *request;

	KIT_OK(kvp_pipe_send(pair->a, from, NULL, &request));
	KIT_OK(kvp_pipe_recv(pair->b, to, 20000));
	KIT_OK(kvp_request_wait(request, 20000));
	kvp_request_free(request);
}

static const char *plane_name(int index)
{
	return kvpi_plane_registry()[index]->name;
}

static int plane_count(void)
{
	int count = 0;

	while (kvpi_plane_registry()[count] != NULL)
		count++;
	return count;
}

START_TEST(every_size_arrives)
{
	static const size_t sizes[] = {1, 3, 4096, 8192, 8193, 65537, 1u << 20, (5u << 20) + 7, 33u << 20};
	kit_pair pair;
	char *from, *to, *host = malloc(33u << 20);

	gpu_use();
	from = gpu_alloc(33u << 20);
	to = gpu_alloc(33u << 20);
	kit_pair_init(&pair, plane_name(_i));
	kit_pair_open(&pair);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		kvp_tensor source = tensor_of(from, sizes[i]), target = tensor_of(to, sizes[i]);
		kvp_tensor plain = tensor_of(host, sizes[i]);

		gpu_fill(from, sizes[i], 3 * i + 1);
		gpu_fill(to, sizes[i], 9999);
		carry(&pair, &source, &target); /* device to device */
		ck_assert_int_eq(target.memory, KVP_MEMORY_CUDA);
		gpu_check_fill(to, sizes[i], 3 * i + 1);
		carry(&pair, &source, &plain); /* to host memory */
		kit_check_fill(host, sizes[i], 3 * i + 1);
		kit_random_fill(host, sizes[i], 3 * i + 2);
		plain = tensor_of(host, sizes[i]);
		target = tensor_of(to, sizes[i]);
		carry(&pair, &plain, &target); /* and from it */
		gpu_check_fill(to, sizes[i], 3 * i + 2);
	}
	kit_pair_free(&pair);
	free(host);
}
END_TEST

START_TEST(strides_are_kept)
{
	enum { ROWS = 37, COLUMNS = 130, WIDTH = 200 };
	const int64_t shape[2] = {ROWS, COLUMNS};
	char host[ROWS * WIDTH], want[ROWS * WIDTH];
	kvp_tensor source, target;
	kit_pair pair;
	char *from, *to;

	gpu_use();
	from = gpu_alloc(sizeof(host));
	to = gpu_alloc(sizeof(host));
	gpu_fill(from, sizeof(host), 1);
	gpu_fill(to, sizeof(host), 2);
	KIT_OK(kvp_tensor_init(&source, from, KVP_DTYPE_INT8, 2, shape));
	source.strides[0] = WIDTH;
	source.storage_bytes = sizeof(host);
	target = source;
	target.data = to;
	kit_pair_init(&pair, plane_name(_i));
	kit_pair_open(&pair);
	carry(&pair, &source, &target);
	kit_pair_free(&pair);
	kit_random_fill(host, sizeof(host), 1);
	kit_random_fill(want, sizeof(want), 2);
	for (int i = 0; i < ROWS; i++)
		memcpy(want + i * WIDTH, host + i * WIDTH, COLUMNS);
	GPU_OK(kvpi_cuda_driver_if_loaded(), MemcpyDtoH, host, (CUdeviceptr)(uintptr_t)to, sizeof(host));
	ck_assert_mem_eq(host, want, sizeof(host));
}
END_TEST

START_TEST(a_send_waits_for_the_producers_stream)
{
	const size_t len = 3u << 20;
	uint64_t zero = 0, *word;
	kvpi_wait_list *list;
	kvp_request *request;
	kit_pair pair;
	char *from, *to, *late;
	void *stream = NULL, *writer = NULL;
	kvp_tensor source, target;

	gpu_use();
	from = gpu_alloc(len);
	late = gpu_alloc(len);
	to = gpu_alloc(len);
	word = gpu_alloc(sizeof(*word));
	GPU_OK(kvpi_cuda_driver_if_loaded(), MemcpyHtoD, (CUdeviceptr)(uintptr_t)word, &zero, sizeof(zero));
	gpu_fill(from, len, 1);
	gpu_fill(late, len, 2);
	kit_pair_init(&pair, plane_name(_i));
	kit_pair_open(&pair);
	KIT_OK(dev->stream_new(0, &stream));
	KIT_OK(dev->stream_new(0, &writer));
	/* The stream writes the tensor only once the word is there. */
	KIT_OK(dev->wait_list_new(0, 1, &list));
	KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){word, 1}, 1));
	KIT_OK(dev->wait_list_enqueue(list, stream, INT64_C(60000000000)));
	KIT_OK(dev->copy(0, stream, &(kvpi_piece){from, late, len}, 1));
	source = tensor_of(from, len);
	source.stream = stream;
	target = tensor_of(to, len);
	KIT_OK(kvp_pipe_send(pair.a, &source, NULL, &request));
	KIT_STATUS(kvp_pipe_recv(pair.b, &target, 300), KVP_E_TIMEOUT);
	target = tensor_of(to, len);
	KIT_OK(dev->write_word(0, writer, word, 1));
	KIT_OK(kvp_pipe_recv(pair.b, &target, 20000));
	gpu_check_fill(to, len, 2);
	KIT_OK(kvp_request_wait(request, 20000));
	kvp_request_free(request);
	kit_pair_free(&pair);
	dev->wait_list_free(list);
	dev->stream_free(0, stream);
	dev->stream_free(0, writer);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {every_size_arrives, strides_are_kept, a_send_waits_for_the_producers_stream};

	return kit_run("pipe on a GPU", tests, sizeof(tests) / sizeof(tests[0]), plane_count(), gpu_missing);
}

#else

START_TEST(nothing)
{
}
END_TEST

static const char *missing(void)
{
	return "built without CUDA";
}

KIT_MAIN_WITH("pipe on a GPU", 1, missing, nothing)

#endif
