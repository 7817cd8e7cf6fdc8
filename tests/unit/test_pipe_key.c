/* SPDX-License-Identifier: Apache-2.0
 *
 * Pipes with a cluster key, and without: where they listen, whom they meet, and that keys can be changed while tensors
 * flow.  Each end has a context and a key file of its own, as two processes would.
 */
#include "kit/kit.h"

#include "base/context.h"
#include "pipe/pipe_handle.h"
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define A "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define B "ff112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define PATIENCE_MS 20000
#define NOBODY_WAITS_MS 300000 /* longer than the test may run: only who fails at once passes */

typedef struct end {
	char path[300];
	kvp_context *context;
	kvp_pipe_options options;
	int timeout_ms;
	kvp_pipe *pipe;
	kvp_status status;
	char text[512];
} end;

static end ends[2];

static void put_keys(end *e, const char *text)
{
	char fresh[310];
	FILE *file;

	snprintf(e->path, sizeof(e->path), "%s/key%d", kit_tmpdir(), (int)(e - ends));
	snprintf(fresh, sizeof(fresh), "%s.new", e->path);
	file = fopen(fresh, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fchmod(fileno(file), 0600), 0);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(rename(fresh, e->path), 0);
}

/* Two ranks whose first hosts the store; keys may be NULL. */
static void prepare(const char *first_keys, const char *second_keys)
{
	const char *const keys[2] = {first_keys, second_keys};
	const int port = kit_free_port();

	for (int i = 0; i < 2; i++) {
		kvp_context_options options;

		memset(&ends[i], 0, sizeof(ends[i]));
		kvp_context_options_init(&options);
		if (keys[i] != NULL) {
			put_keys(&ends[i], keys[i]);
			options.key_file = ends[i].path;
		}
		KIT_OK(kvp_context_new(&ends[i].context, &options));
		kvp_pipe_options_init(&ends[i].options);
		ends[i].options.kv_rank = i;
		ends[i].options.kv_port = port;
		ends[i].options.store_timeout_ms = PATIENCE_MS;
		ends[i].options.planes = "tcp";
		ends[i].timeout_ms = PATIENCE_MS;
	}
}

static void *open_one(void *arg)
{
	end *e = arg;

	e->status = kvp_pipe_open(e->context, &e->options, e->timeout_ms, &e->pipe);
	snprintf(e->text, sizeof(e->text), "%s", e->status == KVP_OK ? "" : kvp_last_error());
	return NULL;
}

static void open_both(void)
{
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, open_one, &ends[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

static void must_be_open(void)
{
	for (int i = 0; i < 2; i++)
		ck_assert_msg(ends[i].status == KVP_OK, "rank %d: %s: %s", i, kvp_status_name(ends[i].status), ends[i].text);
}

static void finish(void)
{
	for (int i = 1; i >= 0; i--) {
		kvp_pipe_free(ends[i].pipe);
		kvp_context_free(ends[i].context);
	}
}

static void transfer(uint64_t seed)
{
	char data[5000], got[5000];
	int64_t shape[1] = {sizeof(data)};
	kvp_tensor from, to;

	for (int i = 0; i < 2; i++) {
		kit_random_fill(data, sizeof(data), seed + (uint64_t)i);
		KIT_OK(kvp_tensor_init(&from, data, KVP_DTYPE_INT8, 1, shape));
		kvp_tensor_init_buffer(&to, got, sizeof(got));
		KIT_OK(kvp_pipe_send(ends[i].pipe, &from, NULL, NULL));
		KIT_OK(kvp_pipe_recv(ends[1 - i].pipe, &to, KVP_TIMEOUT_DEFAULT));
		ck_assert_mem_eq(got, data, sizeof(data));
		KIT_OK(kvp_pipe_flush(ends[i].pipe, PATIENCE_MS));
	}
}

START_TEST(a_pair_with_a_key)
{
	static const struct {
		const char *first, *second;
	} rows[] = {{A, A}, {A "\n" B, B "\n" A}, {A, A "\n" B}};

	for (int i = 0; i < 3; i++) {
		prepare(rows[i].first, rows[i].second);
		open_both();
		must_be_open();
		transfer(1);
		finish();
	}
}
END_TEST

START_TEST(everything_is_bound_to_the_world_with_a_key)
{
	prepare(A, A);
	for (int i = 0; i < 2; i++) {
		ends[i].options.bind_host = "0.0.0.0";
		ends[i].options.advertise_host = "127.0.0.1";
	}
	ends[0].options.kv_ip = "0.0.0.0"; /* rank 1 goes to 127.0.0.1 */
	open_both();
	must_be_open();
	ck_assert_int_eq(strncmp(kvpi_engine_url(ends[0].pipe->engine), "tcp://127.0.0.1:", 16), 0);
	transfer(1);
	finish();
}
END_TEST

START_TEST(nothing_but_loopback_is_bound_without)
{
	prepare(NULL, NULL);
	ends[0].options.kv_ip = "0.0.0.0";
	KIT_STATUS(kvp_pipe_open(ends[0].context, &ends[0].options, NOBODY_WAITS_MS, &ends[0].pipe), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "--make-key"));
	ends[0].options.kv_ip = "127.0.0.1";
	for (int i = 0; i < 2; i++) {
		ends[i].options.bind_host = "0.0.0.0";
		ends[i].timeout_ms = PATIENCE_MS;
	}
	open_both();
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(ends[i].status, KVP_E_INVALID);
		ck_assert_ptr_nonnull(strstr(ends[i].text, "--make-key"));
	}
	finish();
}
END_TEST

START_TEST(interfaces_and_ipv6)
{
	const char *const hosts[] = {"lo", "::1"};
	const int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	const bool ipv6 = probe >= 0 && bind(probe, (const struct sockaddr *)&loopback, sizeof(loopback)) == 0;

	close(probe);
	for (int row = 0; row < (ipv6 ? 2 : 1); row++) {
		prepare(row == 0 ? NULL : A, row == 0 ? NULL : A);
		ends[0].options.bind_host = ends[1].options.bind_host = hosts[row];
		if (row == 1)
			ends[0].options.kv_ip = ends[1].options.kv_ip = "::1";
		open_both();
		must_be_open();
		ck_assert_int_eq(
		    strncmp(kvpi_engine_url(ends[0].pipe->engine), row == 0 ? "tcp://127.0.0.1:" : "tcp://[::1]:", 12), 0);
		transfer(1);
		finish();
	}
	if (!ipv6)
		KIT_SKIP("no IPv6 loopback here: the interface only");
}
END_TEST

/* A range for a firewall: each end takes two ports of it, one for control and one for data. */
START_TEST(ports_are_taken_from_the_range)
{
	const int first = 20000 + (int)(getpid() % 20000);
	char range[40];

	prepare(A, A);
	snprintf(range, sizeof(range), "%d-%d", first, first + 199);
	ends[0].options.port_range = ends[1].options.port_range = range;
	open_both();
	must_be_open();
	for (int i = 0; i < 2; i++) {
		const int port = atoi(strrchr(kvpi_engine_url(ends[i].pipe->engine), ':') + 1);

		ck_assert(port >= first && port < first + 200);
	}
	transfer(1);
	finish();
	prepare(NULL, NULL);
	ends[0].options.port_range = "9-8";
	ends[0].options.kv_parallel_size = 1;
	KIT_STATUS(kvp_pipe_open(ends[0].context, &ends[0].options, PATIENCE_MS, &ends[0].pipe), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "9-8"));
	snprintf(range, sizeof(range), "%d", kit_free_port()); /* one port is not enough */
	ends[0].options.port_range = range;
	KIT_STATUS(kvp_pipe_open(ends[0].context, &ends[0].options, PATIENCE_MS, &ends[0].pipe), KVP_E_SYSTEM);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), range));
	finish();
}
END_TEST

START_TEST(another_key_is_told_at_once)
{
	static const struct {
		const char *host, *guest, *says;
	} rows[] = {{A, B, "different cluster key?"}, {NULL, A, "asks for no cluster key"}, {A, NULL, "asks for a cluster key"}};
	kvp_store_server *server;

	for (int i = 0; i < 3; i++) {
		prepare(rows[i].host, rows[i].guest);
		KIT_OK(kvp_store_server_start(ends[0].context, NULL, &server));
		ends[1].options.store_url = kvp_store_server_url(server);
		KIT_STATUS(kvp_pipe_open(ends[1].context, &ends[1].options, NOBODY_WAITS_MS, &ends[1].pipe), KVP_E_REFUSED);
		ck_assert_msg(strstr(kvp_last_error(), rows[i].says) != NULL, "%s", kvp_last_error());
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), kvp_store_server_url(server)));
		finish();
		kvp_store_server_free(server);
	}
}
END_TEST

/* They meet at one store, but their own keys differ: the session says so, not the clock. */
START_TEST(sessions_tell_it_too)
{
	kvp_store_server *server;
	kvp_store *store;
	pthread_t thread;

	prepare(A, B);
	KIT_OK(kvp_store_server_start(NULL, NULL, &server));
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, PATIENCE_MS, &store));
	for (int i = 0; i < 2; i++) {
		ends[i].options.store = store;
		ends[i].options.endpoint = i == 0 ? "p" : "d";
	}
	ends[0].options.send_to = "d";
	ends[0].timeout_ms = NOBODY_WAITS_MS;
	ends[1].options.recv_from = "p";
	ends[1].timeout_ms = 3000;
	ck_assert_int_eq(pthread_create(&thread, NULL, open_one, &ends[1]), 0);
	KIT_STATUS(kvp_pipe_open(ends[0].context, &ends[0].options, NOBODY_WAITS_MS, &ends[0].pipe), KVP_E_REFUSED);
	ck_assert_msg(strstr(kvp_last_error(), "different cluster key?") != NULL, "%s", kvp_last_error());
	pthread_join(thread, NULL);
	ck_assert_int_eq(ends[1].status, KVP_E_TIMEOUT);
	finish();
	kvp_store_free(store);
	kvp_store_server_free(server);
}
END_TEST

static bool has_taken(void *user)
{
	const end *e = user;
	char text[200] = "";
	FILE *file = fopen(e->path, "re");
	kvpi_keys keys;

	ck_assert_ptr_nonnull(file);
	ck_assert_ptr_nonnull(fgets(text, sizeof(text), file));
	fclose(file);
	(void)kvpi_context_keys(e->context, &keys);
	return (keys.key[0][0] == 0xff) == (text[0] == 'f');
}

START_TEST(keys_change_while_tensors_flow)
{
	static const char *const steps[] = {A "\n" B, B "\n" A, B};
	uint64_t seed = 1;

	prepare(A, A);
	open_both();
	must_be_open();
	for (size_t step = 0; step < sizeof(steps) / sizeof(steps[0]); step++)
		for (int i = 0; i < 2; i++) {
			put_keys(&ends[i], steps[step]);
			kit_wait_until(has_taken, &ends[i], PATIENCE_MS);
			for (int n = 0; n < 20; n++)
				transfer(seed++ * 1000);
		}
	finish();
}
END_TEST

KIT_MAIN("pipe with a key", a_pair_with_a_key, everything_is_bound_to_the_world_with_a_key,
    nothing_but_loopback_is_bound_without, interfaces_and_ipv6, ports_are_taken_from_the_range,
    another_key_is_told_at_once, sessions_tell_it_too, keys_change_while_tensors_flow)
