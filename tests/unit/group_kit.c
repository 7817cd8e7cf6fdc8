/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/group_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *run_member(void *arg)
{
	member *m = arg;
	kvp_group_options options;
	kvp_store *own = NULL;

	if (m->store == NULL) {
		m->opened = kvp_store_open(NULL, m->url, NULL, SOON_MS, &own);
		m->store = own;
	}
	kvp_group_options_init(&options);
	if (m->name != NULL)
		options.name = m->name;
	options.rank = m->rank;
	options.world_size = m->world_size;
	if (m->opened == KVP_OK)
		m->opened = kvp_group_open(
		    m->store, &options, m->open_ms > 0 ? m->open_ms : SOON_MS, &m->group);
	snprintf(m->sentence, sizeof(m->sentence), "%s", kvp_last_error());
	if (m->opened == KVP_OK && m->run != NULL)
		m->failed_line = m->run(m);
	if (m->failed_line != 0)
		snprintf(m->why, sizeof(m->why), "%s", kvp_last_error());
	kvp_group_free(m->group);
	m->group = NULL;
	kvp_store_free(own);
	return NULL;
}

void start_member(member *m)
{
	ck_assert_int_eq(pthread_create(&m->thread, NULL, run_member, m), 0);
}

void join_member(member *m)
{
	pthread_join(m->thread, NULL);
	if (m->failed_line != 0)
		ck_abort_msg("rank %d failed in line %d: %s", m->rank, m->failed_line, m->why);
}

void join_opened(member *m)
{
	join_member(m);
	if (m->opened != KVP_OK)
		ck_abort_msg("rank %d: %s: %s", m->rank, kvp_status_name(m->opened), m->sentence);
}

/* All ranks as threads, each with a store handle of its own or all with one. */
void run_threads(const char *url, kvp_store *shared, int world_size, int (*run)(member *m))
{
	member members[RANKS_MAX];

	for (int i = 0; i < world_size; i++) {
		members[i] = (member){
		    .run = run, .url = url, .store = shared, .rank = i, .world_size = world_size};
		start_member(&members[i]);
	}
	for (int i = 0; i < world_size; i++)
		join_opened(&members[i]);
}

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

void begin(void)
{
	server = start_server(NULL);
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, SOON_MS, &store));
}

void finish(void)
{
	kvp_store_free(store);
	kvp_store_server_free(server);
}

static bool is_parked(void *user)
{
	static char text[65536];
	const char *line;

	if (kvp_metrics_text(NULL, text, sizeof(text), NULL) != KVP_OK)
		return false;
	line = strstr(text, "\nkvpipe_store_parked_waits{");
	return line != NULL && atoi(strchr(line, '}') + 1) >= *(int *)user;
}

void wait_parked(int count)
{
	kit_wait_until(is_parked, &count, SOON_MS);
}

/* ---- what a working group does ---- */

bool equals(kvp_bytes *bytes, const char *expected)
{
	const bool equal =
	    bytes->len == strlen(expected) && memcmp(bytes->data, expected, bytes->len) == 0;

	kvp_bytes_free(bytes);
	return equal;
}

/* Every rank to every rank, itself included, in order. */
static int exchange_pairs(member *m)
{
	char text[64];
	kvp_bytes got;

	for (int round = 0; round < 5; round++) {
		for (int to = 0; to < m->world_size; to++) {
			snprintf(text, sizeof(text), "%d to %d, number %d", m->rank, to, round);
			CHECK_OK(kvp_group_send(m->group, to, text, strlen(text), SOON_MS));
		}
	}
	for (int from = m->world_size - 1; from >= 0; from--) {
		for (int round = 0; round < 5; round++) {
			snprintf(text, sizeof(text), "%d to %d, number %d", from, m->rank, round);
			CHECK_OK(kvp_group_recv(m->group, from, &got, SOON_MS));
			CHECK(equals(&got, text));
		}
	}
	/* An empty object is one, too. */
	CHECK_OK(kvp_group_send(m->group, m->rank, NULL, 0, SOON_MS));
	CHECK_OK(kvp_group_recv(m->group, m->rank, &got, SOON_MS));
	CHECK(equals(&got, ""));
	return 0;
}

static int broadcast_from_each(member *m)
{
	char text[64];
	kvp_bytes got;

	for (int root = 0; root < m->world_size; root++) {
		got = (kvp_bytes){NULL, 7};
		snprintf(text, sizeof(text), "from root %d", root);
		CHECK_OK(kvp_group_broadcast(m->group, root, m->rank == root ? text : NULL,
		    m->rank == root ? strlen(text) : 0, &got, SOON_MS));
		CHECK(m->rank == root ? got.len == 7 : equals(&got, text));
	}
	return 0;
}

static int gather_all(member *m)
{
	kvp_bytes all[RANKS_MAX];
	char text[64];

	for (int round = 0; round < 3; round++) {
		/* Rank r gives r times 400 bytes and a number. */
		char mine[RANKS_MAX * 400 + 64];
		const int len = snprintf(mine, sizeof(mine), "%d.%d", m->rank, round);

		memset(mine + len, 'x', sizeof(mine) - (size_t)len);
		CHECK_OK(kvp_group_all_gather(
		    m->group, mine, (size_t)(m->rank * 400 + len), all, SOON_MS));
		for (int i = 0; i < m->world_size; i++) {
			const int text_len = snprintf(text, sizeof(text), "%d.%d", i, round);

			CHECK(all[i].len == (size_t)(i * 400 + text_len));
			CHECK(memcmp(all[i].data, text, (size_t)text_len) == 0);
			kvp_bytes_free(&all[i]);
		}
		CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	}
	return 0;
}

int do_everything(member *m)
{
	int line = exchange_pairs(m);

	CHECK(kvp_group_rank(m->group) == m->rank);
	CHECK(kvp_group_world_size(m->group) == m->world_size);
	CHECK(kvp_group_epoch(m->group) > 0);
	if (line == 0)
		line = broadcast_from_each(m);
	if (line == 0)
		line = gather_all(m);
	for (int i = 0; i < m->world_size && line == 0; i++)
		CHECK(kvp_group_same_host(m->group, i) == 1);
	if (line == 0)
		CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	return line;
}

static int note_key(void *user, const char *key)
{
	char *keys = user;

	snprintf(keys + strlen(keys), 1024 - strlen(keys), "%s ", key);
	return 0;
}

void check_only_epochs_left(void)
{
	char keys[1024] = "";

	KIT_OK(kvp_store_list(store, "g/", note_key, keys, SOON_MS));
	ck_assert_str_eq(keys, "g/default/epoch ");
}
