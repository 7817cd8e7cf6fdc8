/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/admission.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include <stdatomic.h>
#include <string.h>

#define TRY 0 /* a deadline that has always passed */

static int64_t soon(int64_t ms)
{
	return kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), ms);
}

static void count_up(void *user)
{
	atomic_fetch_add((_Atomic unsigned *)user, 1);
}

/* ---- a thread that takes, and what came of it ---- */

struct taker {
	kvpi_admission *admission;
	uint64_t bytes;
	int64_t deadline_ns;
	pthread_t thread;
	_Atomic bool done;
	kvp_status status;
};

static void *take(void *user)
{
	struct taker *taker = user;

	taker->status = kvpi_admission_take(taker->admission, taker->bytes, taker->deadline_ns);
	atomic_store(&taker->done, true);
	return NULL;
}

static bool is_done(void *user)
{
	struct taker *taker = user;

	return atomic_load(&taker->done);
}

static size_t waiting(kvpi_admission *admission)
{
	size_t count = 0;

	pthread_mutex_lock(&admission->mutex);
	KVPI_LIST_FOREACH (pos, next, &admission->waiters)
		count++;
	pthread_mutex_unlock(&admission->mutex);
	return count;
}

struct line {
	kvpi_admission *admission;
	size_t length;
};

static bool line_has_length(void *user)
{
	struct line *line = user;

	return waiting(line->admission) == line->length;
}

/* Starts it, and returns when it stands in line as number `length`. */
static void start_waiting(struct taker *taker, kvpi_admission *admission, uint64_t bytes,
    int64_t deadline_ns, size_t length)
{
	struct line line = {admission, length};

	*taker = (struct taker){.admission = admission, .bytes = bytes, .deadline_ns = deadline_ns};
	KIT_OK(kvpi_thread_start(&taker->thread, "taker", take, taker));
	kit_wait_until(line_has_length, &line, 20000);
}

static kvp_status finish(struct taker *taker)
{
	kit_wait_until(is_done, taker, 20000);
	pthread_join(taker->thread, NULL);
	return taker->status;
}

/* ---- one thread ---- */

START_TEST(marks_must_fit)
{
	kvpi_admission admission;

	KIT_STATUS(kvpi_admission_init(&admission, 10, 11, NULL, NULL), KVP_E_INVALID);
	kvpi_fault_arm("cond.init", 1, 1);
	KIT_STATUS(kvpi_admission_init(&admission, 10, 10, NULL, NULL), KVP_E_NOMEM);
}
END_TEST

START_TEST(a_try_takes_or_says_again)
{
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 60, TRY));
	KIT_OK(kvpi_admission_take(&admission, 40, TRY));
	ck_assert_uint_eq(admission.used, 100);
	KIT_STATUS(kvpi_admission_take(&admission, 1, TRY), KVP_E_AGAIN);
	ck_assert_uint_eq(admission.used, 100);
	ck_assert_uint_eq(admission.refusals, 1);
	ck_assert_uint_eq(admission.peak, 100);
	kvpi_admission_give_back(&admission, 60);
	KIT_OK(kvpi_admission_take(&admission, 30, TRY));
	kvpi_admission_give_back(&admission, 30);
	kvpi_admission_give_back(&admission, 40);
	uint64_t used, peak, refusals;
	kvpi_admission_read(&admission, &used, &peak, &refusals);
	ck_assert_uint_eq(used, 0);
	ck_assert_uint_eq(peak, 100);
	ck_assert_uint_eq(refusals, 1);
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(a_wait_times_out_and_takes_nothing)
{
	kvpi_admission admission;
	kvp_status status = KVP_E_AGAIN;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 100, TRY));
	/* On a machine that stalls, the deadline may have passed at entry: then it was a try. */
	for (int64_t ms = 10; status == KVP_E_AGAIN; ms *= 2)
		status = kvpi_admission_take(&admission, 1, soon(ms));
	ck_assert_int_eq(status, KVP_E_TIMEOUT);
	ck_assert_uint_eq(admission.used, 100);
	ck_assert_uint_eq(waiting(&admission), 0);
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(oversize_goes_alone)
{
	static const uint64_t sizes[] = {101, 250, UINT64_MAX};
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 0, NULL, NULL));
	for (size_t i = 0; i < 3; i++) {
		KIT_OK(kvpi_admission_take(&admission, sizes[i], TRY));
		KIT_STATUS(kvpi_admission_take(&admission, 1, TRY), KVP_E_AGAIN);
		KIT_STATUS(kvpi_admission_take(&admission, UINT64_MAX, TRY), KVP_E_AGAIN);
		kvpi_admission_give_back(&admission, sizes[i]);
		KIT_OK(kvpi_admission_take(&admission, 1, TRY));
		KIT_STATUS(kvpi_admission_take(&admission, sizes[i], TRY), KVP_E_AGAIN);
		kvpi_admission_give_back(&admission, 1);
	}
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(the_event_fires_once_at_the_low_mark)
{
	_Atomic unsigned events = 0;
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 40, count_up, &events));
	for (int round = 1; round <= 3; round++) {
		for (int i = 0; i < 10; i++)
			KIT_OK(kvpi_admission_take(&admission, 10, TRY));
		KIT_STATUS(kvpi_admission_take(&admission, 10, TRY), KVP_E_AGAIN);
		KIT_STATUS(kvpi_admission_take(&admission, 10, TRY), KVP_E_AGAIN);
		for (int i = 0; i < 5; i++) {
			kvpi_admission_give_back(&admission, 10);
			ck_assert_uint_eq(events, (unsigned)round - 1);
			/* Fits, but would put the event off. */
			KIT_STATUS(kvpi_admission_take(&admission, 1, TRY), KVP_E_AGAIN);
		}
		for (int i = 0; i < 5; i++) {
			kvpi_admission_give_back(&admission, 10);
			ck_assert_uint_eq(events, (unsigned)round);
		}
	}
	/* Nobody was refused, nobody is told. */
	KIT_OK(kvpi_admission_take(&admission, 100, TRY));
	kvpi_admission_give_back(&admission, 100);
	ck_assert_uint_eq(events, 3);
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(a_refusal_below_the_low_mark_gets_its_event)
{
	_Atomic unsigned events = 0;
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 40, count_up, &events));
	KIT_OK(kvpi_admission_take(&admission, 20, TRY));
	KIT_STATUS(kvpi_admission_take(&admission, 90, TRY), KVP_E_AGAIN);
	kvpi_admission_give_back(&admission, 20);
	ck_assert_uint_eq(events, 1);
	KIT_OK(kvpi_admission_take(&admission, 90, TRY));
	kvpi_admission_give_back(&admission, 90);
	kvpi_admission_fini(&admission);
}
END_TEST

static void keep_line(void *user, kvp_log_level level, const char *component, const char *line)
{
	ck_assert_int_eq(level, KVP_LOG_ERROR);
	ck_assert_str_eq(component, "base");
	strncpy(user, line, 99);
}

START_TEST(giving_back_too_much_is_logged_and_harmless)
{
	kvpi_admission admission;
	char line[100] = "";

	KIT_OK(kvpi_admission_init(&admission, 100, 40, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 20, TRY));
	kvp_log_set((kvp_log_callback){.call = keep_line, .user = line}, KVP_LOG_ERROR);
	kvpi_admission_give_back(&admission, 50);
	kvp_log_set((kvp_log_callback){.call = NULL}, KVP_LOG_OFF);
	ck_assert_uint_eq(admission.used, 0);
	ck_assert_str_eq(line, "30 bytes given back that were never taken");
	kvpi_admission_fini(&admission);
}
END_TEST

/* ---- several threads ---- */

START_TEST(first_come_first_served)
{
	struct taker takers[5];
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 100, TRY));
	for (size_t i = 0; i < 5; i++)
		start_waiting(&takers[i], &admission, 100, KVPI_NEVER, i + 1);
	for (size_t i = 0; i < 5; i++) {
		kvpi_admission_give_back(&admission, 100);
		KIT_OK(
		    finish(&takers[i])); /* room for one: if another had it, this would not end */
		ck_assert_uint_eq(waiting(&admission), 4 - i);
	}
	kvpi_admission_give_back(&admission, 100);
	ck_assert_uint_eq(admission.used, 0);
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(small_ones_do_not_overtake)
{
	struct taker large, small;
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 60, TRY));
	start_waiting(&large, &admission, 70, KVPI_NEVER, 1);
	KIT_STATUS(kvpi_admission_take(&admission, 10, TRY), KVP_E_AGAIN);
	start_waiting(&small, &admission, 10, KVPI_NEVER, 2);
	kvpi_admission_give_back(&admission, 10);
	ck_assert_uint_eq(waiting(&admission), 2);
	kvpi_admission_give_back(&admission, 50);
	KIT_OK(finish(&large));
	KIT_OK(finish(&small));
	ck_assert_uint_eq(admission.used, 80);
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(oversize_waits_until_it_is_alone)
{
	struct taker large;
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 2, TRY));
	start_waiting(&large, &admission, 1000, KVPI_NEVER, 1);
	kvpi_admission_give_back(&admission, 1);
	ck_assert_uint_eq(waiting(&admission), 1);
	kvpi_admission_give_back(&admission, 1);
	KIT_OK(finish(&large));
	ck_assert_uint_eq(admission.used, 1000);
	kvpi_admission_fini(&admission);
}
END_TEST

struct pair {
	struct taker large, small;
};

static bool large_waits_or_is_done(void *user)
{
	struct pair *pair = user;

	return is_done(&pair->large) || waiting(pair->large.admission) == 1;
}

static bool both_wait_or_one_is_done(void *user)
{
	struct pair *pair = user;

	return is_done(&pair->large) || is_done(&pair->small) ||
	       waiting(pair->large.admission) == 2;
}

START_TEST(who_gives_up_lets_the_next_through)
{
	struct pair pair;
	kvpi_admission admission;
	bool seen = false;

	KIT_OK(kvpi_admission_init(&admission, 100, 50, NULL, NULL));
	KIT_OK(kvpi_admission_take(&admission, 60, TRY));
	/* Again with more time, until both have been seen in line. */
	for (int64_t ms = 50; !seen; ms *= 2) {
		pair.large =
		    (struct taker){.admission = &admission, .bytes = 70, .deadline_ns = soon(ms)};
		pair.small =
		    (struct taker){.admission = &admission, .bytes = 10, .deadline_ns = KVPI_NEVER};
		KIT_OK(kvpi_thread_start(&pair.large.thread, "large", take, &pair.large));
		kit_wait_until(large_waits_or_is_done, &pair, 20000);
		KIT_OK(kvpi_thread_start(&pair.small.thread, "small", take, &pair.small));
		kit_wait_until(both_wait_or_one_is_done, &pair, 20000);
		seen = waiting(&admission) == 2;
		/* Nothing is given back: the small one gets in only because the large one leaves. */
		ck_assert_int_ne(finish(&pair.large), KVP_OK);
		KIT_OK(finish(&pair.small));
		ck_assert_uint_eq(admission.used, 70);
		kvpi_admission_give_back(&admission, 10);
	}
	kvpi_admission_fini(&admission);
}
END_TEST

START_TEST(close_wakes_all)
{
	_Atomic unsigned events = 0;
	struct taker takers[4];
	kvpi_admission admission;

	KIT_OK(kvpi_admission_init(&admission, 100, 0, count_up, &events));
	KIT_OK(kvpi_admission_take(&admission, 100, TRY));
	for (size_t i = 0; i < 4; i++)
		start_waiting(&takers[i], &admission, 10, KVPI_NEVER, i + 1);
	KIT_STATUS(kvpi_admission_take(&admission, 1, TRY), KVP_E_AGAIN);
	kvpi_admission_close(&admission);
	for (size_t i = 0; i < 4; i++)
		ck_assert_int_eq(finish(&takers[i]), KVP_E_CLOSED);
	ck_assert_uint_eq(events, 1); /* the one who was told AGAIN hears of it, too */
	KIT_STATUS(kvpi_admission_take(&admission, 1, TRY), KVP_E_CLOSED);
	KIT_STATUS(kvpi_admission_take(&admission, 1, KVPI_NEVER), KVP_E_CLOSED);
	kvpi_admission_close(&admission);
	kvpi_admission_give_back(&admission, 100);
	ck_assert_uint_eq(admission.used, 0);
	ck_assert_uint_eq(events, 1);
	kvpi_admission_fini(&admission);
}
END_TEST

#define THREADS 8
#define ROUNDS 2000
#define LIMIT 1000

struct crowd {
	kvpi_admission admission;
	_Atomic uint64_t in;
	_Atomic bool above;
	_Atomic bool lost;

	/* The event, for those who were told AGAIN. */
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	unsigned events;
};

struct member {
	struct crowd *crowd;
	uint64_t random;
	pthread_t thread;
};

static void on_room(void *user)
{
	struct crowd *crowd = user;

	pthread_mutex_lock(&crowd->mutex);
	crowd->events++;
	pthread_cond_broadcast(&crowd->cond);
	pthread_mutex_unlock(&crowd->mutex);
}

static unsigned events_so_far(struct crowd *crowd)
{
	pthread_mutex_lock(&crowd->mutex);
	unsigned events = crowd->events;
	pthread_mutex_unlock(&crowd->mutex);
	return events;
}

/* Tries until it gets the bytes, and sleeps on the event in between. */
static bool take_by_event(struct crowd *crowd, uint64_t bytes)
{
	for (;;) {
		unsigned before = events_so_far(crowd);
		kvp_status status = kvpi_admission_take(&crowd->admission, bytes, TRY);
		bool in_time = true;

		if (status != KVP_E_AGAIN)
			return status == KVP_OK;
		pthread_mutex_lock(&crowd->mutex);
		int64_t deadline = soon(40000);
		while (crowd->events == before && in_time)
			in_time = kvpi_cond_wait_until(&crowd->cond, &crowd->mutex, deadline);
		pthread_mutex_unlock(&crowd->mutex);
		if (!in_time) {
			atomic_store(&crowd->lost, true);
			return false;
		}
	}
}

static void *be_in_the_crowd(void *user)
{
	struct member *member = user;
	struct crowd *crowd = member->crowd;

	for (int i = 0; i < ROUNDS && !atomic_load(&crowd->lost); i++) {
		uint64_t bytes = 1 + kit_random(&member->random) % (LIMIT / 2);
		bool taken;

		switch (kit_random(&member->random) % 3) {
		case 0:
			taken = take_by_event(crowd, bytes);
			break;
		case 1: /* so little time that some get it and some do not */
			taken = kvpi_admission_take(&crowd->admission, bytes,
			            kvpi_now(&kvpi_clock_real) + 20000) == KVP_OK;
			break;
		default:
			taken = kvpi_admission_take(&crowd->admission, bytes, KVPI_NEVER) == KVP_OK;
		}
		if (!taken)
			continue;
		if (atomic_fetch_add(&crowd->in, bytes) + bytes > LIMIT)
			atomic_store(&crowd->above, true);
		atomic_fetch_sub(&crowd->in, bytes);
		kvpi_admission_give_back(&crowd->admission, bytes);
	}
	return NULL;
}

START_TEST(a_crowd_never_passes_the_limit)
{
	static struct crowd crowd = {.mutex = PTHREAD_MUTEX_INITIALIZER};
	struct member members[THREADS];

	KIT_OK(kvpi_cond_init(&crowd.cond));
	KIT_OK(kvpi_admission_init(&crowd.admission, LIMIT, LIMIT / 2, on_room, &crowd));
	for (size_t i = 0; i < THREADS; i++) {
		members[i] = (struct member){.crowd = &crowd, .random = i};
		KIT_OK(
		    kvpi_thread_start(&members[i].thread, "crowd", be_in_the_crowd, &members[i]));
	}
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(members[i].thread, NULL);
	ck_assert(!atomic_load(&crowd.above));
	ck_assert(!atomic_load(&crowd.lost)); /* an event that never came */
	ck_assert_uint_eq(crowd.admission.used, 0);
	ck_assert_uint_le(crowd.admission.peak, LIMIT);
	ck_assert_uint_eq(waiting(&crowd.admission), 0);
	kvpi_admission_fini(&crowd.admission);
	pthread_cond_destroy(&crowd.cond);
}
END_TEST

KIT_MAIN("admission", marks_must_fit, a_try_takes_or_says_again, a_wait_times_out_and_takes_nothing,
    oversize_goes_alone, the_event_fires_once_at_the_low_mark,
    a_refusal_below_the_low_mark_gets_its_event, giving_back_too_much_is_logged_and_harmless,
    first_come_first_served, small_ones_do_not_overtake, oversize_waits_until_it_is_alone,
    who_gives_up_lets_the_next_through, close_wakes_all, a_crowd_never_passes_the_limit)
