/* SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"

int bench_planes(int argc, char **argv)
{
	bench_option own[] = {{.name = "sizes", .argument = "LIST", .value = "4KiB,1MiB", .help = "bytes"}, {0}};
	bench_run run;

	bench_start(&run, argc, argv, "Two processes and a pipe", own);
	return bench_finish(&run, true);
}
