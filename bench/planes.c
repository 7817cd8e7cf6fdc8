/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench planes: every data plane of this build with tensors of different kinds, and which way they went.
 *
 * Which planes there are is asked of the library: a pipe that may choose explains why it took one and not the others.
 */
#include "pipe_end.h"

#include <stdio.h>
#include <string.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define SIZES_MAX 16
#define PLANES_MAX 16

typedef struct planes_bench {
	bench_run run;
	uint64_t sizes[SIZES_MAX];
	size_t size_count;
} planes_bench;

typedef struct item_kind {
	const char *name;
	bool strided, small;
} item_kind;

static const item_kind kinds[] = {{"contiguous", false, false}, {"strided", true, false}, {"many small", false, true}};

/* `bytes` in all: one item, or many of 4 KiB.  The figure is the time for all of them, taken over several goes. */
static bool measure(planes_bench *bench, bench_ends *ends, const char *plane, const item_kind *kind, uint64_t bytes,
                    bool shared)
{
	const uint64_t total = bench->run.quick ? 4 * MIB : 512 * MIB;
	const uint64_t goes = total / bytes < 2 ? 2 : total / bytes > 2000 ? 2000 : total / bytes;
	const uint64_t each = kind->small ? 4 * KIB : bytes;
	bench_task task = {.ends = ends, .per = (double)goes * 1e-6,
	    .order = {.job = BENCH_STREAM, .bytes = each, .count = goes * (bytes / each), .window = kind->small ? 32 : 1,
	        .strided = kind->strided, .shared = shared, .seed = bench->run.seed}};
	bench_result time = {.name = "time", .unit = "us"}, rate = {.name = "rate", .unit = "GB/s"};
	json_t *const parameters = json_pack("{s:s, s:s, s:I, s:s}", "plane", plane, "kind", kind->name, "bytes",
	    (json_int_t)bytes, "memory", shared ? "kvp_mem_alloc" : "private");

	if (!bench_versus(&bench->run, &time, bench_task_measure, &task, NULL, NULL)) {
		json_decref(parameters);
		return false;
	}
	for (int i = 0; i < time.ours.count; i++)
		bench_add(&rate.ours, (double)bytes * 1e-3 / time.ours.value[i]);
	time.parameters = json_incref(parameters);
	rate.parameters = parameters;
	if (!bench_report(&bench->run, &time)) {
		json_decref(parameters);
		return false;
	}
	return bench_report(&bench->run, &rate);
}

static bool measure_all(planes_bench *bench, bench_ends *ends, const char *plane, bool shared)
{
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		for (size_t i = 0; i < bench->size_count; i++) {
			/* One row is not strided, one small tensor not many. */
			if (k > 0 && bench->sizes[i] < 16 * KIB)
				continue;
			if (!measure(bench, ends, plane, &kinds[k], bench->sizes[i], shared))
				return false;
		}
	}
	return true;
}

static bool one_plane(planes_bench *bench, const char *plane, bench_shape shape)
{
	const bench_pipe_setup setup = {.planes = plane, .tcp_streams = 1, .timeout_s = bench->run.timeout_s};
	bench_hello hello;
	bench_ends ends;

	if (!bench_ends_start(&bench->run, &ends, plane, shape, bench_pipe_side, &setup, &hello))
		return false;
	bench_note(&bench->run, "which way: %s", hello.text);
	/* Memory from kvp_mem_alloc makes a difference where processes share it. */
	return measure_all(bench, &ends, plane, false) &&
	       (strcmp(plane, "shm") != 0 || measure_all(bench, &ends, plane, true)) && bench_ends_stop(&ends);
}

/* Lines like "  tcp: yes, sockets reach every peer": the planes that could be used, in names[count]. */
static size_t usable_planes(char *text, char *names[PLANES_MAX])
{
	size_t count = 0;
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		char *const colon = strchr(line, ':');
		bool known = false;

		/* A line that begins without a blank names the peer: the list is said for each direction. */
		if (line[0] != ' ' || colon == NULL || strncmp(colon, ": yes", 5) != 0)
			continue;
		*colon = '\0';
		line += strspn(line, " ");
		for (size_t i = 0; i < count; i++)
			known |= strcmp(names[i], line) == 0;
		if (!known && count < PLANES_MAX)
			names[count++] = line;
	}
	return count;
}

static bool all_planes(planes_bench *bench, bench_shape shape)
{
	const bench_pipe_setup setup = {.planes = "", .tcp_streams = 1, .timeout_s = bench->run.timeout_s};
	char *names[PLANES_MAX];
	bench_hello hello;
	bench_ends ends;
	size_t count;

	if (!bench_ends_start(&bench->run, &ends, "a pipe that may choose", shape, bench_pipe_side, &setup, &hello) ||
	    !bench_ends_stop(&ends))
		return false;
	bench_note(&bench->run, "%s: %s", shape == BENCH_TWO_THREADS ? "in one process" : "between processes", hello.text);
	count = usable_planes(hello.text, names);
	if (count == 0)
		return bench_complain("no plane was found in: %s", hello.text);
	for (size_t i = 0; i < count; i++) {
		/* What goes between processes too is measured there. */
		if (shape == BENCH_TWO_THREADS && strcmp(names[i], "self") != 0)
			continue;
		if (!one_plane(bench, names[i], shape))
			return false;
	}
	return true;
}

int bench_planes(int argc, char **argv)
{
	static planes_bench bench;
	bench_option own[] = {
	    {.name = "sizes", .argument = "LIST", .help = "bytes in all, multiples of 4096 (4KiB,64KiB,1MiB,16MiB,256MiB)"},
	    {0},
	};
	bool good;

	bench_start(&bench.run, argc, argv,
	    "Measures every data plane of this build with contiguous, strided and many small tensors", own);
	if (own[0].value == NULL)
		own[0].value = bench.run.quick ? "4KiB,1MiB" : "4KiB,64KiB,1MiB,16MiB,256MiB";
	bench.size_count = bench_numbers(own, "sizes", bench.sizes, SIZES_MAX, UINT64_C(4) << 30);
	for (size_t i = 0; i < bench.size_count; i++) {
		if (bench.sizes[i] % BENCH_ROW_BYTES != 0) {
			bench_complain("--sizes: each is a multiple of %d bytes", BENCH_ROW_BYTES);
			return 2;
		}
	}
	good = all_planes(&bench, BENCH_TWO_THREADS) && all_planes(&bench, BENCH_TWO_PROCESSES);
	return bench_finish(&bench.run, good);
}
