/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls of a store, server and client in one process.
 */
#include "unit/store_kit.h"

#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8

START_TEST(every_call_once)
{
	kvp_store_set_options options;
	const char *const keys[] = {"a", "n"};
	kvp_bytes values[2] = {{0}}, current = {0};
	int64_t sum = 0;

	begin();
	ck_assert_str_eq(kvp_store_url(store), kvp_store_server_url(server));
	ck_assert_uint_ne(kvp_store_incarnation(store), 0);
	ck_assert_uint_eq(kvp_store_incarnation(store), kvp_store_server_incarnation(server));

	check_absent("a");
	set("a", "one");
	check_value("a", "one");
	set("empty", "");
	check_value("empty", "");
	KIT_OK(kvp_store_add(store, "n", 5, &sum, SOON_MS));
	KIT_OK(kvp_store_add(store, "n", -7, NULL, SOON_MS));
	KIT_OK(kvp_store_add(store, "n", INT64_MIN + 2, &sum, SOON_MS));
	ck_assert_int_eq(sum, INT64_MIN);
	KIT_STATUS(kvp_store_add(store, "n", -1, &sum, SOON_MS), KVP_E_CONFLICT);
	ck_assert_int_eq(sum, INT64_MIN);
	KIT_STATUS(kvp_store_add(store, "a", 1, &sum, SOON_MS), KVP_E_CONFLICT);

	KIT_STATUS(kvp_store_compare_set(store, "a", NULL, 0, "two", 3, &current, SOON_MS),
	    KVP_E_CONFLICT);
	check_bytes(&current, "one");
	KIT_STATUS(
	    kvp_store_compare_set(store, "a", "", 0, "two", 3, NULL, SOON_MS), KVP_E_CONFLICT);
	KIT_STATUS(
	    kvp_store_compare_set(store, "x", "", 0, "two", 3, &current, SOON_MS), KVP_E_CONFLICT);
	ck_assert_ptr_null(current.data);
	ck_assert_uint_eq(current.len, 0);
	KIT_OK(kvp_store_compare_set(store, "a", "one", 3, "two", 3, &current, SOON_MS));
	KIT_OK(kvp_store_compare_set(store, "x", NULL, 0, "", 0, &current, SOON_MS));
	check_value("x", "");

	KIT_OK(kvp_store_wait(store, keys, 2, values, NULL, SOON_MS));
	check_bytes(&values[0], "two");
	check_bytes(&values[1], "-9223372036854775808");
	KIT_OK(kvp_store_wait(store, keys, 2, NULL, NULL, SOON_MS));
	KIT_OK(kvp_store_take(store, keys, 2, NULL, NULL, SOON_MS));
	check_absent("a");

	kvp_store_set_options_init(&options);
	options.uses = 2;
	options.ttl_ms = 3600 * 1000;
	KIT_OK(kvp_store_set(store, "u", "v", 1, &options, SOON_MS));
	const char *const u[] = {"u"};
	for (int i = 0; i < 2; i++) {
		KIT_OK(kvp_store_take(store, u, 1, values, NULL, SOON_MS));
		check_bytes(&values[0], "v");
	}
	KIT_STATUS(kvp_store_delete(store, "u", SOON_MS), KVP_E_NOT_FOUND);
	set("u", "v");
	KIT_OK(kvp_store_delete(store, "u", SOON_MS));
	check_absent("u");
	finish();
}
END_TEST

START_TEST(a_key_lives_its_time)
{
	kvp_store_set_options options;

	begin();
	kvp_store_set_options_init(&options);
	options.ttl_ms = 1;
	KIT_OK(kvp_store_set(store, "short", "v", 1, &options, SOON_MS));
	/* The server needs no request to notice. */
	for (int64_t end = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), SOON_MS);
	     metric("kvpipe_store_expired_keys_total") == 0;)
		ck_assert_int_lt(kvpi_now(&kvpi_clock_real), end);
	ck_assert_int_eq(metric("kvpipe_store_keys"), 0);
	check_absent("short");
	finish();
}
END_TEST

START_TEST(time_out_names_the_missing)
{
	const char *keys[] = {"a", "late/1", "b", "late/2"}, *many[12];
	char names[12][40];
	unsigned char missing[12];

	begin();
	set("a", "1");
	set("b", "2");
	memset(missing, 7, sizeof(missing));
	KIT_STATUS(kvp_store_wait(store, keys, 4, NULL, missing, 400), KVP_E_TIMEOUT);
	ck_assert_mem_eq(missing, "\0\1\0\1\7", 5);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "2 of 4 keys are missing"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "(late/1, late/2)"));
	/* 0 looks once, and a take that got nothing has taken nothing. */
	KIT_STATUS(kvp_store_take(store, keys, 4, NULL, missing, 0), KVP_E_TIMEOUT);
	KIT_STATUS(kvp_store_take(store, keys, 4, NULL, NULL, 100), KVP_E_TIMEOUT);
	check_value("a", "1");
	/* At most eight names, whatever is in them. */
	for (int i = 0; i < 12; i++) {
		snprintf(names[i], sizeof(names[i]), "miss-%02d\n\x1b[31m", i);
		many[i] = names[i];
	}
	KIT_STATUS(kvp_store_wait(store, many, 12, NULL, missing, 0), KVP_E_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "miss-07??[31m and 4 more)"));
	ck_assert_ptr_null(strstr(kvp_last_error(), "miss-08"));
	finish();
}
END_TEST

START_TEST(waits_are_woken)
{
	waiter w[3];

	begin();
	for (int i = 0; i < 3; i++) {
		w[i] = (waiter){.store = store, .key = "k", .timeout_ms = SOON_MS, .take = i > 0};
		start_waiter(&w[i]);
	}
	wait_parked(3);
	/* Calls beside the parked ones, on the same handle, are not held up. */
	for (int i = 0; i < 100; i++)
		KIT_OK(kvp_store_add(store, "n", 1, NULL, SOON_MS));
	set("k", "first");
	set("k", "second");
	set("k", "third");
	for (int i = 0; i < 3; i++) {
		pthread_join(w[i].thread, NULL);
		ck_assert_int_eq(w[i].status, KVP_OK);
		ck_assert_uint_gt(w[i].value.len, 0);
	}
	/* Each take took another one. */
	ck_assert_uint_ne(
	    w[1].value.len + 100 * (w[1].value.len == w[2].value.len), w[2].value.len);
	for (int i = 0; i < 3; i++)
		kvp_bytes_free(&w[i].value);
	finish();
}
END_TEST

/* The one who works for all runs out of time, and the next takes over. */
START_TEST(the_lead_is_handed_on)
{
	const char *const keys[] = {"never"};
	kvp_store *other;
	waiter w[3];

	begin();
	other = open_store(kvp_store_server_url(server));
	for (int i = 0; i < 3; i++) {
		w[i] = (waiter){.store = store, .key = "k", .timeout_ms = i == 0 ? 300 : SOON_MS};
		start_waiter(&w[i]);
		wait_parked(i + 1);
	}
	KIT_STATUS(kvp_store_wait(store, keys, 1, NULL, NULL, 100), KVP_E_TIMEOUT);
	pthread_join(w[0].thread, NULL);
	ck_assert_int_eq(w[0].status, KVP_E_TIMEOUT);
	KIT_OK(kvp_store_set(other, "k", "v", 1, NULL, SOON_MS));
	for (int i = 1; i < 3; i++) {
		pthread_join(w[i].thread, NULL);
		ck_assert_int_eq(w[i].status, KVP_OK);
		check_bytes(&w[i].value, "v");
	}
	kvp_store_free(other);
	finish();
}
END_TEST

typedef struct worker {
	pthread_t thread;
	int index;
	int failures;
} worker;

#define ROUNDS 300

/* Counts up together, and hands values round a ring of threads. */
static void *run_worker(void *arg)
{
	worker *w = arg;
	char mine[64], next[64];
	int expected = 0;

	for (int round = 0; round < ROUNDS; round++) {
		const char *const keys[] = {mine};
		kvp_bytes value = {0};

		snprintf(mine, sizeof(mine), "ring/%d/%d", round, w->index);
		snprintf(next, sizeof(next), "ring/%d/%d", round, (w->index + 1) % THREADS);
		if (kvp_store_add(store, "total", 1, NULL, SOON_MS) != KVP_OK ||
		    kvp_store_set(store, next, &round, sizeof(round), NULL, SOON_MS) != KVP_OK ||
		    kvp_store_take(store, keys, 1, &value, NULL, SOON_MS) != KVP_OK ||
		    value.len != sizeof(expected) || memcmp(value.data, &expected, value.len) != 0)
			w->failures++;
		expected++;
		kvp_bytes_free(&value);
	}
	return NULL;
}

START_TEST(many_threads_on_one_handle)
{
	worker workers[THREADS];
	waiter parked = {.key = "end", .timeout_ms = SOON_MS};
	char total[16];

	begin();
	parked.store = store;
	start_waiter(&parked);
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (worker){.index = i};
		ck_assert_int_eq(
		    pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		ck_assert_int_eq(workers[i].failures, 0);
	}
	snprintf(total, sizeof(total), "%d", THREADS * ROUNDS);
	check_value("total", total);
	set("end", "now");
	pthread_join(parked.thread, NULL);
	ck_assert_int_eq(parked.status, KVP_OK);
	check_bytes(&parked.value, "now");
	finish();
}
END_TEST

/* Several handles, servers and contexts in one process know nothing of each other. */
START_TEST(many_servers_in_one_process)
{
	kvp_context *context = NULL;
	kvp_store_server *servers[3];
	kvp_store *stores[3];

	KIT_OK(kvp_context_new(&context, NULL));
	for (int i = 0; i < 3; i++) {
		kvp_context *const in = i == 2 ? context : NULL;

		KIT_OK(kvp_store_server_start(in, NULL, &servers[i]));
		KIT_OK(kvp_store_open(
		    in, kvp_store_server_url(servers[i]), NULL, SOON_MS, &stores[i]));
	}
	kvp_context_free(context); /* it lives on until the handles are gone */
	for (int i = 0; i < 3; i++)
		KIT_OK(kvp_store_add(stores[i], "n", i, NULL, SOON_MS));
	for (int i = 0; i < 3; i++) {
		int64_t sum = -1;

		KIT_OK(kvp_store_add(stores[i], "n", 0, &sum, SOON_MS));
		ck_assert_int_eq(sum, i);
		for (int j = 0; j < i; j++)
			ck_assert_uint_ne(
			    kvp_store_incarnation(stores[i]), kvp_store_incarnation(stores[j]));
	}
	for (int i = 0; i < 3; i++) {
		kvp_store_server_free(servers[i]);
		kvp_store_free(stores[i]);
	}
}
END_TEST

START_TEST(values_up_to_the_limit)
{
	const size_t max = KVP_STORE_VALUE_MAX;
	char *big = malloc(max + 1);
	const char *const keys[] = {"a", "b"};
	kvp_bytes value = {0}, values[2];

	begin();
	kit_random_fill(big, max + 1, 1);
	KIT_OK(kvp_store_set(store, "a", big, max, NULL, SOON_MS));
	KIT_OK(kvp_store_get(store, "a", &value, SOON_MS));
	ck_assert_uint_eq(value.len, max);
	kit_check_fill(value.data, max, 1);
	kvp_bytes_free(&value);
	KIT_STATUS(kvp_store_set(store, "a", big, max + 1, NULL, SOON_MS), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_store_compare_set(store, "a", big, max, big, max, &value, SOON_MS),
	    KVP_E_TOO_LARGE);
	ck_assert_ptr_null(value.data);
	KIT_STATUS(
	    kvp_store_compare_set(store, "a", NULL, 0, big, max, &value, SOON_MS), KVP_E_CONFLICT);
	kit_check_fill(value.data, max, 1);
	kvp_bytes_free(&value);
	/* Together they do not fit into one reply; the sentence is the server's. */
	KIT_OK(kvp_store_set(store, "b", big, max, NULL, SOON_MS));
	KIT_STATUS(kvp_store_take(store, keys, 2, values, NULL, SOON_MS), KVP_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "bytes together"));
	KIT_OK(kvp_store_take(store, keys, 2, NULL, NULL, SOON_MS));
	free(big);
	finish();
}
END_TEST

static int count_key(void *user, const char *key)
{
	int *count = user;
	char expected[300];

	snprintf(expected, sizeof(expected), "list/%0*d", KVP_STORE_KEY_MAX - 5, *count);
	if (strcmp(key, expected) != 0)
		return 1;
	return ++*count == 4999;
}

START_TEST(listing)
{
	char key[300];
	int count = 0;

	begin();
	KIT_OK(kvp_store_list(store, "", count_all, &count, SOON_MS));
	ck_assert_int_eq(count, 0);
	for (int i = 0; i < 5000; i++) { /* of the longest names: two pages */
		snprintf(key, sizeof(key), "list/%0*d", KVP_STORE_KEY_MAX - 5, i);
		set(key, "");
	}
	set("other", "");
	KIT_OK(kvp_store_list(store, "list/", count_all, &count, SOON_MS));
	ck_assert_int_eq(count, 5000);
	count = 0;
	KIT_OK(kvp_store_list(store, "list/", count_key, &count, SOON_MS));
	ck_assert_int_eq(count, 4999); /* ended by the callback */
	count = 0;
	KIT_OK(kvp_store_list(store, "", count_all, &count, SOON_MS));
	ck_assert_int_eq(count, 5001);
	finish();
}
END_TEST

START_TEST(limits_of_the_server)
{
	kvp_store_server_options options;
	waiter w = {.key = "x", .timeout_ms = SOON_MS};
	const char *const keys[] = {"y"};
	const char big[1001] = "";

	kvp_store_server_options_init(&options);
	options.max_bytes = 1000;
	options.max_keys = 2;
	options.max_waits = 1;
	KIT_OK(kvp_store_server_start(NULL, &options, &server));
	store = open_store(kvp_store_server_url(server));
	KIT_STATUS(kvp_store_set(store, "a", big, sizeof(big), NULL, SOON_MS), KVP_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "the store is full"));
	set("a", "1");
	w.store = store;
	start_waiter(&w);
	wait_parked(1);
	KIT_STATUS(kvp_store_wait(store, keys, 1, NULL, NULL, SOON_MS), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_store_set(store, "b", "", 0, NULL, SOON_MS), KVP_E_TOO_LARGE);
	set("x", "2");
	pthread_join(w.thread, NULL);
	ck_assert_int_eq(w.status, KVP_OK);
	check_bytes(&w.value, "2");
	finish();
}
END_TEST

START_TEST(misuse)
{
	char long_key[KVP_STORE_KEY_MAX + 2];
	static char names[300][KVP_STORE_KEY_MAX + 1];
	static const char *keys[1025];
	const char *none[] = {"a", NULL};
	kvp_store_server_options server_options;
	kvp_store_options store_options;
	kvp_store_set_options set_options;
	kvp_store_server *no_server = NULL;
	kvp_store *no_store = NULL;
	kvp_bytes value;

	memset(long_key, 'k', sizeof(long_key));
	long_key[sizeof(long_key) - 1] = 0;
	for (int i = 0; i < 1025; i++)
		keys[i] = "a";
	begin();

	/* The handle. */
	KIT_STATUS(kvp_store_get(NULL, "a", &value, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_get((kvp_store *)(void *)server, "a", &value, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_set(NULL, "a", "", 0, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(NULL, keys, 1, NULL, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_list(NULL, "", count_all, &value, 0), KVP_E_INVALID);
	kvp_store_close(NULL);
	kvp_store_free(NULL);
	kvp_store_server_free(NULL);
	ck_assert_ptr_null(kvp_store_url(NULL));
	ck_assert_ptr_null(kvp_store_server_url(NULL));
	ck_assert_uint_eq(kvp_store_incarnation(NULL), 0);
	ck_assert_uint_eq(kvp_store_server_incarnation(NULL), 0);

	/* Keys. */
	KIT_STATUS(kvp_store_get(store, NULL, &value, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_get(store, "", &value, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_get(store, long_key, &value, 0), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_store_delete(store, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_add(store, "", 1, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(store, NULL, 1, NULL, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(store, keys, 0, NULL, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(store, none, 2, NULL, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(store, keys, 1025, NULL, NULL, 0), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_store_take(store, keys, 2, NULL, NULL, 0), KVP_E_INVALID);
	for (int i = 0; i < 300; i++) {
		snprintf(names[i], sizeof(names[i]), "%0*d", KVP_STORE_KEY_MAX, i);
		keys[i] = names[i];
	}
	KIT_STATUS(kvp_store_wait(store, keys, 257, NULL, NULL, 0), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_store_wait(store, keys, 256, NULL, NULL, 0), KVP_E_TIMEOUT);
	long_key[KVP_STORE_KEY_MAX] = 0;
	set(long_key, "fits");
	check_value(long_key, "fits");

	/* Values, outputs, times, options. */
	KIT_STATUS(kvp_store_set(store, "a", NULL, 1, NULL, 0), KVP_E_INVALID);
	KIT_OK(kvp_store_set(store, "a", NULL, 0, NULL, SOON_MS));
	KIT_STATUS(kvp_store_compare_set(store, "a", "", 0, NULL, 1, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_get(store, "a", NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_get(store, "a", &value, -2), KVP_E_INVALID);
	KIT_STATUS(kvp_store_wait(store, none, 1, NULL, NULL, -2), KVP_E_INVALID);
	KIT_STATUS(kvp_store_list(store, NULL, count_all, &value, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_list(store, "", NULL, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_store_list(store, "", count_all, &value, -2), KVP_E_INVALID);
	kvp_store_set_options_init(&set_options);
	set_options.ttl_ms = -1;
	KIT_STATUS(kvp_store_set(store, "a", "", 0, &set_options, 0), KVP_E_INVALID);
	set_options.ttl_ms = INT64_MAX;
	KIT_STATUS(kvp_store_set(store, "a", "", 0, &set_options, 0), KVP_E_INVALID);
	set_options = (kvp_store_set_options){0};
	KIT_STATUS(kvp_store_set(store, "a", "", 0, &set_options, 0), KVP_E_INVALID);
	check_value("a", "");

	/* Opening and starting. */
	const char *const url = kvp_store_server_url(server);
	KIT_STATUS(kvp_store_open(NULL, url, NULL, 0, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_store_open(NULL, NULL, NULL, 0, &no_store), KVP_E_INVALID);
	KIT_STATUS(kvp_store_open(NULL, "nonsense", NULL, 0, &no_store), KVP_E_INVALID);
	KIT_STATUS(kvp_store_open(NULL, "tcp://127.0.0.1:0", NULL, 0, &no_store), KVP_E_INVALID);
	KIT_STATUS(kvp_store_open(NULL, url, NULL, -7, &no_store), KVP_E_INVALID);
	kvp_store_options_init(&store_options);
	ck_assert_int_eq(store_options.store_timeout_ms, 300000);
	store_options.store_timeout_ms = 0;
	KIT_STATUS(kvp_store_open(NULL, url, &store_options, 0, &no_store), KVP_E_INVALID);
	ck_assert_ptr_null(no_store);

	KIT_STATUS(kvp_store_server_start(NULL, NULL, NULL), KVP_E_INVALID);
	kvp_store_server_options_init(&server_options);
	ck_assert_uint_eq(server_options.max_bytes, UINT64_C(1) << 30);
	server_options.bind = url; /* in use */
	KIT_STATUS(kvp_store_server_start(NULL, &server_options, &no_server), KVP_E_SYSTEM);
	server_options.bind = "0.0.0.0:0"; /* not without a key */
	KIT_STATUS(kvp_store_server_start(NULL, &server_options, &no_server), KVP_E_INVALID);
	server_options.bind = NULL;
	KIT_STATUS(kvp_store_server_start(NULL, &server_options, &no_server), KVP_E_INVALID);
	kvp_store_server_options_init(&server_options);
	server_options.max_waits = 0;
	KIT_STATUS(kvp_store_server_start(NULL, &server_options, &no_server), KVP_E_INVALID);
	ck_assert_ptr_null(no_server);
	kvp_store_server_options_init(NULL);
	kvp_store_options_init(NULL);
	kvp_store_set_options_init(NULL);
	finish();
}
END_TEST

START_TEST(a_success_keeps_the_last_error)
{
	begin();
	KIT_STATUS(kvp_store_delete(store, "no such key", SOON_MS), KVP_E_NOT_FOUND);
	set("a", "1");
	check_value("a", "1");
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "no such key"));
	finish();
}
END_TEST

START_TEST(default_time_out)
{
	kvp_store_options options;
	const char *const keys[] = {"never"};

	server = start_server(NULL);
	kvp_store_options_init(&options);
	options.store_timeout_ms = 200;
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), &options, SOON_MS, &store));
	KIT_STATUS(kvp_store_wait(store, keys, 1, NULL, NULL, KVP_TIMEOUT_DEFAULT), KVP_E_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "after 200 ms"));
	finish();
}
END_TEST

KIT_MAIN("store", every_call_once, a_key_lives_its_time, time_out_names_the_missing,
    waits_are_woken, the_lead_is_handed_on, many_threads_on_one_handle, many_servers_in_one_process,
    values_up_to_the_limit, listing, limits_of_the_server, misuse, a_success_keeps_the_last_error,
    default_time_out)
