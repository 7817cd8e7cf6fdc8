/* SPDX-License-Identifier: Apache-2.0
 *
 * A real process is killed or stopped at each step of connecting, announcing, moving and confirming, over each plane
 * that joins processes.  The other end, in this process, has to come to an end with everything: each call returns, each
 * request has one terminal state, what is said to have arrived is right, the budget is whole again, and the pipe stops.
 *
 * The steps are fault points that the dying process passes; the n-th pass sends it the signal.  A run in which it is not
 * passed so often ends well, and that point is done.
 */
#include "kit/kit.h"

#include "base/fault.h"
#include "plane/plane.h"

#include <kvpipe/kvpipe.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 3
#define SMALL 200
#define LARGE 300000

static const char *const points[] = {"link.hello", "link.welcome", "link.event", "link.announce", "link.state",
    "link.post", "link.put", "tcp.write", "tcp.read", "shm.copy"};
#define POINTS (sizeof(points) / sizeof(points[0]))

/* Which passes: all of the first few when there is time, some otherwise. */
static const unsigned some_passes[] = {1, 3};
static const unsigned many_passes[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30};

static const size_t sizes[ROUNDS] = {SMALL, LARGE, SMALL};

typedef struct victim {
	const char *plane, *point;
	unsigned pass;
	int signal_number;
	int url_fd[2];
} victim;

static kvp_tensor bytes_tensor(void *data, size_t len)
{
	const int64_t shape[1] = {(int64_t)len};
	kvp_tensor tensor;

	(void)kvp_tensor_init(&tensor, data, KVP_DTYPE_UINT8, 1, shape);
	return tensor;
}

static void fill_options(kvp_pipe_options *options, const char *plane, const char *url, int rank)
{
	kvp_pipe_options_init(options);
	options->planes = plane;
	options->store_url = url;
	options->kv_rank = rank;
	options->heartbeat_ms = 50;
	options->store_timeout_ms = 5000;
}

/* Sends and receives ROUNDS tensors each way; the first status that was not KVP_OK. */
static kvp_status exchange(kvp_pipe *pipe, char *mine[ROUNDS], char *theirs[ROUNDS], bool arrived[ROUNDS])
{
	kvp_request *sends[ROUNDS] = {NULL}, *posts[ROUNDS] = {NULL};
	kvp_status first = KVP_OK, status;

	for (int i = 0; i < ROUNDS; i++) {
		const kvp_tensor in = bytes_tensor(theirs[i], sizes[i]), out = bytes_tensor(mine[i], sizes[i]);

		status = kvp_pipe_post_recv(pipe, &in, KVP_TIMEOUT_DEFAULT, &posts[i]);
		first = first == KVP_OK ? status : first;
		status = kvp_pipe_send(pipe, &out, NULL, &sends[i]);
		first = first == KVP_OK ? status : first;
	}
	for (int i = 0; i < ROUNDS; i++) {
		status = posts[i] ? kvp_request_wait(posts[i], 20000) : KVP_E_CANCELED;
		arrived[i] = status == KVP_OK;
		first = first == KVP_OK ? status : first;
		status = sends[i] ? kvp_request_wait(sends[i], 20000) : KVP_E_CANCELED;
		first = first == KVP_OK ? status : first;
	}
	for (int i = 0; i < ROUNDS; i++) {
		kvp_request_free(posts[i]);
		kvp_request_free(sends[i]);
	}
	return first;
}

static bool make_buffers(char *mine[ROUNDS], char *theirs[ROUNDS], uint64_t seed)
{
	for (int i = 0; i < ROUNDS; i++) {
		mine[i] = malloc(sizes[i]);
		theirs[i] = malloc(sizes[i]);
		if (mine[i] == NULL || theirs[i] == NULL)
			return false;
		kit_random_fill(mine[i], sizes[i], seed + (uint64_t)i);
		kit_random_fill(theirs[i], sizes[i], 999);
	}
	return true;
}

static int run_victim(void *user)
{
	const victim *v = user;
	char url[300] = "";
	char *mine[ROUNDS], *theirs[ROUNDS];
	bool arrived[ROUNDS];
	kvp_pipe_options options;
	kvp_pipe *pipe;
	kvp_status status;

	close(v->url_fd[1]);
	if (read(v->url_fd[0], url, sizeof(url) - 1) <= 0 || !make_buffers(mine, theirs, 200))
		return 2;
	kvpi_fault_arm_signal(v->point, v->pass, v->signal_number);
	fill_options(&options, v->plane, url, 1);
	status = kvp_pipe_open(NULL, &options, 20000, &pipe);
	if (status != KVP_OK)
		return 3;
	status = exchange(pipe, mine, theirs, arrived);
	kvp_pipe_free(pipe);
	if (kvpi_fault_passes(v->point) >= v->pass)
		return 5; /* it was stopped, and goes on: whatever it found out is right */
	return status == KVP_OK ? 0 : 4;
}

static void check_survivor(kvp_pipe *pipe)
{
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	KIT_OK(kvp_pipe_stop(pipe, 10000));
	KIT_OK(kvp_pipe_stats_get(pipe, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	ck_assert_uint_eq(stats.sent + stats.send_failures, ROUNDS);
}

/* The survivor's side of one run.  True when the victim passed the point less often and so came through. */
static bool survive(const char *plane, const char *point, unsigned pass, int signal_number)
{
	victim v = {.plane = plane, .point = point, .pass = pass, .signal_number = signal_number};
	kvp_store_server_options server_options;
	kvp_store_server *server;
	kvp_pipe_options options;
	char *mine[ROUNDS], *theirs[ROUNDS];
	bool arrived[ROUNDS];
	kvp_pipe *pipe = NULL;
	kvp_status opened, status = KVP_E_PEER_LOST;
	pid_t pid;
	int code;

	ck_assert_int_eq(pipe2(v.url_fd, 0), 0);
	pid = kit_fork(run_victim, &v); /* before this process has threads */
	close(v.url_fd[0]);
	ck_assert(make_buffers(mine, theirs, 100));
	kvp_store_server_options_init(&server_options);
	KIT_OK(kvp_store_server_start(NULL, &server_options, &server));
	ck_assert_int_gt(write(v.url_fd[1], kvp_store_server_url(server), strlen(kvp_store_server_url(server))), 0);
	close(v.url_fd[1]);
	fill_options(&options, plane, kvp_store_server_url(server), 0);
	opened = kvp_pipe_open(NULL, &options, 1500, &pipe);
	if (opened == KVP_OK) {
		status = exchange(pipe, mine, theirs, arrived);
		for (int i = 0; i < ROUNDS; i++)
			if (arrived[i])
				kit_check_fill(theirs[i], sizes[i], 200 + (uint64_t)i);
		if (status == KVP_OK)
			kvp_pipe_flush(pipe, 1000);
		check_survivor(pipe);
	}
	kvp_pipe_free(pipe);
	if (signal_number == SIGSTOP)
		kill(pid, SIGCONT); /* wherever it was stopped, it now has to find out and end by itself */
	code = kit_wait_exit(pid, 30000);
	kvp_store_server_free(server);
	for (int i = 0; i < ROUNDS; i++) {
		free(mine[i]);
		free(theirs[i]);
	}
	if (code == 0)
		ck_assert_msg(status == KVP_OK, "%s %s %u: the other end came through, this one ended with %s", plane,
		    point, pass, kvp_status_name(opened != KVP_OK ? opened : status));
	return code == 0;
}

static const char *plane_of(int index)
{
	static const char *const planes[] = {"tcp", "shm"};

	return planes[index];
}

static void die_everywhere(int index, int signal_number)
{
	const bool many = getenv("KVP_TEST_LONG") != NULL;
	const unsigned *passes = many ? many_passes : some_passes;
	const size_t count = many ? sizeof(many_passes) / sizeof(many_passes[0])
	                          : sizeof(some_passes) / sizeof(some_passes[0]);
	const char *plane = plane_of(index);
	unsigned runs = 0;

	if (kvpi_plane_find(plane, strlen(plane)) == NULL)
		KIT_SKIP("this build does not have the plane");
	for (size_t p = 0; p < POINTS; p++) {
		for (size_t i = 0; i < count; i++) {
			const bool came_through = survive(plane, points[p], passes[i], signal_number);

			runs++;
			if (came_through)
				break;
		}
	}
	ck_assert_uint_gt(runs, POINTS); /* else nothing has died */
}

START_TEST(killed_at_each_step)
{
	die_everywhere(_i, SIGKILL);
}
END_TEST

START_TEST(stopped_at_each_step)
{
	die_everywhere(_i, SIGSTOP);
}
END_TEST

KIT_MAIN_WITH("death", 2, NULL, killed_at_each_step, stopped_at_each_step)
