/* SPDX-License-Identifier: Apache-2.0
 *
 * A descriptor that one thread polls and any thread makes readable (eventfd).  Posting is one system
 * call at most: while a wake-up is pending, more of them cost nothing, nor do any while the polling
 * thread is awake and has said so.
 */
#ifndef KVPI_BASE_WAKEUP_H
#define KVPI_BASE_WAKEUP_H

#include <kvpipe/status.h>
#include <stdatomic.h>

typedef struct kvpi_wakeup {
	int fd;
	atomic_uint state; /* wakeup.c's own */
} kvpi_wakeup;

kvp_status kvpi_wakeup_init(kvpi_wakeup *wakeup);
void kvpi_wakeup_fini(kvpi_wakeup *wakeup);

/* Any thread. */
void kvpi_wakeup_post(kvpi_wakeup *wakeup);

/* The polling thread, before it looks for work: whatever is posted after this wakes the next poll. */
void kvpi_wakeup_clear(kvpi_wakeup *wakeup);

/* The polling thread, two halves of clear for one that is often awake: from mute on, posts do nothing; from arm on,
 * they wake the next poll again.  So whoever mutes looks for work after arming, before it sleeps.  Neither touches the
 * descriptor: a poll that finds it readable calls clear. */
void kvpi_wakeup_mute(kvpi_wakeup *wakeup);
void kvpi_wakeup_arm(kvpi_wakeup *wakeup);

#endif
