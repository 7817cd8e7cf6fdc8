/* SPDX-License-Identifier: Apache-2.0
 *
 * Time as a value that is handed in.  Nanoseconds on a clock that never goes back (CLOCK_MONOTONIC),
 * or a manual clock in tests.  State machines take `now`, never a clock.
 */
#ifndef KVPI_BASE_CLOCK_H
#define KVPI_BASE_CLOCK_H

#include <stdint.h>

#define KVPI_NS_PER_MS INT64_C(1000000)
#define KVPI_NS_PER_S INT64_C(1000000000)
#define KVPI_NEVER INT64_MAX

typedef struct kvpi_clock kvpi_clock;
struct kvpi_clock {
	int64_t (*now)(const kvpi_clock *clock);
	int64_t manual_ns; /* of a manual clock; set it through kvpi_clock_manual_advance */
};

/* The process's monotonic clock; a static object. */
extern const kvpi_clock kvpi_clock_real;

/* A clock that stands at start_ns until it is advanced.  One thread, or the caller's lock. */
void kvpi_clock_manual_init(kvpi_clock *clock, int64_t start_ns);
void kvpi_clock_manual_advance(kvpi_clock *clock, int64_t ns);

static inline int64_t kvpi_now(const kvpi_clock *clock)
{
	return clock->now(clock);
}

/* now + ms without overflow; a negative ms counts as 0. */
int64_t kvpi_deadline_ms(int64_t now_ns, int64_t ms);

/* Milliseconds left until the deadline, rounded up, 0 if past, at most INT32_MAX (for poll). */
int kvpi_ms_left(int64_t deadline_ns, int64_t now_ns);

#endif
