/* SPDX-License-Identifier: Apache-2.0
 *
 * How the simulations run: KVP_SIM_SEEDS=n worlds (1000; 200 under a sanitizer), each from its own seed, or with KVP_SIM_SEED=n that one
 * alone.  A world that fails says how to see it again.
 */
#ifndef KVP_TESTS_SIM_SEEDS_H
#define KVP_TESTS_SIM_SEEDS_H

#include <check.h>
#include <stdint.h>

/* A check that costs nothing when it holds: libcheck writes a line to a file for each of its own. */
#define SIM_CHECK(expr, ...)                                                                                           \
	do {                                                                                                           \
		if (!(expr))                                                                                           \
			ck_abort_msg(__VA_ARGS__);                                                                     \
	} while (0)

/* `regressions`, which may be NULL, are seeds that failed once, 0 at the end: they run first, always. */
void sim_run(void (*run_seed)(uint64_t seed), const uint64_t *regressions);

#endif
