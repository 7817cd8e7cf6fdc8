/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *program = "example";

/* ---- failing ---- */

void fail(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", program);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void must(kvp_status status)
{
	if (status != KVP_OK)
		fail("%s", kvp_last_error());
}

void *must_alloc(uint64_t bytes)
{
	void *data = bytes <= SIZE_MAX ? malloc(bytes > 0 ? (size_t)bytes : 1) : NULL;

	if (data == NULL)
		fail("out of memory: %llu bytes were wanted", (unsigned long long)bytes);
	return data;
}

void *must_calloc(size_t count, size_t size)
{
	void *data = calloc(count > 0 ? count : 1, size);

	if (data == NULL)
		fail("out of memory: %zu times %zu bytes were wanted", count, size);
	return data;
}

/* ---- options ---- */

void pipe_args_init(struct pipe_args *args, char **argv, int rank, const char *usage)
{
	const char *slash = strrchr(argv[0], '/');

	if (slash != NULL)
		argv[0] += slash + 1 - argv[0]; /* for the sentences of getopt_long, too */
	program = argv[0];
	args->json = 0;
	args->usage = usage;
	kvp_pipe_options_init(&args->pipe);
	args->pipe.kv_rank = rank;
	args->pipe.store_timeout_ms = 60000;
}

/* The library knows its options by name, checks their values and says what is wrong with them. */
static void set_option(struct pipe_args *args, const char *name, const char *value)
{
	must(kvp_pipe_options_set(&args->pipe, name, value));
}

static void set_pair(struct pipe_args *args, char *pair)
{
	char *equals = strchr(pair, '=');

	if (equals == NULL)
		fail("--set: \"%s\" is not NAME=VALUE", pair);
	*equals = '\0';
	set_option(args, pair, equals + 1);
}

void pipe_option(struct pipe_args *args, int option)
{
	switch (option) {
	case OPT_URL:
		set_option(args, "store_url", optarg);
		break;
	case OPT_PORT:
		set_option(args, "kv_port", optarg);
		break;
	case OPT_NAME:
		set_option(args, "name", optarg);
		break;
	case OPT_PLANE:
		set_option(args, "planes", optarg);
		break;
	case OPT_BUFFER:
		set_option(args, "kv_buffer_size", optarg);
		break;
	case OPT_TIMEOUT_MS:
		set_option(args, "store_timeout_ms", optarg);
		break;
	case OPT_SET:
		set_pair(args, optarg);
		break;
	case OPT_JSON:
		args->json = 1;
		break;
	case OPT_HELP:
		fputs(args->usage, stdout);
		exit(0);
	default: /* getopt_long has said what is wrong */
		fprintf(stderr, "%s: --help shows the options\n", program);
		exit(1);
	}
}

void no_more_arguments(int argc, char **argv)
{
	if (optind < argc)
		fail("the argument \"%s\" is not understood; --help shows the options",
		    argv[optind]);
}

uint64_t parse_number(const char *option, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number < min ||
	    number > max)
		fail("%s: \"%s\" is not a number from %llu to %llu", option, text,
		    (unsigned long long)min, (unsigned long long)max);
	return number;
}

uint64_t parse_bytes(const char *option, const char *text)
{
	static const struct {
		const char *unit;
		int shift;
	} units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (*text >= '0' && *text <= '9' && errno == 0 && strcmp(end, units[i].unit) == 0 &&
		    number <= UINT64_MAX >> units[i].shift)
			return (uint64_t)number << units[i].shift;
	fail(
	    "%s: \"%s\" is not a number of bytes, such as 4096, 64KiB, 1MiB or 2GiB", option, text);
}

/* ---- small tools ---- */

char *explain(const kvp_pipe *pipe)
{
	const size_t enough = 8192;
	char *text = must_alloc(enough);

	must(kvp_pipe_explain(pipe, text, enough, NULL));
	return text;
}

double now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* splitmix64: a small generator whose whole state is one number. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void fill_random(void *data, size_t bytes, uint64_t *state)
{
	unsigned char *at = data;

	while (bytes > 0) {
		uint64_t word = next_random(state);
		size_t n = bytes < sizeof(word) ? bytes : sizeof(word);

		memcpy(at, &word, n);
		at += n;
		bytes -= n;
	}
}

void add_times(struct time_split *split, const kvp_request *request)
{
	kvp_times times = {.size = sizeof(times)};

	must(kvp_request_times(request, &times));
	split->count++;
	split->bytes += times.bytes;
	split->queue += (double)times.queue_ns * 1e-9;
	split->credit += (double)times.credit_ns * 1e-9;
	split->wire += (double)times.wire_ns * 1e-9;
	split->notify += (double)times.notify_ns * 1e-9;
}
