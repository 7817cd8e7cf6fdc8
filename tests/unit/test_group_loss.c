/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups of processes, and what they lose: a rank, the store, the store's memory.
 */
#include "unit/group_kit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the store goes ---- */

static char restart_bind[64];
static pthread_barrier_t threads_barrier; /* a store that is about to die is no place to meet */

static int lose_the_store(member *m)
{
	kvp_bytes got;

	CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	pthread_barrier_wait(&threads_barrier);
	if (m->rank == 0) {
		kvp_store_server_free(server);
		server = NULL;
	}
	CHECK(kvp_group_recv(m->group, 1 - m->rank, &got, LATE_MS) == KVP_E_STORE_LOST);
	CHECK(kvp_group_send(m->group, 1 - m->rank, "x", 1, 300) == KVP_E_STORE_LOST);
	CHECK(kvp_group_barrier(m->group, 300) == KVP_E_STORE_LOST);
	return 0;
}

START_TEST(killed_store)
{
	begin();
	pthread_barrier_init(&threads_barrier, NULL, 2);
	run_threads(kvp_store_server_url(server), NULL, 2, lose_the_store);
	finish();
}
END_TEST

static int live_through_a_restart(member *m)
{
	kvp_group_options options;
	kvp_group *again = NULL;
	kvp_bytes got;

	CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	pthread_barrier_wait(&threads_barrier);
	if (m->rank == 0) {
		/* The other one is parked, or will be. */
		kvp_store_server_options server_options;

		kvp_store_server_free(server);
		kvp_store_server_options_init(&server_options);
		server_options.bind = restart_bind;
		CHECK_OK(kvp_store_server_start(NULL, &server_options, &server));
	}
	/* Long before the deadline, and again and again. */
	for (int i = 0; i < 2; i++) {
		CHECK(
		    kvp_group_recv(m->group, 1 - m->rank, &got, SOON_MS) == KVP_E_STORE_RESTARTED);
		CHECK(kvp_group_send(m->group, 1 - m->rank, "x", 1, SOON_MS) ==
		      KVP_E_STORE_RESTARTED);
		CHECK(kvp_group_barrier(m->group, SOON_MS) == KVP_E_STORE_RESTARTED);
		CHECK(kvp_group_broadcast(m->group, m->rank, "", 0, NULL, SOON_MS) ==
		      KVP_E_STORE_RESTARTED);
	}
	CHECK(strstr(kvp_last_error(), "open the group again") != NULL);

	/* The same store handle serves a new group in a later epoch. */
	kvp_group_options_init(&options);
	options.rank = m->rank;
	options.world_size = m->world_size;
	CHECK_OK(kvp_group_open(m->store, &options, SOON_MS, &again));
	CHECK(kvp_group_epoch(again) > kvp_group_epoch(m->group));
	kvp_group_free(m->group);
	m->group = again;
	return do_everything(m);
}

START_TEST(restarted_store)
{
	pthread_barrier_init(&threads_barrier, NULL, 2);
	snprintf(restart_bind, sizeof(restart_bind), "127.0.0.1:%d", kit_free_port());
	server = start_server(restart_bind);
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, SOON_MS, &store));
	/* The url is the server's memory, and that goes. */
	char url[300];
	snprintf(url, sizeof(url), "%s", kvp_store_server_url(server));
	run_threads(url, NULL, 2, live_through_a_restart);
	finish();
}
END_TEST

/* With one handle, one rank's call finds the new store and the other's would go on as if nothing
 * was. */
START_TEST(restarted_store_one_handle)
{
	pthread_barrier_init(&threads_barrier, NULL, 2);
	snprintf(restart_bind, sizeof(restart_bind), "127.0.0.1:%d", kit_free_port());
	server = start_server(restart_bind);
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, SOON_MS, &store));
	run_threads(NULL, store, 2, live_through_a_restart);
	finish();
}
END_TEST

/* ---- processes ---- */

/* A store in a process of its own: prints its url into the pipe and lives until it is killed. */
static int serve(void *user)
{
	const int *pipe_fds = user;
	kvp_store_server *mine;

	if (kvp_store_server_start(NULL, NULL, &mine) != KVP_OK)
		return 1;
	const char *url = kvp_store_server_url(mine);
	if (write(pipe_fds[1], url, strlen(url) + 1) < 0)
		return 2;
	for (;;)
		pause();
}

static pid_t start_store_process(char url[300])
{
	int fds[2];
	size_t len = 0;

	ck_assert_int_eq(pipe(fds), 0);
	const pid_t pid = kit_fork(serve, fds);
	close(fds[1]);
	while (len == 0 || url[len - 1] != 0) {
		const ssize_t n = read(fds[0], url + len, 300 - len);

		ck_assert_int_gt(n, 0);
		len += (size_t)n;
	}
	close(fds[0]);
	return pid;
}

static void end_process(pid_t pid)
{
	kit_kill(pid, SIGKILL);
	ck_assert_int_eq(kit_wait_exit(pid, SOON_MS), 128 + SIGKILL);
}

/* A rank as a process; exit code 0: all well. */
static int be_process(void *user)
{
	member *m = user;

	run_member(m);
	if (m->opened != KVP_OK || m->failed_line != 0)
		fprintf(stderr, "rank %d: line %d: %s: %s %s\n", m->rank, m->failed_line,
		    kvp_status_name(m->opened), m->sentence, m->why);
	return m->opened != KVP_OK || m->failed_line != 0;
}

START_TEST(processes)
{
	const int world_size = _i + 1;
	pid_t pids[RANKS_MAX];
	char url[300];
	const pid_t store_pid = start_store_process(url);

	for (int i = 0; i < world_size; i++) {
		member m = {.run = do_everything, .url = url, .rank = i, .world_size = world_size};

		pids[i] = kit_fork(be_process, &m);
	}
	for (int i = 0; i < world_size; i++)
		ck_assert_int_eq(kit_wait_exit(pids[i], SOON_MS), 0);
	end_process(store_pid);
}
END_TEST

/* Hosts are told apart by their boot id; rank 2 pretends to be elsewhere. */
static int look_for_neighbours(member *m)
{
	for (int i = 0; i < m->world_size; i++)
		CHECK(kvp_group_same_host(m->group, i) == ((i == 2) == (m->rank == 2)));
	return 0;
}

static int be_elsewhere(void *user)
{
	setenv("KVPIPE_HOSTID", "another-host", 1);
	return be_process(user);
}

START_TEST(hosts)
{
	pid_t pids[4];
	char url[300];
	const pid_t store_pid = start_store_process(url);

	for (int i = 0; i < 4; i++) {
		member m = {.run = look_for_neighbours, .url = url, .rank = i, .world_size = 4};

		pids[i] = kit_fork(i == 2 ? be_elsewhere : be_process, &m);
	}
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(kit_wait_exit(pids[i], SOON_MS), 0);
	end_process(store_pid);
}
END_TEST

/* Rank 1 meets the others and is killed; they are told, and meet its successor in a new epoch. */
static int outlive_rank_1(member *m)
{
	const uint64_t epoch = kvp_group_epoch(m->group);
	kvp_group_options options;

	CHECK_OK(kvp_group_barrier(m->group, SOON_MS));
	if (m->rank == 1) {
		CHECK(write(m->report_fd, "x", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(kvp_group_barrier(m->group, LATE_MS) == KVP_E_TIMEOUT);
	CHECK(strstr(kvp_last_error(), "rank 1 ") != NULL);
	kvp_group_free(m->group);
	m->group = NULL;
	kvp_group_options_init(&options);
	options.rank = m->rank;
	options.world_size = m->world_size;
	CHECK_OK(kvp_group_open(m->store, &options, SOON_MS, &m->group));
	CHECK(kvp_group_epoch(m->group) > epoch);
	return do_everything(m);
}

START_TEST(killed_rank)
{
	pid_t pids[3];
	char url[300], byte;
	int fds[2];
	const pid_t store_pid = start_store_process(url);

	ck_assert_int_eq(pipe(fds), 0);
	for (int i = 0; i < 3; i++) {
		member m = {.run = outlive_rank_1,
		    .url = url,
		    .rank = i,
		    .world_size = 3,
		    .report_fd = fds[1]};

		pids[i] = kit_fork(be_process, &m);
	}
	member again = {.run = do_everything, .url = url, .rank = 1, .world_size = 3};
	ck_assert_int_eq(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	close(fds[1]);
	kit_kill(pids[1], SIGKILL);
	ck_assert_int_eq(kit_wait_exit(pids[1], SOON_MS), 128 + SIGKILL);
	pids[1] = kit_fork(be_process, &again);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(kit_wait_exit(pids[i], SOON_MS), 0);
	end_process(store_pid);
}
END_TEST

/* Killed while it waits for the others: its join must not be taken for its successor's, and what it
 * waited for must not be taken from the successor. */
START_TEST(killed_while_joining)
{
	for (int victim = 0; victim < 2; victim++) {
		const char *const own[] = {victim == 0 ? "g/default/join/0" : "g/default/join/1"};
		pid_t first, pids[2];
		char url[300];
		const pid_t store_pid = start_store_process(url);
		member m = {.run = do_everything, .url = url, .rank = victim, .world_size = 2};

		first = kit_fork(be_process, &m);
		/* This process has forked all it needs but two, which come before its threads... */
		KIT_OK(kvp_store_open(NULL, url, NULL, SOON_MS, &store));
		KIT_OK(kvp_store_wait(store, own, 1, NULL, NULL, SOON_MS));
		kvp_store_free(store); /* ...and after them */
		kit_kill(first, SIGKILL);
		ck_assert_int_eq(kit_wait_exit(first, SOON_MS), 128 + SIGKILL);
		pids[0] = kit_fork(be_process, &m);
		m.rank = 1 - victim;
		pids[1] = kit_fork(be_process, &m);
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(kit_wait_exit(pids[i], SOON_MS), 0);
		end_process(store_pid);
	}
}
END_TEST

int main(void)
{
	const TTest *const sized[] = {processes};
	const TTest *const once[] = {killed_store, restarted_store, restarted_store_one_handle,
	    hosts, killed_rank, killed_while_joining};
	/* Once with each number of ranks, then the rest. */
	const int failed =
	    kit_run("group processes", sized, sizeof(sized) / sizeof(sized[0]), RANKS_MAX, NULL);

	return kit_run("group loss", once, sizeof(once) / sizeof(once[0]), 1, NULL) != 0
	           ? EXIT_FAILURE
	           : failed;
}
