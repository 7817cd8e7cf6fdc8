/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/error.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static const struct {
	kvp_status status;
	int value;
	const char *name;
	const char *text;
} table[] = {
#define KVP_STATUS(name, value, text) {name, value, #name, text},
#include <kvpipe/errors.def>
#undef KVP_STATUS
};

#define COUNT (sizeof(table) / sizeof(table[0]))

START_TEST(table_is_what_the_functions_say)
{
	for (size_t i = 0; i < COUNT; i++) {
		ck_assert_int_eq((int)table[i].status, table[i].value);
		ck_assert_str_eq(kvp_status_name(table[i].status), table[i].name);
		ck_assert_str_eq(kvp_status_text(table[i].status), table[i].text);
		for (size_t j = 0; j < i; j++)
			ck_assert_int_ne(table[i].value, table[j].value);
	}
	ck_assert_str_eq(kvp_status_name(KVP_OK), "KVP_OK");
	ck_assert_str_eq(kvp_status_name(KVP_PENDING), "KVP_PENDING");
	ck_assert_str_ne(kvp_status_text(KVP_OK), "");
	ck_assert_str_ne(kvp_status_text(KVP_PENDING), "");
}
END_TEST

START_TEST(unknown_codes_have_a_name_too)
{
	static const int unknown[] = {2, 1000, -19, -99, -100, -100000};

	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		ck_assert_str_eq(kvp_status_name((kvp_status)unknown[i]), "KVP_E_UNKNOWN");
		ck_assert_str_ne(kvp_status_text((kvp_status)unknown[i]), "");
	}
}
END_TEST

START_TEST(scope_goes_by_range)
{
	static const struct {
		int value;
		kvp_scope scope;
	} edges[] = {{0, KVP_SCOPE_NONE}, {1, KVP_SCOPE_NONE}, {-1, KVP_SCOPE_CALL},
	    {-19, KVP_SCOPE_CALL}, {-20, KVP_SCOPE_REQUEST}, {-39, KVP_SCOPE_REQUEST},
	    {-40, KVP_SCOPE_PEER}, {-59, KVP_SCOPE_PEER}, {-60, KVP_SCOPE_PIPE},
	    {-79, KVP_SCOPE_PIPE}, {-80, KVP_SCOPE_PROCESS}, {-99, KVP_SCOPE_PROCESS}};

	for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
		ck_assert_int_eq(kvp_status_scope((kvp_status)edges[i].value), edges[i].scope);
}
END_TEST

START_TEST(no_error_yet_is_an_empty_sentence)
{
	kit_forget_error();
	ck_assert_str_eq(kvp_last_error(), "");
}
END_TEST

START_TEST(error_keeps_errno_and_hands_the_status_on)
{
	errno = EBUSY;
	ck_assert_int_eq(kvpi_error(KVP_E_INVALID, "rank %d is not below %d", 4, 2), KVP_E_INVALID);
	ck_assert_int_eq(errno, EBUSY);
	ck_assert_str_eq(kvp_last_error(), "rank 4 is not below 2");

	kvpi_error(KVP_E_AGAIN, NULL);
	ck_assert_str_eq(kvp_last_error(), kvp_status_text(KVP_E_AGAIN));

	ck_assert_int_eq(kvpi_error_nomem("a cake"), KVP_E_NOMEM);
	ck_assert_str_eq(kvp_last_error(), "no memory for a cake");
}
END_TEST

START_TEST(errno_text_is_appended)
{
	char expected[128];

	errno = ENOENT;
	ck_assert_int_eq(kvpi_error_errno("cannot open %s", "x"), KVP_E_SYSTEM);
	ck_assert_int_eq(errno, ENOENT);
	snprintf(expected, sizeof(expected), "cannot open x: %s", strerror(ENOENT));
	ck_assert_str_eq(kvp_last_error(), expected);

	errno = ENOMEM;
	ck_assert_int_eq(kvpi_error_errno("cannot map"), KVP_E_NOMEM);
}
END_TEST

START_TEST(a_sentence_may_contain_the_one_before)
{
	kvpi_error(KVP_E_SYSTEM, "inner");
	kvpi_error(KVP_E_SYSTEM, "outer: %s", kvp_last_error());
	ck_assert_str_eq(kvp_last_error(), "outer: inner");
	kvpi_error_set(KVP_E_SYSTEM, kvp_last_error() + 7);
	ck_assert_str_eq(kvp_last_error(), "inner");
}
END_TEST

START_TEST(long_sentences_are_cut_between_characters)
{
	char text[2 * KVPI_ERROR_MAX + 1];

	/* A three-byte character over and over: the limit falls into one of them at some shift. */
	for (size_t shift = 0; shift < 3; shift++) {
		memset(text, 'a', shift);
		for (size_t i = shift; i + 3 < sizeof(text); i += 3)
			memcpy(text + i, "\xe2\x82\xac", 4);
		kvpi_error(KVP_E_INVALID, "%s", text);
		size_t len = strlen(kvp_last_error());
		ck_assert_uint_lt(len, KVPI_ERROR_MAX);
		ck_assert_uint_ge(len, KVPI_ERROR_MAX - 3);
		ck_assert_uint_eq((len - shift) % 3, 0);
		ck_assert_mem_eq(kvp_last_error(), text, len);

		kvpi_error_set(KVP_E_INVALID, text);
		ck_assert_uint_eq(strlen(kvp_last_error()), len);
	}
}
END_TEST

static void *other_thread(void *user)
{
	bool *fine = user;

	*fine = strcmp(kvp_last_error(), "") == 0;
	kvpi_error(KVP_E_SYSTEM, "of the other thread");
	return NULL;
}

START_TEST(each_thread_has_its_own)
{
	pthread_t thread;
	bool fine = false;

	kvpi_error(KVP_E_SYSTEM, "of this thread");
	ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, &fine), 0);
	pthread_join(thread, NULL);
	ck_assert(fine);
	ck_assert_str_eq(kvp_last_error(), "of this thread");
}
END_TEST

START_TEST(a_travelled_sentence_is_restored)
{
	ck_assert_int_eq(kvpi_error_set(KVP_E_PEER_LOST, "peer a went away"), KVP_E_PEER_LOST);
	ck_assert_str_eq(kvp_last_error(), "peer a went away");
	kvpi_error_set(KVP_E_PEER_LOST, NULL);
	ck_assert_str_eq(kvp_last_error(), kvp_status_text(KVP_E_PEER_LOST));
}
END_TEST

KIT_MAIN("status", table_is_what_the_functions_say, unknown_codes_have_a_name_too,
    scope_goes_by_range, no_error_yet_is_an_empty_sentence,
    error_keeps_errno_and_hands_the_status_on, errno_text_is_appended,
    a_sentence_may_contain_the_one_before, long_sentences_are_cut_between_characters,
    each_thread_has_its_own, a_travelled_sentence_is_restored)
