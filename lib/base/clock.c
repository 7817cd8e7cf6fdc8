/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

static int64_t real_now(const kvpi_clock *clock)
{
	struct timespec ts;

	(void)clock;
	clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail on a clock that exists */
	return (int64_t)ts.tv_sec * KVPI_NS_PER_S + ts.tv_nsec;
}

static int64_t manual_now(const kvpi_clock *clock)
{
	return clock->manual_ns;
}

const kvpi_clock kvpi_clock_real = {.now = real_now};

void kvpi_clock_manual_init(kvpi_clock *clock, int64_t start_ns)
{
	*clock = (kvpi_clock){.now = manual_now, .manual_ns = start_ns};
}

void kvpi_clock_manual_advance(kvpi_clock *clock, int64_t ns)
{
	int64_t sum;

	if (ns < 0)
		return; /* a clock never goes back */
	clock->manual_ns = __builtin_add_overflow(clock->manual_ns, ns, &sum) ? KVPI_NEVER : sum;
}

int64_t kvpi_deadline_ms(int64_t now_ns, int64_t ms)
{
	int64_t ns, sum;

	if (ms <= 0)
		return now_ns;
	if (__builtin_mul_overflow(ms, KVPI_NS_PER_MS, &ns) ||
	    __builtin_add_overflow(now_ns, ns, &sum))
		return KVPI_NEVER;
	return sum;
}

int kvpi_ms_left(int64_t deadline_ns, int64_t now_ns)
{
	int64_t left;

	if (deadline_ns <= now_ns)
		return 0;
	if (deadline_ns == KVPI_NEVER || __builtin_sub_overflow(deadline_ns, now_ns, &left))
		return INT32_MAX;
	left = left / KVPI_NS_PER_MS + (left % KVPI_NS_PER_MS != 0);
	return left > INT32_MAX ? INT32_MAX : (int)left;
}
