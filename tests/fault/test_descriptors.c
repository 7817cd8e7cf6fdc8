/* SPDX-License-Identifier: Apache-2.0
 *
 * Descriptors run out at each step of opening: a sentence, not an abort, and nothing is left behind.
 */
#include "kit/kit.h"

#include <kvpipe/kvpipe.h>
#include <string.h>
#include <sys/resource.h>

/* Leaves room for so many more descriptors. */
static void leave(size_t more)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = kit_fd_count() + more;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void leave_all(void)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void check_refused(kvp_status status)
{
	ck_assert_msg(status == KVP_E_SYSTEM || status == KVP_E_NOMEM || status == KVP_E_STORE_LOST ||
	                  status == KVP_E_TIMEOUT || status == KVP_E_NO_PLANE || status == KVP_E_PEER_LOST,
	    "%s: %s", kvp_status_name(status), kvp_last_error());
	ck_assert_uint_gt(strlen(kvp_last_error()), 10);
}

START_TEST(a_store_that_cannot_start)
{
	kvp_store_server_options options;
	kvp_store_server *server = NULL;
	size_t more = 0;
	kvp_status status;

	kvp_store_server_options_init(&options);
	do {
		ck_assert_uint_lt(more, 100);
		leave(more++);
		status = kvp_store_server_start(NULL, &options, &server);
		leave_all();
		if (status != KVP_OK)
			check_refused(status);
	} while (status != KVP_OK);
	ck_assert_uint_gt(more, 3);
	kvp_store_server_free(server);
}
END_TEST

START_TEST(a_pipe_that_cannot_open)
{
	kvp_store_server_options server_options;
	kvp_store_server *server = NULL;
	kvp_pipe_options options;
	kvp_pipe *pipe = NULL;
	size_t more = 0;
	kvp_status status;

	kvp_store_server_options_init(&server_options);
	KIT_OK(kvp_store_server_start(NULL, &server_options, &server));
	kvp_pipe_options_init(&options);
	options.store_url = kvp_store_server_url(server);
	options.kv_parallel_size = 1;
	do {
		ck_assert_uint_lt(more, 100);
		leave(more++);
		status = kvp_pipe_open(NULL, &options, 300, &pipe);
		leave_all();
		if (status != KVP_OK)
			check_refused(status);
	} while (status != KVP_OK);
	ck_assert_uint_gt(more, 3);
	kvp_pipe_free(pipe);
	kvp_store_server_free(server);
}
END_TEST

KIT_MAIN("descriptors", a_store_that_cannot_start, a_pipe_that_cannot_open)
