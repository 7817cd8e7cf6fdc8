/* SPDX-License-Identifier: Apache-2.0
 *
 * What the examples share: the way they fail, the options that open a pipe, and small tools.
 */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <getopt.h>
#include <kvpipe/kvpipe.h>
#include <stddef.h>
#include <stdint.h>

/* ---- failing ----
 * An example that cannot go on says so in one sentence and ends with exit status 1. */

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

/* Ends the program with the library's own sentence unless the call went well. */
void must(kvp_status status);

/* Never return NULL. */
void *must_alloc(uint64_t bytes);
void *must_calloc(size_t count, size_t size);

/* ---- options ----
 * Each program has a table for getopt_long that begins with PIPE_OPTIONS, and hands every option
 * that is not its own to pipe_option(). */

struct pipe_args {
	kvp_pipe_options pipe;
	int json;
	const char *usage; /* what --help prints */
};

enum {
	OPT_SET = 256,
	OPT_TIMEOUT_MS,
	OPT_URL,
	OPT_PORT,
	OPT_NAME,
	OPT_PLANE,
	OPT_BUFFER,
	OPT_JSON,
	OPT_HELP,
	OPT_OWN /* the first number that is free for a program's own options */
};

/* clang-format off */
#define PIPE_OPTIONS                                                                               \
	{"url", required_argument, NULL, OPT_URL},                                                 \
	{"port", required_argument, NULL, OPT_PORT},                                               \
	{"name", required_argument, NULL, OPT_NAME},                                               \
	{"plane", required_argument, NULL, OPT_PLANE},                                             \
	{"buffer", required_argument, NULL, OPT_BUFFER},                                           \
	{"timeout-ms", required_argument, NULL, OPT_TIMEOUT_MS},                                   \
	{"set", required_argument, NULL, OPT_SET},                                                 \
	{"json", no_argument, NULL, OPT_JSON},                                                     \
	{"help", no_argument, NULL, OPT_HELP}

#define PIPE_USAGE                                                                                 \
	"  --url URL          the store to meet at (tcp://host:port, printed by kvpipe-store);\n"  \
	"                     without it, rank 0 hosts one at 127.0.0.1\n"                         \
	"  --port PORT        ... on this port (14579)\n"                                          \
	"  --name NAME        tells pipes on one store apart (kv)\n"                               \
	"  --plane LIST       the data planes that may be used, best first (all)\n"                \
	"  --buffer SIZE      bytes in flight at most (1e9; also 64MiB and the like)\n"            \
	"  --timeout-ms MS    for everything that waits (60000)\n"                                 \
	"  --set NAME=VALUE   any other field of kvp_pipe_options\n"                               \
	"  --json             figures as one JSON object on standard output\n"                     \
	"  --help\n"
/* clang-format on */

/* The pipe's defaults, except for a shorter time-out.  Rank 0 sends, rank 1 receives. */
void pipe_args_init(struct pipe_args *args, char **argv, int rank, const char *usage);

/* Handles one of PIPE_OPTIONS, --help, and what getopt_long did not know. */
void pipe_option(struct pipe_args *args, int option);

/* After the last option: nothing may be left. */
void no_more_arguments(int argc, char **argv);

/* "17" within min and max, and "4096", "64KiB", "1MiB", "2GiB". */
uint64_t parse_number(const char *option, const char *text, uint64_t min, uint64_t max);
uint64_t parse_bytes(const char *option, const char *text);

/* ---- small tools ---- */

/* Which way the pipe goes: kvp_pipe_explain, in memory that the caller frees.  Asked before the
 * work, because the peer may leave soon after it. */
char *explain(const kvp_pipe *pipe);

double now_seconds(void); /* of a clock that only goes forward */

/* Bytes that look random and follow from *state, which moves on.  Never test a transfer with
 * zeros: memory that was never written looks the same. */
void fill_random(void *data, size_t bytes, uint64_t *state);

/* What ended requests moved, and where their time went: sums. */
struct time_split {
	uint64_t count, bytes;
	double queue, credit, wire, notify; /* seconds, see kvp_times */
};
void add_times(struct time_split *split, const kvp_request *request);

#endif
