/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/seeds.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t current; /* 0: none is running */

static void tell_seed(void)
{
	if (current != 0)
		fprintf(stderr, "seed %llu failed; again with KVP_SIM_SEED=%llu\n", (unsigned long long)current,
		        (unsigned long long)current);
}

static void run(void (*run_seed)(uint64_t seed), uint64_t seed)
{
	current = seed;
	run_seed(seed);
	current = 0;
}

void sim_run(void (*run_seed)(uint64_t seed), const uint64_t *regressions)
{
	const char *one = getenv("KVP_SIM_SEED"), *many = getenv("KVP_SIM_SEEDS");
	uint64_t count = getenv("KVP_SANITIZERS") != NULL ? 200 : 1000;

	if (many != NULL)
		count = strtoull(many, NULL, 10);

	atexit(tell_seed); /* a failed check leaves the test's process by exit */
	if (one != NULL) {
		run(run_seed, strtoull(one, NULL, 10));
		return;
	}
	while (regressions != NULL && *regressions != 0)
		run(run_seed, *regressions++);
	for (uint64_t seed = 1; seed <= count; seed++)
		run(run_seed, seed);
}
