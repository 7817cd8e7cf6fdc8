/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe-bench store: what the store costs beside a bare ZeroMQ echo of the same frame sizes and, where it is
 * installed, Redis; and how barrier and all-gather grow with the number of processes.
 *
 * Every server and every client is a process of its own.
 */
#include "bare_echo.h"
#include "bare_redis.h"
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY "bench/key/of/24/bytes/01"
#define CLIENTS_MAX 256
#define WARM_UP 200
#define LONG_MS 60000
#define SERVERS_LIVE_S 86400 /* they end with the bench */

/*
 * What the store's frames have beside key and value: array, id, map, the fields' keys and heads, a request id of
 * three bytes; an incarnation of nine in the reply.
 */
#define SET_ASK(value) (16 + sizeof(KEY) - 1 + (value))
#define SET_ANSWER 20
#define GET_ASK (18 + sizeof(KEY) - 1)
#define GET_ANSWER(value) (25 + (value))

typedef enum bench_peer { PEER_STORE, PEER_BARE, PEER_REDIS } bench_peer;

enum { OP_SET, OP_GET, OPS };
static const char *const op_names[OPS] = {"set", "get"};

static const size_t value_sizes[] = {64, 4096};
#define SIZES (sizeof(value_sizes) / sizeof(value_sizes[0]))

static const int group_sizes[] = {16, 32, 64, 128, 256};
#define GROUPS (sizeof(group_sizes) / sizeof(group_sizes[0]))

typedef struct servers {
	bench_child store, bare;
	char store_url[64], bare_url[64];
	pid_t redis; /* -1: there is none */
	int redis_port;
} servers;

typedef struct store_bench {
	bench_run run;
	servers servers;
	int clients, calls, window_ms, rounds, group_max;
} store_bench;

/* ---- servers ------------------------------------------------------------------------------------ */

/* Says its url, 64 bytes, then serves until it is killed. */
static int serve_store(void *user, int in, int out)
{
	kvp_store_server *server;
	char url[64] = "", byte;

	(void)user;
	if (kvp_store_server_start(NULL, NULL, &server) != KVP_OK)
		return 1;
	snprintf(url, sizeof(url), "%s", kvp_store_server_url(server));
	if (!bench_write_all(out, url, sizeof(url)))
		return 1;
	return bench_read_all(in, &byte, 1);
}

static int serve_bare(void *user, int in, int out)
{
	char url[64] = "";
	bare_server *server = bare_server_new(url, sizeof(url));

	(void)user;
	(void)in;
	if (server == NULL || !bench_write_all(out, url, sizeof(url)))
		return 1;
	bare_server_run(server);
	return 1;
}

static bool start_servers(store_bench *bench)
{
	servers *s = &bench->servers;
	bench_run run = bench->run;

	run.timeout_s = SERVERS_LIVE_S;
	if (!bench_spawn(&run, &s->store, "store", serve_store, NULL) ||
	    !bench_hear(&s->store, s->store_url, sizeof(s->store_url)) ||
	    !bench_spawn(&run, &s->bare, "bare echo", serve_bare, NULL) ||
	    !bench_hear(&s->bare, s->bare_url, sizeof(s->bare_url)))
		return false;
	s->redis = redis_start(&s->redis_port);
	if (s->redis < 0)
		bench_note(&bench->run, "there is no redis-server here, so Redis is not measured");
	return true;
}

/* ---- one call ----------------------------------------------------------------------------------- */

typedef struct client {
	bench_peer peer;
	int op;
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
static int client_init(client *c, const servers *s, bench_peer peer, int op, size_t size)
{
	*c = (client){.peer = peer, .op = op, .size = size, .redis = -1, .value = malloc(size)};
	if (c->value == NULL)
		return -1;
	bench_fill(c->value, size, 1);
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

/* ---- crowds: processes that say when they are ready, begin together, and report a figure ------------- */

typedef struct crowd {
	store_bench *bench;
	double (*work)(const struct crowd *crowd, int in, int out); /* the figure; negative: it failed */
	bench_peer peer;
	int op;
	size_t size;
	int rank, count;
	bool sums; /* the value is the sum of all figures, not the first one */
} crowd;

/* Says ready and waits for the word. */
static bool line_up(int in, int out)
{
	char byte = 1;

	return bench_write_all(out, &byte, 1) && bench_read_all(in, &byte, 1);
}

static int be_one(void *user, int in, int out)
{
	const crowd *c = user;
	const double figure = c->work(c, in, out);

	return figure >= 0 && bench_write_all(out, &figure, sizeof(figure)) ? 0 : 1;
}

/* A bench_measure. */
static bool measure_crowd(void *user, double *value)
{
	crowd *c = user;
	bench_child children[CLIENTS_MAX];
	bool good = true;
	double figure;
	char byte;

	*value = 0;
	for (c->rank = 0; c->rank < c->count; c->rank++)
		if (!bench_spawn(&c->bench->run, &children[c->rank], "client", be_one, c))
			return false; /* the others are killed at the end */
	for (int i = 0; i < c->count && good; i++)
		good = bench_hear(&children[i], &byte, 1);
	for (int i = 0; i < c->count && good; i++)
		good = bench_tell(&children[i], &byte, 1);
	for (int i = 0; i < c->count && good; i++) {
		good = bench_hear(&children[i], &figure, sizeof(figure));
		if (good && (i == 0 || c->sums))
			*value += figure;
	}
	for (int i = 0; i < c->count && good; i++)
		good = bench_join(&children[i]);
	return good;
}

/* The median time of one call, in microseconds. */
static double work_latency(const crowd *job, int in, int out)
{
	const int calls = job->bench->calls;
	double *us = calloc((size_t)calls, sizeof(*us)), median = -1;
	client c;

	if (us == NULL || client_init(&c, &job->bench->servers, job->peer, job->op, job->size) != 0)
		goto out;
	for (int i = 0; i < WARM_UP; i++)
		if (call(&c) != 0)
			goto out;
	if (!line_up(in, out))
		goto out;
	for (int i = 0; i < calls; i++) {
		const int64_t begin_ns = bench_now_ns();

		if (call(&c) != 0)
			goto out;
		us[i] = (double)(bench_now_ns() - begin_ns) * 1e-3;
	}
	median = bench_quantile(us, (size_t)calls, 0.5);
out:
	free(us);
	return median;
}

/* Calls within the window, per second. */
static double work_throughput(const crowd *job, int in, int out)
{
	int64_t begin_ns, spent_ns;
	long calls = 0;
	client c;

	if (client_init(&c, &job->bench->servers, job->peer, job->op, job->size) != 0 || call(&c) != 0 ||
	    !line_up(in, out))
		return -1;
	begin_ns = bench_now_ns();
	do {
		if (call(&c) != 0)
			return -1;
		calls++;
		spent_ns = bench_now_ns() - begin_ns;
	} while (spent_ns < (int64_t)job->bench->window_ms * 1000000);
	return (double)calls / ((double)spent_ns * 1e-9);
}

/* One round: op 0 is a barrier, 1 an all-gather of `size` bytes. */
static bool one_round(const crowd *job, kvp_group *group, const char *part, kvp_bytes *all)
{
	if (job->op == 0)
		return kvp_group_barrier(group, LONG_MS) == KVP_OK || bench_failed("barrier");
	if (kvp_group_all_gather(group, part, job->size, all, LONG_MS) != KVP_OK)
		return bench_failed("all-gather");
	for (int i = 0; i < job->count; i++)
		kvp_bytes_free(&all[i]);
	return true;
}

/* The time of one round, in microseconds. */
static double work_group(const crowd *job, int in, int out)
{
	kvp_bytes *all = calloc((size_t)job->count, sizeof(*all));
	char *part = malloc(job->size + 1);
	kvp_group_options options;
	kvp_group *group = NULL;
	kvp_store *store = NULL;
	int64_t begin_ns = 0, spent_ns;

	kvp_group_options_init(&options);
	options.name = "bench";
	options.rank = job->rank;
	options.world_size = job->count;
	/* First: they meet by the group itself. */
	if (part == NULL || all == NULL || !line_up(in, out))
		return -1;
	bench_fill(part, job->size + 1, job->bench->run.seed + (uint64_t)job->rank);
	if (kvp_store_open(NULL, job->bench->servers.store_url, NULL, LONG_MS, &store) != KVP_OK ||
	    kvp_group_open(store, &options, LONG_MS, &group) != KVP_OK) {
		bench_failed("a group");
		return -1;
	}
	for (int i = -2; i < job->bench->rounds; i++) {
		if (i == 0)
			begin_ns = bench_now_ns();
		if (!one_round(job, group, part, all))
			return -1;
	}
	spent_ns = bench_now_ns() - begin_ns;
	/* Nobody goes while others may still ask. */
	kvp_group_barrier(group, LONG_MS);
	kvp_group_free(group);
	kvp_store_free(store);
	free(part);
	free(all);
	return (double)spent_ns * 1e-3 / job->bench->rounds;
}

/* ---- calls --------------------------------------------------------------------------------------- */

/* One client: the median time of a call.  Several: the calls of all, per second. */
static bool measure_calls(store_bench *bench, int op, size_t size, int clients, bench_peer against)
{
	const bool one = clients == 1;
	crowd ours = {.bench = bench, .work = one ? work_latency : work_throughput, .peer = PEER_STORE, .op = op,
	    .size = size, .count = clients, .sums = !one}, theirs = ours;
	bench_result result = {.name = op_names[op], .unit = one ? "us" : "1/s",
	    .peer_name = against == PEER_BARE ? "bare ZeroMQ echo" : "Redis",
	    .parameters = json_pack("{s:I, s:i}", "bytes", (json_int_t)size, "clients", clients),
	    .goal = against != PEER_BARE ? BENCH_NO_GOAL : one ? BENCH_RATIO_AT_MOST : BENCH_RATIO_AT_LEAST,
	    .bound = one ? 1.3 : 0.9};

	theirs.peer = against;
	if (!bench_versus(&bench->run, &result, measure_crowd, &ours, measure_crowd, &theirs)) {
		json_decref(result.parameters);
		return false;
	}
	return bench_report(&bench->run, &result);
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

static bool measure_group(store_bench *bench, int op, size_t size)
{
	bench_result sizes[GROUPS], slope = {.name = op == 0 ? "barrier growth" : "all-gather growth",
	    .unit = "exponent of n log n", .goal = BENCH_OURS_AT_MOST, .bound = 1};
	size_t count = 0;

	memset(sizes, 0, sizeof(sizes));
	while (count < GROUPS && group_sizes[count] <= bench->group_max)
		count++;
	/* All sizes in each repeat, so that each gives one exponent. */
	for (int r = 0; r < bench->run.repeat; r++) {
		double times[GROUPS];

		for (size_t g = 0; g < count; g++) {
			crowd job = {.bench = bench, .work = work_group, .op = op, .size = size, .count = group_sizes[g]};

			if (!measure_crowd(&job, &times[g]))
				return false;
			bench_add(&sizes[g].ours, times[g]);
		}
		if (count > 1)
			bench_add(&slope.ours, growth(times, group_sizes, count));
	}
	for (size_t g = 0; g < count; g++) {
		sizes[g].name = op == 0 ? "barrier" : "all-gather";
		sizes[g].unit = "us";
		sizes[g].parameters =
		    json_pack("{s:i, s:I}", "processes", group_sizes[g], "bytes", (json_int_t)size);
		if (!bench_report(&bench->run, &sizes[g]))
			return false;
	}
	return count < 2 || bench_report(&bench->run, &slope);
}

/* ---- all of it ------------------------------------------------------------------------------------ */

static bool measure_all(store_bench *bench)
{
	const bench_peer last = bench->servers.redis > 0 ? PEER_REDIS : PEER_BARE;
	const int clients[] = {1, bench->clients};
	bool good = true;

	for (int c = 0; c < 2; c++)
		for (size_t i = 0; i < SIZES; i++)
			for (int op = 0; op < OPS; op++)
				for (bench_peer p = PEER_BARE; p <= last && good; p++)
					good = measure_calls(bench, op, value_sizes[i], clients[c], p);
	return good && measure_group(bench, 0, 0) && measure_group(bench, 1, 64);
}

int bench_store(int argc, char **argv)
{
	bench_option own[] = {
	    {.name = "clients", .argument = "N", .value = "16", .help = "client processes of the throughput rows"},
	    {.name = "calls", .argument = "N", .value = "2000", .help = "calls in a latency round"},
	    {.name = "window-ms", .argument = "N", .value = "1000", .help = "length of a throughput round"},
	    {.name = "processes", .argument = "N", .value = "256", .help = "size of the largest group"},
	    {.name = "rounds", .argument = "N", .value = "20", .help = "barriers and all-gathers timed together"},
	    {0}};
	store_bench bench;
	bool good;

	memset(&bench, 0, sizeof(bench));
	bench.servers.redis = -1;
	bench_start(&bench.run, argc, argv,
	    "The store's get and set beside a bare ZeroMQ echo and Redis; barriers and all-gathers of many processes.",
	    own);
	bench.clients = (int)bench_number(own, "clients", 2, CLIENTS_MAX);
	bench.calls = (int)bench_number(own, "calls", 1, 1000000);
	bench.window_ms = (int)bench_number(own, "window-ms", 1, 60000);
	bench.group_max = (int)bench_number(own, "processes", 16, CLIENTS_MAX);
	bench.rounds = (int)bench_number(own, "rounds", 1, 10000);
	if (bench.run.quick) {
		bench.calls = bench.calls < 200 ? bench.calls : 200;
		bench.window_ms = bench.window_ms < 50 ? bench.window_ms : 50;
		bench.group_max = bench.group_max < 32 ? bench.group_max : 32;
		bench.rounds = bench.rounds < 3 ? bench.rounds : 3;
	}
	good = start_servers(&bench) && measure_all(&bench);
	redis_stop(bench.servers.redis);
	return bench_finish(&bench.run, good);
}
