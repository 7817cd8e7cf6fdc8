/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/alloc.h"
#include "base/fault.h"
#include <errno.h>
#include <string.h>

START_TEST(memory_comes_as_promised)
{
	unsigned char *zeros = kvpi_calloc(7, 11);
	char *text = kvpi_strdup("abc");
	char *copy = kvpi_memdup("a\0b", 3);
	char *bytes = kvpi_realloc(NULL, 4);

	for (size_t i = 0; i < 77; i++)
		ck_assert_uint_eq(zeros[i], 0);
	ck_assert_str_eq(text, "abc");
	ck_assert_mem_eq(copy, "a\0b", 3);
	memcpy(bytes, "wxyz", 4);
	bytes = kvpi_realloc(bytes, 4096);
	ck_assert_mem_eq(bytes, "wxyz", 4);
	free(zeros);
	free(text);
	free(copy);
	free(bytes);
}
END_TEST

START_TEST(nothing_is_not_no_memory)
{
	void *p[] = {kvpi_calloc(0, 8), kvpi_calloc(8, 0), kvpi_malloc(0), kvpi_realloc(NULL, 0),
	    kvpi_memdup(NULL, 0)};

	for (size_t i = 0; i < sizeof(p) / sizeof(p[0]); i++) {
		ck_assert_ptr_nonnull(p[i]);
		free(p[i]);
	}
	ck_assert_ptr_null(kvpi_strdup(NULL));
}
END_TEST

START_TEST(an_overflowing_product_is_no_memory)
{
	/* Not a constant, or the compiler warns of it. */
	volatile size_t half = SIZE_MAX / 2 + 1;

	ck_assert_ptr_null(kvpi_calloc(half, 2));
}
END_TEST

START_TEST(the_fault_point_refuses_each_kind)
{
	char *kept = kvpi_strdup("kept");

	kvpi_fault_arm("alloc", 1, 0);
	errno = 0;
	ck_assert_ptr_null(kvpi_calloc(1, 1));
	ck_assert_int_eq(errno, ENOMEM);
	ck_assert_ptr_null(kvpi_malloc(1));
	ck_assert_ptr_null(kvpi_realloc(kept, 100));
	ck_assert_ptr_null(kvpi_memdup("x", 1));
	ck_assert_ptr_null(kvpi_strdup("x"));
	ck_assert_uint_eq(kvpi_fault_passes("alloc"), 5);
	kvpi_fault_disarm_all();
	ck_assert_str_eq(kept, "kept"); /* a failed realloc has not freed it */
	free(kept);
}
END_TEST

KIT_MAIN("alloc", memory_comes_as_promised, nothing_is_not_no_memory,
    an_overflowing_product_is_no_memory, the_fault_point_refuses_each_kind)
