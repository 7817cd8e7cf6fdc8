/* SPDX-License-Identifier: Apache-2.0
 *
 * iperf3 as a peer of the throughput over tcp.
 */
#ifndef BENCH_IPERF_H
#define BENCH_IPERF_H

#include "bench.h"

typedef struct bench_iperf_test {
	const bench_run *run;
	uint64_t bytes, count; /* of one write, and how many */
} bench_iperf_test;

/* Is it in PATH? */
bool bench_have_program(const char *name);

/* A bench_measure of a bench_iperf_test: GB/s at the receiver. */
bool bench_iperf(void *user, double *value);

#endif
