/* SPDX-License-Identifier: Apache-2.0
 *
 * How pipes begin and end when something is wrong: bad options, peers that do not come, die, stop or leave, cut data
 * connections, forks, closed handles, no memory.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "base/fault.h"
#include "engine/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static kvp_tensor bytes_tensor(void *data, size_t len)
{
	int64_t shape[1] = {(int64_t)len};
	kvp_tensor tensor;

	KIT_OK(kvp_tensor_init(&tensor, data, KVP_DTYPE_UINT8, 1, shape));
	return tensor;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

START_TEST(bad_options_are_refused_with_a_sentence)
{
	static const struct {
		const char *name, *value;
		kvp_status status;
	} sets[] = {
	    {"no_such", "1", KVP_E_NOT_FOUND},    {"kv_port", "0", KVP_E_INVALID},   {"kv_port", "70000", KVP_E_INVALID},
	    {"kv_port", "12x", KVP_E_INVALID},    {"kv_buffer_size", "0", KVP_E_INVALID},
	    {"heartbeat_ms", "1", KVP_E_INVALID}, {"kv_parallel_size", "0", KVP_E_INVALID},
	    {"kv_rank", "-1", KVP_E_INVALID},     {"store_timeout_ms", "0", KVP_E_INVALID},
	};
	kvp_pipe_options options, before;
	kvp_pipe *pipe = NULL;

	kvp_pipe_options_init(&options);
	before = options;
	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		KIT_STATUS(kvp_pipe_options_set(&options, sets[i].name, sets[i].value), sets[i].status);
		ck_assert_mem_eq(&options, &before, sizeof(options));
	}
	KIT_OK(kvp_pipe_options_set(&options, "kv_buffer_size", "2GiB"));
	ck_assert_uint_eq(options.kv_buffer_size, UINT64_C(2) << 30);

	KIT_STATUS(kvp_pipe_open(NULL, &before, 0, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_open(NULL, &before, -2, &pipe), KVP_E_INVALID);
#define REFUSED(field, value, expected)                                                            \
	do {                                                                                       \
		kvp_pipe_options_init(&options);                                                   \
		options.field = value;                                                             \
		KIT_STATUS(kvp_pipe_open(NULL, &options, 100, &pipe), expected);                   \
		ck_assert_ptr_null(pipe);                                                          \
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "kvp_pipe_open"));                  \
	} while (0)
	REFUSED(size, 0, KVP_E_INVALID);
	REFUSED(size, sizeof(options) + 8, KVP_E_INVALID);
	REFUSED(kv_rank, 2, KVP_E_INVALID);
	REFUSED(kv_port_offset, 60000, KVP_E_INVALID);
	REFUSED(kv_buffer_device, "tpu", KVP_E_INVALID);
	REFUSED(kv_buffer_size, 0, KVP_E_INVALID);
	REFUSED(heartbeat_ms, 5, KVP_E_INVALID);
	REFUSED(endpoint, "me", KVP_E_INVALID);
	REFUSED(send_to, "you", KVP_E_INVALID);
	REFUSED(name, "a/b", KVP_E_INVALID);
	REFUSED(name, "", KVP_E_INVALID);
	REFUSED(name, "\xff", KVP_E_INVALID);
	REFUSED(name, "a name that is much too long to be the name of any pipe at all", KVP_E_INVALID);
	REFUSED(kv_ip, "8.8.8.8", KVP_E_INVALID);
	REFUSED(store_url, "http://x", KVP_E_INVALID);
}
END_TEST

START_TEST(a_missing_rank_is_named)
{
	kit_pair pair;
	kvp_pipe *pipe = NULL;

	kit_pair_init(&pair, NULL);
	pair.options.kv_parallel_size = 3;
	pair.options.kv_rank = 0;
	KIT_STATUS(kvp_pipe_open(NULL, &pair.options, 200, &pipe), KVP_E_TIMEOUT);
	ck_assert_ptr_null(pipe);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "1"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "2"));
	kit_pair_free(&pair);
}
END_TEST

START_TEST(no_store_no_pipe)
{
	kvp_pipe_options options;
	kvp_pipe *pipe = NULL;
	char url[64];

	kvp_pipe_options_init(&options);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", kit_free_port());
	options.store_url = url;
	KIT_STATUS(kvp_pipe_open(NULL, &options, 200, &pipe), KVP_E_STORE_LOST);
}
END_TEST

START_TEST(planes_by_name)
{
	kit_pair pair;
	kvp_pipe *pipe = NULL;

	kit_pair_init(&pair, "tcp,pigeon");
	KIT_STATUS(kvp_pipe_open(NULL, &pair.options, 1000, &pipe), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "pigeon"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "tcp"));
	kit_pair_free(&pair);
}
END_TEST

typedef struct lonely {
	kvp_pipe_options options;
	kvp_context *context;
	kvp_status status;
	char text[512];
} lonely;

static void *open_lonely(void *arg)
{
	lonely *l = arg;
	kvp_pipe *pipe = NULL;

	l->status = kvp_pipe_open(l->context, &l->options, KVP_TIMEOUT_DEFAULT, &pipe);
	snprintf(l->text, sizeof(l->text), "%s", kvp_last_error());
	return NULL;
}

/* Both ends say that no plane fits, and why; in a ring, and between named ends that send one way. */
START_TEST(without_a_common_plane_both_ends_say_so)
{
	kit_pair pair;
	lonely ends[2];
	pthread_t threads[2];

	kit_pair_init(&pair, "self"); /* of different contexts, as in different processes */
	pair.options.store_timeout_ms = 600000;
	for (int i = 0; i < 2; i++) {
		ends[i] = (lonely){.options = pair.options};
		ends[i].options.kv_rank = i;
		if (_i == 1)
			ends[i].options.endpoint = i ? "receiver" : "sender";
		if (_i == 1 && i == 0)
			ends[i].options.send_to = "receiver";
		if (_i == 1 && i == 1)
			ends[i].options.recv_from = "sender";
		KIT_OK(kvp_context_new(&ends[i].context, NULL));
		ck_assert_int_eq(pthread_create(&threads[i], NULL, open_lonely, &ends[i]), 0);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		ck_assert_msg(ends[i].status == KVP_E_NO_PLANE, "end %d: %s: %s", i, kvp_status_name(ends[i].status),
		              ends[i].text);
		ck_assert_msg(strstr(ends[i].text, "self: no") != NULL, "end %d: %s", i, ends[i].text);
		kvp_context_free(ends[i].context);
	}
	kit_pair_free(&pair);
}
END_TEST

/* A ring of one: the pipe's sender and receiver are the same end. */
START_TEST(to_oneself)
{
	kit_pair pair;
	kvp_pipe *pipe;
	char data[100], got[100];
	kvp_tensor from = bytes_tensor(data, 100), to;

	kit_random_fill(data, sizeof(data), 1);
	kit_pair_init(&pair, NULL);
	pair.options.kv_parallel_size = 1;
	KIT_OK(kvp_pipe_open(NULL, &pair.options, KVP_TIMEOUT_DEFAULT, &pipe));
	KIT_OK(kvp_pipe_send(pipe, &from, NULL, NULL));
	kvp_tensor_init_buffer(&to, got, 100);
	KIT_OK(kvp_pipe_recv(pipe, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, 100);
	kvp_pipe_free(pipe);
	kit_pair_free(&pair);
}
END_TEST

/* Without a store of its own, rank 0 hosts one at kv_ip:kv_port. */
static void *open_default(void *arg)
{
	kvp_pipe_options *options = arg;
	kvp_pipe *pipe = NULL;

	if (kvp_pipe_open(NULL, options, 20000, &pipe) != KVP_OK)
		fprintf(stderr, "rank %d: %s\n", options->kv_rank, kvp_last_error());
	return pipe;
}

START_TEST(rank_0_hosts_the_store)
{
	kvp_pipe_options options[2];
	pthread_t threads[2];
	void *pipes[2];

	kvp_pipe_options_init(&options[0]);
	options[0].kv_port = kit_free_port() - 1;
	options[0].kv_port_offset = 1;
	options[1] = options[0];
	options[1].kv_rank = 1;
	for (int i = 1; i >= 0; i--)
		pthread_create(&threads[i], NULL, open_default, &options[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &pipes[i]);
	ck_assert_ptr_nonnull(pipes[0]);
	ck_assert_ptr_nonnull(pipes[1]);
	kvp_pipe_free(pipes[0]);
	kvp_pipe_free(pipes[1]);
}
END_TEST

static int note_key(void *user, const char *key)
{
	(void)key;
	++*(int *)user;
	return 0;
}

START_TEST(peers_by_name)
{
	kit_pair pair;
	kvp_pipe_options options[3];
	pthread_t threads[3];
	void *pipes[3];
	char data[64], got[64];
	kvp_tensor from = bytes_tensor(data, 64), to;
	kvp_pipe *none = NULL;
	kvp_store *store;
	int keys = 0;

	kit_random_fill(data, sizeof(data), 3);
	kit_pair_init(&pair, NULL);
	for (int i = 0; i < 3; i++)
		options[i] = pair.options;
	/* prefill → filter → decode */
	options[0].endpoint = "prefill", options[0].send_to = "filter";
	options[1].endpoint = "filter", options[1].recv_from = "prefill", options[1].send_to = "decode";
	options[2].endpoint = "decode", options[2].recv_from = "filter";
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, open_default, &options[i]);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], &pipes[i]);
	for (int i = 0; i < 3; i++)
		ck_assert_ptr_nonnull(pipes[i]);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_send(pipes[0], &from, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pipes[1], &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_pipe_send(pipes[1], &to, NULL, NULL));
	from = to;
	memset(data, 0, sizeof(data));
	kvp_tensor_init_buffer(&to, data, sizeof(data));
	KIT_OK(kvp_pipe_recv(pipes[2], &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, 64);
	KIT_STATUS(kvp_pipe_recv(pipes[0], &to, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_send(pipes[2], &from, NULL, NULL), KVP_E_INVALID);
	for (int i = 0; i < 3; i++)
		kvp_pipe_free(pipes[i]);
	/* Endpoints that have gone leave nothing in the store. */
	KIT_OK(kvp_store_open(NULL, options[0].store_url, NULL, 5000, &store));
	KIT_OK(kvp_store_list(store, "pipe/", note_key, &keys, 5000));
	ck_assert_int_eq(keys, 0);
	kvp_store_free(store);
	options[0].send_to = "nobody";
	KIT_STATUS(kvp_pipe_open(NULL, &options[0], 200, &none), KVP_E_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "nobody"));
	kit_pair_free(&pair);
}
END_TEST

/* ---- misuse ------------------------------------------------------------------------------------------- */

START_TEST(null_and_nonsense)
{
	kit_pair pair;
	char data[8] = "1234567", got[8];
	kvp_tensor good = bytes_tensor(data, 8), bad;
	kvp_request *request = NULL;
	kvp_pipe_stats stats = {0};
	kvp_times times = {0};
	kvp_allocator allocator = {0};

	kvp_pipe_free(NULL);
	kvp_pipe_close(NULL);
	kvp_request_free(NULL);
	KIT_STATUS(kvp_pipe_send(NULL, &good, NULL, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_recv(NULL, &good, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_stop(NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_request_wait(NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_request_cancel(NULL, 0, NULL), KVP_E_INVALID);
	ck_assert_int_eq(kvp_pipe_room_fd(NULL), KVP_E_INVALID);
	ck_assert_int_eq(kvp_request_receipt(NULL), KVP_RECEIPT_NONE);

	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	KIT_STATUS(kvp_pipe_send((kvp_pipe *)(void *)pair.server, &good, NULL, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_send(pair.a, NULL, NULL, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_recv(pair.a, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_recv(pair.a, &good, -2), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_peek(pair.a, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_post_recv(pair.a, &good, 0, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_recv_alloc(pair.a, &allocator, &good, 0), KVP_E_INVALID);
	KIT_STATUS(kvp_pipe_stats_get(pair.a, &stats), KVP_E_INVALID);
	bad = good;
	bad.dtype = (kvp_dtype)77;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.dtype = KVP_DTYPE_ANY;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.ndim = 15;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.shape[0] = -8;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.ndim = 3;
	bad.shape[0] = bad.shape[1] = bad.shape[2] = INT64_C(1) << 40;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.storage_bytes = 7;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL), KVP_E_INVALID);
	bad = good;
	bad.strides[0] = 0;
	KIT_STATUS(kvp_pipe_recv(pair.b, &bad, 0), KVP_E_INVALID);
	kvp_tensor_init_none(&bad);
	KIT_STATUS(kvp_pipe_recv(pair.b, &bad, 0), KVP_E_INVALID);
	bad = good;
	bad.memory = KVP_MEMORY_CUDA;
	KIT_STATUS(kvp_pipe_send(pair.a, &bad, NULL, NULL),
	    kvpi_device_find(KVP_MEMORY_CUDA) != NULL ? KVP_E_INVALID : KVP_E_UNSUPPORTED);
	KIT_OK(kvp_pipe_send(pair.a, &good, NULL, &request));
	KIT_STATUS(kvp_request_times(request, &times), KVP_E_INVALID);
	KIT_STATUS(kvp_request_wait(request, -2), KVP_E_INVALID);
	kvp_request_free(request);
	/* None of that is on its way. */
	kvp_tensor_init_buffer(&bad, got, 8);
	KIT_OK(kvp_pipe_recv(pair.b, &bad, KVP_TIMEOUT_DEFAULT));
	KIT_STATUS(kvp_pipe_recv(pair.b, &bad, 10), KVP_E_TIMEOUT);
	kit_pair_free(&pair);
}
END_TEST

/* ---- ends --------------------------------------------------------------------------------------------- */

typedef struct blocked {
	kvp_pipe *pipe;
	kvp_tensor tensor;
	bool sends;
	kvp_status status;
} blocked;

static void *block(void *arg)
{
	blocked *b = arg;

	b->status = b->sends ? kvp_pipe_send(b->pipe, &b->tensor, NULL, NULL)
	                     : kvp_pipe_recv(b->pipe, &b->tensor, KVP_TIMEOUT_DEFAULT);
	return NULL;
}

static bool has_refused(void *user)
{
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	return kvp_pipe_stats_get(user, &stats) == KVP_OK && stats.refusals > 0;
}

START_TEST(close_wakes_who_waits_and_keeps_what_was_accepted)
{
	kit_pair pair;
	char data[10000], got[10000]; /* too large to travel with its announcement: it waits for the receiver */
	kvp_tensor from = bytes_tensor(data, sizeof(data)), to;
	blocked sender, receiver;
	pthread_t threads[2];
	kvp_request *request;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, "tcp");
	pair.options.kv_buffer_size = 100;
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	sender = (blocked){pair.a, from, true, KVP_OK};
	receiver = (blocked){.pipe = pair.a};
	kvp_tensor_init_buffer(&receiver.tensor, got, sizeof(got));
	pthread_create(&threads[0], NULL, block, &sender);
	pthread_create(&threads[1], NULL, block, &receiver);
	kit_wait_until(has_refused, pair.a, 10000);
	kvp_pipe_close(pair.a);
	kvp_pipe_close(pair.a);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	ck_assert_int_eq(sender.status, KVP_E_CLOSED);
	ck_assert_int_eq(receiver.status, KVP_E_CLOSED);
	KIT_STATUS(kvp_pipe_send(pair.a, &from, NULL, NULL), KVP_E_CLOSED);
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_STATUS(kvp_pipe_recv(pair.a, &to, 0), KVP_E_CLOSED);
	ck_assert_int_eq(kvp_request_test(request), KVP_PENDING);
	KIT_STATUS(kvp_pipe_stop(pair.a, 0), KVP_E_TIMEOUT);
	KIT_STATUS(kvp_request_test(request), KVP_E_CANCELED);
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT), KVP_E_WITHDRAWN);
	kvp_request_free(request);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(stop_waits_for_what_is_under_way)
{
	kit_pair pair;
	char data[100], got[100];
	kvp_tensor from = bytes_tensor(data, 100);
	blocked receiver;
	pthread_t thread;
	kvp_request *request;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, NULL);
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	receiver = (blocked){.pipe = pair.b};
	kvp_tensor_init_buffer(&receiver.tensor, got, 100);
	pthread_create(&thread, NULL, block, &receiver);
	KIT_OK(kvp_pipe_stop(pair.a, 10000));
	KIT_OK(kvp_request_test(request));
	pthread_join(thread, NULL);
	ck_assert_int_eq(receiver.status, KVP_OK);
	kvp_pipe_free(pair.a);
	KIT_OK(kvp_request_test(request)); /* outlives the pipe */
	KIT_OK(kvp_request_cancel(request, 0, NULL));
	kvp_request_free(request);
	pair.a = NULL;
	kit_pair_free(&pair);
}
END_TEST

/* Stop says that nothing touches our memory any more: a posted receive with its bytes half-way counts too. */
START_TEST(stop_waits_for_receives)
{
	kit_pair pair;
	size_t len = 64 << 20;
	char *data = malloc(len), *got = malloc(len);
	kvp_tensor from = bytes_tensor(data, len), to = bytes_tensor(got, len);
	kvp_request *post;

	kit_random_fill(data, len, 2);
	kit_pair_init(&pair, _i ? "self" : "tcp");
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_post_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT, &post));
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_stop(pair.b, 20000));
	ck_assert_int_ne(kvp_request_test(post), KVP_PENDING);
	ck_assert_int_eq(kvp_request_receipt(post), KVP_RECEIPT_QUIESCENT);
	memset(got, 0x33, len);
	kvp_pipe_free(pair.b);
	pair.b = NULL;
	for (size_t i = 0; i < len; i += 4096)
		ck_assert_int_eq(got[i], 0x33);
	kvp_request_free(post);
	kit_pair_free(&pair);
	free(data);
	free(got);
}
END_TEST

static void free_from_inside(void *user, kvp_status status)
{
	kvp_pipe **pipe = user;

	(void)status;
	kvp_pipe_free(*pipe); /* refused: it would wait for itself */
	if (kvp_pipe_stop(*pipe, 0) == KVP_E_INVALID && kvp_pipe_flush(*pipe, 0) == KVP_E_INVALID)
		*pipe = NULL;
}

START_TEST(a_callback_cannot_wait_for_itself)
{
	kit_pair pair;
	char data[8], got[8];
	kvp_tensor from = bytes_tensor(data, 8), to;
	kvp_send_options options;
	kvp_request *request;
	kvp_pipe *seen;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	seen = pair.a;
	kvp_send_options_init(&options);
	options.done = free_from_inside;
	options.user = &seen;
	KIT_OK(kvp_pipe_send(pair.a, &from, &options, &request));
	kvp_tensor_init_buffer(&to, got, 8);
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_request_wait(request, 10000)); /* the callback has run by then */
	ck_assert_ptr_null(seen);
	kvp_request_free(request);
	kit_pair_free(&pair);
}
END_TEST

/* Of two endpoints of one name the later holds the name, also when the earlier goes. */
START_TEST(an_old_namesake_takes_nothing_along)
{
	kit_pair pair;
	kvp_pipe_options prefill, decode;
	pthread_t threads[3];
	void *pipes[4];

	kit_pair_init(&pair, NULL);
	prefill = decode = pair.options;
	prefill.endpoint = "prefill", prefill.send_to = "decode";
	decode.endpoint = "decode", decode.recv_from = "prefill";
	pthread_create(&threads[0], NULL, open_default, &prefill);
	pthread_create(&threads[1], NULL, open_default, &decode);
	pthread_join(threads[0], &pipes[0]);
	pthread_join(threads[1], &pipes[1]);
	ck_assert(pipes[0] != NULL && pipes[1] != NULL);
	pthread_create(&threads[2], NULL, open_default, &decode); /* the new decode waits */
	kvp_pipe_free(pipes[0]);
	kvp_pipe_free(pipes[1]);
	pthread_create(&threads[0], NULL, open_default, &prefill);
	pthread_join(threads[0], &pipes[2]);
	pthread_join(threads[2], &pipes[3]);
	ck_assert(pipes[2] != NULL && pipes[3] != NULL);
	kvp_pipe_free(pipes[2]);
	kvp_pipe_free(pipes[3]);
	kit_pair_free(&pair);
}
END_TEST

/* The host of the store may leave the moment its open returns; the other's open still succeeds. */
START_TEST(the_host_may_leave_at_once)
{
	for (int round = 0; round < 20; round++) {
		kvp_pipe_options options[2];
		pthread_t thread;
		kvp_pipe *pipe = NULL;
		void *other;

		kvp_pipe_options_init(&options[0]);
		options[0].kv_port = kit_free_port();
		options[1] = options[0];
		options[1].kv_rank = 1;
		pthread_create(&thread, NULL, open_default, &options[1]);
		KIT_OK(kvp_pipe_open(NULL, &options[0], 20000, &pipe));
		kvp_pipe_free(pipe);
		pthread_join(thread, &other);
		ck_assert_ptr_nonnull(other);
		kvp_pipe_free(other);
	}
}
END_TEST

START_TEST(the_other_end_says_goodbye)
{
	kit_pair pair;
	char data[100], got[100];
	kvp_tensor from = bytes_tensor(data, 100), to;
	kvp_request *request;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, _i ? "self" : "tcp");
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	kvp_pipe_free(pair.b);
	pair.b = NULL;
	KIT_STATUS(kvp_request_wait(request, 10000), KVP_E_PEER_CLOSED);
	kvp_tensor_init_buffer(&to, got, 100);
	KIT_STATUS(kvp_pipe_recv(pair.a, &to, 10000), KVP_E_PEER_CLOSED);
	KIT_STATUS(kvp_pipe_send(pair.a, &from, NULL, NULL), KVP_E_PEER_CLOSED);
	kvp_request_free(request);
	kit_pair_free(&pair);
}
END_TEST

/* A worker is told to leave while others wake it for other reasons: it must never sleep over that.  (It did, for its
 * last timer or for ever: the wake-up was cleared after the look at the order to stop.) */
static void *wake_often(void *arg)
{
	for (int i = 0; i < 20; i++)
		kvpi_engine_cancel_wanted(arg);
	return NULL;
}

START_TEST(a_worker_always_hears_the_stop)
{
	kvpi_engine_params params = {.name = "e", .compat_text = "c", .listen = {.bind_host = "127.0.0.1"}, .worker_cpu = -1, .planes = "self",
	                             .heartbeat_ms = 1000, .buffer_bytes = 1};

	for (int round = 0; round < 1000; round++) {
		kvpi_engine *engine;
		pthread_t thread;

		KIT_OK(kvpi_engine_new(&params, &engine));
		KIT_OK(kvpi_engine_start(engine));
		ck_assert_int_eq(pthread_create(&thread, NULL, wake_often, engine), 0);
		if (round % 2)
			pthread_join(thread, NULL);
		atomic_store(&engine->stop, true);
		if (round % 2 == 0)
			pthread_join(thread, NULL);
		kvpi_engine_free(engine);
	}
}
END_TEST

/* ---- processes that die ------------------------------------------------------------------------------- */

typedef struct child_work {
	char url[64];
	int ready; /* a descriptor to write to */
} child_work;

static int heartbeat_ms; /* of both; set before the fork */
static const char *plane = "";

/* Opens rank 1 and then does nothing at all. */
static int be_rank_1(void *arg)
{
	child_work *work = arg;
	kvp_pipe_options options;
	kvp_pipe *pipe;

	kvp_pipe_options_init(&options);
	options.store_url = work->url;
	options.kv_rank = 1;
	options.heartbeat_ms = heartbeat_ms;
	options.planes = plane;
	if (kvp_pipe_open(NULL, &options, 20000, &pipe) != KVP_OK)
		return 1;
	if (write(work->ready, "x", 1) != 1)
		return 2;
	for (;;)
		pause();
}

/* The child is forked before this process touches the library: the url reaches it later, through a pipe. */
static int wait_for_url(void *arg)
{
	int *fds = arg;
	child_work work = {.ready = fds[1]};

	return read(fds[0], work.url, sizeof(work.url)) <= 0 ? 3 : be_rank_1(&work);
}

/* The other end gets the signal in mid-transfer: everything here ends, and says who is lost. */
static void lose_the_peer(int signal_number)
{
	int down[2], up[2], fds[2];
	kvp_store_server_options server_options;
	kvp_store_server *server;
	kvp_pipe_options options;
	kvp_pipe *pipe;
	size_t len = 4 << 20;
	char *data = malloc(len), got[1], x;
	kvp_tensor from = bytes_tensor(data, len), to;
	kvp_request *request;
	kvp_pipe_stats stats = {.size = sizeof(stats)};
	pid_t child;

	kit_random_fill(data, len, 5);
	ck_assert_int_eq(pipe2(down, 0), 0);
	ck_assert_int_eq(pipe2(up, 0), 0);
	fds[0] = down[0];
	fds[1] = up[1];
	child = kit_fork(wait_for_url, fds);
	kvp_store_server_options_init(&server_options);
	KIT_OK(kvp_store_server_start(NULL, &server_options, &server));
	ck_assert_int_gt(write(down[1], kvp_store_server_url(server), strlen(kvp_store_server_url(server)) + 1), 0);
	kvp_pipe_options_init(&options);
	options.store_url = kvp_store_server_url(server);
	options.heartbeat_ms = heartbeat_ms;
	options.planes = plane;
	KIT_OK(kvp_pipe_open(NULL, &options, 20000, &pipe));
	ck_assert_int_eq(read(up[0], &x, 1), 1);

	KIT_OK(kvp_pipe_send(pipe, &from, NULL, &request));
	kit_kill(child, signal_number);
	KIT_STATUS(kvp_request_wait(request, 10000), KVP_E_PEER_LOST);
	ck_assert_int_eq(kvp_request_receipt(request), KVP_RECEIPT_QUIESCENT);
	kvp_tensor_init_buffer(&to, got, 1);
	KIT_STATUS(kvp_pipe_recv(pipe, &to, 10000), KVP_E_PEER_LOST);
	KIT_STATUS(kvp_pipe_send(pipe, &from, NULL, NULL), KVP_E_PEER_LOST);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "kv rank 1"));
	KIT_OK(kvp_pipe_stats_get(pipe, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	kvp_request_free(request);
	kvp_pipe_free(pipe);
	kvp_store_server_free(server);
	kit_kill(child, SIGKILL);
	kit_wait_exit(child, 10000);
	for (int i = 0; i < 2; i++) {
		close(down[i]);
		close(up[i]);
	}
	free(data);
}

START_TEST(a_peer_that_dies_or_hangs_is_known_within_three_heartbeats)
{
	heartbeat_ms = 200;
	lose_the_peer(_i ? SIGSTOP : SIGKILL);
}
END_TEST

/* On one machine a killed peer is proven gone long before its silence would tell: three heartbeats are minutes here,
 * and no wait in this test is that long. */
START_TEST(a_killed_neighbour_is_known_at_once)
{
	heartbeat_ms = 60000;
	plane = _i ? "shm" : "tcp";
	lose_the_peer(SIGKILL);
}
END_TEST

/* ---- forks and exits ------------------------------------------------------------------------------------ */

START_TEST(a_forked_child_is_told)
{
	kit_pair pair;
	char data[8], got[8];
	kvp_tensor from = bytes_tensor(data, 8), to;
	kvp_request *request;
	pid_t child;
	int code = -1;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
	child = fork();
	if (child == 0) {
		int ok = kvp_pipe_send(pair.a, &from, NULL, NULL) == KVP_E_FORKED &&
		         kvp_pipe_recv(pair.a, &from, 0) == KVP_E_FORKED && kvp_request_test(request) == KVP_E_FORKED &&
		         kvp_pipe_stop(pair.a, 0) == KVP_E_FORKED;

		kvp_request_free(request);
		kvp_pipe_free(pair.a); /* harms nobody */
		_exit(ok ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(child, &code, 0), child);
	ck_assert_int_eq(code, 0);
	kvp_tensor_init_buffer(&to, got, 8);
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	KIT_OK(kvp_request_wait(request, 10000));
	kvp_request_free(request);
	kit_pair_free(&pair);
}
END_TEST

static int exit_with_live_handles(void *arg)
{
	static kit_pair pair;
	static char data[8];
	kvp_tensor from = {0};
	int64_t shape[1] = {8};

	(void)arg;
	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	if (kvp_tensor_init(&from, data, KVP_DTYPE_INT8, 1, shape) != KVP_OK ||
	    kvp_pipe_send(pair.a, &from, NULL, NULL) != KVP_OK)
		return 1;
	exit(42);
}

START_TEST(exit_does_not_hang)
{
	ck_assert_int_eq(kit_wait_exit(kit_fork(exit_with_live_handles, NULL), 20000), 42);
}
END_TEST

/* ---- faults --------------------------------------------------------------------------------------------- */

/* The data connection is cut again and again in the middle; every byte arrives all the same. */
START_TEST(a_cut_data_connection_heals)
{
	static const char *const points[] = {"tcp.write", "tcp.read"};
	kit_pair pair;
	size_t len = 24 << 20; /* more than a socket takes at once */
	char *data = malloc(len), *got = malloc(len);
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	for (unsigned round = 0; round < 20; round++) {
		kvp_tensor from = bytes_tensor(data, len - round), to;
		kvp_request *request;

		kit_random_fill(data, len, round + 1);
		memset(got, 0, len);
		kvpi_fault_arm(points[_i], 1 + 2 * round, 1); /* the first ones hit control, the later ones data */
		KIT_OK(kvp_pipe_send(pair.a, &from, NULL, &request));
		kvp_tensor_init_buffer(&to, got, len);
		KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
		kit_check_fill(got, len - round, round + 1);
		KIT_OK(kvp_request_wait(request, 10000));
		kvp_request_free(request);
		kvpi_fault_disarm_all();
	}
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_gt(stats.retransmissions, 0);
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	free(data);
	free(got);
	kit_pair_free(&pair);
}
END_TEST

/* Every allocation of an open fails in turn: a clear status, nothing left behind (the kit counts), and in the end it
 * works. */
START_TEST(no_memory_while_opening)
{
	kit_pair pair;
	kvp_pipe *pipe = NULL;
	kvp_status status = KVP_E_NOMEM;
	unsigned failures = 0;

	kit_pair_init(&pair, NULL);
	pair.options.kv_parallel_size = 1;
	for (unsigned nth = 1; status != KVP_OK; nth++) {
		ck_assert_uint_lt(nth, 500);
		kvpi_fault_arm("alloc", nth, 1);
		status = kvp_pipe_open(NULL, &pair.options, 300, &pipe);
		kvpi_fault_disarm_all();
		if (status == KVP_OK)
			break;
		ck_assert_ptr_null(pipe);
		ck_assert_str_ne(kvp_last_error(), "");
		failures++;
	}
	ck_assert_uint_gt(failures, 5);
	kvp_pipe_free(pipe);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(no_memory_while_sending)
{
	kit_pair pair;
	char data[8], got[8];
	kvp_tensor from = bytes_tensor(data, 8), to;
	kvp_pipe_stats stats = {.size = sizeof(stats)};
	unsigned failures = 0;

	kit_random_fill(data, sizeof(data), 2);
	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvp_pipe_send(pair.a, &from, NULL, NULL), KVP_E_NOMEM);
	kvpi_fault_arm("alloc", 1, 1);
	kvp_tensor_init_buffer(&to, got, 8);
	KIT_STATUS(kvp_pipe_recv(pair.b, &to, 0), KVP_E_NOMEM);
	kvpi_fault_disarm_all();
	/* An allocation fails somewhere on the way, on any thread: the transfer still comes to one end. */
	for (unsigned nth = 2; nth < 30; nth++) {
		kvp_request *request;

		kvpi_fault_arm("alloc", nth, 1);
		kvp_tensor_init_buffer(&to, got, 8);
		if (kvp_pipe_send(pair.a, &from, NULL, &request) == KVP_OK) {
			kvp_status received = kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT);

			kvpi_fault_disarm_all();
			if (received != KVP_OK && received != KVP_E_WITHDRAWN) {
				failures++;
				(void)kvp_pipe_recv(pair.b, &to, 2000);
			}
			ck_assert_int_ne(kvp_request_wait(request, 20000), KVP_E_TIMEOUT);
			kvp_request_free(request);
		}
		kvpi_fault_disarm_all();
	}
	KIT_OK(kvp_pipe_stats_get(pair.a, &stats));
	ck_assert_uint_eq(stats.in_flight_bytes, 0);
	kit_pair_free(&pair);
}
END_TEST

/* Some come in two forms (_i); the others run twice, which does no harm. */
KIT_MAIN_WITH("pipe_ends", 2, NULL, bad_options_are_refused_with_a_sentence, a_missing_rank_is_named, no_store_no_pipe, planes_by_name, without_a_common_plane_both_ends_say_so, to_oneself, rank_0_hosts_the_store, peers_by_name, null_and_nonsense, close_wakes_who_waits_and_keeps_what_was_accepted, stop_waits_for_what_is_under_way, stop_waits_for_receives, a_callback_cannot_wait_for_itself, a_worker_always_hears_the_stop,
              an_old_namesake_takes_nothing_along, the_host_may_leave_at_once, the_other_end_says_goodbye, a_peer_that_dies_or_hangs_is_known_within_three_heartbeats, a_killed_neighbour_is_known_at_once, a_forked_child_is_told, exit_does_not_hang, a_cut_data_connection_heals, no_memory_while_opening, no_memory_while_sending)
