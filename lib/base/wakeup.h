/* SPDX-License-Identifier: Apache-2.0
 *
 * A descriptor that one thread polls and any thread makes readable (eventfd).  Posting is one system
 * call at most: while a wake-up is pending, more of them cost nothing.
 */
#ifndef KVPI_BASE_WAKEUP_H
#define KVPI_BASE_WAKEUP_H

#include <kvpipe/status.h>
#include <stdatomic.h>

typedef struct kvpi_wakeup {
	int fd;
	atomic_bool pending;
} kvpi_wakeup;

kvp_status kvpi_wakeup_init(kvpi_wakeup *wakeup);
void kvpi_wakeup_fini(kvpi_wakeup *wakeup);

/* Any thread. */
void kvpi_wakeup_post(kvpi_wakeup *wakeup);

/* The polling thread, before it looks for work: whatever is posted after this wakes the next poll. */
void kvpi_wakeup_clear(kvpi_wakeup *wakeup);

#endif
