/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of keys.  See keys.h.
 */
#include "store/keys.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include <string.h>

kvp_status kvpi_store_keys_init(
    kvpi_store_keys *keys, uint64_t seed, uint64_t max_bytes, size_t max_count)
{
	*keys = (kvpi_store_keys){.max_bytes = max_bytes, .max_count = max_count};
	kvpi_heap_init(&keys->ttls);
	keys->map = kvpi_map_new(seed);
	return keys->map != NULL ? KVP_OK : kvpi_error_nomem("a table of keys");
}

void kvpi_store_keys_fini(kvpi_store_keys *keys)
{
	size_t cursor = 0, len;
	const void *name;
	void *value;

	kvpi_heap_fini(&keys->ttls);
	while (keys->map != NULL && kvpi_map_next(keys->map, &cursor, &name, &len, &value)) {
		kvpi_store_key *key = value;

		free(key->value);
		free(key);
	}
	kvpi_map_free(keys->map);
	keys->map = NULL;
}

kvp_status kvpi_store_keys_check(kvpi_view name)
{
	if (name.len == 0)
		return kvpi_error(KVP_E_INVALID, "a key is empty");
	if (memchr(name.data, 0, name.len) != NULL)
		return kvpi_error(KVP_E_INVALID, "a key has a 0 byte in it");
	return KVP_OK;
}

kvpi_store_key *kvpi_store_keys_find(const kvpi_store_keys *keys, kvpi_view name)
{
	kvpi_store_key *key = kvpi_map_get(keys->map, name.data, name.len);

	return key != NULL && key->exists ? key : NULL;
}

/* Room for something that grows from `before` to `after` bytes. */
static kvp_status check_bytes(const kvpi_store_keys *keys, size_t before, size_t after)
{
	if (after > before && after - before > keys->max_bytes - keys->bytes)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the store is full: it holds %llu of at most %llu bytes",
		    (unsigned long long)keys->bytes, (unsigned long long)keys->max_bytes);
	return KVP_OK;
}

kvp_status kvpi_store_keys_charge(kvpi_store_keys *keys, size_t bytes)
{
	const kvp_status status = check_bytes(keys, 0, bytes);

	keys->bytes += status == KVP_OK ? bytes : 0;
	return status;
}

void kvpi_store_keys_refund(kvpi_store_keys *keys, size_t bytes)
{
	keys->bytes -= bytes;
}

/* Of a new name, which has neither value nor hold yet. */
static kvp_status make(kvpi_store_keys *keys, kvpi_view name, kvpi_store_key **made)
{
	kvp_status status = check_bytes(keys, 0, name.len);
	kvpi_store_key *key;

	if (status != KVP_OK)
		return status;
	if (kvpi_map_count(keys->map) >= keys->max_count)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the store is full: it holds %zu keys, the most it may",
		    kvpi_map_count(keys->map));
	key = kvpi_calloc(1, sizeof(*key) + name.len);
	if (key == NULL)
		return kvpi_error_nomem("a key in the store");
	kvpi_list_init(&key->holds);
	key->name_len = name.len;
	memcpy(key->name, name.data, name.len);
	status = kvpi_map_put(keys->map, name.data, name.len, key, NULL);
	if (status != KVP_OK) {
		free(key);
		return status;
	}
	keys->bytes += name.len;
	*made = key;
	return KVP_OK;
}

static void forget_if_unused(kvpi_store_keys *keys, kvpi_store_key *key)
{
	if (key->exists || !kvpi_list_empty(&key->holds))
		return;
	kvpi_map_remove(keys->map, key->name, key->name_len);
	keys->bytes -= key->name_len;
	free(key);
}

kvp_status kvpi_store_keys_put(kvpi_store_keys *keys, kvpi_view name, kvpi_view value,
    int64_t expires_ns, uint32_t uses, kvpi_store_key **out, bool *appeared)
{
	kvpi_store_key *key = kvpi_map_get(keys->map, name.data, name.len);
	const size_t name_growth = key == NULL ? name.len : 0;
	kvp_status status = check_bytes(keys, key == NULL ? 0 : key->len, value.len + name_growth);
	void *copy;

	if (status != KVP_OK)
		return status;
	copy = kvpi_memdup(value.data, value.len);
	if (copy == NULL)
		return kvpi_error_nomem("a value in the store");
	if (key == NULL) {
		status = make(keys, name, &key);
		if (status != KVP_OK)
			goto free_copy;
	}

	/* A key that was in the heap has its place there: the push can fail only for one that was
	 * not. */
	kvpi_heap_remove(&keys->ttls, &key->ttl);
	if (expires_ns != KVPI_NEVER) {
		status = kvpi_heap_push(&keys->ttls, &key->ttl, expires_ns);
		if (status != KVP_OK)
			goto forget;
	}

	keys->bytes += value.len;
	keys->bytes -= key->len;
	free(key->value);
	key->value = copy;
	key->len = value.len;
	key->uses = uses;
	*appeared = !key->exists;
	if (!key->exists) {
		key->exists = true;
		keys->existing++;
		KVPI_LIST_FOREACH (pos, nxt, &key->holds)
			--*KVPI_CONTAINER_OF(pos, kvpi_store_hold, node)->missing;
	}
	*out = key;
	return KVP_OK;

forget:
	forget_if_unused(keys, key);
free_copy:
	free(copy);
	return status;
}

void kvpi_store_keys_drop(kvpi_store_keys *keys, kvpi_store_key *key)
{
	keys->bytes -= key->len;
	keys->existing--;
	kvpi_heap_remove(&keys->ttls, &key->ttl);
	free(key->value);
	key->value = NULL;
	key->len = 0;
	key->exists = false;
	KVPI_LIST_FOREACH (pos, nxt, &key->holds)
		++*KVPI_CONTAINER_OF(pos, kvpi_store_hold, node)->missing;
	forget_if_unused(keys, key);
}

void kvpi_store_keys_take(kvpi_store_keys *keys, kvpi_store_key *key)
{
	if (key->uses > 1)
		key->uses--;
	else
		kvpi_store_keys_drop(keys, key);
}

bool kvpi_store_keys_expire(kvpi_store_keys *keys, int64_t now_ns)
{
	kvpi_heap_node *node = kvpi_heap_peek(&keys->ttls);

	if (node == NULL || node->key > now_ns)
		return false;
	kvpi_store_keys_drop(keys, KVPI_CONTAINER_OF(node, kvpi_store_key, ttl));
	return true;
}

int64_t kvpi_store_keys_deadline(const kvpi_store_keys *keys)
{
	const kvpi_heap_node *node = kvpi_heap_peek(&keys->ttls);

	return node != NULL ? node->key : KVPI_NEVER;
}

kvp_status kvpi_store_keys_hold(
    kvpi_store_keys *keys, kvpi_view name, kvpi_store_hold *hold, size_t *missing)
{
	kvpi_store_key *key = kvpi_map_get(keys->map, name.data, name.len);

	if (key == NULL) {
		const kvp_status status = make(keys, name, &key);

		if (status != KVP_OK)
			return status;
	}
	hold->key = key;
	hold->missing = missing;
	kvpi_list_append(&key->holds, &hold->node);
	return KVP_OK;
}

void kvpi_store_keys_release(kvpi_store_keys *keys, kvpi_store_hold *hold)
{
	if (!kvpi_list_linked(&hold->node))
		return;
	kvpi_list_remove(&hold->node);
	forget_if_unused(keys, hold->key);
}
