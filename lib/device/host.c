/* SPDX-License-Identifier: Apache-2.0
 *
 * Host memory as a device: its one stream is always empty, its one event always reached, and a copy has
 * happened when it returns.  It cannot wait, so it has no wait lists.
 */
#include "device/tables.h"

#include "base/alloc.h"
#include "base/error.h"
#include <string.h>

struct kvpi_event {
	char unused;
};

static struct kvpi_event reached;

static kvp_status unsupported(const char *what)
{
	return kvpi_error(KVP_E_UNSUPPORTED, "host memory has no %s", what);
}

static bool host_owns(const void *ptr, int *device)
{
	(void)ptr;
	*device = 0;
	return true;
}

static kvp_status host_alloc(int device, uint64_t bytes, void **ptr)
{
	void *block = bytes > SIZE_MAX ? NULL : kvpi_malloc((size_t)bytes);

	(void)device;
	if (block == NULL)
		return kvpi_error_nomem("host memory");
	*ptr = block;
	return KVP_OK;
}

static void host_free(int device, void *ptr)
{
	(void)device;
	free(ptr);
}

static kvp_status host_stream_new(int device, void **stream)
{
	(void)device;
	*stream = NULL;
	return KVP_OK;
}

static void host_stream_free(int device, void *stream)
{
	(void)device;
	(void)stream;
}

static kvp_status host_record(int device, void *stream, kvpi_event **event)
{
	(void)device;
	(void)stream;
	*event = &reached;
	return KVP_OK;
}

static kvp_status host_query(kvpi_event *event)
{
	(void)event;
	return KVP_OK;
}

static void host_event_free(kvpi_event *event)
{
	(void)event;
}

static kvp_status host_copy(int device, void *stream, const kvpi_piece *pieces, size_t count)
{
	(void)device;
	(void)stream;
	for (size_t i = 0; i < count; i++)
		memcpy(pieces[i].to, pieces[i].from, pieces[i].len);
	return KVP_OK;
}

static kvp_status host_copy_blocks(int device, void *stream, const kvpi_layout *to, const kvpi_layout *from)
{
	kvpi_piece pieces[32];
	uint64_t offset = 0;
	size_t count;

	if (to->bytes != from->bytes)
		return kvpi_error(KVP_E_INVALID, "copy_blocks: %llu bytes do not fit into %llu",
		    (unsigned long long)from->bytes, (unsigned long long)to->bytes);
	while ((count = kvpi_layout_pieces(to, from, &offset, UINT64_MAX, pieces, 32)) > 0)
		host_copy(device, stream, pieces, count);
	return KVP_OK;
}

static kvp_status host_write_word(int device, void *stream, uint64_t *word, uint64_t value)
{
	(void)device;
	(void)stream;
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	return KVP_OK;
}

static kvp_status host_wait_list_new(int device, size_t capacity, kvpi_wait_list **list)
{
	(void)device;
	(void)capacity;
	(void)list;
	return unsupported("wait lists");
}

static void host_wait_list_free(kvpi_wait_list *list)
{
	(void)list;
}

static kvp_status host_wait_list_fill(kvpi_wait_list *list, const kvpi_wait_entry *entries, size_t count)
{
	(void)list;
	(void)entries;
	(void)count;
	return unsupported("wait lists");
}

static kvp_status host_wait_list_enqueue(kvpi_wait_list *list, void *stream, int64_t timeout_ns)
{
	(void)list;
	(void)stream;
	(void)timeout_ns;
	return unsupported("wait lists");
}

static void host_wait_list_cancel(kvpi_wait_list *list)
{
	(void)list;
}

static kvpi_wait_result host_wait_list_result(const kvpi_wait_list *list)
{
	(void)list;
	return KVPI_WAIT_FAILED;
}

static kvp_status host_export(int device, void *ptr, uint64_t bytes, kvpi_export *out)
{
	(void)device;
	(void)ptr;
	(void)bytes;
	(void)out;
	return unsupported("export");
}

static kvp_status host_import(int device, const kvpi_export *in, void **ptr)
{
	(void)device;
	(void)in;
	(void)ptr;
	return unsupported("import");
}

static void host_unimport(int device, void *ptr, uint64_t bytes)
{
	(void)device;
	(void)ptr;
	(void)bytes;
}

static kvp_status host_prepare(int device)
{
	(void)device;
	return KVP_OK;
}

static kvp_status host_pin(int device, void *ptr, uint64_t bytes)
{
	(void)device;
	(void)ptr;
	(void)bytes;
	return KVP_OK;
}

static void host_unpin(int device, void *ptr)
{
	(void)device;
	(void)ptr;
}

const kvpi_device_ops kvpi_host_device = {
    .size = sizeof(kvpi_host_device),
    .name = "host",
    .memory = KVP_MEMORY_HOST,
    .owns = host_owns,
    .prepare = host_prepare,
    .pin = host_pin,
    .unpin = host_unpin,
    .alloc = host_alloc,
    .free = host_free,
    .stream_new = host_stream_new,
    .stream_free = host_stream_free,
    .record = host_record,
    .query = host_query,
    .event_free = host_event_free,
    .copy = host_copy,
    .copy_blocks = host_copy_blocks,
    .write_word = host_write_word,
    .wait_list_new = host_wait_list_new,
    .wait_list_free = host_wait_list_free,
    .wait_list_fill = host_wait_list_fill,
    .wait_list_enqueue = host_wait_list_enqueue,
    .wait_list_cancel = host_wait_list_cancel,
    .wait_list_result = host_wait_list_result,
    .export_memory = host_export,
    .import_memory = host_import,
    .unimport = host_unimport,
};
