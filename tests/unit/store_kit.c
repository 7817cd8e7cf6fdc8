/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/store_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kvp_store_server *server;
kvp_store *store;

kvp_store_server *start_server(const char *bind)
{
	kvp_store_server_options options;
	kvp_store_server *started = NULL;

	kvp_store_server_options_init(&options);
	if (bind != NULL)
		options.bind = bind;
	KIT_OK(kvp_store_server_start(NULL, &options, &started));
	return started;
}

kvp_store *open_store(const char *url)
{
	kvp_store *opened = NULL;

	KIT_OK(kvp_store_open(NULL, url, NULL, SOON_MS, &opened));
	return opened;
}

void begin(void)
{
	server = start_server(NULL);
	store = open_store(kvp_store_server_url(server));
}

void finish(void)
{
	kvp_store_free(store);
	kvp_store_server_free(server);
}

void set(const char *key, const char *value)
{
	KIT_OK(kvp_store_set(store, key, value, strlen(value), NULL, SOON_MS));
}

void check_bytes(kvp_bytes *bytes, const char *expected)
{
	ck_assert_uint_eq(bytes->len, strlen(expected));
	ck_assert_ptr_nonnull(bytes->data);
	ck_assert_mem_eq(bytes->data, expected, bytes->len);
	kvp_bytes_free(bytes);
	ck_assert_ptr_null(bytes->data);
}

void check_value(const char *key, const char *expected)
{
	kvp_bytes value = {0};

	KIT_OK(kvp_store_get(store, key, &value, SOON_MS));
	check_bytes(&value, expected);
}

void check_absent(const char *key)
{
	kvp_bytes value = {NULL, 9}; /* stays as it is */

	KIT_STATUS(kvp_store_get(store, key, &value, SOON_MS), KVP_E_NOT_FOUND);
	ck_assert_uint_eq(value.len, 9);
}

static void *run_waiter(void *arg)
{
	waiter *w = arg;
	const char *const keys[] = {w->key};

	w->status = w->take ? kvp_store_take(w->store, keys, 1, &w->value, NULL, w->timeout_ms)
	                    : kvp_store_wait(w->store, keys, 1, &w->value, NULL, w->timeout_ms);
	snprintf(w->sentence, sizeof(w->sentence), "%s", kvp_last_error());
	return NULL;
}

void start_waiter(waiter *w)
{
	ck_assert_int_eq(pthread_create(&w->thread, NULL, run_waiter, w), 0);
}

/* What a metric says; -1 if it is not there. */
long long metric(const char *name)
{
	static char text[65536];
	const size_t len = strlen(name);

	KIT_OK(kvp_metrics_text(NULL, text, sizeof(text), NULL));
	for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, len) == 0 && line[len] == '{')
			return atoll(strchr(line, '}') + 1);
	}
	return -1;
}

static bool is_parked(void *user)
{
	return metric("kvpipe_store_parked_waits") >= *(int *)user;
}

void wait_parked(int count)
{
	kit_wait_until(is_parked, &count, SOON_MS);
}

int count_all(void *user, const char *key)
{
	(void)key;
	++*(int *)user;
	return 0;
}
