/* SPDX-License-Identifier: Apache-2.0
 *
 * Our ends: a pipe between side 0, which hosts the store, and side 1.
 */
#ifndef BENCH_PIPE_END_H
#define BENCH_PIPE_END_H

#include "ends.h"

typedef struct bench_pipe_setup {
	const char *planes; /* as the option of the same name */
	int poll_us;
	int tcp_streams;
	int checksum;
	int timeout_s;
} bench_pipe_setup;

/* A bench_side over kvp_pipe; setup is a bench_pipe_setup.  The hello is what kvp_pipe_explain says. */
int bench_pipe_side(const void *setup, int side, int in, int out);

#endif
