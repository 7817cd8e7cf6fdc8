/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench store: what the store costs beside a bare ZeroMQ echo of the same frame sizes and, where it is
 * installed, Redis; and how barrier and all-gather grow with the number of processes.
 *
 * Every server and every client is a process of its own.  Peers are measured in turns within each repeat, so
 * that a machine that slows down slows all of them; a ratio is taken within a repeat, and the median of the
 * repeats is reported with its range.
 */
#include "bare_echo.h"
#include "bench.h"
#include "redis.h"
#include <getopt.h>
#include <jansson.h>
#include <kvpipe/kvpipe.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define KEY "bench/key/of/24/bytes/01"
#define REPEATS_MAX 64
#define WORKERS_MAX 1024
#define WARM_UP 200

/*
 * What the store's frames have beside key and value: array, id, map, the fields' keys and heads, a request id of
 * three bytes; an incarnation of nine in the reply.
 */
#define SET_ASK(value) (16 + sizeof(KEY) - 1 + (value))
#define SET_ANSWER 20
#define GET_ASK (18 + sizeof(KEY) - 1)
#define GET_ANSWER(value) (25 + (value))

enum { PEER_STORE, PEER_BARE, PEER_REDIS, PEERS };
static const char *const peer_names[PEERS] = {"kvpipe", "bare", "redis"};

enum { OP_SET, OP_GET, OPS };
static const char *const op_names[OPS] = {"set", "get"};

static const size_t value_sizes[] = {64, 4096};
#define SIZES (sizeof(value_sizes) / sizeof(value_sizes[0]))

static const int group_sizes[] = {16, 32, 64, 128, 256};
#define GROUPS (sizeof(group_sizes) / sizeof(group_sizes[0]))

typedef struct settings {
	int repeats, clients, calls, window_ms, rounds, group_max;
	bool groups_only, calls_only;
} settings;

typedef struct servers {
	pid_t pids[PEERS];
	char store_url[64], bare_url[64];
	int redis_port;
} servers;

/* ---- servers ------------------------------------------------------------------------------------ */

/* Of a child that has said where it is found: url is read from it.  Dies with this process. */
static pid_t start_server(void (*serve)(int out), char *url, size_t size)
{
	int ends[2];
	pid_t pid;
	ssize_t n;

	if (pipe(ends) != 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		serve(ends[1]);
		_exit(1);
	}
	close(ends[1]);
	n = read(ends[0], url, size - 1);
	close(ends[0]);
	if (n <= 0) {
		redis_stop(pid);
		return -1;
	}
	url[n] = 0;
	return pid;
}

static void serve_store(int out)
{
	kvp_store_server *server;

	if (kvp_store_server_start(NULL, NULL, &server) != KVP_OK)
		_exit(1);
	if (write(out, kvp_store_server_url(server), strlen(kvp_store_server_url(server))) < 0)
		_exit(1);
	for (;;)
		pause();
}

static void serve_bare(int out)
{
	char url[64];
	bare_server *server = bare_server_new(url, sizeof(url));

	if (server == NULL || write(out, url, strlen(url)) < 0)
		_exit(1);
	bare_server_run(server);
}

static int start_servers(servers *s)
{
	s->pids[PEER_STORE] = start_server(serve_store, s->store_url, sizeof(s->store_url));
	s->pids[PEER_BARE] = start_server(serve_bare, s->bare_url, sizeof(s->bare_url));
	s->pids[PEER_REDIS] = redis_start(&s->redis_port);
	if (s->pids[PEER_REDIS] < 0)
		fprintf(stderr, "store: there is no redis-server here, Redis is not measured\n");
	return s->pids[PEER_STORE] > 0 && s->pids[PEER_BARE] > 0 ? 0 : -1;
}

static void stop_servers(servers *s)
{
	for (int i = 0; i < PEERS; i++)
		redis_stop(s->pids[i]);
}

/* ---- one call ----------------------------------------------------------------------------------- */

typedef struct client {
	int peer, op;
	size_t size;
	kvp_store *store;
	bare_client *bare;
	int redis;
	char *value;
} client;

static int call(client *c)
{
	kvp_bytes got;

	if (c->peer == PEER_BARE)
		return c->op == OP_SET ? bare_client_ask(c->bare, SET_ASK(c->size), SET_ANSWER)
		                       : bare_client_ask(c->bare, GET_ASK, GET_ANSWER(c->size));
	if (c->peer == PEER_REDIS)
		return c->op == OP_SET ? redis_set(c->redis, KEY, c->value, c->size)
		                       : redis_get(c->redis, KEY, c->size);
	if (c->op == OP_SET)
		return kvp_store_set(c->store, KEY, c->value, c->size, NULL, KVP_TIMEOUT_DEFAULT) == KVP_OK ? 0 : -1;
	if (kvp_store_get(c->store, KEY, &got, KVP_TIMEOUT_DEFAULT) != KVP_OK)
		return -1;
	const int rc = got.len == c->size ? 0 : -1;
	kvp_bytes_free(&got);
	return rc;
}

/* Connects, and sets what a get finds. */
static int client_init(client *c, const servers *s, int peer, int op, size_t size)
{
	*c = (client){.peer = peer, .op = op, .size = size, .redis = -1, .value = malloc(size)};
	if (c->value == NULL)
		return -1;
	bench_random(c->value, size, 1);
	switch (peer) {
	case PEER_BARE:
		c->bare = bare_client_new(s->bare_url);
		return c->bare != NULL ? 0 : -1;
	case PEER_REDIS:
		c->redis = redis_connect(s->redis_port);
		return c->redis < 0 ? -1 : redis_set(c->redis, KEY, c->value, size);
	default:
		if (kvp_store_open(NULL, s->store_url, NULL, 10000, &c->store) != KVP_OK)
			return -1;
		return kvp_store_set(c->store, KEY, c->value, size, NULL, 10000) == KVP_OK ? 0 : -1;
	}
}

/* ---- workers: processes that say when they are ready, wait for the word, and report a number ------ */

typedef struct job {
	const settings *set;
	const servers *servers;
	int peer, op;
	size_t size;
	int rank, count;
} job;

/* Reports 1 when ready, then reads a byte, then works.  The result, or negative on failure. */
typedef double work_fn(const job *job, int go, int out);

/*
 * Forks count workers, lets them begin together, and gets their results.  0, or -1 when one failed.
 */
static int run_workers(work_fn *work, job job, int count, double *results)
{
	int ready[2], go[2], out[2], rc = 0;
	double result[2];
	char byte;

	if (pipe(ready) != 0 || pipe(go) != 0 || pipe(out) != 0)
		return -1;
	for (int i = 0; i < count; i++) {
		const pid_t pid = fork();

		if (pid < 0)
			return -1;
		if (pid > 0)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		close(go[1]);
		close(out[0]);
		job.rank = i;
		job.count = count;
		result[0] = i;
		result[1] = work(&job, go[0], ready[1]);
		_exit(write(out[1], result, sizeof(result)) != (ssize_t)sizeof(result));
	}
	close(ready[1]);
	close(out[1]);
	close(go[0]);
	for (int i = 0; i < count; i++)
		if (read(ready[0], &byte, 1) != 1) {
			rc = -1;
			break;
		}
	close(go[1]); /* the word */
	for (int i = 0; i < count; i++)
		results[i] = -1;
	while (read(out[0], result, sizeof(result)) == (ssize_t)sizeof(result))
		results[(int)result[0]] = result[1];
	close(ready[0]);
	close(out[0]);
	while (wait(NULL) > 0 || 0)
		if (--count == 0)
			break;
	return rc;
}

/* Says ready and waits for the word. */
static void line_up(int go, int ready)
{
	char byte = 1;

	if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) < 0)
		_exit(1);
	close(ready);
}

/* The median time of one call, in microseconds. */
static double work_latency(const job *job, int go, int ready)
{
	const int calls = job->set->calls;
	double *us = calloc((size_t)calls, sizeof(*us)), median;
	client c;

	if (us == NULL || client_init(&c, job->servers, job->peer, job->op, job->size) != 0)
		return -1;
	for (int i = 0; i < WARM_UP; i++)
		if (call(&c) != 0)
			return -1;
	line_up(go, ready);
	for (int i = 0; i < calls; i++) {
		const double begin = bench_now_s();

		if (call(&c) != 0)
			return -1;
		us[i] = (bench_now_s() - begin) * 1e6;
	}
	median = bench_percentile(us, (size_t)calls, 50);
	free(us);
	return median;
}

/* Calls within the window, per second. */
static double work_throughput(const job *job, int go, int ready)
{
	double begin, now;
	long calls = 0;
	client c;

	if (client_init(&c, job->servers, job->peer, job->op, job->size) != 0 || call(&c) != 0)
		return -1;
	line_up(go, ready);
	begin = bench_now_s();
	do {
		if (call(&c) != 0)
			return -1;
		calls++;
		now = bench_now_s();
	} while (now - begin < job->set->window_ms / 1000.0);
	return (double)calls / (now - begin);
}

/* Time of one round, in microseconds: op 0 is a barrier, 1 an all-gather of `size` bytes. */
static double work_group(const job *job, int go, int ready)
{
	const int rounds = job->set->rounds;
	kvp_bytes *all = calloc((size_t)job->count, sizeof(*all));
	kvp_group_options options;
	char *part = malloc(job->size + 1);
	kvp_group *group;
	kvp_store *store;
	double begin = 0;

	kvp_group_options_init(&options);
	options.name = "bench";
	options.rank = job->rank;
	options.world_size = job->count;
	line_up(go, ready); /* first: they meet by the group itself */
	if (part == NULL || all == NULL ||
	    kvp_store_open(NULL, job->servers->store_url, NULL, 60000, &store) != KVP_OK ||
	    kvp_group_open(store, &options, 60000, &group) != KVP_OK) {
		fprintf(stderr, "store: rank %d: %s\n", job->rank, kvp_last_error());
		return -1;
	}
	bench_random(part, job->size + 1, (uint64_t)job->rank);
	for (int i = -2; i < rounds; i++) {
		if (i == 0)
			begin = bench_now_s();
		const kvp_status status = job->op == 0 ? kvp_group_barrier(group, 60000)
		                                       : kvp_group_all_gather(group, part, job->size, all, 60000);
		if (status != KVP_OK) {
			fprintf(stderr, "store: rank %d: %s\n", job->rank, kvp_last_error());
			return -1;
		}
		for (int r = 0; job->op != 0 && r < job->count; r++)
			kvp_bytes_free(&all[r]);
	}
	const double us = (bench_now_s() - begin) * 1e6 / rounds;
	/* Nobody goes while others may still ask. */
	kvp_group_barrier(group, 60000);
	kvp_group_free(group);
	kvp_store_free(store);
	free(part);
	free(all);
	return us;
}

/* ---- calls --------------------------------------------------------------------------------------- */

static json_t *spread(const double *values, int count)
{
	double sorted[REPEATS_MAX];

	memcpy(sorted, values, (size_t)count * sizeof(*values));
	return json_pack("{s:f, s:f, s:f}", "median", bench_percentile(sorted, (size_t)count, 50), "min",
	    bench_percentile(sorted, (size_t)count, 0), "max", bench_percentile(sorted, (size_t)count, 100));
}

static double median_of(const json_t *spread)
{
	return json_number_value(json_object_get(spread, "median"));
}

/*
 * One row: all peers in turns, set->repeats times.  `clients` 1: latency, else throughput.  The ratio is that of
 * the bare echo's time to ours (throughput: ours to the bare echo's): 1 is as fast.
 */
static json_t *measure_calls(const settings *set, const servers *s, int op, size_t size, int clients)
{
	double figures[PEERS][REPEATS_MAX] = {{0}}, ratios[REPEATS_MAX], results[WORKERS_MAX];
	json_t *row = json_pack("{s:s, s:I, s:i, s:s}", "op", op_names[op], "value_bytes", (json_int_t)size, "clients",
	    clients, "unit", clients == 1 ? "us" : "calls/s");

	for (int r = 0; r < set->repeats; r++) {
		for (int p = 0; p < PEERS; p++) {
			const job job = {.set = set, .servers = s, .peer = p, .op = op, .size = size};

			if (s->pids[p] < 0)
				continue;
			if (run_workers(clients == 1 ? work_latency : work_throughput, job, clients, results) != 0)
				goto err;
			for (int i = 0; i < clients; i++) {
				if (results[i] < 0)
					goto err;
				figures[p][r] += results[i];
			}
		}
		ratios[r] = figures[PEER_STORE][r] / figures[PEER_BARE][r];
	}
	printf("%-4s %5zu B %3d client%s", op_names[op], size, clients, clients == 1 ? " " : "s");
	for (int p = 0; p < PEERS; p++) {
		json_t *one = s->pids[p] > 0 ? spread(figures[p], set->repeats) : json_null();

		json_object_set_new(row, peer_names[p], one);
		if (s->pids[p] > 0)
			printf("  %s %9.1f", peer_names[p], median_of(one));
	}
	json_object_set_new(row, "ratio", spread(ratios, set->repeats));
	printf("  %s   ratio to bare %.2f (%.2f .. %.2f)\n", clients == 1 ? "us" : "calls/s",
	    median_of(json_object_get(row, "ratio")), json_number_value(json_object_get(json_object_get(row, "ratio"), "min")),
	    json_number_value(json_object_get(json_object_get(row, "ratio"), "max")));
	fflush(stdout);
	return row;
err:
	fprintf(stderr, "store: %s of %zu bytes with %d clients failed\n", op_names[op], size, clients);
	json_decref(row);
	return NULL;
}

/* ---- groups --------------------------------------------------------------------------------------- */

/* The slope of log(time) over log(n log n): 1 is growth as n log n, less is better. */
static double growth(const double *times, const int *sizes, size_t count)
{
	double sx = 0, sy = 0, sxx = 0, sxy = 0;

	for (size_t i = 0; i < count; i++) {
		const double x = log(sizes[i] * log(sizes[i])), y = log(times[i]);

		sx += x;
		sy += y;
		sxx += x * x;
		sxy += x * y;
	}
	return ((double)count * sxy - sx * sy) / ((double)count * sxx - sx * sx);
}

static json_t *measure_group(const settings *set, const servers *s, int op, size_t size)
{
	static const char *const names[] = {"barrier", "all-gather"};
	json_t *row = json_pack("{s:s, s:I, s:s}", "op", names[op], "part_bytes", (json_int_t)size, "unit", "us"),
	       *points = json_array();
	double medians[GROUPS], results[WORKERS_MAX];
	size_t count = 0;

	json_object_set_new(row, "points", points);
	for (size_t g = 0; g < GROUPS && group_sizes[g] <= set->group_max; g++, count++) {
		double times[REPEATS_MAX];
		json_t *point;

		for (int r = 0; r < set->repeats; r++) {
			const job job = {.set = set, .servers = s, .op = op, .size = size};

			if (run_workers(work_group, job, group_sizes[g], results) != 0 || results[0] < 0)
				goto err;
			times[r] = results[0];
		}
		point = spread(times, set->repeats);
		medians[g] = median_of(point);
		json_object_set_new(point, "processes", json_integer(group_sizes[g]));
		json_array_append_new(points, point);
		printf("%-10s %4d processes  %10.0f us a round (%.0f .. %.0f)   %.1f us per process\n", names[op],
		    group_sizes[g], medians[g], json_number_value(json_object_get(point, "min")),
		    json_number_value(json_object_get(point, "max")), medians[g] / group_sizes[g]);
		fflush(stdout);
	}
	if (count > 1) {
		const double exponent = growth(medians, group_sizes, count);

		json_object_set_new(row, "growth", json_real(exponent));
		printf("%-10s grows as (n log n) ^ %.2f\n", names[op], exponent);
	}
	return row;
err:
	fprintf(stderr, "store: %s failed\n", names[op]);
	json_decref(row);
	return NULL;
}

/* ---- all of it ------------------------------------------------------------------------------------ */

static int measure_all(const settings *set, const servers *s, json_t *rows)
{
	const int clients[] = {1, set->clients};
	json_t *row;

	for (int c = 0; c < 2 && !set->groups_only; c++)
		for (size_t i = 0; i < SIZES; i++)
			for (int op = 0; op < OPS; op++) {
				row = measure_calls(set, s, op, value_sizes[i], clients[c]);
				if (row == NULL)
					return 1;
				json_array_append_new(rows, row);
			}
	for (int op = 0; op < 2 && !set->calls_only; op++) {
		row = measure_group(set, s, op, op == 0 ? 0 : 64);
		if (row == NULL)
			return 1;
		json_array_append_new(rows, row);
	}
	return 0;
}

int bench_store(int argc, char **argv)
{
	settings set = {.repeats = 5, .clients = 16, .calls = 2000, .window_ms = 1000, .rounds = 20, .group_max = 256};
	servers s = {0};
	json_t *rows = json_array();
	int opt, rc;

	while ((opt = getopt(argc, argv, "r:c:n:w:g:k:GC")) != -1)
		switch (opt) {
		case 'r': set.repeats = atoi(optarg); break;
		case 'c': set.clients = atoi(optarg); break;
		case 'n': set.calls = atoi(optarg); break;
		case 'w': set.window_ms = atoi(optarg); break;
		case 'g': set.group_max = atoi(optarg); break;
		case 'k': set.rounds = atoi(optarg); break;
		case 'G': set.groups_only = true; break;
		case 'C': set.calls_only = true; break;
		default: return 2;
		}
	if (start_servers(&s) != 0) {
		fprintf(stderr, "store: the servers did not come up\n");
		return 1;
	}
	rc = measure_all(&set, &s, rows);
	stop_servers(&s);
	json_decref(rows);
	return rc;
}
