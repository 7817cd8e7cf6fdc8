/* SPDX-License-Identifier: Apache-2.0
 *
 * The device table of CUDA, on a GPU.
 */
#include "gpu/gpu_kit.h"
#include "kit/kit.h"

#include "device/tables.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_CUDA

static const kvpi_device_ops *const dev = &kvpi_cuda_device;

static bool reached(void *event)
{
	return dev->query(event) == KVP_OK;
}

static bool wait_ended(void *list)
{
	return dev->wait_list_result(list) != KVPI_WAIT_PENDING;
}

static void *new_stream(void)
{
	void *stream = NULL;

	KIT_OK(dev->stream_new(0, &stream));
	return stream;
}

/* A word of the device with a value in it. */
static uint64_t *new_word(uint64_t value)
{
	uint64_t *word = gpu_alloc(sizeof(*word));

	GPU_OK(kvpi_cuda_driver_if_loaded(), MemcpyHtoD, (CUdeviceptr)(uintptr_t)word, &value, sizeof(value));
	return word;
}

static uint64_t word_of(const uint64_t *word)
{
	uint64_t value;

	GPU_OK(kvpi_cuda_driver_if_loaded(), MemcpyDtoH, &value, (CUdeviceptr)(uintptr_t)word, sizeof(value));
	return value;
}

START_TEST(nothing_is_loaded_by_asking)
{
	int device = 7;
	char byte = 1;

	ck_assert_ptr_null(kvpi_cuda_driver_if_loaded());
	ck_assert(!dev->owns(&byte, &device));
	ck_assert_int_eq(device, 7);
	ck_assert_ptr_null(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD));
	KIT_STATUS(dev->prepare(0), KVP_E_UNSUPPORTED);
}
END_TEST

START_TEST(no_context_is_made)
{
	kvpi_cuda_driver *driver;
	CUcontext context;
	CUdevice device;
	unsigned flags;
	int active = 1;

	kit_handles_may_change("the CUDA driver keeps descriptors and threads");
	KIT_OK(kvpi_cuda_driver_open(&driver));
	KIT_STATUS(dev->prepare(0), KVP_E_UNSUPPORTED);
	KIT_STATUS(dev->prepare(63), KVP_E_UNSUPPORTED);
	KIT_STATUS(dev->prepare(-1), KVP_E_INVALID);
	GPU_OK(driver, DeviceGet, &device, 0);
	GPU_OK(driver, DevicePrimaryCtxGetState, device, &flags, &active);
	ck_assert_int_eq(active, 0);
	/* The program makes its own: then it works, and nothing becomes current by it. */
	GPU_OK(driver, DevicePrimaryCtxRetain, &context, device);
	KIT_OK(dev->prepare(0));
	GPU_OK(driver, CtxGetCurrent, &context);
	ck_assert_ptr_null(context);
}
END_TEST

START_TEST(pointers_are_told_apart)
{
	const kvpi_cuda_driver *driver = gpu_use();
	kvp_memory memory = KVP_MEMORY_AUTO;
	void *vmm = NULL, *pinned = NULL;
	char *plain = gpu_alloc(1000);
	int device = 7;
	char byte = 1;

	KIT_OK(dev->alloc(0, 1000, &vmm));
	GPU_OK(driver, MemHostAlloc, &pinned, 1000, 0);
	ck_assert(dev->owns(plain + 999, &device));
	ck_assert_int_eq(device, 0);
	ck_assert(dev->owns(vmm, &device));
	ck_assert(!dev->owns(pinned, &device));
	ck_assert(!dev->owns(&byte, &device));
	ck_assert(!dev->owns(NULL, &device));
	KIT_OK(kvpi_device_resolve(plain, &memory, &device));
	ck_assert_int_eq(memory, KVP_MEMORY_CUDA);
	memory = KVP_MEMORY_AUTO;
	KIT_OK(kvpi_device_resolve(pinned, &memory, &device));
	ck_assert_int_eq(memory, KVP_MEMORY_HOST);
	dev->free(0, vmm);
	ck_assert(!dev->owns(vmm, &device));
	dev->free(0, plain); /* not ours: left alone */
	ck_assert(dev->owns(plain, &device));
	GPU_OK(driver, MemFreeHost, pinned);
}
END_TEST

START_TEST(copies_go_there_and_back)
{
	const size_t len = 5000001;
	char *host, *other;
	void *there = NULL;
	kvpi_event *event;
	void *stream;

	gpu_use();
	host = malloc(len);
	other = malloc(len);
	stream = new_stream();
	KIT_OK(dev->alloc(0, len, &there));
	KIT_OK(dev->pin(0, host, len));
	kit_random_fill(host, len, 1);
	KIT_OK(dev->copy(0, stream, &(kvpi_piece){there, host, len}, 1));
	KIT_OK(dev->copy(0, stream, &(kvpi_piece){other, there, len}, 1)); /* not pinned: slower, not wrong */
	KIT_OK(dev->record(0, stream, &event));
	kit_wait_until(reached, event, 10000);
	kit_check_fill(other, len, 1);
	dev->event_free(event);
	dev->event_free(NULL);
	dev->unpin(0, host);
	dev->stream_free(0, stream);
	dev->free(0, there);
	free(host);
	free(other);
}
END_TEST

START_TEST(blocks_go_by_ids)
{
	enum { BLOCKS = 9, BYTES = 4112 };
	const uint32_t from_ids[] = {8, 0, 3}, to_ids[] = {1, 7, 2};
	char *from, *to, host[BLOCKS * BYTES], got[BLOCKS * BYTES];
	kvpi_layout source, target;
	kvpi_event *event;
	void *stream;

	gpu_use();
	stream = new_stream();
	from = gpu_alloc(sizeof(host));
	to = gpu_alloc(sizeof(host));
	gpu_fill(from, sizeof(host), 1);
	gpu_fill(to, sizeof(host), 2);
	source = (kvpi_layout){.base = from,
	    .memory = KVP_MEMORY_CUDA,
	    .ndim = 1,
	    .dim = {{3, BYTES}},
	    .block_bytes = BYTES,
	    .ids = from_ids,
	    .bytes = UINT64_C(3) * BYTES};
	target = source;
	target.base = to;
	target.ids = to_ids;
	KIT_OK(dev->copy_blocks(0, stream, &target, &source));
	KIT_OK(dev->record(0, stream, &event));
	kit_wait_until(reached, event, 10000);
	dev->event_free(event);
	kit_random_fill(host, sizeof(host), 1);
	kit_random_fill(got, sizeof(got), 2);
	for (int i = 0; i < 3; i++)
		memcpy(got + to_ids[i] * BYTES, host + from_ids[i] * BYTES, BYTES);
	GPU_OK(kvpi_cuda_driver_if_loaded(), MemcpyDtoH, host, (CUdeviceptr)(uintptr_t)to, sizeof(host));
	ck_assert_mem_eq(host, got, sizeof(host));
	target.bytes--;
	KIT_STATUS(dev->copy_blocks(0, stream, &target, &source), KVP_E_INVALID);
	dev->stream_free(0, stream);
}
END_TEST

START_TEST(a_wait_ends_when_all_words_are_there)
{
	uint64_t *words[40];
	kvpi_wait_entry entries[40];
	kvpi_wait_list *list;
	kvpi_event *event;
	void *waits, *writes;

	gpu_use();
	waits = new_stream();
	writes = new_stream();
	for (int i = 0; i < 40; i++) {
		words[i] = new_word(10);
		entries[i] = (kvpi_wait_entry){words[i], 11};
	}
	KIT_OK(dev->wait_list_new(0, 40, &list));
	KIT_STATUS(dev->wait_list_fill(list, entries, 41), KVP_E_TOO_LARGE);
	KIT_OK(dev->wait_list_fill(list, entries, 40));
	KIT_OK(dev->wait_list_enqueue(list, waits, INT64_C(60000000000)));
	KIT_OK(dev->record(0, waits, &event));
	for (int i = 39; i >= 0; i--) {
		ck_assert_int_eq(dev->query(event), KVP_PENDING);
		ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_PENDING);
		KIT_OK(dev->write_word(0, writes, words[i], i % 2 == 0 ? 11 : 12345));
	}
	kit_wait_until(reached, event, 10000);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_OK);
	ck_assert_uint_eq(word_of(words[1]), 12345);
	dev->event_free(event);
	dev->wait_list_free(list);
	dev->wait_list_free(NULL);
	dev->stream_free(0, waits);
	dev->stream_free(0, writes);
}
END_TEST

/* One wait of one word. */
static kvpi_wait_list *waiting(uint64_t *word, void *stream, int64_t timeout_ns)
{
	kvpi_wait_list *list;

	KIT_OK(dev->wait_list_new(0, 1, &list));
	KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){word, 5}, 1));
	KIT_OK(dev->wait_list_enqueue(list, stream, timeout_ns));
	return list;
}

START_TEST(a_wait_ends_in_other_ways)
{
	uint64_t *word;
	void *stream, *other;
	kvpi_wait_list *list;

	gpu_use();
	word = new_word(4);
	stream = new_stream();
	other = new_stream();

	list = waiting(word, stream, 5000000); /* its time passes */
	kit_wait_until(wait_ended, list, 10000);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_EXPIRED);
	dev->wait_list_free(list);

	list = waiting(word, stream, INT64_MAX); /* it is called off; the next filling is not */
	dev->wait_list_cancel(list);
	kit_wait_until(wait_ended, list, 10000);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_FAILED);
	KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){word, 3}, 1));
	KIT_OK(dev->wait_list_enqueue(list, stream, INT64_MAX));
	dev->stream_free(0, stream); /* waits for it */
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_OK);
	dev->wait_list_free(list);

	stream = new_stream();
	list = waiting(word, stream, INT64_MAX); /* what it waits for will not come */
	KIT_OK(dev->write_word(0, other, word, KVPI_WORD_FAILED | 1));
	kit_wait_until(wait_ended, list, 10000);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_FAILED);
	dev->wait_list_free(list);
	dev->stream_free(0, stream);
	dev->stream_free(0, other);
}
END_TEST

START_TEST(memory_is_shared_by_descriptor)
{
	void *memory = NULL, *again = NULL, *plain;
	kvpi_export out;

	gpu_use();
	KIT_OK(dev->alloc(0, 3000000, &memory));
	gpu_fill(memory, 3000000, 5);
	KIT_OK(dev->export_memory(0, (char *)memory + 1000, 2000000, &out));
	ck_assert_uint_eq(out.offset, 1000);
	ck_assert_uint_eq(out.bytes, 2000000);
	KIT_OK(dev->import_memory(0, &out, &again));
	ck_assert_ptr_ne(again, (char *)memory + 1000);
	dev->free(0, memory); /* the other mapping keeps it */
	gpu_check_fill((char *)again - 1000, 2000000, 5);
	dev->unimport(0, again, 2000000);

	plain = gpu_alloc(1000);
	KIT_STATUS(dev->export_memory(0, plain, 1000, &out), KVP_E_UNSUPPORTED);
	KIT_OK(dev->alloc(0, 1000, &memory));
	KIT_STATUS(dev->export_memory(0, memory, UINT64_C(1) << 40, &out), KVP_E_INVALID);
	dev->free(0, memory);
}
END_TEST

/* ---- manners: graphs that the program captures ---- */

typedef struct capture {
	CUresult (*begin)(CUstream stream, CUstreamCaptureMode mode);
	CUresult (*end)(CUstream stream, CUgraph *graph);
} capture;

static capture find_capture(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	capture found;

	memcpy(&found.begin, &(void *){dlsym(library, "cuStreamBeginCapture_v2")}, sizeof(found.begin));
	memcpy(&found.end, &(void *){dlsym(library, "cuStreamEndCapture")}, sizeof(found.end));
	ck_assert(found.begin != NULL && found.end != NULL);
	return found;
}

START_TEST(a_capture_is_not_spoiled)
{
	void *captured, *stream, *memory = NULL, *host;
	kvpi_event *event, *none = NULL;
	CUgraph graph = NULL;
	capture calls;

	gpu_use();
	calls = find_capture();
	KIT_OK(dev->prepare(0));
	captured = new_stream();
	stream = new_stream();
	host = calloc(1, 100);
	ck_assert_int_eq(calls.begin(captured, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
	/* All that a worker does, and what a caller's thread does, beside it. */
	KIT_OK(dev->alloc(0, 100, &memory));
	KIT_OK(dev->copy(0, stream, &(kvpi_piece){memory, host, 100}, 1));
	KIT_OK(dev->record(0, stream, &event));
	kit_wait_until(reached, event, 10000);
	KIT_STATUS(dev->record(0, captured, &none), KVP_E_UNSUPPORTED);
	ck_assert_int_eq(calls.end(captured, &graph), CUDA_SUCCESS);
	ck_assert_ptr_nonnull(graph);
	dev->event_free(event);
	dev->free(0, memory);
	dev->stream_free(0, captured);
	dev->stream_free(0, stream);
	free(host);
}
END_TEST

KIT_MAIN_WITH("cuda", 1, gpu_missing, nothing_is_loaded_by_asking, no_context_is_made, pointers_are_told_apart,
    copies_go_there_and_back, blocks_go_by_ids, a_wait_ends_when_all_words_are_there, a_wait_ends_in_other_ways,
    memory_is_shared_by_descriptor, a_capture_is_not_spoiled)

#else

START_TEST(nothing)
{
}
END_TEST

static const char *missing(void)
{
	return "built without CUDA";
}

KIT_MAIN_WITH("cuda", 1, missing, nothing)

#endif
