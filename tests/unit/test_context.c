/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/context.h"
#include "base/error.h"
#include "base/fault.h"
#include <kvpipe/context.h>
#include <kvpipe/log.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a slot's object that tells what becomes of it ---- */

static atomic_int made, destroyed;
static char order[8]; /* of destruction */
static int object_zmq, object_self;

static kvp_status make_zmq(kvp_context *context, void **object)
{
	(void)context;
	atomic_fetch_add(&made, 1);
	*object = &object_zmq;
	return KVP_OK;
}

static kvp_status make_self(kvp_context *context, void **object)
{
	(void)context;
	atomic_fetch_add(&made, 1);
	*object = &object_self;
	return KVP_OK;
}

static kvp_status make_nothing(kvp_context *context, void **object)
{
	(void)context;
	(void)object;
	return kvpi_error(KVP_E_SYSTEM, "made to fail");
}

static void destroy(void *object)
{
	order[atomic_fetch_add(&destroyed, 1)] = object == &object_zmq ? 'z' : 's';
}

/* With CK_FORK=no the tests share these. */
static void reset(void)
{
	atomic_store(&made, 0);
	atomic_store(&destroyed, 0);
	memset(order, 0, sizeof(order));
}

/* ---- tests ---- */

START_TEST(options_have_defaults_and_bounds)
{
	kvp_context_options options;
	kvp_context *context = NULL;

	kvp_context_options_init(&options);
	ck_assert_uint_eq(options.size, sizeof(options));
	ck_assert_int_eq(options.io_threads, 1);
	KIT_OK(kvp_context_new(&context, NULL));
	ck_assert_int_eq(kvpi_context_io_threads(context), 1);
	kvp_context_free(context);

	options.io_threads = 8;
	KIT_OK(kvp_context_new(&context, &options));
	ck_assert_int_eq(kvpi_context_io_threads(context), 8);
	kvp_context_free(context);

	context = NULL;
	options.io_threads = 9;
	KIT_STATUS(kvp_context_new(&context, &options), KVP_E_INVALID);
	options.io_threads = 0;
	KIT_STATUS(kvp_context_new(&context, &options), KVP_E_INVALID);
	options.io_threads = 1;
	options.size = 0;
	KIT_STATUS(kvp_context_new(&context, &options), KVP_E_INVALID);
	ck_assert_ptr_null(context);
	KIT_STATUS(kvp_context_new(NULL, NULL), KVP_E_INVALID);
	kvp_context_free(NULL);
}
END_TEST

START_TEST(the_default_one_lives_while_it_is_held)
{
	kvp_context *a, *b;
	void *object = NULL;

	reset();
	KIT_OK(kvpi_context_hold(NULL, &a));
	KIT_OK(kvpi_context_hold(NULL, &b));
	ck_assert_ptr_eq(a, b);
	KIT_OK(kvpi_context_get(a, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	ck_assert_ptr_eq(object, &object_zmq);
	kvpi_context_release(a);
	ck_assert_int_eq(destroyed, 0);
	kvpi_context_release(b);
	ck_assert_int_eq(destroyed, 1);

	/* The next one begins anew. */
	KIT_OK(kvpi_context_hold(NULL, &a));
	KIT_OK(kvpi_context_get(a, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	ck_assert_int_eq(made, 2);
	kvpi_context_release(a);
	ck_assert_int_eq(destroyed, 2);
	kvpi_context_release(NULL);
}
END_TEST

START_TEST(handles_outlive_the_users_hold)
{
	kvp_context *context, *other, *held;
	void *object;

	reset();
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_context_new(&other, NULL));
	KIT_OK(kvpi_context_hold(context, &held));
	ck_assert_ptr_eq(held, context);
	KIT_OK(kvpi_context_get(held, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	kvp_context_free(context);
	ck_assert_int_eq(destroyed, 0);
	kvpi_context_release(held);
	ck_assert_int_eq(destroyed, 1);
	kvp_context_free(other);
	ck_assert_int_eq(destroyed, 1); /* it had none */
}
END_TEST

static char logged[256];

static void keep_line(void *user, kvp_log_level level, const char *component, const char *line)
{
	(void)user;
	(void)level;
	(void)component;
	strncpy(logged, line, sizeof(logged) - 1);
}

START_TEST(a_second_free_takes_nobodys_hold)
{
	kvp_context *context, *held;

	kvp_log_set((kvp_log_callback){.call = keep_line}, KVP_LOG_ERROR);
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvpi_context_hold(context, &held));
	kvp_context_free(context);
	ck_assert_str_eq(logged, "");
	kvp_context_free(context);
	ck_assert_ptr_nonnull(strstr(logged, "freed before"));
	KIT_OK(kvpi_context_hold(held, &context)); /* still alive */
	kvpi_context_release(context);
	kvpi_context_release(held);
	kvp_log_set((kvp_log_callback){.call = NULL}, KVP_LOG_OFF);
}
END_TEST

START_TEST(slots_go_in_reverse_order)
{
	kvp_context *context;
	void *object;

	reset();
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvpi_context_get(context, KVPI_SLOT_SELF, make_self, destroy, &object));
	KIT_OK(kvpi_context_get(context, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	KIT_OK(kvpi_context_get(context, KVPI_SLOT_SELF, make_nothing, destroy, &object));
	ck_assert_ptr_eq(object, &object_self); /* was there: not made again */
	kvp_context_free(context);
	ck_assert_str_eq(order, "sz");
}
END_TEST

START_TEST(a_slot_that_could_not_be_made_is_tried_again)
{
	kvp_context *context;
	void *object = &context;

	reset();
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_STATUS(
	    kvpi_context_get(context, KVPI_SLOT_ZMQ, make_nothing, destroy, &object), KVP_E_SYSTEM);
	ck_assert_ptr_eq(object, &context);
	KIT_OK(kvpi_context_get(context, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	kvp_context_free(context);
	ck_assert_int_eq(destroyed, 1);

	reset();
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_STATUS(
	    kvpi_context_get(context, KVPI_SLOT_ZMQ, make_nothing, destroy, &object), KVP_E_SYSTEM);
	kvp_context_free(context);
	ck_assert_int_eq(destroyed, 0);
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 2000 };

static atomic_int alive, failures, stop;

static kvp_status make_alive(kvp_context *context, void **object)
{
	(void)context;
	if (atomic_fetch_add(&alive, 1) != 0)
		atomic_fetch_add(&failures, 1); /* made twice */
	*object = &alive;
	return KVP_OK;
}

static void destroy_alive(void *object)
{
	atomic_fetch_sub((atomic_int *)object, 1);
}

static void *hold_and_release(void *user)
{
	(void)user;
	for (int i = 0; i < ROUNDS; i++) {
		kvp_context *held;
		void *object;

		if (kvpi_context_hold(NULL, &held) != KVP_OK) {
			atomic_fetch_add(&failures, 1);
			continue;
		}
		if (kvpi_context_get(held, KVPI_SLOT_SELF, make_alive, destroy_alive, &object) !=
		    KVP_OK)
			atomic_fetch_add(&failures, 1);
		kvpi_context_release(held);
	}
	return NULL;
}

START_TEST(threads_share_one_slot)
{
	pthread_t threads[THREADS];
	kvp_context *held;
	void *object;

	KIT_OK(kvpi_context_hold(NULL, &held));
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hold_and_release, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(failures, 0);
	KIT_OK(kvpi_context_get(held, KVPI_SLOT_SELF, make_alive, destroy_alive, &object));
	ck_assert_int_eq(alive, 1);
	kvpi_context_release(held);
	ck_assert_int_eq(alive, 0);
}
END_TEST

static void *hold_without_slots(void *user)
{
	(void)user;
	while (!atomic_load(&stop)) {
		kvp_context *held;

		if (kvpi_context_hold(NULL, &held) == KVP_OK)
			kvpi_context_release(held);
	}
	return NULL;
}

/* ---- fork ---- */

static kvp_context *inherited, *inherited_default;

/* The exit code says which line failed. */
static int use_inherited(void *user)
{
	kvp_context *held = NULL;
	char text[1000];
	void *object;

	(void)user;
	if (kvpi_context_hold(inherited, &held) != KVP_E_FORKED || held != NULL)
		return 2;
	if (kvp_metrics_text(inherited, text, sizeof(text), NULL) != KVP_E_FORKED)
		return 3;
	if (kvpi_context_get(inherited, KVPI_SLOT_ZMQ, make_zmq, destroy, &object) != KVP_E_FORKED)
		return 4;
	kvp_context_free(inherited);
	kvpi_context_release(inherited_default);
	if (destroyed != 0)
		return 5;
	if (kvp_metrics_text(NULL, text, sizeof(text), NULL) != KVP_OK)
		return 6;

	if (kvpi_context_hold(NULL, &held) != KVP_OK || held == inherited_default)
		return 7;
	if (kvpi_context_get(held, KVPI_SLOT_SELF, make_self, destroy, &object) != KVP_OK)
		return 8;
	kvpi_context_release(held);
	if (destroyed != 1 || order[0] != 's')
		return 9;
	return 0;
}

START_TEST(a_child_has_contexts_of_its_own)
{
	void *object;

	reset();
	KIT_OK(kvp_context_new(&inherited, NULL));
	KIT_OK(kvpi_context_hold(NULL, &inherited_default));
	KIT_OK(kvpi_context_get(inherited, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	KIT_OK(kvpi_context_get(inherited_default, KVPI_SLOT_ZMQ, make_zmq, destroy, &object));
	ck_assert_int_eq(kit_wait_exit(kit_fork(use_inherited, NULL), 10000), 0);
	kvpi_context_release(inherited_default);
	kvp_context_free(inherited);
	ck_assert_int_eq(destroyed, 2);
}
END_TEST

static int hold_once(void *user)
{
	kvp_context *held;

	(void)user;
	if (kvpi_context_hold(NULL, &held) != KVP_OK)
		return 2;
	kvpi_context_release(held);
	return 0;
}

/* Threads are inside hold and release all the time: sooner or later a fork meets the lock. */
START_TEST(fork_finds_no_lock_taken)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hold_without_slots, NULL), 0);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(kit_wait_exit(kit_fork(hold_once, NULL), 10000), 0);
	atomic_store(&stop, 1);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}
END_TEST

/* ---- metrics and bytes ---- */

static const kvpi_metric table[] = {{"kvpipe_test_things_total", "Things", KVPI_METRIC_COUNTER, 0}};

START_TEST(metrics_as_text)
{
	kvp_context *context, *held;
	kvpi_counter things = 42;
	kvpi_metric_source source = {.table = table, .count = 1, .base = &things};
	char text[1000] = "before";
	size_t needed = 0;

	/* No default context: empty, and none is made by asking. */
	KIT_OK(kvp_metrics_text(NULL, text, sizeof(text), &needed));
	ck_assert_str_eq(text, "");
	ck_assert_uint_eq(needed, 1);

	KIT_OK(kvp_context_new(&context, NULL));
	kvpi_metrics_add(kvpi_context_metrics(context), &source);
	KIT_OK(kvp_metrics_text(context, text, sizeof(text), &needed));
	ck_assert_ptr_nonnull(strstr(text, "kvpipe_test_things_total 42\n"));
	ck_assert_uint_eq(needed, strlen(text) + 1);

	memset(text, 'x', sizeof(text));
	const size_t exact = needed;
	needed = 0;
	KIT_STATUS(kvp_metrics_text(context, text, exact - 1, &needed), KVP_E_TOO_LARGE);
	ck_assert_uint_eq(needed, exact);
	ck_assert_int_eq(text[0], 'x');
	KIT_OK(kvp_metrics_text(context, text, exact, NULL));
	ck_assert_int_eq(text[exact], 'x');
	KIT_STATUS(kvp_metrics_text(context, NULL, 0, &needed), KVP_E_TOO_LARGE);
	KIT_STATUS(kvp_metrics_text(context, NULL, 1, &needed), KVP_E_INVALID);
	kvpi_metrics_remove(kvpi_context_metrics(context), &source);
	kvp_context_free(context);

	KIT_OK(kvpi_context_hold(NULL, &held));
	kvpi_metrics_add(kvpi_context_metrics(held), &source);
	KIT_OK(kvp_metrics_text(NULL, text, sizeof(text), NULL));
	ck_assert_ptr_nonnull(strstr(text, "kvpipe_test_things_total 42\n"));
	kvpi_fault_arm("alloc", 1, 0);
	KIT_STATUS(kvp_metrics_text(NULL, text, sizeof(text), NULL), KVP_E_NOMEM);
	kvpi_fault_disarm_all();
	kvpi_metrics_remove(kvpi_context_metrics(held), &source);
	kvpi_context_release(held);
}
END_TEST

START_TEST(bytes_are_freed_and_forgotten)
{
	kvp_bytes bytes = {.data = malloc(3), .len = 3};

	kvp_bytes_free(&bytes);
	ck_assert_ptr_null(bytes.data);
	ck_assert_uint_eq(bytes.len, 0);
	kvp_bytes_free(&bytes);
	kvp_bytes_free(NULL);
}
END_TEST

START_TEST(without_memory)
{
	kvp_context *context = NULL;

	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvp_context_new(&context, NULL), KVP_E_NOMEM);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_context_hold(NULL, &context), KVP_E_NOMEM);
	ck_assert_ptr_null(context);
	KIT_OK(kvpi_context_hold(NULL, &context));
	kvpi_context_release(context);
}
END_TEST

KIT_MAIN("context", options_have_defaults_and_bounds, the_default_one_lives_while_it_is_held,
    handles_outlive_the_users_hold, a_second_free_takes_nobodys_hold, slots_go_in_reverse_order,
    a_slot_that_could_not_be_made_is_tried_again, threads_share_one_slot,
    a_child_has_contexts_of_its_own, fork_finds_no_lock_taken, metrics_as_text,
    bytes_are_freed_and_forgotten, without_memory)
