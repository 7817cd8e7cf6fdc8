/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing again and again leaves nothing behind: descriptors, threads and memory are after the last time what
 * they were after the first tenth of them.
 *
 * KVP_TEST_LONG=1: 10,000 times instead of 100.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "plane/plane.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

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

static int times(void)
{
	return getenv("KVP_TEST_LONG") != NULL ? 10000 : 100;
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
	kvp_store_server_options options;
	kvp_store_server *server;
	census before = {0};
	const int n = times();

	kvp_store_server_options_init(&options);
	KIT_OK(kvp_store_server_start(NULL, &options, &server));
	for (int i = 0; i < n; i++) {
		kvp_store *store;
		kvp_bytes value;

		if (i == n / 10)
			before = count();
		KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, 10000, &store));
		KIT_OK(kvp_store_set(store, "key", "value", 5, NULL, 10000));
		KIT_OK(kvp_store_get(store, "key", &value, 10000));
		kvp_bytes_free(&value);
		kvp_store_free(store);
	}
	check_flat(&before, n);
	kvp_store_server_free(server);
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

static void pipes_leave_nothing(const char *plane)
{
	kit_pair pair;
	census before = {0};
	const int n = times();

	kit_pair_init(&pair, plane);
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
	kit_pair_free(&pair);
}

START_TEST(pipes_leave_nothing_on_any_plane)
{
	for (const kvpi_plane_ops *const *ops = kvpi_plane_registry(); *ops != NULL; ops++)
		pipes_leave_nothing((*ops)->name);
}
END_TEST

KIT_MAIN("flat", stores_leave_nothing, pipes_leave_nothing_on_any_plane)
