/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounce buffers for a plane that needs dense host memory: a bounded number of slots, and the copies between a
 * slot and any layout.  Half of the slots carry what goes out, half what comes in, so that two ends that both
 * only want to send cannot take each other's last slot.
 *
 * A copy from or to a device is under way until kvpi_slot_query says otherwise; host copies are done at once.
 */
#ifndef KVPI_PLANE_STAGING_H
#define KVPI_PLANE_STAGING_H

#include "base/list.h"
#include "plane/streams.h"

typedef enum kvpi_way { KVPI_OUTWARD, KVPI_INWARD } kvpi_way;

typedef struct kvpi_slot {
	kvpi_list node;  /* of the free slots, or of its holder's list */
	kvpi_way way;
	char *data;
	uint64_t offset; /* in the layout */
	uint64_t len;    /* bytes in use */
	void *owner;     /* the holder's */
	kvpi_event *event; /* of the copy under way; NULL: none */
	const kvpi_device_ops *ops;
} kvpi_slot;

typedef struct kvpi_staging {
	kvpi_streams streams;
	kvpi_list free[2]; /* by way */
	kvpi_slot *slots;
	char *memory;
	uint64_t slot_bytes;
	uint64_t bytes;
	const kvpi_device_ops *pinned_by; /* NULL: no */
	int pinned_device;
	bool leaked; /* a copy may still write into `memory` */
} kvpi_staging;

/* At most `bytes` in all; 0: a default. */
kvp_status kvpi_staging_init(kvpi_staging *staging, uint64_t bytes);
void kvpi_staging_fini(kvpi_staging *staging); /* all slots are free, or settled in vain */

/* NULL: all are in use, ask again when one has been given back. */
kvpi_slot *kvpi_staging_take(kvpi_staging *staging, kvpi_way way);
void kvpi_staging_give(kvpi_staging *staging, kvpi_slot *slot); /* no copy is under way */
bool kvpi_staging_has(const kvpi_staging *staging, kvpi_way way);

/* How many bytes of the layout to put through one slot: less than it holds when the runs are tiny, since each
 * run of device memory is a copy of its own. */
uint64_t kvpi_staging_chunk(const kvpi_staging *staging, const kvpi_layout *layout);

/* Copies slot->len bytes of the layout, from slot->offset on, into the slot; or back. */
kvp_status kvpi_slot_gather(kvpi_staging *staging, kvpi_slot *slot, const kvpi_layout *from);
kvp_status kvpi_slot_scatter(kvpi_staging *staging, kvpi_slot *slot, const kvpi_layout *to);

/* KVP_OK: no copy is under way (any more); KVP_PENDING; KVP_E_DEVICE: it failed, and is not under way. */
kvp_status kvpi_slot_query(kvpi_slot *slot);

/* Waits until no copy is under way, a bounded time, and gives the slot back.  One that does not end keeps the slot
 * for ever. */
void kvpi_slot_settle(kvpi_staging *staging, kvpi_slot *slot);

#endif
