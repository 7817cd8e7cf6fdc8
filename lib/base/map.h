/* SPDX-License-Identifier: Apache-2.0
 *
 * Hash map from byte strings to pointers, open addressing, keys copied.  The hash is seeded per map,
 * so that keys chosen by somebody else cannot be made to collide.
 */
#ifndef KVPI_BASE_MAP_H
#define KVPI_BASE_MAP_H

#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_map kvpi_map;

/* Returns owned, or NULL without memory. */
kvpi_map *kvpi_map_new(uint64_t seed);
void kvpi_map_free(kvpi_map *map); /* not the values; accepts NULL */

size_t kvpi_map_count(const kvpi_map *map);
void *kvpi_map_get(const kvpi_map *map, const void *key, size_t len); /* NULL: not there */

/* Inserts or replaces; value not NULL.  *old (may be NULL) gets the value before, or NULL. */
kvp_status kvpi_map_put(kvpi_map *map, const void *key, size_t len, void *value, void **old);

/* Returns the removed value, or NULL. */
void *kvpi_map_remove(kvpi_map *map, const void *key, size_t len);

/* Iteration in no order: start with *cursor = 0; false at the end.  Removing the entry just returned
 * is allowed, inserting is not.  The key is borrowed from the map. */
int kvpi_map_next(const kvpi_map *map, size_t *cursor, const void **key, size_t *len, void **value);

#endif
