/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench: what its subcommands share.
 *
 * A subcommand is one file, bench/NAME.c, with a function bench_NAME declared below, its line in main.c and in
 * bench.am.  It measures ours and a peer (the same job done with bare means) by turns in one run, because the speed
 * of a machine changes from minute to minute, while the ratio of two things done side by side says something about
 * the code.  Each repeat gives one ratio; the report shows their median, and the spread: least and greatest.
 *
 *	int bench_example(int argc, char **argv)
 *	{
 *		bench_option own[] = {{.name = "sizes", .argument = "LIST", .value = "4KiB,1MiB", .help = "bytes"}, {0}};
 *		bench_run run;
 *
 *		bench_start(&run, argc, argv, "one sentence on what it measures", own);
 *		... bench_spawn, bench_versus, bench_report ...
 *		return bench_finish(&run, good);
 *	}
 *
 * What uses the library is best a child process: the process that main runs in then never has threads, and may
 * fork whenever it likes.  Everything here is called from one thread.  A function that returns false has complained
 * on standard error already.  The files bench/bare_*.c are the peers; they alone know what else is installed.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <jansson.h>
#include <kvpipe/kvpipe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_REPEATS_MAX 100
#define BENCH_CHILDREN_MAX 1024

/* The subcommands.  argv[0] is the name; returns the exit code of the program. */
int bench_pipe(int argc, char **argv);
int bench_planes(int argc, char **argv);
int bench_store(int argc, char **argv);

/* ---- one run (main.c) ---------------------------------------------------------------------------- */

/* One option of a subcommand's own.  The table ends with a row whose name is NULL. */
typedef struct bench_option {
	const char *name;     /* without the dashes */
	const char *argument; /* what its value is called in the help; NULL: a flag */
	const char *help;     /* one line, with the unit */
	const char *value;    /* the default, then what was given ("" for a flag that was); may stay NULL */
} bench_option;

typedef struct bench_run {
	const char *name;  /* of the subcommand */
	int repeat;        /* --repeat N: measured rounds; default 5, with --quick 2 */
	bool quick;        /* --quick: small sizes and few rounds, to see that everything works */
	const char *json;  /* --json FILE: the document is written there; "-": to standard output, without the table */
	uint64_t seed;     /* --seed N: of the random bytes; default 1 */
	int timeout_s;     /* --timeout-s N: the life of one child process; default 120 */
	json_t *document;
} bench_run;

/* Reads the arguments.  Ends the program itself: with 0 after --help, with 2 and a sentence if they make no sense. */
void bench_start(bench_run *run, int argc, char **argv, const char *summary, bench_option *own);

/* The value of the own option `name` as a number ("64KiB", "2MiB", "1GiB") from least to most, or as a list of them
 * with commas.  What makes no sense ends the program with 2 and a sentence.  numbers[most]; returns how many. */
uint64_t bench_number(const bench_option *own, const char *name, uint64_t least, uint64_t most);
size_t bench_numbers(const bench_option *own, const char *name, uint64_t *numbers, size_t capacity, uint64_t most);

/* The value of the own option `name`; NULL when there is none. */
const char *bench_text(const bench_option *own, const char *name);

/* Kills what still runs, prints and writes the document if `good`.  Returns the exit code: 0, or 1.  A goal that is
 * missed is a result, not a failure. */
int bench_finish(bench_run *run, bool good);

/* A sentence on standard error, behind "kvpipe-bench NAME: ".  Always false.  bench_failed: with kvp_last_error(). */
bool bench_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool bench_failed(const char *what);

/* A sentence that belongs to the results: what was left out and why, which way a pipe went.  The same one twice is
 * kept once. */
void bench_note(bench_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- results (stats.c, json.c) ------------------------------------------------------------------- */

typedef struct bench_series { /* zeroed: empty */
	int count;
	double value[BENCH_REPEATS_MAX];
} bench_series;

typedef struct bench_spread {
	double median, min, max;
} bench_spread;

void bench_add(bench_series *series, double value);
bench_spread bench_spread_of(const bench_series *series);

/* The q-quantile (0..1) of values[count], which are sorted in place. */
double bench_quantile(double *values, size_t count, double q);

/* What the median has to be; a ratio is ours divided by the peer's, in whatever unit. */
typedef enum bench_goal {
	BENCH_NO_GOAL = 0,
	BENCH_RATIO_AT_LEAST, /* rates */
	BENCH_RATIO_AT_MOST,  /* times */
	BENCH_OURS_AT_LEAST,
	BENCH_OURS_AT_MOST
} bench_goal;

typedef struct bench_result {
	const char *name;   /* "latency", "throughput": what was measured */
	const char *unit;   /* "us", "GB/s", "1/s", "calls" */
	json_t *parameters; /* an object of numbers and strings, from json_pack; taken by bench_report */
	bench_series ours;  /* one value for each repeat */
	const char *peer_name; /* NULL: there is no peer */
	bench_series peer;     /* as many values as ours, in the same order */
	bench_goal goal;
	double bound;
} bench_result;

/* Adds it to the document, and prints its line.  A value that is not a finite number is complained of: false. */
bool bench_report(bench_run *run, bench_result *result);

/* One measurement: stores one value.  False after a complaint. */
typedef bool (*bench_measure)(void *user, double *value);

/* Fills result->ours and ->peer: first one round of both that does not count, then run->repeat rounds.  In every
 * second round the peer goes first.  peer NULL: ours alone. */
bool bench_versus(bench_run *run, bench_result *result, bench_measure ours, void *ours_user, bench_measure peer,
                  void *peer_user);

/* Adds "machine" (processor, cores, kernel, libc, libraries) to the document; machine.c.  bench_start does it. */
json_t *bench_machine(void);

/* ---- time and bytes (stats.c) -------------------------------------------------------------------- */

/* CLOCK_MONOTONIC, which is the same clock in all processes of a host. */
int64_t bench_now_ns(void);

/* Random bytes that depend on the seed; never a page of zeros, which the kernel could share or a copy skip. */
void bench_fill(void *data, size_t bytes, uint64_t seed);

/* Does dense `data` hold what bench_fill made?  Its first eight bytes may be a stamp and are not looked at.  row > 0: the
 * rows of so many bytes lay `stride` bytes apart where they were filled (both multiples of 8). */
bool bench_is_filled(const void *data, size_t bytes, uint64_t seed, size_t row, size_t stride);

/* Page-aligned memory, filled as above.  Returned owned (free); NULL after a complaint. */
void *bench_buffer(size_t bytes, uint64_t seed);

/* ---- child processes (child.c) ------------------------------------------------------------------- */

/*
 * A child lives for run->timeout_s seconds at most, dies with its parent, and is killed by bench_finish.  It talks to
 * its parent through two pipes.
 */
typedef struct bench_child {
	pid_t pid;
	int in, out; /* the parent's ends: read what it says, write what it shall hear */
	int64_t deadline_ns;
	char what[32];
} bench_child;

/* Runs in the child: reads orders from `in`, writes to `out`.  Its result is the exit code of the child: 0 is good. */
typedef int (*bench_child_main)(void *user, int in, int out);

/* Forks.  `what` names it in complaints.  `user` is the child's own copy.  Call it before this process has threads. */
bool bench_spawn(const bench_run *run, bench_child *child, const char *what, bench_child_main body, void *user);

/* All bytes or false: at the child's deadline, or when it has ended. */
bool bench_hear(bench_child *child, void *data, size_t bytes);
bool bench_tell(bench_child *child, const void *data, size_t bytes);

/* Waits for its end until its deadline, then kills it.  True if it ended with 0. */
bool bench_join(bench_child *child);

/* The child's own side of the same: all bytes or false (the parent is gone).  No complaint. */
bool bench_read_all(int fd, void *data, size_t bytes);
bool bench_write_all(int fd, const void *data, size_t bytes);

/* Kills and reaps whatever has not been joined. */
void bench_kill_children(void);

/* ---- counting (count.c) -------------------------------------------------------------------------- */

/* What the calling thread has done since it began: allocations (malloc, calloc, realloc, aligned ones) and calls of
 * write(2), which is how a sleeping thread is woken through an eventfd.  Counted by functions of the same names in
 * this program, through which the libraries' calls go as well. */
typedef struct bench_counts {
	uint64_t allocations, writes;
} bench_counts;

/* False, with no complaint, where it cannot count what the library does: with sanitizers, which have such functions
 * themselves, and with a libc other than glibc. */
bool bench_count(bench_counts *counts);

/* ---- bare peers (bare_zmq.c) --------------------------------------------------------------------- */

/* "4.3.4" */
void bench_zmq_version(char text[32]);

#endif
