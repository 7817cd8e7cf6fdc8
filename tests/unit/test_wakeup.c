/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/thread.h"
#include "base/wakeup.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>

static bool readable(const kvpi_wakeup *wakeup, int ms)
{
	struct pollfd pollfd = {.fd = wakeup->fd, .events = POLLIN};

	return poll(&pollfd, 1, ms) == 1;
}

START_TEST(posts_are_one_wake_up_until_cleared)
{
	kvpi_wakeup wakeup;

	KIT_OK(kvpi_wakeup_init(&wakeup));
	ck_assert_int_ne(fcntl(wakeup.fd, F_GETFD) & FD_CLOEXEC, 0);
	ck_assert(!readable(&wakeup, 0));
	kvpi_wakeup_clear(&wakeup); /* with nothing posted: must not block */
	for (int round = 0; round < 3; round++) {
		kvpi_wakeup_post(&wakeup);
		kvpi_wakeup_post(&wakeup);
		ck_assert(readable(&wakeup, 0));
		ck_assert(readable(&wakeup, 0));
		kvpi_wakeup_clear(&wakeup);
		ck_assert(!readable(&wakeup, 0));
	}
	kvpi_wakeup_fini(&wakeup);
	kvpi_wakeup_fini(&wakeup);
}
END_TEST

START_TEST(errno_is_kept)
{
	kvpi_wakeup wakeup;

	KIT_OK(kvpi_wakeup_init(&wakeup));
	errno = EBUSY;
	kvpi_wakeup_clear(&wakeup); /* meets EAGAIN */
	kvpi_wakeup_post(&wakeup);
	ck_assert_int_eq(errno, EBUSY);
	kvpi_wakeup_fini(&wakeup);
}
END_TEST

START_TEST(no_descriptor_is_an_error)
{
	kvpi_wakeup wakeup = {.fd = 12345};

	kvpi_fault_arm("wakeup.eventfd", 1, 1);
	KIT_STATUS(kvpi_wakeup_init(&wakeup), KVP_E_SYSTEM);
	ck_assert_int_eq(wakeup.fd, 12345);
}
END_TEST

#define POSTERS 3
#define POSTS 20000

struct load {
	kvpi_wakeup wakeup;
	_Atomic unsigned work;
};

static void *post_often(void *user)
{
	struct load *load = user;

	for (int i = 0; i < POSTS; i++) {
		atomic_fetch_add_explicit(&load->work, 1, memory_order_relaxed);
		kvpi_wakeup_post(&load->wakeup);
	}
	return NULL;
}

/* A lost wake-up shows as a poll that waits for the rest of the test. */
START_TEST(no_wake_up_is_lost)
{
	struct load load = {.work = 0};
	pthread_t threads[POSTERS];
	unsigned done = 0;
	bool stuck = false;

	KIT_OK(kvpi_wakeup_init(&load.wakeup));
	for (size_t i = 0; i < POSTERS; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "poster", post_often, &load));
	while (done < POSTERS * POSTS && !stuck) {
		stuck = !readable(&load.wakeup, 20000);
		kvpi_wakeup_clear(&load.wakeup);
		done = atomic_load_explicit(&load.work, memory_order_relaxed);
	}
	for (size_t i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert(!stuck);
	kvpi_wakeup_fini(&load.wakeup);
}
END_TEST

START_TEST(muted_posts_cost_nothing)
{
	kvpi_wakeup wakeup;

	KIT_OK(kvpi_wakeup_init(&wakeup));
	kvpi_wakeup_mute(&wakeup);
	kvpi_wakeup_post(&wakeup);
	kvpi_wakeup_post(&wakeup);
	ck_assert(!readable(&wakeup, 0));
	kvpi_wakeup_arm(&wakeup); /* what was posted before is looked for, not told */
	ck_assert(!readable(&wakeup, 0));
	kvpi_wakeup_post(&wakeup);
	ck_assert(readable(&wakeup, 0));
	kvpi_wakeup_mute(&wakeup); /* touches no descriptor: the next poll finds it readable and clears it */
	ck_assert(readable(&wakeup, 0));
	kvpi_wakeup_clear(&wakeup);
	ck_assert(!readable(&wakeup, 0));
	kvpi_wakeup_post(&wakeup);
	ck_assert(readable(&wakeup, 0));
	kvpi_wakeup_fini(&wakeup);
}
END_TEST

/* As the worker does it: awake and muted while there is work, armed for one last look before it sleeps. */
START_TEST(no_wake_up_is_lost_between_arming_and_sleeping)
{
	struct load load = {.work = 0};
	pthread_t threads[POSTERS];
	unsigned done = 0;
	bool stuck = false, armed = false;

	KIT_OK(kvpi_wakeup_init(&load.wakeup));
	kvpi_wakeup_mute(&load.wakeup);
	for (size_t i = 0; i < POSTERS; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "poster", post_often, &load));
	while (done < POSTERS * POSTS && !stuck) {
		unsigned now = atomic_load(&load.work);

		if (now != done) {
			done = now;
		} else if (!armed) {
			kvpi_wakeup_arm(&load.wakeup);
			armed = true;
			continue;
		} else {
			stuck = !readable(&load.wakeup, 20000);
			kvpi_wakeup_clear(&load.wakeup);
		}
		kvpi_wakeup_mute(&load.wakeup);
		armed = false;
	}
	for (size_t i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert(!stuck);
	kvpi_wakeup_fini(&load.wakeup);
}
END_TEST

KIT_MAIN("wakeup", muted_posts_cost_nothing, no_wake_up_is_lost_between_arming_and_sleeping, posts_are_one_wake_up_until_cleared, errno_is_kept, no_descriptor_is_an_error,
    no_wake_up_is_lost)
