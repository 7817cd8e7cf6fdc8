/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of a group share: group.c has the public calls, group_form.c the rendezvous,
 * group_keys.c how both use the store.  Keys of a group begin with "g/<name>/":
 *
 *   join/<rank>                "<uuid> <world size> <host id>": stands ready as that rank
 *   epoch                      the last epoch, a number
 *   form/<uuid>                rank 0's answer to one who joined: "ok <epoch>", "no <why>"; uses 1
 *   <epoch>/here/<rank>        empty: the rank's sign of life, uses 1
 *   <epoch>/hosts              host ids of all ranks, a line each; empty: begin again; uses n-1
 *   <epoch>/s/<from>/<to>/<i>  an object sent, uses 1
 *   <epoch>/b/<i>/<root>       an object broadcast, uses n-1
 *
 * and <epoch>/c names the gathering (gather.h) that barriers and all-gathers are rounds of.
 *
 * What is taken is gone, and what nobody takes has a time to live: an abandoned group leaves
 * nothing behind.
 */
#ifndef KVPI_STORE_GROUP_H
#define KVPI_STORE_GROUP_H

#include "base/thread.h"
#include <kvpipe/store.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_GROUP_WORLD_MAX 1024
#define KVPI_GROUP_NAME_MAX 64
#define KVPI_GROUP_KEY_BYTES 128 /* the longest key above, with a final 0 */

struct kvp_group {
	kvpi_handle handle;
	kvp_store *store;
	uint64_t incarnation; /* of the store that the group was formed in */
	char name[KVPI_GROUP_NAME_MAX + 1];
	int rank, world_size;
	uint64_t epoch;
	uint64_t broadcasts; /* done so far; the next one's number */
	uint64_t gathers;    /* barriers and all-gathers, likewise */
	struct {
		uint64_t sent, received; /* objects so far */
		bool same_host;
	} peers[];
};

/* One public call: its name for sentences, and its time. */
typedef struct kvpi_group_op {
	const char *call;
	int ms; /* 0: each store call is tried once */
	int64_t deadline_ns;
} kvpi_group_op;

kvp_status kvpi_group_op_begin(
    kvpi_group_op *op, const kvp_store *store, const char *call, int timeout_ms);

/* For the next of several store calls.  KVP_E_TIMEOUT when nothing is left. */
kvp_status kvpi_group_time_left(const kvpi_group_op *op, int *ms);

/* A part of the time that is left: divided by `divisor`, and at most that much. */
kvp_status kvpi_group_op_part(
    const kvpi_group_op *op, int divisor, int most_ms, kvpi_group_op *part);

void kvpi_group_key(const kvp_group *group, char key[KVPI_GROUP_KEY_BYTES], const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* How long what a call leaves in the store lives there when nobody comes for it. */
int64_t kvpi_group_ttl_ms(const kvpi_group_op *op);

/* Sets a key that goes after `uses` takes, or when nobody has come for long. */
kvp_status kvpi_group_put(const kvp_group *group, const kvpi_group_op *op, const char *key,
    const void *value, size_t len, uint32_t uses);

kvp_status kvpi_group_take(
    const kvp_group *group, const kvpi_group_op *op, const char *key, kvp_bytes *value);

/* One key per rank, as a store call takes them. */
typedef struct kvpi_group_keys {
	char (*text)[KVPI_GROUP_KEY_BYTES];
	const char **keys;
	unsigned char *missing; /* flags, after a time-out */
	size_t count;
} kvpi_group_keys;

/* "<prefix><rank>" for every rank. */
kvp_status kvpi_group_keys_init(kvpi_group_keys *keys, const kvp_group *group, const char *prefix);
void kvpi_group_keys_fini(kvpi_group_keys *keys);

/* Waits until all keys are there. */
kvp_status kvpi_group_wait_all(
    const kvp_group *group, const kvpi_group_op *op, kvpi_group_keys *keys);

/* Waits for all keys, then takes them.  values (NULL: not wanted) has room for all; untouched on
 * failure. */
kvp_status kvpi_group_take_all(
    const kvp_group *group, const kvpi_group_op *op, kvpi_group_keys *keys, kvp_bytes *values);

/* KVP_E_TIMEOUT with the ranks whose flags are set. */
kvp_status kvpi_group_name_late(
    const kvp_group *group, const kvpi_group_op *op, const unsigned char *missing);

/* Meets the others: fills epoch and peers in. */
kvp_status kvpi_group_form(kvp_group *group, const kvpi_group_op *op);

#endif
