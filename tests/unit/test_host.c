/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "device/tables.h"
#include <string.h>

static const kvpi_device_ops *const dev = &kvpi_host_device;

START_TEST(memory_comes_and_goes)
{
	void *ptr = NULL;
	int device = 5;

	ck_assert_ptr_eq(kvpi_device_find(KVP_MEMORY_HOST), dev);
	KIT_OK(dev->alloc(0, 1000, &ptr));
	memset(ptr, 1, 1000);
	ck_assert(dev->owns(ptr, &device));
	ck_assert_int_eq(device, 0);
	dev->free(0, ptr);
	dev->free(0, NULL);
	KIT_OK(dev->alloc(0, 0, &ptr));
	dev->free(0, ptr);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(dev->alloc(0, 1000, &ptr), KVP_E_NOMEM);
}
END_TEST

START_TEST(everything_has_happened_at_once)
{
	char from[600], to[600];
	const uint32_t ids[] = {2, 0};
	const kvpi_piece pieces[] = {{to, from, 100}, {to + 100, from + 300, 50}};
	kvpi_layout blocks = {.base = from,
	    .memory = KVP_MEMORY_HOST,
	    .ndim = 1,
	    .dim = {{2, 200}},
	    .block_bytes = 200,
	    .ids = ids,
	    .bytes = 400};
	kvpi_layout dense;
	kvpi_event *event = NULL;
	void *stream = &stream;
	uint64_t word = 0;

	kit_random_fill(from, sizeof(from), 1);
	KIT_OK(dev->stream_new(0, &stream));
	KIT_OK(dev->copy(0, stream, pieces, 2));
	ck_assert_mem_eq(to, from, 100);
	ck_assert_mem_eq(to + 100, from + 300, 50);
	kvpi_layout_of_bytes(to, 400, KVP_MEMORY_HOST, 0, &dense);
	KIT_OK(dev->copy_blocks(0, stream, &dense, &blocks));
	ck_assert_mem_eq(to, from + 400, 200);
	ck_assert_mem_eq(to + 200, from, 200);
	dense.bytes = 399;
	KIT_STATUS(dev->copy_blocks(0, stream, &dense, &blocks), KVP_E_INVALID);
	KIT_OK(dev->write_word(0, stream, &word, 77));
	ck_assert_uint_eq(word, 77);
	KIT_OK(dev->record(0, stream, &event));
	ck_assert_ptr_nonnull(event);
	KIT_OK(dev->query(event));
	dev->event_free(event);
	dev->event_free(NULL);
	dev->stream_free(0, stream);
}
END_TEST

START_TEST(what_host_memory_has_not)
{
	kvpi_wait_list *list = NULL;
	kvpi_export export = {.fd = -1};
	void *ptr = NULL;

	KIT_STATUS(dev->wait_list_new(0, 1, &list), KVP_E_UNSUPPORTED);
	KIT_STATUS(dev->wait_list_fill(list, NULL, 0), KVP_E_UNSUPPORTED);
	KIT_STATUS(dev->wait_list_enqueue(list, NULL, 0), KVP_E_UNSUPPORTED);
	dev->wait_list_cancel(list);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_FAILED);
	dev->wait_list_free(list);
	KIT_STATUS(dev->export_memory(0, &ptr, 8, &export), KVP_E_UNSUPPORTED);
	KIT_STATUS(dev->import_memory(0, &export, &ptr), KVP_E_UNSUPPORTED);
	dev->unimport(0, ptr, 8);
}
END_TEST

KIT_MAIN("host", memory_comes_and_goes, everything_has_happened_at_once, what_host_memory_has_not)
