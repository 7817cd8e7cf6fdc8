/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/thread.h"
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

struct seen {
	char name[16];
	sigset_t mask;
};

static void *look_around(void *user)
{
	struct seen *seen = user;

	prctl(PR_GET_NAME, seen->name);
	pthread_sigmask(SIG_SETMASK, NULL, &seen->mask);
	return user;
}

START_TEST(a_thread_has_its_name_and_no_signals)
{
	static const int blocked[] = {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGALRM, SIGPIPE, SIGHUP};
	static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	struct seen seen = {.name = ""};
	pthread_t thread;
	sigset_t before, after;
	void *result;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	KIT_OK(kvpi_thread_start(&thread, "kvp-pipe-0", look_around, &seen));
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_ptr_eq(result, &seen);
	ck_assert_str_eq(seen.name, "kvp-pipe-0");
	for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
		ck_assert_int_eq(sigismember(&seen.mask, blocked[i]), 1);
	for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
		ck_assert_int_eq(sigismember(&seen.mask, open[i]), 0);
	for (int i = 1; i < SIGRTMAX; i++)
		ck_assert_int_eq(sigismember(&before, i), sigismember(&after, i));
}
END_TEST

START_TEST(a_long_name_is_cut)
{
	struct seen seen = {.name = ""};
	pthread_t thread;

	KIT_OK(kvpi_thread_start(&thread, "kvp-name-that-is-long", look_around, &seen));
	pthread_join(thread, NULL);
	ck_assert_str_eq(seen.name, "kvp-name-that-i");
}
END_TEST

START_TEST(a_thread_that_cannot_start)
{
	pthread_t thread;
	sigset_t before, after;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_thread_start(&thread, "x", look_around, NULL), KVP_E_NOMEM);
	kvpi_fault_arm("thread.start", 1, 1);
	KIT_STATUS(kvpi_thread_start(&thread, "kvp-x", look_around, NULL), KVP_E_SYSTEM);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "kvp-x"));
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	ck_assert_int_eq(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}
END_TEST

START_TEST(a_wait_ends_at_its_deadline)
{
	static const int64_t past[] = {INT64_MIN, -1, 0, 1};
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;

	KIT_OK(kvpi_cond_init(&cond));
	pthread_mutex_lock(&mutex);
	for (size_t i = 0; i < sizeof(past) / sizeof(past[0]); i++)
		ck_assert(!kvpi_cond_wait_until(&cond, &mutex, past[i]));
	/* One that lies ahead: in the end it is false, too, and by then the time has come. */
	int64_t deadline = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), 5);
	while (kvpi_cond_wait_until(&cond, &mutex, deadline))
		;
	ck_assert_int_ge(kvpi_now(&kvpi_clock_real), deadline);
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&cond);
	kvpi_fault_arm("cond.init", 1, 1);
	KIT_STATUS(kvpi_cond_init(&cond), KVP_E_NOMEM);
}
END_TEST

struct flag {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool set;
};

static void *set_flag(void *user)
{
	struct flag *flag = user;

	pthread_mutex_lock(&flag->mutex);
	flag->set = true;
	pthread_cond_signal(&flag->cond);
	pthread_mutex_unlock(&flag->mutex);
	return NULL;
}

START_TEST(a_wait_ends_when_signalled)
{
	static const int64_t deadlines[] = {KVPI_NEVER, KVPI_NEVER - 1};
	struct flag flag = {.mutex = PTHREAD_MUTEX_INITIALIZER};
	pthread_t thread;

	KIT_OK(kvpi_cond_init(&flag.cond));
	for (size_t i = 0; i < 2; i++) {
		flag.set = false;
		pthread_mutex_lock(&flag.mutex);
		KIT_OK(kvpi_thread_start(&thread, "flag", set_flag, &flag));
		while (!flag.set)
			ck_assert(kvpi_cond_wait_until(&flag.cond, &flag.mutex, deadlines[i]));
		pthread_mutex_unlock(&flag.mutex);
		pthread_join(thread, NULL);
	}
	pthread_cond_destroy(&flag.cond);
}
END_TEST

START_TEST(a_handle_knows_its_kind)
{
	kvpi_handle handle;

	kvpi_handle_init(&handle, 0x1234);
	KIT_OK(kvpi_handle_check(&handle, 0x1234, "kvp_x_do"));
	ck_assert(kvpi_handle_is_mine(&handle));
	KIT_STATUS(kvpi_handle_check(NULL, 0x1234, "kvp_x_do"), KVP_E_INVALID);
	KIT_STATUS(kvpi_handle_check(&handle, 0x4321, "kvp_x_do"), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "kvp_x_do"));
	kvpi_handle_fini(&handle);
	KIT_STATUS(kvpi_handle_check(&handle, 0x1234, "kvp_x_do"), KVP_E_INVALID);
}
END_TEST

/* Exit code 0: the child was refused as it should be. */
static int use_in_child(void *user)
{
	const kvpi_handle *handle = user;
	kvpi_handle own;

	if (kvpi_handle_check(handle, 0x1234, "kvp_x_do") != KVP_E_FORKED)
		return 1;
	if (strstr(kvp_last_error(), "fork") == NULL)
		return 2;
	if (kvpi_handle_is_mine(handle))
		return 3;
	if (kvpi_handle_check(handle, 0x4321, "kvp_x_do") != KVP_E_INVALID)
		return 4;
	kvpi_handle_init(&own, 0x1234);
	return kvpi_handle_check(&own, 0x1234, "kvp_x_do") == KVP_OK ? 0 : 5;
}

START_TEST(a_child_is_refused)
{
	kvpi_handle handle;

	kvpi_handle_init(&handle, 0x1234);
	ck_assert_int_eq(kit_wait_exit(kit_fork(use_in_child, &handle), 10000), 0);
	KIT_OK(kvpi_handle_check(&handle, 0x1234, "kvp_x_do"));
}
END_TEST

START_TEST(a_pause_ends_and_is_no_shorter)
{
	int64_t start = kvpi_now(&kvpi_clock_real);

	kvpi_pause_ms(0);
	kvpi_pause_ms(2);
	ck_assert_int_ge(kvpi_now(&kvpi_clock_real), kvpi_deadline_ms(start, 2));
}
END_TEST

KIT_MAIN("thread", a_thread_has_its_name_and_no_signals, a_long_name_is_cut,
    a_thread_that_cannot_start, a_wait_ends_at_its_deadline, a_wait_ends_when_signalled,
    a_pause_ends_and_is_no_shorter, a_handle_knows_its_kind, a_child_is_refused)
