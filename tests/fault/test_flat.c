/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing again and again leaves nothing behind: descriptors, threads and memory are after the last time what
 * they were after the first tenth of them.  The store is another process: it remembers for a while, bounded, what was said
 * to it.
 *
 * KVP_TEST_LONG=1: 10,000 times instead of 30.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "plane/plane.h"

#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What may stay for each time: nothing; this allows for the allocator's fragments. */
#define SLACK_BYTES_EACH 64
#define SLACK_BYTES (64u << 10)

typedef struct census {
	size_t fds, threads, bytes;
} census;

static census count(void)
{
	return (census){kit_fd_count(), kit_thread_count(), mallinfo2().uordblks + mallinfo2().hblkhd};
}

static bool as_before(void *user)
{
	const census *before = user, now = count();

	return now.fds <= before->fds && now.threads <= before->threads;
}

/* A store in a process of its own, killed with this one. */
static int serve(void *user)
{
	const int *out = user;
	kvp_store_server_options options;
	kvp_store_server *server;

	kvp_store_server_options_init(&options);
	if (kvp_store_server_start(NULL, &options, &server) != KVP_OK ||
	    write(out[1], kvp_store_server_url(server), strlen(kvp_store_server_url(server))) < 0)
		return 1;
	for (;;)
		pause();
}

static pid_t start_store(char url[300])
{
	int fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(fds, 0), 0);
	pid = kit_fork(serve, fds); /* before this process has threads */
	close(fds[1]);
	memset(url, 0, 300);
	ck_assert_int_gt(read(fds[0], url, 299), 0);
	close(fds[0]);
	return pid;
}

static void end_store(pid_t pid)
{
	kit_kill(pid, SIGKILL);
	kit_wait_exit(pid, 10000);
}

static int times(void)
{
	return getenv("KVP_TEST_LONG") != NULL ? 10000 : 30;
}

static void check_flat(census *before, int n)
{
	size_t bytes;

	kit_wait_until(as_before, before, 10000); /* a joined thread may be listed a moment longer */
	bytes = count().bytes;
	ck_assert_msg(bytes <= before->bytes + SLACK_BYTES + (size_t)n * SLACK_BYTES_EACH,
	    "%zu bytes are allocated, %zu were after a tenth of %d times", bytes, before->bytes, n);
}

START_TEST(stores_leave_nothing)
{
	char url[300];
	const pid_t pid = start_store(url);
	census before = {0};
	const int n = times();

	for (int i = 0; i < n; i++) {
		kvp_store *store;
		kvp_bytes value;

		if (i == n / 10)
			before = count();
		KIT_OK(kvp_store_open(NULL, url, NULL, 10000, &store));
		KIT_OK(kvp_store_set(store, "key", "value", 5, NULL, 10000));
		KIT_OK(kvp_store_get(store, "key", &value, 10000));
		kvp_bytes_free(&value);
		kvp_store_free(store);
	}
	check_flat(&before, n);
	end_store(pid);
}
END_TEST

static void carry_one(kit_pair *pair, uint64_t seed)
{
	const int64_t shape[1] = {3000};
	char from[3000], to[3000];
	kvp_tensor out, in;

	kit_random_fill(from, sizeof(from), seed);
	KIT_OK(kvp_tensor_init(&out, from, KVP_DTYPE_UINT8, 1, shape));
	KIT_OK(kvp_tensor_init(&in, to, KVP_DTYPE_UINT8, 1, shape));
	KIT_OK(kvp_pipe_send(pair->a, &out, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pair->b, &in, 10000));
	kit_check_fill(to, sizeof(to), seed);
}

START_TEST(pipes_leave_nothing)
{
	const char *plane = kvpi_plane_registry()[_i]->name;
	char url[300];
	const pid_t pid = start_store(url);
	kit_pair pair = {.server = NULL};
	census before = {0};
	const int n = times();

	kvp_pipe_options_init(&pair.options);
	pair.options.store_url = url;
	pair.options.store_timeout_ms = 20000;
	pair.options.planes = plane;
	for (int i = 0; i < n; i++) {
		if (i == n / 10)
			before = count();
		kit_pair_open(&pair);
		carry_one(&pair, (uint64_t)i + 1);
		kvp_pipe_free(pair.a);
		kvp_pipe_free(pair.b);
		pair.a = pair.b = NULL;
	}
	check_flat(&before, n);
	end_store(pid);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {stores_leave_nothing, pipes_leave_nothing};
	int planes = 0;

	while (kvpi_plane_registry()[planes] != NULL)
		planes++;
	return kit_run("flat", tests, sizeof(tests) / sizeof(tests[0]), planes, NULL);
}
