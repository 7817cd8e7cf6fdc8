/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/thread.h"
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

START_TEST(nothing_armed_nothing_fails)
{
	ck_assert(!kvpi_fault("x"));
	ck_assert_uint_eq(kvpi_fault_passes("x"), 0);
}
END_TEST

START_TEST(the_nth_pass_and_count_of_them_fail)
{
	kvpi_fault_arm("x", 2, 3);
	ck_assert(!kvpi_fault("x"));
	ck_assert(!kvpi_fault("y"));
	for (int i = 0; i < 3; i++)
		ck_assert(kvpi_fault("x"));
	ck_assert(!kvpi_fault("x"));
	ck_assert_uint_eq(kvpi_fault_passes("x"), 5);
	ck_assert_uint_eq(kvpi_fault_passes("y"), 0);
}
END_TEST

START_TEST(count_zero_is_for_ever)
{
	kvpi_fault_arm("x", 3, 0);
	ck_assert(!kvpi_fault("x") && !kvpi_fault("x"));
	for (int i = 0; i < 100; i++)
		ck_assert(kvpi_fault("x"));
}
END_TEST

START_TEST(large_numbers_do_not_wrap)
{
	kvpi_fault_arm("x", 2, UINT_MAX);
	ck_assert(!kvpi_fault("x"));
	ck_assert(kvpi_fault("x"));
}
END_TEST

START_TEST(arming_again_starts_anew)
{
	kvpi_fault_arm("x", 1, 1);
	ck_assert(kvpi_fault("x"));
	kvpi_fault_arm("x", 1, 1);
	ck_assert_uint_eq(kvpi_fault_passes("x"), 0);
	ck_assert(kvpi_fault("x"));
	kvpi_fault_arm("x", 1, 0);
	kvpi_fault_disarm_all();
	ck_assert(!kvpi_fault("x"));
	ck_assert_int_eq(atomic_load(&kvpi_fault_armed), 0);
}
END_TEST

static void *pass_often(void *user)
{
	unsigned *hits = user;

	for (int i = 0; i < 1000; i++)
		*hits += kvpi_fault("x");
	return NULL;
}

START_TEST(threads_share_one_count)
{
	pthread_t threads[4];
	unsigned hits[4] = {0};

	kvpi_fault_arm("x", 500, 1000);
	for (size_t i = 0; i < 4; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "pass", pass_often, &hits[i]));
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(hits[0] + hits[1] + hits[2] + hits[3], 1000);
	ck_assert_uint_eq(kvpi_fault_passes("x"), 4000);
}
END_TEST

static int arm_too_many(void *user)
{
	const struct rlimit no_core = {0, 0};
	char name[32];

	(void)user;
	setrlimit(RLIMIT_CORE, &no_core);
	close(STDERR_FILENO); /* the line it prints is expected */
	for (int i = 0; i < 17; i++) {
		snprintf(name, sizeof(name), "point %d", i);
		kvpi_fault_arm(name, 1, 1);
	}
	return 0;
}

static int arm_pass_zero(void *user)
{
	const struct rlimit no_core = {0, 0};

	(void)user;
	setrlimit(RLIMIT_CORE, &no_core);
	close(STDERR_FILENO);
	kvpi_fault_arm("x", 0, 1);
	return 0;
}

START_TEST(a_mistake_in_a_test_aborts)
{
	ck_assert_int_eq(kit_wait_exit(kit_fork(arm_too_many, NULL), 10000), 128 + SIGABRT);
	ck_assert_int_eq(kit_wait_exit(kit_fork(arm_pass_zero, NULL), 10000), 128 + SIGABRT);
}
END_TEST

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
	signals += number == SIGUSR1;
}

START_TEST(the_nth_pass_sends_a_signal)
{
	signal(SIGUSR1, count_signal);
	kvpi_fault_arm_signal("x", 3, SIGUSR1);
	for (int i = 0; i < 5; i++) {
		ck_assert(!kvpi_fault("x"));
		ck_assert_int_eq(signals, i >= 2);
	}
	ck_assert_uint_eq(kvpi_fault_passes("x"), 5);
}
END_TEST

KIT_MAIN("fault", the_nth_pass_sends_a_signal, nothing_armed_nothing_fails, the_nth_pass_and_count_of_them_fail,
    count_zero_is_for_ever, large_numbers_do_not_wrap, arming_again_starts_anew,
    threads_share_one_count, a_mistake_in_a_test_aborts)
