/* SPDX-License-Identifier: Apache-2.0
 *
 * What the store remembers of additions, so that one that is said again, because its reply was lost, counts once:
 * for each its token, made by the client, and the sum.  Bounded in number and in time; what is forgotten is known to
 * be, so that an addition said again too late is refused instead of counted twice.  One thread.
 */
#ifndef KVPI_STORE_ONCE_H
#define KVPI_STORE_ONCE_H

#include "base/list.h"
#include "base/map.h"
#include "wire/view.h"
#include <kvpipe/status.h>
#include <stdbool.h>
#include <stdint.h>

#define KVPI_STORE_ONCE_MAX 65536
#define KVPI_STORE_ONCE_MS (10 * 60 * 1000)

typedef struct kvpi_store_once {
	kvpi_map *map;
	kvpi_list entries;    /* oldest first */
	int64_t forgotten_ns; /* when the newest that was forgotten had been noted; INT64_MIN: none was */
} kvpi_store_once;

kvp_status kvpi_store_once_init(kvpi_store_once *once, uint64_t seed);
void kvpi_store_once_fini(kvpi_store_once *once);

/* Was it done?  Then *sum. */
bool kvpi_store_once_find(const kvpi_store_once *once, kvpi_view token, int64_t *sum);

/* If something with an unknown token had been done since `since_ns`, it would be remembered. */
bool kvpi_store_once_reaches(const kvpi_store_once *once, int64_t since_ns);

/* In two steps, so that what cannot be remembered is not done: the entry is made, then gets its sum or goes. */
typedef struct kvpi_store_once_entry kvpi_store_once_entry;
kvp_status kvpi_store_once_begin(
    kvpi_store_once *once, kvpi_view token, int64_t now_ns, kvpi_store_once_entry **entry);
void kvpi_store_once_done(kvpi_store_once_entry *entry, int64_t sum);
void kvpi_store_once_cancel(kvpi_store_once *once, kvpi_store_once_entry *entry);

/* Forgets what is too old. */
void kvpi_store_once_advance(kvpi_store_once *once, int64_t now_ns);

#endif
