/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench pipe: one pipe over one plane, beside what the machine can do without us.
 */
#include "iperf.h"
#include "pipe_end.h"

#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define SIZES_MAX 16

typedef struct pipe_bench {
	bench_run run;
	bench_pipe_setup setup;
	bench_shape shape;
	bool is_tcp, is_shm, is_self;
	uint64_t sizes[SIZES_MAX];
	size_t size_count;
	int poll_us; /* of the polling half of the latency */
} pipe_bench;

static bool start_ours(pipe_bench *bench, bench_ends *ends)
{
	bench_hello hello;

	bench->setup.timeout_s = bench->run.timeout_s;
	if (!bench_ends_start(&bench->run, ends, "an end of the pipe", bench->shape, bench_pipe_side, &bench->setup, &hello))
		return false;
	hello.text[strcspn(hello.text, "\n")] = '\0';
	bench_note(&bench->run, "which way: %s", hello.text);
	return true;
}

/* ---- latency ---- */

static bool latency_of(pipe_bench *bench, bench_job job, bench_ends *ours, bench_ends *zmq)
{
	const bool one_way = job == BENCH_ONE_WAY;
	const bench_order order = {
	    .job = job, .bytes = 4096, .count = bench->run.quick ? 200 : 4000, .window = 1, .seed = bench->run.seed};
	bench_task mine = {.ends = ours, .order = order, .side = one_way ? 1 : 0, .per = 1000}, bare = mine;
	bench_result result = {.name = one_way ? "one-way" : "half-trip", .unit = "us", .peer_name = "bare ZeroMQ, tcp"};

	bare.ends = zmq;
	if (one_way && bench->is_shm && bench->setup.poll_us > 0) {
		result.goal = BENCH_OURS_AT_MOST;
		result.bound = 5;
	} else if (one_way && bench->is_tcp) {
		result.goal = BENCH_RATIO_AT_MOST;
		result.bound = 2;
	}
	result.parameters = json_pack("{s:s, s:i, s:i, s:s}", "plane", bench->setup.planes, "bytes", 4096, "poll_us",
	    bench->setup.poll_us, "figure", "median");
	return bench_versus(&bench->run, &result, bench_task_measure, &mine, bench_task_measure, &bare) &&
	       bench_report(&bench->run, &result);
}

static bool latency(pipe_bench *bench)
{
	bench_ends zmq;
	bool good =
	    bench_ends_start(&bench->run, &zmq, "bare ZeroMQ", BENCH_TWO_PROCESSES, bench_bare_zmq, NULL, NULL);

	for (int polling = 0; good && polling < 2; polling++) {
		bench_ends ours;

		bench->setup.poll_us = polling ? bench->poll_us : 0;
		good = start_ours(bench, &ours) && latency_of(bench, BENCH_ONE_WAY, &ours, &zmq) &&
		       latency_of(bench, BENCH_PING_PONG, &ours, &zmq) && bench_ends_stop(&ours);
	}
	bench->setup.poll_us = 0;
	return good && bench_ends_stop(&zmq);
}

/* ---- throughput ---- */

/* Enough for a second or so, and what is in flight fits into memory twice. */
static bench_order stream_order(const pipe_bench *bench, uint64_t bytes, bool shared)
{
	const uint64_t total = bench->run.quick ? 8 * MIB : 2048 * MIB, most = bench->run.quick ? 200 : 20000;
	bench_order order = {.job = BENCH_STREAM, .bytes = bytes, .shared = shared, .seed = bench->run.seed};

	order.window = 256 * MIB / bytes;
	order.window = order.window < 1 ? 1 : order.window > 8 ? 8 : order.window;
	order.count = total / bytes;
	order.count = order.count < 2 ? 2 : order.count > most ? most : order.count;
	return order;
}

typedef struct stream_peer {
	const char *name;
	bench_shape shape;
	bench_side body;
	bool shared;
	double goal; /* for at least 1 MiB; 0: none */
} stream_peer;

static bool stream_size(pipe_bench *bench, const stream_peer *peer, uint64_t bytes, bench_ends *ours, bench_ends *bare)
{
	const bench_order order = stream_order(bench, bytes, peer->shared);
	const double total = (double)bytes * (double)order.count * 1e-9;
	bench_task mine = {.ends = ours, .order = order, .total = total}, theirs = mine;
	bench_result result = {.name = "throughput", .unit = "GB/s", .peer_name = peer->name};

	theirs.ends = bare;
	result.parameters = json_pack("{s:s, s:I, s:s, s:I, s:i}", "plane", bench->setup.planes, "bytes", (json_int_t)bytes,
	    "memory", peer->shared ? "kvp_mem_alloc" : "private", "window", (json_int_t)order.window, "poll_us",
	    bench->setup.poll_us);
	if (peer->goal > 0 && bytes >= MIB) {
		result.goal = BENCH_RATIO_AT_LEAST;
		result.bound = peer->goal;
	}
	return bench_versus(&bench->run, &result, bench_task_measure, &mine, bench_task_measure, &theirs) &&
	       bench_report(&bench->run, &result);
}

/* Where memory is shared the wake-ups weigh as much as the bytes: with polling, too. */
static bool throughput_beside(pipe_bench *bench, const stream_peer *peer)
{
	const int rounds = bench->is_shm ? 2 : 1;
	bench_ends ours, bare;
	bench_hello hello;
	bool good = true;

	if (!bench_ends_start(&bench->run, &bare, peer->name, peer->shape, peer->body, &bench->run, &hello))
		return false;
	if (hello.text[0] != '\0') {
		bench_note(&bench->run, "throughput beside %s is left out: %s", peer->name, hello.text);
		return bench_ends_stop(&bare);
	}
	for (int polling = 0; good && polling < rounds; polling++) {
		bench->setup.poll_us = polling ? bench->poll_us : 0;
		good = start_ours(bench, &ours);
		for (size_t i = 0; good && i < bench->size_count; i++)
			good = stream_size(bench, peer, bench->sizes[i], &ours, &bare);
		good = good && bench_ends_stop(&ours);
	}
	bench->setup.poll_us = 0;
	return good && bench_ends_stop(&bare);
}

static bool throughput_beside_iperf(pipe_bench *bench)
{
	const bench_order order = stream_order(bench, MIB, false);
	bench_iperf_test test = {.run = &bench->run, .bytes = MIB, .count = order.count};
	bench_result result = {.name = "throughput", .unit = "GB/s", .peer_name = "iperf3", .goal = BENCH_RATIO_AT_LEAST};
	bench_task mine = {.order = order, .total = (double)MIB * (double)order.count * 1e-9};
	bench_ends ours;

	if (!bench_have_program("iperf3")) {
		bench_note(&bench->run, "throughput beside iperf3 is left out: it is not installed");
		return true;
	}
	mine.ends = &ours;
	result.bound = 1;
	result.parameters = json_pack("{s:s, s:I, s:s, s:I}", "plane", bench->setup.planes, "bytes", (json_int_t)MIB,
	    "memory", "private", "window", (json_int_t)order.window);
	return start_ours(bench, &ours) &&
	       bench_versus(&bench->run, &result, bench_task_measure, &mine, bench_iperf, &test) &&
	       bench_report(&bench->run, &result) && bench_ends_stop(&ours);
}

static bool throughput(pipe_bench *bench)
{
	static const stream_peer loop = {"bare send/recv", BENCH_TWO_PROCESSES, bench_bare_tcp, false, 0.95},
	                         mapped = {"memcpy", BENCH_ALONE, bench_bare_memcpy, true, 0.9},
	                         foreign = {"process_vm_readv", BENCH_ALONE, bench_bare_readv, false, 0.95},
	                         inside = {"memcpy", BENCH_ALONE, bench_bare_memcpy, false, 0};

	if (bench->is_tcp)
		return throughput_beside(bench, &loop) && throughput_beside_iperf(bench);
	if (bench->is_shm)
		return throughput_beside(bench, &mapped) && throughput_beside(bench, &foreign);
	return throughput_beside(bench, &inside);
}

/* ---- posting ---- */

static bool report_posting(pipe_bench *bench, const char *name, const char *unit, const bench_task *task, double goal)
{
	bench_task mine = *task;
	bench_result result = {.name = name, .unit = unit, .goal = goal >= 0 ? BENCH_OURS_AT_MOST : BENCH_NO_GOAL,
	    .bound = goal};

	result.parameters = json_pack("{s:s, s:i}", "plane", bench->setup.planes, "bytes", 4096);
	return bench_versus(&bench->run, &result, bench_task_measure, &mine, NULL, NULL) &&
	       bench_report(&bench->run, &result);
}

static bool posting(pipe_bench *bench)
{
	bench_counts counts;
	bench_ends ours;
	bench_task task = {.ends = &ours, .per = 1,
	    .order = {.job = BENCH_POST, .bytes = 4096, .count = bench->run.quick ? 256 : 8192, .window = 16,
	        .seed = bench->run.seed}};
	bench_task time = task, allocations = task, writes = task, mean = task;

	time.per = 1000;
	allocations.figure = 1;
	writes.figure = 2;
	mean.figure = 3;
	if (!start_ours(bench, &ours) || !report_posting(bench, "post, time", "us", &time, -1))
		return false;
	if (!bench_count(&counts)) {
		bench_note(&bench->run, "posting: allocations and wake-ups cannot be counted in this build");
		return bench_ends_stop(&ours);
	}
	bench_note(&bench->run, "posting: counted are calls of malloc and its kin, and of write(2), by the sending thread "
	                        "inside kvp_pipe_send; \"most\" is that of the worst call");
	return report_posting(bench, "post, most allocations", "calls", &allocations, 0) &&
	       report_posting(bench, "post, most wake-ups", "calls", &writes, 1) &&
	       report_posting(bench, "post, mean wake-ups", "calls", &mean, -1) && bench_ends_stop(&ours);
}

/* ---- the subcommand ---- */

static bool has_word(const char *list, const char *word)
{
	for (size_t len = strlen(word); *list != '\0'; list += strcspn(list, ",") + (list[strcspn(list, ",")] == ',')) {
		if (strcspn(list, ",") == len && memcmp(list, word, len) == 0)
			return true;
	}
	return false;
}

int bench_pipe(int argc, char **argv)
{
	static pipe_bench bench;
	bench_option own[] = {
	    {.name = "plane", .argument = "NAME", .value = "tcp", .help = "the data plane"},
	    {.name = "sizes", .argument = "LIST", .help = "bytes of a tensor (4KiB,64KiB,1MiB,16MiB,256MiB,1GiB)"},
	    {.name = "what", .argument = "LIST", .value = "latency,throughput,posting", .help = "what to measure"},
	    {.name = "poll-us", .argument = "N", .value = "100", .help = "poll_us of the polling half of latency"},
	    {.name = "streams", .argument = "N", .value = "1", .help = "tcp_streams"},
	    {.name = "checksum", .help = "with a digest of each payload"},
	    {0},
	};
	const char *what;
	bool good = true;

	bench_start(&bench.run, argc, argv, "Measures a pipe between two processes beside bare means", own);
	if (bench_text(own, "sizes") == NULL)
		own[1].value = bench.run.quick ? "4KiB,1MiB" : "4KiB,64KiB,1MiB,16MiB,256MiB,1GiB";
	bench.size_count = bench_numbers(own, "sizes", bench.sizes, SIZES_MAX, UINT64_C(16) << 30);
	for (size_t i = 0; i < bench.size_count; i++) {
		if (bench.sizes[i] < 8) {
			bench_complain("--sizes: a tensor has at least 8 bytes");
			return 2;
		}
	}
	bench.poll_us = (int)bench_number(own, "poll-us", 1, 1000000);
	bench.setup.tcp_streams = (int)bench_number(own, "streams", 1, 16);
	bench.setup.checksum = bench_text(own, "checksum") != NULL;
	bench.setup.planes = bench_text(own, "plane");
	bench.is_tcp = strcmp(bench.setup.planes, "tcp") == 0;
	bench.is_shm = strcmp(bench.setup.planes, "shm") == 0;
	bench.is_self = strcmp(bench.setup.planes, "self") == 0;
	bench.shape = bench.is_self ? BENCH_TWO_THREADS : BENCH_TWO_PROCESSES;
	what = bench_text(own, "what");

	if (has_word(what, "latency"))
		good = latency(&bench);
	if (good && has_word(what, "throughput"))
		good = throughput(&bench);
	if (good && has_word(what, "posting"))
		good = posting(&bench);
	return bench_finish(&bench.run, good);
}
