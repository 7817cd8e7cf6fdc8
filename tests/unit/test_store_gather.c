/* SPDX-License-Identifier: Apache-2.0
 *
 * Gatherings: rounds, repetitions, who is late, what is left behind.
 */
#include "unit/core_kit.h"

#include "base/error.h"
#include "base/fault.h"
#include "store/gather.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TTL_MS 60000

static kvpi_msg gathering(uint64_t round, uint64_t count, uint64_t index, kvpi_view part, uint64_t wait_ms)
{
	return (kvpi_msg){.id = KVPI_MSG_store_gather,
	    .u.store_gather = {.id = ++last_id,
	        .key = kvpi_view_text("g"),
	        .round = round,
	        .count = count,
	        .index = index,
	        .part = part,
	        .wait_ms = wait_ms,
	        .ttl_ms = TTL_MS,
	        .present = KVPI_HAS(store_gather, from)}};
}

/* Client i + 1 brings part i of three.  Returns the request's id. */
static uint64_t bring(uint64_t round, int index, const char *part, uint64_t wait_ms)
{
	const kvpi_msg msg = gathering(round, 3, (uint64_t)index, kvpi_view_text(part), wait_ms);

	handle(index + 1, &msg);
	return msg.u.store_gather.id;
}

static void check_parts(int index, uint64_t id, const char *parts)
{
	record *r = reply_to(index + 1, id);

	ck_assert_int_eq(r->status, KVP_OK);
	ck_assert_str_eq(r->values, parts);
	ck_assert_int_eq(r->number, 3);
}

static uint64_t parked(void)
{
	return gauge(&kvpi_store_core_stats(core)->waits);
}

static uint64_t gatherings(void)
{
	return gauge(&kvpi_store_core_stats(core)->gathers);
}

static uint64_t bytes(void)
{
	return gauge(&kvpi_store_core_stats(core)->bytes);
}

START_TEST(all_are_answered_with_the_last)
{
	start();
	for (uint64_t round = 0; round < 3; round++) {
		const uint64_t two = bring(round, 2, "c", 1000), zero = bring(round, 0, "a", 1000);

		ck_assert_uint_eq(record_count, 0);
		ck_assert_uint_eq(parked(), 2);
		const uint64_t one = bring(round, 1, "", 0); /* does not even have to wait */
		check_parts(2, two, "a||c");
		check_parts(0, zero, "a||c");
		check_parts(1, one, "a||c");
		ck_assert_uint_eq(parked(), 0);
		ck_assert_uint_eq(gatherings(), 1);
	}
	/* Keys do not know of it. */
	check_absent("g");
	ck_assert_uint_eq(list("", "")->key_count, 0);
	/* Nobody goes on: it goes, with all its bytes. */
	advance_ms(KVPI_STORE_GATHER_GRACE_MS - 1);
	ck_assert_uint_eq(gatherings(), 1);
	advance_ms(1);
	check_empty();
	finish();
}
END_TEST

START_TEST(a_lost_answer_can_be_had_again)
{
	start();
	bring(7, 0, "a", 1000);
	bring(7, 1, "b", 1000);
	bring(7, 2, "c", 1000);
	record_count = 0; /* all lost */
	check_parts(1, bring(7, 1, "other", 1000), "a|b|c");
	/* Also when others have gone on to the next round already. */
	const uint64_t two = bring(8, 2, "f", 1000), zero = bring(8, 0, "d", 1000);
	check_parts(1, bring(7, 1, "other", 1000), "a|b|c");
	const uint64_t one = bring(8, 1, "e", 1000);
	check_parts(0, zero, "d|e|f");
	check_parts(1, one, "d|e|f");
	check_parts(2, two, "d|e|f");
	/* But not from further back. */
	ck_assert_int_eq(reply_to(2, bring(7, 1, "b", 1000))->status, KVP_E_CONFLICT);
	ck_assert_int_eq(reply_to(2, bring(10, 1, "b", 1000))->status, KVP_E_CONFLICT);
	check_parts(1, bring(8, 1, "e", 1000), "d|e|f");
	finish();
}
END_TEST

START_TEST(the_first_part_counts)
{
	start();
	const uint64_t gone = bring(0, 0, "a", 1000);
	const uint64_t again = bring(0, 0, "A", 1000);

	/* Whoever waits for the first call (nobody, or a second process of that rank) is told. */
	ck_assert_int_eq(reply_to(1, gone)->status, KVP_E_CONFLICT);
	ck_assert_uint_eq(parked(), 1);
	bring(0, 1, "b", 1000);
	bring(0, 2, "c", 1000);
	check_parts(0, again, "a|b|c");
	record_count = 0;
	finish();
}
END_TEST

START_TEST(late_ones_are_named)
{
	start();
	const uint64_t one = bring(0, 1, "b", 100), now = bring(0, 2, "c", 0);
	record *r = reply_to(3, now);

	ck_assert_int_eq(r->status, KVP_E_TIMEOUT);
	ck_assert_str_eq(r->missing, "0");
	advance_ms(99);
	ck_assert_uint_eq(record_count, 0);
	advance_ms(1);
	r = reply_to(2, one);
	ck_assert_int_eq(r->status, KVP_E_TIMEOUT);
	ck_assert_str_eq(r->missing, "0");
	ck_assert_uint_eq(parked(), 0);
	/* Their parts are there all the same. */
	const uint64_t zero = bring(0, 0, "a", 1000);
	check_parts(0, zero, "a|b|c");
	check_parts(1, bring(0, 1, "b", 1000), "a|b|c");
	/* Not everybody has been told: it stays for its time to live. */
	advance_ms(TTL_MS - 1);
	check_parts(2, bring(0, 2, "c", 1000), "a|b|c");
	finish();
}
END_TEST

START_TEST(an_abandoned_one_goes)
{
	start();
	uint64_t id = bring(0, 1, "b", 100);
	advance_ms(100);
	ck_assert_str_eq(reply_to(2, id)->missing, "0|2");
	advance_ms(TTL_MS - 101);
	ck_assert_uint_eq(gatherings(), 1);
	advance_ms(1);
	check_empty();
	/* Whoever waits longer than the time to live keeps it alive. */
	id = bring(0, 1, "b", 2 * TTL_MS);
	advance_ms(2 * TTL_MS - 1);
	ck_assert_uint_eq(parked(), 1);
	advance_ms(1);
	ck_assert_str_eq(reply_to(2, id)->missing, "0|2");
	check_empty();
	finish();
}
END_TEST

START_TEST(large_parts_come_in_pieces)
{
	enum { SIZE = 500 * 1000 };
	char *large = malloc(SIZE);
	kvpi_msg msg;
	record *r;

	ck_assert_ptr_nonnull(large);
	kit_random_fill(large, SIZE, 1);
	start_with(10 * SIZE, 10, 10);
	for (int i = 0; i < 3; i++) {
		msg = gathering(0, 3, (uint64_t)i, kvpi_view_of(large, SIZE), 1000);
		handle(i + 1, &msg);
	}
	r = reply_to(3, msg.u.store_gather.id);
	ck_assert_uint_eq(r->value_count, 2);
	ck_assert_int_eq(r->number, 2);
	record_count = 0;
	msg = gathering(0, 3, 2, kvpi_view_of(NULL, 0), 1000);
	msg.u.store_gather.from = 2;
	handle(3, &msg);
	r = reply_to(3, msg.u.store_gather.id);
	ck_assert_uint_eq(r->value_count, 1);
	ck_assert_int_eq(r->number, 3);
	/* A barrier wants none. */
	msg.u.store_gather.present = 0;
	msg.u.store_gather.id = ++last_id;
	handle(3, &msg);
	r = reply_to(3, msg.u.store_gather.id);
	ck_assert_uint_eq(r->value_count, 0);
	ck_assert_int_eq(r->number, 3);
	finish();
	free(large);
}
END_TEST

START_TEST(bad_requests_change_nothing)
{
	kvpi_msg msg;

	start();
	bring(0, 0, "a", 1000);
	const uint64_t before = bytes();

	msg = gathering(0, 4, 1, kvpi_view_text("b"), 1000);
	handle(2, &msg);
	ck_assert_int_eq(reply_to(2, msg.u.store_gather.id)->status, KVP_E_CONFLICT);
	msg = gathering(0, 3, 3, kvpi_view_text("b"), 1000);
	handle(2, &msg);
	ck_assert_int_eq(reply_to(2, msg.u.store_gather.id)->status, KVP_E_INVALID);
	msg = gathering(0, 3, 1, kvpi_view_text("b"), 1000);
	msg.u.store_gather.from = 3;
	handle(2, &msg);
	ck_assert_int_eq(reply_to(2, msg.u.store_gather.id)->status, KVP_E_INVALID);
	msg = gathering(0, 3, 1, kvpi_view_text("b"), 1000);
	msg.u.store_gather.key = kvpi_view_of("", 0);
	handle(2, &msg);
	ck_assert_int_eq(reply_to(2, msg.u.store_gather.id)->status, KVP_E_INVALID);
	ck_assert_uint_eq(bytes(), before);
	ck_assert_uint_eq(parked(), 1);
	finish();
}
END_TEST

START_TEST(memory_is_bounded)
{
	kvpi_msg msg;

	/* Bytes: the callers of a gathering count, too. */
	start_with(4000, 10, 10);
	msg = gathering(0, 1000, 0, kvpi_view_text("a"), 1000);
	handle(1, &msg);
	ck_assert_int_eq(reply_to(1, msg.u.store_gather.id)->status, KVP_E_TOO_LARGE);
	ck_assert_uint_eq(gatherings(), 0);
	check_empty();
	static const char large[4000] = {'x'};
	msg = gathering(0, 3, 0, kvpi_view_of(large, sizeof(large)), 1000);
	handle(1, &msg);
	ck_assert_int_eq(reply_to(1, msg.u.store_gather.id)->status, KVP_E_TOO_LARGE);
	check_empty();
	finish();

	/* Parked calls, whatever they wait for. */
	start_with(1 << 20, 10, 2);
	ask(4, "k", false, 1000);
	bring(0, 0, "a", 1000);
	ck_assert_int_eq(reply_to(2, bring(0, 1, "b", 1000))->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(reply_to(4, ask(4, "l", false, 1000))->status, KVP_E_TOO_LARGE);
	/* The refused part is not there. */
	ck_assert_str_eq(reply_to(3, bring(0, 2, "c", 0))->missing, "1");
	finish();
}
END_TEST

START_TEST(without_memory)
{
	bool failed = true;

	for (unsigned nth = 1; failed; nth++) {
		start();
		injecting = true;
		kvpi_fault_arm("alloc", nth, 1);
		const uint64_t id = bring(0, 0, "a", 1000);
		const bool hit = kvpi_fault_passes("alloc") >= nth;
		kvpi_fault_disarm_all();
		injecting = false;
		failed = hit && record_count == 1;
		if (failed) {
			ck_assert_int_eq(reply_to(1, id)->status, KVP_E_NOMEM);
			check_empty();
			bring(0, 0, "a", 1000);
		}
		ck_assert_uint_eq(parked(), 1);
		ck_assert_uint_lt(nth, 20);
		finish();
	}
}
END_TEST

/* A seeded crowd: rounds in any order of arrival, with answers lost and calls repeated, always give the same parts. */
START_TEST(any_order_gives_the_same)
{
	enum { N = 3, ROUNDS = 200 };
	uint64_t seed = 88172645463325252ull + (uint64_t)_i, round[N] = {0};
	int done = 0;

	start();
	while (done < N) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		const int i = (int)(seed % N);
		char part[32];

		if (round[i] == ROUNDS)
			continue;
		snprintf(part, sizeof(part), "%d.%llu", i, (unsigned long long)round[i]);
		bring(round[i], i, part, 1000);
		for (size_t r = 0; r < record_count; r++) {
			const int to = records[r].client - 1;
			char parts[128];

			if (records[r].status == KVP_E_CONFLICT || seed >> 60 < 4)
				continue; /* replaced, or lost on its way */
			ck_assert_int_eq(records[r].status, KVP_OK);
			snprintf(parts, sizeof(parts), "0.%llu|1.%llu|2.%llu", (unsigned long long)round[to],
			    (unsigned long long)round[to], (unsigned long long)round[to]);
			ck_assert_str_eq(records[r].values, parts);
			done += ++round[to] == ROUNDS;
		}
		record_count = 0;
	}
	advance_ms(TTL_MS);
	check_empty();
	finish();
}
END_TEST

KIT_MAIN("store gather", all_are_answered_with_the_last, a_lost_answer_can_be_had_again,
    the_first_part_counts, late_ones_are_named, an_abandoned_one_goes, large_parts_come_in_pieces,
    bad_requests_change_nothing, memory_is_bounded, without_memory, any_order_gives_the_same)
