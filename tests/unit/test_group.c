/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups of threads: what they do, and what is told when ranks are late, twice or wrong.
 */
#include "unit/group_kit.h"

#include "base/fault.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(threads_with_own_handles)
{
	begin();
	run_threads(kvp_store_server_url(server), NULL, _i + 1, do_everything);
	check_only_epochs_left();
	finish();
}
END_TEST

START_TEST(threads_with_one_handle)
{
	begin();
	run_threads(NULL, store, _i + 1, do_everything);
	check_only_epochs_left();
	finish();
}
END_TEST

/* Different pairs beside each other, from threads of one rank. */
typedef struct sender {
	pthread_t thread;
	kvp_group *group;
	int to;
	kvp_status status;
} sender;

static void *send_many(void *arg)
{
	sender *s = arg;

	for (int i = 0; i < 100 && s->status == KVP_OK; i++)
		s->status = kvp_group_send(s->group, s->to, &i, sizeof(i), SOON_MS);
	return NULL;
}

static int send_in_parallel(member *m)
{
	sender senders[RANKS_MAX];
	kvp_bytes got;

	for (int to = 0; to < m->world_size; to++) {
		senders[to] = (sender){.group = m->group, .to = to};
		CHECK(pthread_create(&senders[to].thread, NULL, send_many, &senders[to]) == 0);
	}
	for (int i = 0; i < 100; i++) {
		for (int from = 0; from < m->world_size; from++) {
			CHECK_OK(kvp_group_recv(m->group, from, &got, SOON_MS));
			CHECK(got.len == sizeof(i) && memcmp(got.data, &i, sizeof(i)) == 0);
			kvp_bytes_free(&got);
		}
	}
	for (int to = 0; to < m->world_size; to++) {
		pthread_join(senders[to].thread, NULL);
		CHECK_OK(senders[to].status);
	}
	return 0;
}

START_TEST(pairs_in_parallel)
{
	begin();
	run_threads(NULL, store, 3, send_in_parallel);
	check_only_epochs_left();
	finish();
}
END_TEST

START_TEST(names_keep_groups_apart)
{
	member members[3][3];

	begin();
	for (int g = 0; g < 3; g++) {
		for (int i = 0; i <= g; i++) {
			members[g][i] = (member){.run = do_everything,
			    .store = store,
			    .rank = i,
			    .world_size = g + 1,
			    .name = g == 0   ? "a"
			            : g == 1 ? "a.a"
			                     : "A-name_of.64-bytes_is-the-longest-that.a-group_"
			                       "may-have......64"};
			start_member(&members[g][i]);
		}
	}
	for (int g = 0; g < 3; g++)
		for (int i = 0; i <= g; i++)
			join_opened(&members[g][i]);
	finish();
}
END_TEST

static int note_epoch(member *m)
{
	m->open_ms = -1;
	snprintf(m->why, sizeof(m->why), "%llu", (unsigned long long)kvp_group_epoch(m->group));
	return 0;
}

START_TEST(epochs_grow)
{
	unsigned long long last = 0;

	begin();
	for (int round = 0; round < 5; round++) {
		member members[2];

		for (int i = 0; i < 2; i++) {
			members[i] =
			    (member){.run = note_epoch, .store = store, .rank = i, .world_size = 2};
			start_member(&members[i]);
		}
		for (int i = 0; i < 2; i++)
			join_opened(&members[i]);
		ck_assert_str_eq(members[0].why, members[1].why);
		ck_assert_uint_gt(strtoull(members[0].why, NULL, 10), last);
		last = strtoull(members[0].why, NULL, 10);
		/* Whatever the clock says: a store that counts higher is believed. */
		if (round == 2) {
			last += UINT64_C(1000000000000);
			char text[24];

			snprintf(text, sizeof(text), "%llu", last);
			KIT_OK(kvp_store_set(
			    store, "g/default/epoch", text, strlen(text), NULL, SOON_MS));
		}
	}
	finish();
}
END_TEST

/* ---- large objects ---- */

static int gather_large(member *m)
{
	const size_t max = KVP_STORE_VALUE_MAX;
	kvp_bytes all[RANKS_MAX], got;
	char *mine = malloc(max + 1);

	CHECK(mine != NULL);
	kit_random_fill(mine, max + 1, (uint64_t)m->rank);
	CHECK(kvp_group_send(m->group, m->rank, mine, max + 1, SOON_MS) == KVP_E_TOO_LARGE);
	CHECK(kvp_group_all_gather(m->group, mine, max + 1, all, SOON_MS) == KVP_E_TOO_LARGE);
	/* Sizes from full to tiny: the parts they are fetched in differ. */
	for (size_t len = max; len > 100000; len /= 2) {
		CHECK_OK(kvp_group_all_gather(m->group, mine, len, all, SOON_MS));
		for (int i = 0; i < m->world_size; i++) {
			CHECK(all[i].len == len);
			CHECK(kit_fill_differs(all[i].data, len, (uint64_t)i) == len);
			kvp_bytes_free(&all[i]);
		}
	}
	CHECK_OK(kvp_group_broadcast(m->group, 1, mine, max, &got, SOON_MS));
	if (m->rank != 1) {
		CHECK(got.len == max && kit_fill_differs(got.data, max, 1) == max);
		kvp_bytes_free(&got);
	}
	free(mine);
	CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	return 0;
}

START_TEST(objects_up_to_the_limit)
{
	begin();
	run_threads(kvp_store_server_url(server), NULL, 5, gather_large);
	check_only_epochs_left();
	finish();
}
END_TEST

/* So many ranks, and so long a name, that their keys do not fit into one call.  One thread plays
 * all ranks but the last: it puts their joins and parts. */
START_TEST(more_keys_than_a_call_takes)
{
	enum { N = 1024 };
	static const char name[] =
	    "0123456789012345678901234567890123456789012345678901234567890123";
	member m = {.store = NULL, .rank = 0, .world_size = N, .name = name, .open_ms = LATE_MS};
	char key[128], value[256];

	begin();
	m.store = store;
	for (int i = 1; i < N - 1; i++) {
		snprintf(key, sizeof(key), "g/%s/join/%d", name, i);
		snprintf(value, sizeof(value), "%032x %d boot= name=x shm=0 ipc=0 pid=0 net=0",
		    (unsigned)i, N);
		KIT_OK(kvp_store_set(store, key, value, strlen(value), NULL, SOON_MS));
	}
	start_member(&m);
	join_member(&m);
	ck_assert_int_eq(m.opened, KVP_E_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(m.sentence, "rank 1023 of group"));

	m.opened = KVP_OK;
	m.open_ms = SOON_MS;
	start_member(&m);
	snprintf(key, sizeof(key), "g/%s/join/%d", name, N - 1);
	snprintf(value, sizeof(value), "%032x %d boot= name=x shm=0 ipc=0 pid=0 net=0", N - 1u, N);
	KIT_OK(kvp_store_set(store, key, value, strlen(value), NULL, SOON_MS));
	for (int i = 1; i < N; i++) {
		const char *keys[] = {key};
		unsigned long long epoch;
		kvp_bytes answer;

		snprintf(key, sizeof(key), "g/%s/form/%032x", name, (unsigned)i);
		KIT_OK(kvp_store_take(store, keys, 1, &answer, NULL, SOON_MS));
		ck_assert_uint_lt(answer.len, sizeof(value));
		memcpy(value, answer.data, answer.len);
		value[answer.len] = 0;
		kvp_bytes_free(&answer);
		ck_assert_int_eq(sscanf(value, "ok %llu", &epoch), 1);
		snprintf(key, sizeof(key), "g/%s/%llu/here/%d", name, epoch, i);
		KIT_OK(kvp_store_set(store, key, "", 0, NULL, SOON_MS));
	}
	join_opened(&m);
	finish();
}
END_TEST

/* ---- ranks that do not come, or come twice ---- */

START_TEST(missing_ranks_are_named)
{
	member members[5];

	begin();
	for (int i = 0; i < 5; i++)
		members[i] =
		    (member){.store = store, .rank = i, .world_size = 5, .open_ms = LATE_MS};
	start_member(&members[0]);
	start_member(&members[2]);
	start_member(&members[3]);
	for (int i = 0; i < 4; i++) {
		if (i == 1)
			continue;
		join_member(&members[i]);
		ck_assert_int_eq(members[i].opened, KVP_E_TIMEOUT);
		ck_assert_ptr_nonnull(strstr(members[i].sentence, "ranks 1, 4 of group default"));
		ck_assert_ptr_nonnull(strstr(members[i].sentence, "within 1500 ms"));
	}
	/* Rank 0 may be the missing one. */
	start_member(&members[1]);
	start_member(&members[4]);
	for (int i = 1; i < 5; i += 3) {
		join_member(&members[i]);
		ck_assert_int_eq(members[i].opened, KVP_E_TIMEOUT);
		ck_assert_ptr_nonnull(strstr(members[i].sentence, "0"));
	}
	finish();
}
END_TEST

/* Rank 1 of 3 stays away from one call after another; the others are told, and may try again. */
static int be_late(member *m)
{
	kvp_bytes all[RANKS_MAX] = {{0}}, got = {NULL, 7};

	if (m->rank == 1) {
		/* Comes when the others have given up once. */
		for (int i = 0; i < 2; i++) {
			CHECK_OK(kvp_group_recv(m->group, 0, &got, SOON_MS));
			kvp_bytes_free(&got);
			CHECK_OK(kvp_group_recv(m->group, 2, &got, SOON_MS));
			kvp_bytes_free(&got);
			if (i == 0)
				CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
		}
		CHECK_OK(kvp_group_all_gather(m->group, "b", 1, all, SOON_MS));
	} else {
		CHECK(kvp_group_barrier(m->group, LATE_MS) == KVP_E_TIMEOUT);
		CHECK(strstr(kvp_last_error(),
		          "kvp_group_barrier: rank 1 of group default did not come") != NULL);
		CHECK_OK(kvp_group_send(m->group, 1, "come", 4, SOON_MS));
		CHECK_OK(kvp_group_barrier(m->group, SOON_MS));

		CHECK(kvp_group_all_gather(m->group, m->rank == 0 ? "a" : "c", 1, all, LATE_MS) ==
		      KVP_E_TIMEOUT);
		CHECK(strstr(kvp_last_error(), "rank 1 of group default did not come") != NULL);
		CHECK(all[0].data == NULL);
		CHECK_OK(kvp_group_send(m->group, 1, "come", 4, SOON_MS));
		CHECK_OK(kvp_group_all_gather(m->group, m->rank == 0 ? "a" : "c", 1, all, SOON_MS));
	}
	CHECK(equals(&all[0], "a") && equals(&all[1], "b") && equals(&all[2], "c"));

	got = (kvp_bytes){NULL, 7};
	if (m->rank == 0) {
		CHECK(kvp_group_recv(m->group, 1, &got, 300) == KVP_E_TIMEOUT);
		CHECK(strstr(kvp_last_error(), "rank 1 of group default sent nothing") != NULL);
		CHECK(kvp_group_broadcast(m->group, 1, NULL, 0, &got, 300) == KVP_E_TIMEOUT);
		CHECK(strstr(kvp_last_error(), "rank 1 of group default sent nothing") != NULL);
		CHECK(kvp_group_recv(m->group, 2, &got, 0) == KVP_E_TIMEOUT);
		CHECK(got.len == 7);
	}
	/* Nobody has lost count. */
	CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	return 0;
}

START_TEST(late_ranks_are_named)
{
	begin();
	run_threads(NULL, store, 3, be_late);
	check_only_epochs_left();
	finish();
}
END_TEST

START_TEST(world_sizes_differ)
{
	member members[3];

	begin();
	for (int i = 0; i < 3; i++)
		members[i] = (member){.store = store, .rank = i, .world_size = i == 1 ? 4 : 3};
	for (int i = 0; i < 3; i++)
		start_member(&members[i]);
	for (int i = 0; i < 3; i++) {
		join_member(&members[i]);
		ck_assert_int_eq(members[i].opened, KVP_E_CONFLICT);
		ck_assert_ptr_nonnull(
		    strstr(members[i].sentence, "rank 1 says the world size is 4, rank 0 says 3"));
	}
	finish();
}
END_TEST

/* Rank 0 waits for ranks that will never come: it looks at those who came. */
START_TEST(world_sizes_differ_and_rank_0_has_the_larger)
{
	static const char left[] = "0123456789abcdef0123456789abcdef 9 boot= name=x shm=0 ipc=0 pid=0 net=0";
	const char *refusal = "g/default/form/0123456789abcdef0123456789abcdef";
	member members[3];

	begin();
	for (int i = 0; i < 3; i++)
		members[i] = (member){.store = store, .rank = i, .world_size = 3};
	/* A join that a dead process has left is no conflict: it does not take rank 0's answer. */
	KIT_OK(kvp_store_set(store, "g/default/join/1", left, strlen(left), NULL, SOON_MS));
	start_member(&members[0]);
	KIT_OK(kvp_store_wait(store, &refusal, 1, NULL, NULL, SOON_MS));
	start_member(&members[1]);
	wait_parked(2);
	start_member(&members[2]);
	for (int i = 0; i < 3; i++)
		join_opened(&members[i]);

	for (int i = 0; i < 3; i++) {
		members[i] = (member){.store = store, .rank = i, .world_size = i == 0 ? 4 : 3};
		start_member(&members[i]);
	}
	for (int i = 0; i < 3; i++) {
		join_member(&members[i]);
		ck_assert_int_eq(members[i].opened, KVP_E_CONFLICT);
		ck_assert_ptr_nonnull(strstr(members[i].sentence, "says the world size is 3, rank 0 says 4"));
	}
	finish();
}
END_TEST

START_TEST(a_rank_taken_twice)
{
	member first, second, other;

	begin();
	for (int taken = 0; taken < 2; taken++) {
		first = (member){.store = store, .rank = taken, .world_size = 2};
		second = first;
		other = (member){.store = store, .rank = 1 - taken, .world_size = 2};
		start_member(&first);
		wait_parked(1);
		start_member(&second);
		if (taken == 0)
			wait_parked(2); /* rank 0 learns it only when all are there */
		else
			join_member(&first);
		start_member(&other);
		if (taken == 0)
			join_member(&first);
		join_opened(&second);
		join_opened(&other);
		ck_assert_int_eq(first.opened, KVP_E_CONFLICT);
		ck_assert_ptr_nonnull(
		    strstr(first.sentence, taken == 0 ? "another process has joined as rank 0"
		                                      : "another process has joined as rank 1"));
	}
	finish();
}
END_TEST

START_TEST(nonsense_in_the_store)
{
	static const char *const joins[] = {"", "x", "0123456789abcdef0123456789abcdef",
	    "0123456789abcdef0123456789abcdef 2 ", "0123456789abcdef0123456789abcdef 2 no host",
	    "0123456789ABCDEF0123456789abcdef 2 boot= name= shm=0 ipc=0 pid=0 net=0"};
	member m;

	begin();
	for (size_t i = 0; i < sizeof(joins) / sizeof(joins[0]); i++) {
		KIT_OK(kvp_store_set(
		    store, "g/default/join/0", joins[i], strlen(joins[i]), NULL, SOON_MS));
		KIT_OK(kvp_store_set(
		    store, "g/default/join/1", joins[i], strlen(joins[i]), NULL, SOON_MS));
		m = (member){.store = store, .rank = 0, .world_size = 2};
		start_member(&m);
		join_member(&m);
		ck_assert_int_eq(m.opened, KVP_E_PROTOCOL);
	}
	KIT_OK(kvp_store_set(store, "g/default/epoch", "x", 1, NULL, SOON_MS));
	m = (member){.store = store, .rank = 0, .world_size = 1};
	start_member(&m);
	join_member(&m);
	ck_assert_int_eq(m.opened, KVP_E_CONFLICT);
	finish();
}
END_TEST

/* ---- misuse, faults ---- */

static int misuse_group(member *m)
{
	kvp_bytes got, all[RANKS_MAX];
	kvp_group *g = m->group;

	CHECK(kvp_group_send(g, -1, "", 0, 0) == KVP_E_INVALID);
	CHECK(kvp_group_send(g, 2, "", 0, 0) == KVP_E_INVALID);
	CHECK(kvp_group_send(g, 1, NULL, 1, 0) == KVP_E_INVALID);
	CHECK(kvp_group_send(g, 1, "", 0, -2) == KVP_E_INVALID);
	CHECK(kvp_group_recv(g, 2, &got, 0) == KVP_E_INVALID);
	CHECK(kvp_group_recv(g, 1, NULL, 0) == KVP_E_INVALID);
	CHECK(kvp_group_broadcast(g, 2, "", 0, &got, 0) == KVP_E_INVALID);
	CHECK(kvp_group_broadcast(g, 1 - m->rank, "", 0, NULL, 0) == KVP_E_INVALID);
	CHECK(kvp_group_broadcast(g, m->rank, NULL, 1, NULL, 0) == KVP_E_INVALID);
	CHECK(kvp_group_all_gather(g, "", 0, NULL, 0) == KVP_E_INVALID);
	CHECK(kvp_group_all_gather(g, NULL, 1, all, 0) == KVP_E_INVALID);
	CHECK(kvp_group_barrier(g, -5) == KVP_E_INVALID);
	CHECK(kvp_group_same_host(g, 2) == KVP_E_INVALID);
	CHECK(kvp_group_same_host(g, -1) == KVP_E_INVALID);
	/* None of that has counted. */
	return do_everything(m);
}

START_TEST(misuse)
{
	static const char *const bad_names[] = {"", "a/b", "a b", "\xc3\xa4",
	    "a-name-of-65-bytes-is-longer-than-any-that-a-group-may-have.....6"};
	kvp_group_options options;
	kvp_group *group = NULL;

	begin();
	run_threads(NULL, store, 2, misuse_group);
	KIT_STATUS(kvp_group_open(NULL, NULL, 0, &group), KVP_E_INVALID);
	KIT_STATUS(kvp_group_open(store, NULL, 0, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_group_open(store, NULL, -2, &group), KVP_E_INVALID);
	kvp_group_options_init(NULL);
	for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++) {
		kvp_group_options_init(&options);
		options.name = bad_names[i];
		KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	}
	kvp_group_options_init(&options);
	options.name = NULL;
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	kvp_group_options_init(&options);
	options.rank = 1;
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	options.rank = -1;
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	options.rank = 0;
	options.world_size = 0;
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	options.world_size = 1025;
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	options = (kvp_group_options){0};
	KIT_STATUS(kvp_group_open(store, &options, 0, &group), KVP_E_INVALID);
	ck_assert_ptr_null(group);

	KIT_STATUS(kvp_group_barrier(NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_group_barrier((kvp_group *)(void *)store, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_group_send(NULL, 0, "", 0, 0), KVP_E_INVALID);
	ck_assert_int_eq(kvp_group_rank(NULL), KVP_E_INVALID);
	ck_assert_int_eq(kvp_group_world_size(NULL), KVP_E_INVALID);
	ck_assert_uint_eq(kvp_group_epoch(NULL), 0);
	ck_assert_int_eq(kvp_group_same_host(NULL, 0), KVP_E_INVALID);
	kvp_group_free(NULL);
	/* Time-out 0 tries once: alone, that is enough. */
	KIT_OK(kvp_group_open(store, NULL, 0, &group));
	KIT_OK(kvp_group_barrier(group, 0));
	kvp_group_free(group);
	finish();
}
END_TEST

static int use_in_child(void *user)
{
	kvp_group *group = user;
	const kvp_status status = kvp_group_barrier(group, 0);

	kvp_group_free(group);
	return status == KVP_E_FORKED ? 0 : 1;
}

START_TEST(forked_child)
{
	kvp_group *group = NULL;

	begin();
	KIT_OK(kvp_group_open(store, NULL, SOON_MS, &group));
	ck_assert_int_eq(kit_wait_exit(kit_fork(use_in_child, group), SOON_MS), 0);
	KIT_OK(kvp_group_barrier(group, SOON_MS));
	kvp_group_free(group);
	finish();
}
END_TEST

START_TEST(without_memory)
{
	kvp_group *group = NULL;
	kvp_bytes all[1];
	int failures = 0;

	begin();
	for (unsigned nth = 1; nth <= 60; nth++) {
		kvp_status status;

		kvpi_fault_arm("alloc", nth, 1);
		status = kvp_group_open(store, NULL, 200, &group);
		if (status == KVP_OK) {
			status = kvp_group_all_gather(group, "x", 1, all, 200);
			if (status == KVP_OK)
				kvp_bytes_free(&all[0]);
			kvp_group_free(group);
		}
		kvpi_fault_disarm_all();
		/* A reply that was lost for lack of memory ends a call by its time only. */
		if (status != KVP_OK && status != KVP_E_NOMEM && status != KVP_E_STORE_LOST &&
		    status != KVP_E_TIMEOUT)
			ck_abort_msg("allocation %u: %s: %s", nth, kvp_status_name(status),
			    kvp_last_error());
		failures += status != KVP_OK;
	}
	ck_assert_int_gt(failures, 20);
	KIT_OK(kvp_group_open(store, NULL, SOON_MS, &group));
	kvp_group_free(group);
	finish();
}
END_TEST

int main(void)
{
	const TTest *const sized[] = {threads_with_own_handles, threads_with_one_handle};
	const TTest *const once[] = {pairs_in_parallel, names_keep_groups_apart, epochs_grow,
	    objects_up_to_the_limit, more_keys_than_a_call_takes, missing_ranks_are_named,
	    late_ranks_are_named, world_sizes_differ,
	    world_sizes_differ_and_rank_0_has_the_larger, a_rank_taken_twice, nonsense_in_the_store,
	    misuse, forked_child, without_memory};
	/* Once with each number of ranks, then the rest. */
	const int failed =
	    kit_run("group sizes", sized, sizeof(sized) / sizeof(sized[0]), RANKS_MAX, NULL);

	return kit_run("group", once, sizeof(once) / sizeof(once[0]), 1, NULL) != 0 ? EXIT_FAILURE
	                                                                            : failed;
}
