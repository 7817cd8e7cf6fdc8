/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/buf.h"
#include "base/fault.h"
#include <string.h>

START_TEST(bytes_and_text_follow_each_other)
{
	kvpi_buf buf;

	kvpi_buf_init(&buf);
	ck_assert_ptr_null(buf.data);
	kvpi_buf_add(&buf, NULL, 0);
	ck_assert_str_eq(buf.data, "");
	kvpi_buf_add(&buf, "a\0b", 3);
	kvpi_buf_printf(&buf, "-%d-%s", 42, "x");
	ck_assert_uint_eq(buf.len, 8);
	ck_assert_mem_eq(buf.data, "a\0b-42-x", 9);
	ck_assert(!buf.failed);
	kvpi_buf_clear(&buf);
	ck_assert_uint_eq(buf.len, 0);
	ck_assert_str_eq(buf.data, "");
	kvpi_buf_fini(&buf);
	ck_assert_ptr_null(buf.data);
	kvpi_buf_clear(&buf);
	kvpi_buf_fini(&buf);
}
END_TEST

START_TEST(it_grows_and_keeps_what_it_has)
{
	static unsigned char bytes[5000];
	kvpi_buf buf;

	kit_random_fill(bytes, sizeof(bytes), 1);
	kvpi_buf_init(&buf);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		kvpi_buf_add(&buf, bytes + i, 1);
		ck_assert_int_eq(buf.data[buf.len], 0);
		ck_assert_uint_lt(buf.len, buf.capacity);
	}
	kit_check_fill(buf.data, buf.len, 1);
	kvpi_buf_fini(&buf);
}
END_TEST

START_TEST(text_of_every_length_fits)
{
	char expected[2049] = "";
	kvpi_buf buf;

	kvpi_buf_init(&buf);
	for (size_t len = 0; len < sizeof(expected) - 1; len++) {
		kvpi_buf_clear(&buf);
		kvpi_buf_printf(&buf, "%s", expected);
		ck_assert_uint_eq(buf.len, len);
		ck_assert_str_eq(buf.data, expected);
		expected[len] = (char)('a' + len % 26);
		if (len % 300 == 0) {
			kvpi_buf_fini(&buf); /* so that many lengths meet a small buffer */
			kvpi_buf_init(&buf);
		}
	}
	kvpi_buf_fini(&buf);
}
END_TEST

START_TEST(a_failure_sticks_until_clear)
{
	char large[300];
	kvpi_buf buf;

	memset(large, 'l', sizeof(large));
	kvpi_buf_init(&buf);
	kvpi_buf_add(&buf, "ok", 2);
	kvpi_fault_arm("alloc", 1, 1);
	kvpi_buf_add(&buf, large, sizeof(large));
	ck_assert(buf.failed);
	ck_assert_str_eq(buf.data, "ok");
	kvpi_buf_add(&buf, "x", 1); /* would fit: but the text would have a hole */
	kvpi_buf_printf(&buf, "y");
	ck_assert_str_eq(buf.data, "ok");
	kvpi_buf_clear(&buf);
	kvpi_buf_printf(&buf, "new");
	ck_assert(!buf.failed);
	ck_assert_str_eq(buf.data, "new");
	kvpi_buf_fini(&buf);
}
END_TEST

START_TEST(an_impossible_length_fails)
{
	kvpi_buf buf;

	kvpi_buf_init(&buf);
	kvpi_buf_add(&buf, "a", 1);
	kvpi_buf_add(&buf, "a", SIZE_MAX);
	ck_assert(buf.failed);
	ck_assert_uint_eq(buf.len, 1);
	kvpi_buf_clear(&buf);
	kvpi_buf_add(&buf, "a", SIZE_MAX / 2);
	ck_assert(buf.failed);
	kvpi_buf_fini(&buf);
}
END_TEST

START_TEST(text_is_cut_between_characters)
{
	const char *text = "ab\xc3\xa9\xe2\x82\xac"; /* a b e-acute euro */
	static const size_t expected[] = {0, 1, 2, 2, 4, 4, 4, 7};

	for (size_t len = 0; len < sizeof(expected) / sizeof(expected[0]); len++)
		ck_assert_uint_eq(kvpi_utf8_cut(text, len), expected[len]);
}
END_TEST

KIT_MAIN("buf", bytes_and_text_follow_each_other, it_grows_and_keeps_what_it_has,
    text_of_every_length_fits, a_failure_sticks_until_clear, an_impossible_length_fails,
    text_is_cut_between_characters)
