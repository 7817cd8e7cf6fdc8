/* SPDX-License-Identifier: Apache-2.0
 *
 * The keys of a store server: values, uses, times to live, and for each key the calls that name it.
 * A name is in the table while it has a value or somebody holds it; both count against the limits.
 *
 * A hold counts what is missing for its owner: *missing is one less while the key has a value.  So
 * whoever waits for several keys points all holds at one counter, and has them all when that is 0.
 *
 * One thread.
 */
#ifndef KVPI_STORE_KEYS_H
#define KVPI_STORE_KEYS_H

#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "wire/view.h"
#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_store_key {
	bool exists; /* has a value */
	void *value;
	size_t len;
	uint32_t uses; /* takes left; 0 is one more, not counted */
	kvpi_heap_node ttl;
	kvpi_list holds; /* in order of arrival */
	size_t name_len;
	char name[];
} kvpi_store_key;

typedef struct kvpi_store_hold {
	kvpi_list node;
	kvpi_store_key *key;
	size_t *missing;
} kvpi_store_hold;

typedef struct kvpi_store_keys {
	kvpi_map *map;
	kvpi_heap ttls;
	uint64_t max_bytes, bytes; /* of names and values, and what was charged */
	size_t max_count;          /* of names */
	size_t existing;           /* names that have a value */
} kvpi_store_keys;

kvp_status kvpi_store_keys_init(
    kvpi_store_keys *keys, uint64_t seed, uint64_t max_bytes, size_t max_count);
void kvpi_store_keys_fini(kvpi_store_keys *keys); /* holds are forgotten, not touched */

/* KVP_E_INVALID for what cannot be a key: empty, or with a 0 byte (keys are C strings to their
 * users). */
kvp_status kvpi_store_keys_check(kvpi_view name);

kvpi_store_key *kvpi_store_keys_find(
    const kvpi_store_keys *keys, kvpi_view name); /* NULL: has no value */

/* Gives the key a copy of the value in place of what it had.  expires_ns may be KVPI_NEVER.
 * *appeared tells that it had none before.  KVP_E_TOO_LARGE (the store is full), KVP_E_NOMEM:
 * nothing changed. */
kvp_status kvpi_store_keys_put(kvpi_store_keys *keys, kvpi_view name, kvpi_view value,
    int64_t expires_ns, uint32_t uses, kvpi_store_key **key, bool *appeared);

/* Removes the value; the key itself, too, if nobody holds it. */
void kvpi_store_keys_drop(kvpi_store_keys *keys, kvpi_store_key *key);

/* One use is taken: drops the key with the last one. */
void kvpi_store_keys_take(kvpi_store_keys *keys, kvpi_store_key *key);

/* Drops the next key whose time is up; false if there is none. */
bool kvpi_store_keys_expire(kvpi_store_keys *keys, int64_t now_ns);
int64_t kvpi_store_keys_deadline(const kvpi_store_keys *keys); /* of the next one; KVPI_NEVER */

/* Bytes that something else in the store uses count like those of values.  KVP_E_TOO_LARGE: full. */
kvp_status kvpi_store_keys_charge(kvpi_store_keys *keys, size_t bytes);
void kvpi_store_keys_refund(kvpi_store_keys *keys, size_t bytes);

/* A zeroed hold joins the key's list, last; *missing changes only with later puts and drops. Errors
 * as for put. */
kvp_status kvpi_store_keys_hold(
    kvpi_store_keys *keys, kvpi_view name, kvpi_store_hold *hold, size_t *missing);
void kvpi_store_keys_release(
    kvpi_store_keys *keys, kvpi_store_hold *hold); /* harmless on a zeroed one */

#endif
