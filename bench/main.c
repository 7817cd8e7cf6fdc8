/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench: the subcommands, the options that all have, the beginning and the end of a run.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXIT_USAGE 2
#define OPTIONS_MAX 32

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} subcommands[] = {
    {"pipe", bench_pipe, "two processes and a pipe: latency, throughput, the price of posting"},
    {"planes", bench_planes, "every data plane with contiguous, strided and many small tensors"},
    {"store", bench_store, "the store beside a bare ZeroMQ echo and Redis; barriers and all-gathers"},
};
#define SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static const bench_option common[] = {
    {.name = "repeat", .argument = "N", .help = "measured rounds, 1 to 100 (5, with --quick 2)"},
    {.name = "quick", .help = "small sizes and few rounds, to see that it works"},
    {.name = "json", .argument = "FILE", .help = "write the results there as JSON; -: standard output"},
    {.name = "seed", .argument = "N", .help = "of the random bytes that are moved (1)"},
    {.name = "timeout-s", .argument = "N", .help = "seconds that one child process may live (120)"},
    {.name = "help", .help = "this text"},
};
#define COMMON (sizeof(common) / sizeof(common[0]))

/* For sentences only. */
static const char *subcommand;

bool bench_complain(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "kvpipe-bench%s%s: ", subcommand != NULL ? " " : "", subcommand != NULL ? subcommand : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return false;
}

bool bench_failed(const char *what)
{
	return bench_complain("%s: %s", what, kvp_last_error());
}

/* ---- options ---- */

static void print_option(const bench_option *option)
{
	char left[64];

	snprintf(left, sizeof(left), "--%s%s%s", option->name, option->argument != NULL ? " " : "",
	         option->argument != NULL ? option->argument : "");
	printf("  %-18s %s", left, option->help);
	if (option->argument != NULL && option->value != NULL)
		printf(" (%s)", option->value);
	putchar('\n');
}

static void print_help(const char *summary, const bench_option *own)
{
	printf("usage: kvpipe-bench %s [OPTION]...\n%s.\n\n", subcommand, summary);
	for (const bench_option *option = own; option->name != NULL; option++)
		print_option(option);
	for (size_t i = 0; i < COMMON; i++)
		print_option(&common[i]);
}

/* A whole number with or without a unit, which ends at the end of the text or at a comma; *end gets that place. */
static bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number, const char **end)
{
	static const char *const units[] = {"", "KiB", "MiB", "GiB"};
	unsigned long long value;
	char *unit;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoull(text, &unit, 10);
	*end = unit + strcspn(unit, ",");
	for (size_t i = 0; errno == 0 && i < sizeof(units) / sizeof(units[0]); i++) {
		if (strlen(units[i]) == (size_t)(*end - unit) && memcmp(unit, units[i], strlen(units[i])) == 0) {
			*number = value << 10 * i;
			return value <= UINT64_MAX >> 10 * i && *number >= least && *number <= most;
		}
	}
	return false;
}

static uint64_t number_or_exit(const char *name, const char *text, uint64_t least, uint64_t most)
{
	const char *end = NULL;
	uint64_t number;

	if (parse_number(text, least, most, &number, &end) && *end == '\0')
		return number;
	bench_complain("--%s %s: a whole number from %llu to %llu is wanted", name, text, (unsigned long long)least,
	               (unsigned long long)most);
	exit(EXIT_USAGE);
}

const char *bench_text(const bench_option *own, const char *name)
{
	while (own->name != NULL && strcmp(own->name, name) != 0)
		own++;
	return own->name != NULL ? own->value : NULL;
}

uint64_t bench_number(const bench_option *own, const char *name, uint64_t least, uint64_t most)
{
	return number_or_exit(name, bench_text(own, name), least, most);
}

size_t bench_numbers(const bench_option *own, const char *name, uint64_t *numbers, size_t capacity, uint64_t most)
{
	const char *text = bench_text(own, name);
	size_t count = 0;

	for (;;) {
		if (count == capacity || !parse_number(text, 1, most, &numbers[count], &text)) {
			bench_complain("--%s: 1 to %zu numbers up to %llu are wanted, with commas between them", name, capacity,
			               (unsigned long long)most);
			exit(EXIT_USAGE);
		}
		count++;
		if (*text == '\0')
			return count;
		text++;
	}
}

/* getopt_long's value of an option is its place in this table: own options first, then the common ones. */
static size_t long_options(struct option *table, const bench_option *own)
{
	size_t count = 0, mine = 0;

	while (own[mine].name != NULL)
		mine++;
	if (mine + COMMON >= OPTIONS_MAX)
		abort();
	for (size_t i = 0; i < mine + COMMON; i++) {
		const bench_option *const option = i < mine ? &own[i] : &common[i - mine];

		table[count++] = (struct option){option->name, option->argument != NULL, NULL, (int)i};
	}
	table[count] = (struct option){NULL, 0, NULL, 0};
	return mine;
}

static void take_common(bench_run *run, const char *name, const char *summary, const bench_option *own)
{
	if (strcmp(name, "repeat") == 0) {
		run->repeat = (int)number_or_exit(name, optarg, 1, BENCH_REPEATS_MAX);
	} else if (strcmp(name, "quick") == 0) {
		run->quick = true;
	} else if (strcmp(name, "json") == 0) {
		run->json = optarg;
	} else if (strcmp(name, "seed") == 0) {
		run->seed = number_or_exit(name, optarg, 0, INT64_MAX);
	} else if (strcmp(name, "timeout-s") == 0) {
		run->timeout_s = (int)number_or_exit(name, optarg, 1, 86400);
	} else {
		print_help(summary, own);
		exit(EXIT_SUCCESS);
	}
}

/* ---- a run ---- */

static json_t *new_document(const bench_run *run)
{
	char date[32];
	const time_t now = time(NULL);
	struct tm utc;
	json_t *document;

	gmtime_r(&now, &utc);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
	document = json_pack("{s:s, s:s, s:s, s:s, s:{s:i, s:b, s:I}, s:o, s:[], s:[]}", "tool", "kvpipe-bench",
	    "subcommand", run->name, "version", KVP_VERSION_STRING, "date", date, "run", "repeat", run->repeat, "quick", (int)run->quick, "seed",
	    (json_int_t)run->seed, "machine", bench_machine(), "results", "notes");
	if (document == NULL) {
		bench_complain("out of memory");
		exit(EXIT_FAILURE);
	}
	return document;
}

void bench_start(bench_run *run, int argc, char **argv, const char *summary, bench_option *own)
{
	struct option table[OPTIONS_MAX];
	char program[64];
	size_t mine;
	int i;

	*run = (bench_run){.name = argv[0], .seed = 1, .timeout_s = 120};
	snprintf(program, sizeof(program), "kvpipe-bench %s", run->name);
	argv[0] = program; /* for the sentences of getopt_long */
	mine = long_options(table, own);
	while ((i = getopt_long(argc, argv, "", table, NULL)) != -1) {
		if (i == '?') {
			fprintf(stderr, "try kvpipe-bench %s --help\n", run->name);
			exit(EXIT_USAGE);
		}
		if ((size_t)i < mine)
			own[i].value = optarg != NULL ? optarg : "";
		else
			take_common(run, table[i].name, summary, own);
	}
	if (optind < argc) {
		bench_complain("%s is one word too many; try --help", argv[optind]);
		exit(EXIT_USAGE);
	}
	if (run->repeat == 0)
		run->repeat = run->quick ? 2 : 5;
	argv[0] = (char *)run->name;
	/* Whoever writes to a child that has ended wants the error, not the signal. */
	signal(SIGPIPE, SIG_IGN);
	run->document = new_document(run);
}

void bench_note(bench_run *run, const char *format, ...)
{
	json_t *const notes = json_object_get(run->document, "notes"), *note;
	char text[2048];
	va_list args;
	size_t i;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	json_array_foreach(notes, i, note) {
		if (strcmp(json_string_value(note), text) == 0)
			return;
	}
	json_array_append_new(notes, json_string(text));
	if (run->json == NULL || strcmp(run->json, "-") != 0)
		printf("  note: %s\n", text);
}

/* The file has the whole document in it, or is not there. */
static bool write_document(const bench_run *run)
{
	const size_t flags = JSON_INDENT(1) | JSON_REAL_PRECISION(6) | JSON_PRESERVE_ORDER;
	char temporary[PATH_MAX];

	if (strcmp(run->json, "-") == 0)
		return (json_dumpf(run->document, stdout, flags) == 0 && putchar('\n') != EOF) ||
		       bench_complain("cannot write to standard output");
	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", run->json) >= sizeof(temporary))
		return bench_complain("the path %s is too long", run->json);
	if (json_dump_file(run->document, temporary, flags) == 0 && rename(temporary, run->json) == 0)
		return true;
	bench_complain("cannot write %s: %s", run->json, strerror(errno));
	remove(temporary);
	return false;
}

int bench_finish(bench_run *run, bool good)
{
	bench_kill_children();
	if (good && run->json != NULL)
		good = write_document(run);
	json_decref(run->document);
	run->document = NULL;
	if (fflush(stdout) != 0)
		good = bench_complain("cannot write to standard output: %s", strerror(errno));
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void print_usage(FILE *file)
{
	fputs("usage: kvpipe-bench SUBCOMMAND [OPTION]...\n"
	      "Measures the library beside bare means, by turns in one run.\n\n",
	      file);
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		fprintf(file, "  %-10s %s\n", subcommands[i].name, subcommands[i].help);
	fputs("\nkvpipe-bench SUBCOMMAND --help tells its options.  Also: --help, --version\n", file);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		print_usage(stdout);
		return EXIT_SUCCESS;
	}
	if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		puts("kvpipe-bench " KVP_VERSION_STRING);
		return EXIT_SUCCESS;
	}
	for (size_t i = 0; argc > 1 && i < SUBCOMMANDS; i++) {
		if (strcmp(argv[1], subcommands[i].name) == 0) {
			subcommand = subcommands[i].name;
			return subcommands[i].run(argc - 1, argv + 1);
		}
	}
	if (argc > 1)
		bench_complain("there is no subcommand %s", argv[1]);
	print_usage(stderr);
	return EXIT_USAGE;
}
