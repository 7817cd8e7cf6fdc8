/* SPDX-License-Identifier: Apache-2.0
 *
 * Byte-bounded admission: how a sender is held back without a queue that grows.
 *
 * `used` never passes `limit`, with one exception that must not dead-lock: an item larger than
 * the whole limit is admitted when nothing else is in.  After a refusal, nothing new is admitted
 * ahead of those who wait in order of arrival; the room event fires once `used` has fallen to
 * `low`, so that a refused caller is not woken for every few bytes.  Until it fires, tries are
 * refused, small ones too: else they could keep `used` above `low` for ever.  Bytes are given back
 * exactly once by whoever holds them.
 */
#ifndef KVPI_BASE_ADMISSION_H
#define KVPI_BASE_ADMISSION_H

#include "base/list.h"
#include <kvpipe/status.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct kvpi_admission {
	pthread_mutex_t mutex;
	pthread_cond_t room;
	uint64_t limit, low;      /* bytes */
	uint64_t used, peak;      /* bytes */
	kvpi_list waiters;        /* those who block, in order of arrival */
	uint64_t refusals;        /* calls that found no room at once */
	bool starved;             /* somebody was told AGAIN and waits for the event */
	bool closed;
	void (*on_room)(void *user); /* called without the lock held, by the thread that gives back */
	void *on_room_user;
} kvpi_admission;

/* low is at most limit; on_room may be NULL. */
kvp_status kvpi_admission_init(kvpi_admission *admission, uint64_t limit, uint64_t low,
                               void (*on_room)(void *user), void *user);
void kvpi_admission_fini(kvpi_admission *admission); /* nobody may wait any more */

/* Any thread.  KVP_OK: the bytes are the caller's to give back.  No room by the deadline:
 * KVP_E_AGAIN if the deadline had passed at entry (a try), else KVP_E_TIMEOUT.  KVP_E_CLOSED. */
kvp_status kvpi_admission_take(kvpi_admission *admission, uint64_t bytes, int64_t deadline_ns);
void kvpi_admission_give_back(kvpi_admission *admission, uint64_t bytes);

/* Any thread: the figures of one moment. */
void kvpi_admission_read(kvpi_admission *admission, uint64_t *used, uint64_t *peak, uint64_t *refusals);

/* Wakes all who wait with KVP_E_CLOSED, and fires the event if somebody waits for it; later takes
 * fail likewise, give_back still works. */
void kvpi_admission_close(kvpi_admission *admission);

#endif
