/* SPDX-License-Identifier: Apache-2.0
 *
 * Additions done.  See once.h.
 */
#include "store/once.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include <string.h>

struct kvpi_store_once_entry {
	kvpi_list node;
	int64_t noted_ns, sum;
	size_t len;
	unsigned char token[];
};

kvp_status kvpi_store_once_init(kvpi_store_once *once, uint64_t seed)
{
	kvpi_list_init(&once->entries);
	once->forgotten_ns = INT64_MIN;
	once->map = kvpi_map_new(seed);
	return once->map != NULL ? KVP_OK : kvpi_error_nomem("a table of additions");
}

static void drop(kvpi_store_once *once, kvpi_store_once_entry *entry)
{
	kvpi_map_remove(once->map, entry->token, entry->len);
	kvpi_list_remove(&entry->node);
	free(entry);
}

void kvpi_store_once_fini(kvpi_store_once *once)
{
	if (once->map == NULL)
		return;
	KVPI_LIST_FOREACH (pos, nxt, &once->entries)
		drop(once, KVPI_CONTAINER_OF(pos, kvpi_store_once_entry, node));
	kvpi_map_free(once->map);
}

bool kvpi_store_once_find(const kvpi_store_once *once, kvpi_view token, int64_t *sum)
{
	const kvpi_store_once_entry *entry = kvpi_map_get(once->map, token.data, token.len);

	if (entry != NULL)
		*sum = entry->sum;
	return entry != NULL;
}

bool kvpi_store_once_reaches(const kvpi_store_once *once, int64_t since_ns)
{
	return once->forgotten_ns < since_ns;
}

static kvpi_store_once_entry *oldest(const kvpi_store_once *once)
{
	kvpi_list *node = kvpi_list_first(&once->entries);

	return node != NULL ? KVPI_CONTAINER_OF(node, kvpi_store_once_entry, node) : NULL;
}

static void forget(kvpi_store_once *once, kvpi_store_once_entry *entry)
{
	once->forgotten_ns = entry->noted_ns;
	drop(once, entry);
}

kvp_status kvpi_store_once_begin(
    kvpi_store_once *once, kvpi_view token, int64_t now_ns, kvpi_store_once_entry **out)
{
	kvpi_store_once_entry *entry = kvpi_calloc(1, sizeof(*entry) + token.len);
	kvp_status status;

	if (entry == NULL)
		return kvpi_error_nomem("an addition");
	entry->noted_ns = now_ns;
	entry->len = token.len;
	memcpy(entry->token, token.data, token.len);
	status = kvpi_map_put(once->map, token.data, token.len, entry, NULL);
	if (status != KVP_OK) {
		free(entry);
		return status;
	}
	kvpi_list_append(&once->entries, &entry->node);
	if (kvpi_map_count(once->map) > KVPI_STORE_ONCE_MAX)
		forget(once, oldest(once));
	*out = entry;
	return KVP_OK;
}

void kvpi_store_once_done(kvpi_store_once_entry *entry, int64_t sum)
{
	entry->sum = sum;
}

void kvpi_store_once_cancel(kvpi_store_once *once, kvpi_store_once_entry *entry)
{
	drop(once, entry);
}

void kvpi_store_once_advance(kvpi_store_once *once, int64_t now_ns)
{
	for (kvpi_store_once_entry *entry; (entry = oldest(once)) != NULL;) {
		if (now_ns - entry->noted_ns < KVPI_STORE_ONCE_MS * KVPI_NS_PER_MS)
			return;
		forget(once, entry);
	}
}
