/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's mind on a manual clock, without a socket.
 */
#include "unit/core_kit.h"

#include "base/error.h"
#include "base/fault.h"
#include "store/once.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(set_get_delete)
{
	record *r;

	start();
	check_absent("a");
	set("a", "1");
	check_value("a", "1");
	set("a", "22");
	check_value("a", "22");
	set("empty", "");
	r = get("empty");
	ck_assert_int_eq(r->status, KVP_OK);
	ck_assert_uint_eq(r->value_count, 1);
	r = get("a b empty c");
	ck_assert_int_eq(r->status, KVP_E_NOT_FOUND);
	ck_assert_str_eq(r->missing, "1|3");
	ck_assert_str_eq(get("empty a a")->values, "|22|22");
	delete ("a", KVP_OK);
	delete ("a", KVP_E_NOT_FOUND);
	check_absent("a");
	delete ("empty", KVP_OK);
	check_empty();
	finish();
}
END_TEST

START_TEST(keys_that_are_none)
{
	const kvpi_view nul = {"a\0b", 3};
	kvpi_msg msg = {
	    .id = KVPI_MSG_store_get, .u.store_get = {.id = 9, .keys = {&nul, 1}, .wait_ms = 5}};

	start();
	ck_assert_int_eq(set_with(1, "", kvpi_view_text("x"), 0, 0)->status, KVP_E_INVALID);
	ck_assert_int_eq(add("", 1)->status, KVP_E_INVALID);
	ck_assert_int_eq(compare_set("", NULL, "x")->status, KVP_E_INVALID);
	handle(1, &msg);
	ck_assert_int_eq(reply_to(1, 9)->status, KVP_E_INVALID);
	msg.u.store_get.keys.count = 0;
	handle(1, &msg);
	ck_assert_int_eq(reply_to(1, 9)->status, KVP_E_INVALID);
	delete ("", KVP_E_NOT_FOUND);
	check_empty();
	finish();
}
END_TEST

START_TEST(time_to_live)
{
	start();
	set_ttl("a", "1", 10);
	set_ttl("b", "2", 20);
	ck_assert_int_eq(
	    kvpi_store_core_deadline(core), kvpi_now(&test_clock) + 10 * KVPI_NS_PER_MS);
	advance_ms(9);
	check_value("a", "1");
	advance_ms(1);
	check_absent("a");
	check_value("b", "2");
	/* A set begins anew, with or without. */
	set_ttl("b", "3", 20);
	advance_ms(15);
	check_value("b", "3");
	set("b", "4");
	advance_ms(1000000);
	check_value("b", "4");
	ck_assert_int_eq(kvpi_store_core_deadline(core), KVPI_NEVER);
	ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->expired), 1);
	/* A request that comes after the time sees it, also when nobody has called advance. */
	set_ttl("c", "5", 10);
	kvpi_clock_manual_advance(&test_clock, 10 * KVPI_NS_PER_MS);
	check_absent("c");
	/* The longest there is does not overflow. */
	set_ttl("d", "6", INT64_MAX / 1000000);
	advance_ms(1000000);
	check_value("d", "6");
	finish();
}
END_TEST

START_TEST(uses)
{
	start();
	set_uses("a", "1", 2);
	check_value("a", "1"); /* a get does not count */
	ck_assert_str_eq(take("a")->values, "1");
	ck_assert_str_eq(take("a")->values, "1");
	ck_assert_int_eq(take("a")->status, KVP_E_NOT_FOUND);
	set("b", "2"); /* without uses: goes with the first */
	ck_assert_str_eq(take("b")->values, "2");
	check_absent("b");
	set_uses("a", "3", 1);
	set_uses("a", "4", 2); /* counted anew */
	ck_assert_str_eq(take("a")->values, "4");
	ck_assert_str_eq(take("a")->values, "4");
	check_absent("a");
	check_empty();
	finish();
}
END_TEST

START_TEST(take_is_all_or_nothing)
{
	start();
	set_uses("a", "1", 2);
	set("b", "2");
	ck_assert_str_eq(take("a b c")->missing, "2");
	check_value("b", "2");
	ck_assert_str_eq(take("a b")->values, "1|2");
	check_absent("b");
	check_value("a", "1");
	ck_assert_str_eq(take("a")->values, "1");
	check_absent("a");
	/* A key that is named twice could be taken once and a half. */
	set_uses("a", "1", 1);
	ck_assert_int_eq(take("a a")->status, KVP_E_INVALID);
	ck_assert_int_eq(reply_to(1, ask(1, "x y x", true, 1000))->status, KVP_E_INVALID);
	check_value("a", "1");
	finish();
}
END_TEST

START_TEST(add_counts)
{
	start();
	ck_assert_int_eq(add("n", 5)->number, 5);
	ck_assert_int_eq(add("n", -7)->number, -2);
	check_value("n", "-2");
	set("n", "9223372036854775806");
	ck_assert_int_eq(add("n", 1)->number, INT64_MAX);
	ck_assert_int_eq(add("n", 1)->status, KVP_E_CONFLICT);
	check_value("n", "9223372036854775807");
	set("n", "-9223372036854775808");
	ck_assert_int_eq(add("n", 0)->number, INT64_MIN);
	ck_assert_int_eq(add("n", -1)->status, KVP_E_CONFLICT);
	const char *const bad[] = {"", "-", "x", "1x", "+1", " 1", "1.0", "9223372036854775808",
	    "-9223372036854775809", "99999999999999999999999"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set("n", bad[i]);
		ck_assert_int_eq(add("n", 1)->status, KVP_E_CONFLICT);
		check_value("n", bad[i]);
	}
	/* What a set gave the key stays. */
	ck_assert_int_eq(set_with(1, "t", kvpi_view_text("1"), 10, 2)->status, KVP_OK);
	ck_assert_int_eq(add("t", 1)->number, 2);
	ck_assert_str_eq(take("t")->values, "2");
	check_value("t", "2");
	advance_ms(10);
	check_absent("t");
	finish();
}
END_TEST

static record *add_once(const char *name, int64_t delta, int64_t age_ms)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_add,
	    .u.store_add = {.id = ++last_id,
	        .key = kvpi_view_text("n"),
	        .delta = delta,
	        .once = kvpi_view_text(name),
	        .present = KVPI_HAS(store_add, once)}};

	if (age_ms >= 0) {
		msg.u.store_add.age_ms = (uint64_t)age_ms;
		msg.u.store_add.present |= KVPI_HAS(store_add, age_ms);
	}
	handle(1, &msg);
	return reply_to(1, msg.u.store_add.id);
}

START_TEST(an_addition_with_a_name_counts_once)
{
	start();
	ck_assert_int_eq(add_once("a", 5, -1)->number, 5);
	ck_assert_int_eq(add_once("b", 2, -1)->number, 7);
	/* Said again, it has the sum of then, whatever came between. */
	ck_assert_int_eq(add_once("a", 5, 10)->number, 5);
	ck_assert_int_eq(add_once("a", 5, -1)->number, 5);
	check_value("n", "7");
	/* One whose first saying never came counts now. */
	ck_assert_int_eq(add_once("c", 1, 50)->number, 8);
	ck_assert_int_eq(add_once("c", 1, 50)->number, 8);

	/* One that failed has not taken place. */
	set("n", "x");
	ck_assert_int_eq(add_once("d", 1, -1)->status, KVP_E_CONFLICT);
	set("n", "1");
	ck_assert_int_eq(add_once("d", 1, 10)->number, 2);

	/* It is forgotten in the end, and then what may be a repetition is refused. */
	advance_ms(KVPI_STORE_ONCE_MS);
	ck_assert_int_eq(add_once("a", 5, KVPI_STORE_ONCE_MS + 10)->status, KVP_E_STORE_LOST);
	check_value("n", "2");
	ck_assert_int_eq(add_once("e", 5, 10)->number, 7);
	finish();
}
END_TEST

START_TEST(too_many_additions_are_forgotten_and_known_to_be)
{
	char name[16];

	start();
	add_once("first", 1, -1);
	advance_ms(5);
	for (int i = 0; i < KVPI_STORE_ONCE_MAX; i++) {
		snprintf(name, sizeof(name), "%d", i);
		add_once(name, 1, -1);
	}
	ck_assert_int_eq(add_once("first", 1, 5)->status, KVP_E_STORE_LOST);
	ck_assert_int_eq(add_once("0", 1, 1)->number, 2);
	/* Younger than all that is forgotten: it cannot be one of those. */
	ck_assert_int_eq(add_once("new", 1, 4)->status, KVP_OK);
	finish();
}
END_TEST

START_TEST(compare_and_set)
{
	record *r;

	start();
	ck_assert_int_eq(compare_set("a", "x", "1")->status, KVP_E_CONFLICT);
	check_absent("a");
	ck_assert_int_eq(compare_set("a", NULL, "1")->status, KVP_OK);
	r = compare_set("a", NULL, "2");
	ck_assert_int_eq(r->status, KVP_E_CONFLICT);
	ck_assert_str_eq(r->values, "1");
	r = compare_set("a", "", "2");
	ck_assert_int_eq(r->status, KVP_E_CONFLICT);
	ck_assert_uint_eq(r->value_count, 1);
	ck_assert_int_eq(compare_set("a", "1", "2")->status, KVP_OK);
	check_value("a", "2");
	ck_assert_int_eq(compare_set("a", "2", "")->status, KVP_OK);
	ck_assert_int_eq(compare_set("a", "", "3")->status, KVP_OK);
	check_value("a", "3");
	/* It is a set: a time to live does not survive it. */
	set_ttl("a", "4", 10);
	ck_assert_int_eq(compare_set("a", "4", "5")->status, KVP_OK);
	advance_ms(100);
	check_value("a", "5");
	finish();
}
END_TEST

START_TEST(wait_for_one)
{
	uint64_t id;

	start();
	id = ask(2, "a", false, 100);
	ck_assert_uint_eq(record_count, 0);
	ck_assert_int_eq(
	    kvpi_store_core_deadline(core), kvpi_now(&test_clock) + 100 * KVPI_NS_PER_MS);
	set("b", "0");
	set("a", "1");
	ck_assert_str_eq(reply_to(2, id)->values, "1");
	ck_assert_int_eq(kvpi_store_core_deadline(core), KVPI_NEVER);
	/* What is there needs no waiting. */
	ck_assert_str_eq(reply_to(2, ask(2, "a b", false, 100))->values, "1|0");
	/* add and compare-and-set make keys, too. */
	id = ask(2, "n", false, 100);
	ck_assert_int_eq(add("n", 3)->number, 3);
	ck_assert_str_eq(reply_to(2, id)->values, "3");
	id = ask(2, "c", false, 100);
	ck_assert_int_eq(compare_set("c", NULL, "4")->status, KVP_OK);
	ck_assert_str_eq(reply_to(2, id)->values, "4");
	finish();
}
END_TEST

START_TEST(wait_for_several_at_once)
{
	uint64_t id;
	record *r;

	start();
	id = ask(2, "a b c a", false, 100);
	set("a", "1");
	set("b", "2");
	delete ("a", KVP_OK);
	set("c", "3");
	set("b", "4"); /* replaced: was there already */
	ck_assert_uint_eq(record_count, 0);
	set("a", "5");
	ck_assert_str_eq(reply_to(2, id)->values, "5|4|3|5");
	/* A key that expires is missing again. */
	id = ask(2, "c d", false, 100);
	set_ttl("c", "6", 10);
	advance_ms(10);
	set("d", "7");
	ck_assert_uint_eq(record_count, 0);
	advance_ms(89);
	ck_assert_uint_eq(record_count, 0);
	advance_ms(1);
	r = reply_to(2, id);
	ck_assert_int_eq(r->status, KVP_E_TIMEOUT);
	ck_assert_str_eq(r->missing, "0");
	ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->wait_timeouts), 1);
	finish();
}
END_TEST

START_TEST(takers_in_order_of_arrival)
{
	uint64_t first, second, third, watcher;

	start();
	first = ask(2, "a", true, 100);
	second = ask(3, "a x", true, 100); /* x is missing for long */
	watcher = ask(4, "a", false, 100);
	third = ask(5, "a", true, 100);
	set_uses("a", "1", 1);
	ck_assert_str_eq(reply_to(2, first)->values, "1");
	ck_assert_uint_eq(record_count, 0);
	set_uses("a", "2", 1);
	ck_assert_str_eq(reply_to(4, watcher)->values, "2");
	ck_assert_str_eq(reply_to(5, third)->values, "2");
	check_absent("a");
	set("x", "9");
	set_uses("a", "3", 3);
	ck_assert_str_eq(reply_to(3, second)->values, "3|9");
	ck_assert_str_eq(take("a")->values, "3");
	ck_assert_str_eq(take("a")->values, "3");
	check_absent("a");
	check_empty();
	finish();
}
END_TEST

START_TEST(dead_clients_take_nothing)
{
	uint64_t alive;

	start();
	ask(2, "a", true, 1000);
	alive = ask(3, "a", true, 1000);
	unreachable = 2;
	set_uses("a", "1", 1);
	ck_assert_str_eq(reply_to(3, alive)->values, "1");
	/* The same for one whose request is answered at once. */
	set_uses("a", "2", 1);
	ask(2, "a", true, 0);
	check_value("a", "2");
	delete ("a", KVP_OK);
	check_empty();
	finish();
}
END_TEST

START_TEST(cancel_and_time_out)
{
	uint64_t one, two, other;
	record *r;

	start();
	one = ask(2, "a b", true, 100);
	two = ask(2, "a", false, 50);
	other = ask(3, "a", false, 200);
	ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->waits), 3);
	cancel(3, one); /* of another client: nothing happens */
	cancel(2, 999);
	ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->waits), 3);
	cancel(2, one);
	cancel(2, one);
	set("b", "2");
	ck_assert_uint_eq(record_count, 0);
	advance_ms(50);
	r = reply_to(2, two);
	ck_assert_int_eq(r->status, KVP_E_TIMEOUT);
	ck_assert_str_eq(r->missing, "0");
	set("a", "1");
	ck_assert_str_eq(reply_to(3, other)->values, "1");
	delete ("a", KVP_OK);
	delete ("b", KVP_OK);
	check_empty();
	finish();
}
END_TEST

START_TEST(bytes_and_keys_are_bounded)
{
	char big[100];

	start_with(100, 3, 10);
	memset(big, 'x', sizeof(big));
	ck_assert_int_eq(set_with(1, "a", kvpi_view_of(big, 99), 0, 0)->status, KVP_OK);
	ck_assert_int_eq(set_with(1, "b", kvpi_view_text(""), 0, 0)->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(set_with(1, "a", kvpi_view_of(big, 100), 0, 0)->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(add("n", 1)->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(compare_set("n", NULL, "")->status, KVP_E_TOO_LARGE);
	/* The name of a key that is only waited for needs room, too. */
	ck_assert_int_eq(reply_to(1, ask(1, "w", false, 10))->status, KVP_E_TOO_LARGE);
	ck_assert_uint_eq(get("a")->value_count, 1);
	/* To replace by less is always possible. */
	set("a", "1");
	set("b", "2");
	set("c", "3");
	ck_assert_int_eq(set_with(1, "d", kvpi_view_text("4"), 0, 0)->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(reply_to(1, ask(1, "d e", false, 10))->status, KVP_E_TOO_LARGE);
	delete ("c", KVP_OK);
	set("d", "4");
	delete ("a", KVP_OK);
	delete ("b", KVP_OK);
	delete ("d", KVP_OK);
	check_empty();
	finish();
}
END_TEST

START_TEST(waits_are_bounded)
{
	static kvpi_view keys[1024];
	static char names[1024][8];
	kvpi_msg msg = {
	    .id = KVPI_MSG_store_get, .u.store_get = {.keys = {keys, 1024}, .wait_ms = 1000}};
	uint64_t first;
	int parked = 0;

	start_with(1 << 20, 100000, 8);
	first = ask(1, "a", false, 1000);
	for (int i = 0; i < 7; i++)
		ask(1, "a", false, 1000);
	ck_assert_int_eq(reply_to(1, ask(1, "a", false, 1000))->status, KVP_E_TOO_LARGE);
	cancel(1, first);
	ask(2, "b", false, 1000);
	ck_assert_uint_eq(record_count, 0);
	ck_assert_int_eq(reply_to(1, ask(1, "a", false, 1000))->status, KVP_E_TOO_LARGE);
	kvpi_store_core_free(core);

	/* All parked calls together may not name keys without end. */
	start_with(1 << 20, 100000, 8);
	for (size_t i = 0; i < 1024; i++) {
		snprintf(names[i], sizeof(names[i]), "k%zu", i);
		keys[i] = kvpi_view_text(names[i]);
	}
	for (int i = 0; i < 8 && record_count == 0; i++) {
		msg.u.store_get.id = ++last_id;
		handle(1, &msg);
		parked += record_count == 0;
	}
	ck_assert_int_eq(parked, 4);
	ck_assert_int_eq(reply_to(1, last_id)->status, KVP_E_TOO_LARGE);
	advance_ms(1000);
	ck_assert_uint_eq(record_count, 4);
	ck_assert_uint_eq(records[3].missing_count, 1024);
	record_count = 0;
	check_empty();
	finish();
}
END_TEST

START_TEST(an_id_parks_once)
{
	const kvpi_view key = kvpi_view_text("a");
	const kvpi_msg msg = {.id = KVPI_MSG_store_get,
	    .u.store_get = {.id = 7, .keys = {&key, 1}, .wait_ms = 1000, .want_values = 1}};
	kvpi_msg take = msg;

	take.u.store_get.id = 8;
	take.u.store_get.take = 1;
	start();
	/* A wait may be said again by who is not sure that it arrived; nobody says a take again. */
	handle(1, &msg);
	handle(1, &msg);
	ck_assert_uint_eq(record_count, 0);
	handle(2, &msg);
	handle(1, &take);
	handle(1, &take);
	ck_assert_int_eq(reply_to(1, 8)->status, KVP_E_INVALID);
	set("a", "1");
	ck_assert_str_eq(reply_to(1, 7)->values, "1");
	ck_assert_str_eq(reply_to(2, 7)->values, "1");
	ck_assert_str_eq(reply_to(1, 8)->values, "1");
	finish();
}
END_TEST

START_TEST(replies_fit_a_frame)
{
	const size_t len = 983040;
	char *big = calloc(1, len);
	record *r;

	start_with(UINT64_C(1) << 30, 100, 10);
	memset(big, 'x', len);
	ck_assert_int_eq(set_with(1, "a", kvpi_view_of(big, len), 0, 1)->status, KVP_OK);
	ck_assert_int_eq(get("a")->status, KVP_OK);
	ck_assert_int_eq(set_with(1, "b", kvpi_view_of(big, len / 8), 0, 1)->status, KVP_OK);
	r = take("a b");
	ck_assert_int_eq(r->status, KVP_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(r->text, "1106058 bytes together"));
	/* The same when it was parked; nothing is taken. */
	delete ("b", KVP_OK);
	const uint64_t id = ask(1, "a b", true, 1000);
	ck_assert_int_eq(set_with(1, "b", kvpi_view_of(big, len / 8), 0, 1)->status, KVP_OK);
	ck_assert_int_eq(reply_to(1, id)->status, KVP_E_TOO_LARGE);
	ck_assert_int_eq(take("b")->status, KVP_OK);
	ck_assert_int_eq(take("a")->status, KVP_OK);
	ck_assert_int_eq(compare_set("c", NULL, "x")->status, KVP_OK);
	check_absent("a");
	free(big);
	finish();
}
END_TEST

START_TEST(values_only_when_wanted)
{
	const kvpi_view key = kvpi_view_text("a");
	const kvpi_msg msg = {
	    .id = KVPI_MSG_store_get, .u.store_get = {.id = 7, .keys = {&key, 1}, .take = 1}};

	start();
	set("a", "1");
	handle(1, &msg);
	ck_assert_uint_eq(records[0].value_count, 0);
	ck_assert_int_eq(reply_to(1, 7)->status, KVP_OK);
	check_absent("a");
	finish();
}
END_TEST

START_TEST(list_in_byte_order)
{
	record *r;

	start();
	set("b", "");
	set("a", "");
	set("ab", "");
	set("a\xff", "");
	ask(2, "a0", false, 1000);
	r = list("", "");
	ck_assert_uint_eq(r->key_count, 4);
	ck_assert_str_eq(r->first_key, "a");
	ck_assert_str_eq(r->last_key, "b");
	ck_assert_int_eq(r->number, 0);
	r = list("a", "");
	ck_assert_uint_eq(r->key_count, 3);
	ck_assert_str_eq(r->last_key, "a\xff");
	r = list("a", "a");
	ck_assert_uint_eq(r->key_count, 2);
	ck_assert_str_eq(r->first_key, "ab");
	ck_assert_uint_eq(list("c", "")->key_count, 0);
	ck_assert_uint_eq(list("abc", "")->key_count, 0);
	finish();
}
END_TEST

START_TEST(list_in_pages)
{
	/* By count: more keys than a message may have.  By bytes: with the longest names. */
	const int counts[] = {20000, 5000}, lengths[] = {8, 256};

	for (int round = 0; round < 2; round++) {
		char key[300], after[300] = "";
		size_t seen = 0;
		int pages = 0;
		record *r;

		start_with(UINT64_C(1) << 30, 100000, 10);
		for (int i = 0; i < counts[round]; i++) {
			snprintf(key, sizeof(key), "k%0*d", lengths[round] - 1,
			    i * 7919 % counts[round]);
			set(key, "");
		}
		do {
			r = list("k", after);
			ck_assert_int_eq(r->status, KVP_OK);
			snprintf(key, sizeof(key), "k%0*d", lengths[round] - 1, (int)seen);
			ck_assert_str_eq(r->first_key, key);
			seen += r->key_count;
			snprintf(key, sizeof(key), "k%0*d", lengths[round] - 1, (int)seen - 1);
			ck_assert_str_eq(r->last_key, key);
			snprintf(after, sizeof(after), "%s", r->last_key);
			pages++;
		} while (r->number == 1);
		ck_assert_uint_eq(seen, counts[round]);
		ck_assert_int_eq(pages, 2);
		finish();
	}
}
END_TEST

START_TEST(open_and_ping)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_open,
	    .u.store_open = {.id = 1, .version_min = 1, .version_max = 99}};
	const kvpi_msg ping = {.id = KVPI_MSG_store_ping, .u.store_ping = {.id = 2}};
	int64_t name;
	record *r;

	start();
	handle(1, &msg);
	r = reply_to(1, 1);
	ck_assert_int_eq(r->status, KVP_OK);
	ck_assert_int_eq(r->number, KVPI_WIRE_VERSION_MAX);
	msg.u.store_open.version_min = KVPI_WIRE_VERSION_MAX + 1;
	handle(1, &msg);
	r = reply_to(1, 1);
	ck_assert_int_eq(r->status, KVP_E_VERSION);
	ck_assert_ptr_nonnull(strstr(r->text, "versions 1 to 1"));

	/* Names the connection. */
	handle(1, &ping);
	name = reply_to(1, 2)->number;
	handle(1, &ping);
	ck_assert_int_eq(reply_to(1, 2)->number, name);
	handle(2, &ping);
	ck_assert_int_ne(reply_to(2, 2)->number, name);
	finish();
}
END_TEST

START_TEST(not_a_request)
{
	const kvpi_zid client = client_id(1);
	const int ids[] = {KVPI_MSG_hello, KVPI_MSG_store_reply, KVPI_MSG_state};

	start();
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		const kvpi_msg msg = {.id = ids[i]};

		KIT_STATUS(kvpi_store_core_handle(core, &client, &msg, 2000), KVP_E_PROTOCOL);
	}
	finish();
}
END_TEST

/* Whatever allocation fails, the client is told, and nothing has changed. */
START_TEST(without_memory)
{
	static const char *const kinds[] = {
	    "set new", "set ttl", "add", "cas", "wait", "list", "get"};

	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		bool failed = true;

		for (unsigned nth = 1; failed; nth++) {
			const kvpi_zid client = client_id(1);
			const kvpi_view names[] = {kvpi_view_text("x"), kvpi_view_text("y")};
			const kvpi_msg msgs[] = {
			    {.id = KVPI_MSG_store_set,
			        .u.store_set = {.id = 9, .key = names[0], .value = names[1]}},
			    {.id = KVPI_MSG_store_set,
			        .u.store_set = {.id = 9,
			            .key = kvpi_view_text("old"),
			            .value = names[1],
			            .ttl_ms = 5,
			            .present = KVPI_HAS(store_set, ttl_ms)}},
			    {.id = KVPI_MSG_store_add,
			        .u.store_add = {.id = 9, .key = names[0], .delta = 1}},
			    {.id = KVPI_MSG_store_compare_set,
			        .u.store_compare_set = {.id = 9,
			            .key = names[0],
			            .desired = names[1]}},
			    {.id = KVPI_MSG_store_get,
			        .u.store_get = {.id = 9, .keys = {names, 2}, .wait_ms = 10}},
			    {.id = KVPI_MSG_store_list, .u.store_list = {.id = 9}},
			    {.id = KVPI_MSG_store_get,
			        .u.store_get = {.id = 9, .keys = {names, 1}}},
			};

			start();
			set("old", "value");
			const uint64_t bytes = gauge(&kvpi_store_core_stats(core)->bytes);

			injecting = true;
			kvpi_fault_arm("alloc", nth, 1);
			KIT_OK(kvpi_store_core_handle(
			    core, &client, &msgs[kind], kvpi_now(&test_clock)));
			const bool hit = kvpi_fault_passes("alloc") >= nth;
			kvpi_fault_disarm_all();
			injecting = false;
			failed = hit && record_count == 1 && records[0].status == KVP_E_NOMEM;
			if (failed) {
				record_count = 0;
				check_value("old", "value");
				ck_assert_uint_eq(
				    gauge(&kvpi_store_core_stats(core)->bytes), bytes);
				ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->keys), 1);
				ck_assert_uint_eq(gauge(&kvpi_store_core_stats(core)->waits), 0);
				/* And it works the next time. */
				handle(1, &msgs[kind]);
			}
			record_count = 0;
			ck_assert_uint_lt(nth, 20);
			finish();
		}
	}
}
END_TEST

START_TEST(new_without_memory)
{
	const kvpi_store_limits limits = {1000, 10, 10};
	unsigned nth = 1;

	for (;; nth++) {
		kvpi_fault_arm("alloc", nth, 1);
		core = kvpi_store_core_new(
		    &limits, 1, INCARNATION, (kvpi_store_sink){record_reply, NULL});
		kvpi_fault_disarm_all();
		if (core != NULL)
			break;
	}
	ck_assert_uint_gt(nth, 1);
	finish();
	kvpi_store_core_free(NULL);
}
END_TEST

KIT_MAIN("store core", set_get_delete, keys_that_are_none, time_to_live, uses,
    take_is_all_or_nothing, add_counts, an_addition_with_a_name_counts_once,
    too_many_additions_are_forgotten_and_known_to_be, compare_and_set, wait_for_one, wait_for_several_at_once,
    takers_in_order_of_arrival, dead_clients_take_nothing, cancel_and_time_out,
    bytes_and_keys_are_bounded, waits_are_bounded, an_id_parks_once, replies_fit_a_frame,
    values_only_when_wanted, list_in_byte_order, list_in_pages, open_and_ping, not_a_request,
    without_memory, new_without_memory)
