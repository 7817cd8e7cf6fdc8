/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include "base/alloc.h"
#include "base/error.h"
#include <stdbool.h>
#include <string.h>

#define FIRST_CAPACITY 8

/* Never used: key NULL.  Removed: value NULL, but searches go on past it. */
struct slot {
	void *key;
	size_t len;
	uint64_t hash;
	void *value;
};

struct kvpi_map {
	struct slot *slots;
	size_t capacity; /* a power of two, or 0 */
	size_t used;     /* slots that were ever used: live and removed */
	size_t count;    /* live ones */
	uint64_t key[2];
};

/* Marks a removed slot's key; only its address matters. */
static char removed;

static uint64_t rotl(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static uint64_t load64(const unsigned char *bytes, size_t len)
{
	uint64_t word = 0;

	for (size_t i = 0; i < len; i++)
		word |= (uint64_t)bytes[i] << (8 * i);
	return word;
}

static void sip_rounds(uint64_t v[4], int rounds)
{
	while (rounds-- > 0) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] = rotl(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] = rotl(v[2], 32);
	}
}

/* SipHash-1-3: keys come from the network, and a plain hash could be flooded. */
static uint64_t hash_key(const kvpi_map *map, const void *key, size_t len)
{
	const unsigned char *bytes = key;
	uint64_t v[4] = {map->key[0] ^ UINT64_C(0x736f6d6570736575),
	    map->key[1] ^ UINT64_C(0x646f72616e646f6d), map->key[0] ^ UINT64_C(0x6c7967656e657261),
	    map->key[1] ^ UINT64_C(0x7465646279746573)};
	size_t left = len;

	for (; left >= 8; left -= 8, bytes += 8) {
		uint64_t word = load64(bytes, 8);

		v[3] ^= word;
		sip_rounds(v, 1);
		v[0] ^= word;
	}
	uint64_t last = (uint64_t)len << 56 | load64(bytes, left);
	v[3] ^= last;
	sip_rounds(v, 1);
	v[0] ^= last;
	v[2] ^= 0xff;
	sip_rounds(v, 3);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

kvpi_map *kvpi_map_new(uint64_t seed)
{
	kvpi_map *map = KVPI_NEW(kvpi_map);

	if (map != NULL) {
		map->key[0] = seed;
		map->key[1] = rotl(seed, 32) * UINT64_C(0x9e3779b97f4a7c15);
	}
	return map;
}

void kvpi_map_free(kvpi_map *map)
{
	if (map == NULL)
		return;
	for (size_t i = 0; i < map->capacity; i++) {
		if (map->slots[i].value != NULL)
			free(map->slots[i].key);
	}
	free(map->slots);
	free(map);
}

size_t kvpi_map_count(const kvpi_map *map)
{
	return map->count;
}

static struct slot *find(const kvpi_map *map, const void *key, size_t len, uint64_t hash)
{
	size_t mask = map->capacity - 1;

	if (map->capacity == 0)
		return NULL;
	for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
		struct slot *slot = &map->slots[i];

		if (slot->key == NULL)
			return NULL;
		if (slot->value != NULL && slot->hash == hash && slot->len == len &&
		    (len == 0 || memcmp(slot->key, key, len) == 0))
			return slot;
	}
}

void *kvpi_map_get(const kvpi_map *map, const void *key, size_t len)
{
	const struct slot *slot = find(map, key, len, hash_key(map, key, len));

	return slot == NULL ? NULL : slot->value;
}

/* The first slot on the hash's path that holds nothing; there is one, for a map is never full. */
static struct slot *free_slot(struct slot *slots, size_t capacity, uint64_t hash)
{
	size_t i = (size_t)hash & (capacity - 1);

	while (slots[i].value != NULL)
		i = (i + 1) & (capacity - 1);
	return &slots[i];
}

/* Makes room for one more, and drops the marks of removed entries: a quarter of the slots stays
 * unused, else a search for what is not there would never end. */
static bool reserve(kvpi_map *map)
{
	size_t capacity = FIRST_CAPACITY;

	if (map->used + 1 <= map->capacity - map->capacity / 4)
		return true;
	while (capacity / 2 < map->count + 1) {
		if (capacity > SIZE_MAX / 2)
			return false;
		capacity *= 2;
	}
	struct slot *slots = kvpi_calloc(capacity, sizeof(*slots));
	if (slots == NULL)
		return false;
	for (size_t i = 0; i < map->capacity; i++) {
		if (map->slots[i].value != NULL)
			*free_slot(slots, capacity, map->slots[i].hash) = map->slots[i];
	}
	free(map->slots);
	map->slots = slots;
	map->capacity = capacity;
	map->used = map->count;
	return true;
}

kvp_status kvpi_map_put(kvpi_map *map, const void *key, size_t len, void *value, void **old)
{
	uint64_t hash = hash_key(map, key, len);
	struct slot *slot = find(map, key, len, hash);

	if (value == NULL)
		return kvpi_error(KVP_E_INVALID, "a map holds no NULL values");
	if (slot != NULL) {
		if (old != NULL)
			*old = slot->value;
		slot->value = value;
		return KVP_OK;
	}

	void *copy = kvpi_memdup(key, len);
	if (copy == NULL || !reserve(map)) {
		free(copy);
		return kvpi_error_nomem("an entry of a map");
	}
	slot = free_slot(map->slots, map->capacity, hash);
	if (slot->key == NULL)
		map->used++;
	*slot = (struct slot){.key = copy, .len = len, .hash = hash, .value = value};
	map->count++;
	if (old != NULL)
		*old = NULL;
	return KVP_OK;
}

void *kvpi_map_remove(kvpi_map *map, const void *key, size_t len)
{
	struct slot *slot = find(map, key, len, hash_key(map, key, len));

	if (slot == NULL)
		return NULL;
	void *value = slot->value;
	free(slot->key);
	*slot = (struct slot){.key = &removed};
	map->count--;
	return value;
}

int kvpi_map_next(const kvpi_map *map, size_t *cursor, const void **key, size_t *len, void **value)
{
	for (; *cursor < map->capacity; (*cursor)++) {
		const struct slot *slot = &map->slots[*cursor];

		if (slot->value == NULL)
			continue;
		*key = slot->key;
		*len = slot->len;
		*value = slot->value;
		(*cursor)++;
		return 1;
	}
	return 0;
}
