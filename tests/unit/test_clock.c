/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/clock.h"

START_TEST(the_real_clock_never_goes_back)
{
	int64_t before = kvpi_now(&kvpi_clock_real);

	ck_assert_int_gt(before, 0);
	for (int i = 0; i < 1000; i++) {
		int64_t now = kvpi_now(&kvpi_clock_real);

		ck_assert_int_ge(now, before);
		before = now;
	}
}
END_TEST

START_TEST(a_manual_clock_moves_when_told)
{
	kvpi_clock clock;

	kvpi_clock_manual_init(&clock, 100);
	ck_assert_int_eq(kvpi_now(&clock), 100);
	ck_assert_int_eq(kvpi_now(&clock), 100);
	kvpi_clock_manual_advance(&clock, 5);
	ck_assert_int_eq(kvpi_now(&clock), 105);
	kvpi_clock_manual_advance(&clock, -50);
	ck_assert_int_eq(kvpi_now(&clock), 105);
	kvpi_clock_manual_advance(&clock, INT64_MAX);
	ck_assert_int_eq(kvpi_now(&clock), KVPI_NEVER);
}
END_TEST

START_TEST(deadlines_do_not_overflow)
{
	ck_assert_int_eq(kvpi_deadline_ms(7, 3), 7 + 3 * KVPI_NS_PER_MS);
	ck_assert_int_eq(kvpi_deadline_ms(7, 0), 7);
	ck_assert_int_eq(kvpi_deadline_ms(7, -1), 7);
	ck_assert_int_eq(kvpi_deadline_ms(7, INT64_MIN), 7);
	ck_assert_int_eq(kvpi_deadline_ms(7, INT64_MAX), KVPI_NEVER);
	ck_assert_int_eq(kvpi_deadline_ms(INT64_MAX - 1, 1), KVPI_NEVER);
	ck_assert_int_eq(kvpi_deadline_ms(INT64_MIN, 1), INT64_MIN + KVPI_NS_PER_MS);
}
END_TEST

START_TEST(what_is_left_is_rounded_up)
{
	ck_assert_int_eq(kvpi_ms_left(100, 100), 0);
	ck_assert_int_eq(kvpi_ms_left(99, 100), 0);
	ck_assert_int_eq(kvpi_ms_left(101, 100), 1);
	ck_assert_int_eq(kvpi_ms_left(KVPI_NS_PER_MS, 0), 1);
	ck_assert_int_eq(kvpi_ms_left(KVPI_NS_PER_MS + 1, 0), 2);
	ck_assert_int_eq(kvpi_ms_left(KVPI_NEVER, 0), INT32_MAX);
	ck_assert_int_eq(kvpi_ms_left(KVPI_NEVER, KVPI_NEVER - 1), INT32_MAX);
	ck_assert_int_eq(kvpi_ms_left(KVPI_NEVER - 1, 0), INT32_MAX);
	ck_assert_int_eq(kvpi_ms_left(INT64_MAX - 1, INT64_MIN), INT32_MAX);
	ck_assert_int_eq(kvpi_ms_left(INT32_MAX * KVPI_NS_PER_MS, 0), INT32_MAX);
	ck_assert_int_eq(kvpi_ms_left((INT32_MAX - 1) * KVPI_NS_PER_MS, 0), INT32_MAX - 1);
}
END_TEST

KIT_MAIN("clock", the_real_clock_never_goes_back, a_manual_clock_moves_when_told,
    deadlines_do_not_overflow, what_is_left_is_rounded_up)
