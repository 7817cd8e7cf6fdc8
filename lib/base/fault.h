/* SPDX-License-Identifier: Apache-2.0
 *
 * Fault points: named places where a test makes the next, or the n-th, pass fail.
 *
 *	if (kvpi_fault("tcp.connect")) { errno = ECONNREFUSED; goto err; }
 *
 * Always compiled in: with nothing armed a point costs one relaxed load.  Names are "<floor or
 * file>.<what>".  Arming is for tests; the library never reads the environment for it.
 */
#ifndef KVPI_BASE_FAULT_H
#define KVPI_BASE_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>

extern atomic_int kvpi_fault_armed; /* how many points are armed */

bool kvpi_fault_hit(const char *name);

static inline bool kvpi_fault(const char *name)
{
	return atomic_load_explicit(&kvpi_fault_armed, memory_order_relaxed) != 0 && kvpi_fault_hit(name);
}

/* The n-th pass of the point sends this process the signal: what happens to others when it dies, or freezes, just
 * there?  Any thread. */
void kvpi_fault_arm_signal(const char *name, unsigned nth, int signal_number);

/* Passes number nth .. nth+count-1 (1-based, from now) of the point fail; count 0 means all from nth
 * on.  Any thread.  At most 16 points at once (more: abort, it is a test's mistake). */
void kvpi_fault_arm(const char *name, unsigned nth, unsigned count);
void kvpi_fault_disarm_all(void);
unsigned kvpi_fault_passes(const char *name); /* passes seen since it was armed */

#endif
