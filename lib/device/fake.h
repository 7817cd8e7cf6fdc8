/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake device: a GPU played by the CPU, so that what is written for device memory can be tested anywhere.
 *
 *   - Its memory is invisible to the CPU: the address that alloc returns is mapped without access, and a stray load or
 *     store faults.  The device (and tests, by kvpi_fake_read and _write) use a hidden second mapping of the
 *     same pages.  Fresh memory is full of poison.
 *   - Its streams are asynchronous.  By default all streams of a device feed one hardware queue, as on a GPU with
 *     one connection: operations run in the order of their submission, and one that waits holds up all behind it.
 *   - It can be made to run only step by step, to be late, to let streams overtake each other, and to fail, all
 *     following from a seed.
 *
 * Its one thread starts with the first allocation or stream and is gone after the last.
 */
#ifndef KVPI_DEVICE_FAKE_H
#define KVPI_DEVICE_FAKE_H

#include "base/clock.h"
#include "device/device.h"

#define KVPI_FAKE_DEVICES 4
#define KVPI_FAKE_QUEUES_MAX 8
#define KVPI_FAKE_POISON 0xdb /* each byte of fresh memory */

typedef struct kvpi_fake_options {
	unsigned queues;  /* hardware queues per device, 1..KVPI_FAKE_QUEUES_MAX; 0 counts as 1 */
	bool manual;      /* nothing runs but by kvpi_fake_tick */
	uint64_t seed;    /* of delay and reorder */
	unsigned delay;   /* an operation waits 0..delay steps before it runs */
	bool reorder;     /* operations of different streams overtake each other within a queue */
	unsigned fail_at; /* the n-th operation from now, records and waits not counted, fails; 0: none.  Its stream
	                     does nothing more, and events recorded there are KVP_E_DEVICE */
	const kvpi_clock *clock; /* for the bounds of wait lists; NULL: the real one */
} kvpi_fake_options;

/* Any thread, while nothing is queued: NULL goes back to the defaults (all zero).  Failed default streams recover. */
void kvpi_fake_set(const kvpi_fake_options *options);

/* Manual mode: `steps` times one step of every queue.  Returns how many operations have ended. */
unsigned kvpi_fake_tick(unsigned steps);

/* Reads and writes device memory from the CPU, past all queues.  KVP_E_INVALID if not all of it is the device's. */
kvp_status kvpi_fake_read(const void *ptr, void *out, size_t len);
kvp_status kvpi_fake_write(void *ptr, const void *bytes, size_t len);

/* What has run since kvpi_fake_set, and what is there. */
typedef struct kvpi_fake_counts {
	uint64_t copies, block_copies, words, waits, records; /* operations that ran */
	uint64_t bytes;        /* copied */
	uint64_t bad_accesses; /* operations that touched device memory which was not, or no longer, there */
	uint64_t queued;       /* operations that have not ended */
	uint64_t allocations, streams; /* alive */
} kvpi_fake_counts;

void kvpi_fake_count(kvpi_fake_counts *counts);

#endif
