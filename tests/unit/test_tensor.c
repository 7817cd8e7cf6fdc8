/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include <kvpipe/tensor.h>
#include <stdio.h>
#include <string.h>

static char memory[4096];

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

START_TEST(dtypes_have_names_and_sizes)
{
	static const struct {
		kvp_dtype dtype;
		const char *name;
		size_t size;
	} all[] = {
	    {KVP_DTYPE_NONE, "none", 0},
	    {KVP_DTYPE_BF16, "bf16", 2},
	    {KVP_DTYPE_FP16, "fp16", 2},
	    {KVP_DTYPE_FP32, "fp32", 4},
	    {KVP_DTYPE_FP64, "fp64", 8},
	    {KVP_DTYPE_FP8_E4M3, "fp8-e4m3", 1},
	    {KVP_DTYPE_FP8_E5M2, "fp8-e5m2", 1},
	    {KVP_DTYPE_INT8, "int8", 1},
	    {KVP_DTYPE_INT16, "int16", 2},
	    {KVP_DTYPE_INT32, "int32", 4},
	    {KVP_DTYPE_INT64, "int64", 8},
	    {KVP_DTYPE_UINT8, "uint8", 1},
	    {KVP_DTYPE_BOOL, "bool", 1},
	    {KVP_DTYPE_ANY, "any", 0},
	};
	kvp_dtype back = KVP_DTYPE_BOOL;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		ck_assert_str_eq(kvp_dtype_name(all[i].dtype), all[i].name);
		ck_assert_uint_eq(kvp_dtype_size(all[i].dtype), all[i].size);
		KIT_OK(kvp_dtype_from_name(all[i].name, &back));
		ck_assert_int_eq(back, all[i].dtype);
	}
	ck_assert_str_eq(kvp_dtype_name((kvp_dtype)77), "?");
	ck_assert_uint_eq(kvp_dtype_size((kvp_dtype)77), 0);
	back = KVP_DTYPE_INT8;
	KIT_STATUS(kvp_dtype_from_name("fp3", &back), KVP_E_NOT_FOUND);
	KIT_STATUS(kvp_dtype_from_name("", &back), KVP_E_NOT_FOUND);
	KIT_STATUS(kvp_dtype_from_name(NULL, &back), KVP_E_INVALID);
	KIT_STATUS(kvp_dtype_from_name("fp32", NULL), KVP_E_INVALID);
	ck_assert_int_eq(back, KVP_DTYPE_INT8);
}
END_TEST

START_TEST(init_makes_a_dense_tensor)
{
	kvp_tensor t;

	KIT_OK(kvp_tensor_init(&t, memory, KVP_DTYPE_FP32, 3, SHAPE(2, 3, 4)));
	ck_assert_uint_eq(t.size, sizeof(t));
	ck_assert_ptr_eq(t.data, memory);
	ck_assert_int_eq(t.strides[0], 12);
	ck_assert_int_eq(t.strides[1], 4);
	ck_assert_int_eq(t.strides[2], 1);
	ck_assert_uint_eq(t.storage_bytes, 96);
	ck_assert_int_eq(t.memory, KVP_MEMORY_AUTO);
	KIT_OK(kvp_tensor_check(&t));
	ck_assert_uint_eq(kvp_tensor_elements(&t), 24);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 96);
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 1);

	KIT_OK(kvp_tensor_init(&t, memory, KVP_DTYPE_INT64, 0, NULL));
	ck_assert_uint_eq(kvp_tensor_elements(&t), 1);
	ck_assert_uint_eq(t.storage_bytes, 8);
	KIT_OK(kvp_tensor_check(&t));

	KIT_OK(kvp_tensor_init(&t, NULL, KVP_DTYPE_BF16, 3, SHAPE(5, 0, 7)));
	ck_assert_uint_eq(kvp_tensor_elements(&t), 0);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	ck_assert_int_eq(t.strides[0], 7);
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 1);
	KIT_OK(kvp_tensor_check(&t));
}
END_TEST

START_TEST(a_failed_init_changes_nothing)
{
	int64_t many[KVP_MAX_DIMS + 1];
	kvp_tensor t, before;

	for (int i = 0; i <= KVP_MAX_DIMS; i++)
		many[i] = 1;
	kit_random_fill(&t, sizeof(t), 1);
	before = t;
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_NONE, 1, SHAPE(1)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_ANY, 1, SHAPE(1)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, (kvp_dtype)99, 1, SHAPE(1)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, -1, SHAPE(1)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, KVP_MAX_DIMS + 1, many), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, 2, SHAPE(2, -1)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, 1, NULL), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, NULL, KVP_DTYPE_INT8, 1, SHAPE(1)), KVP_E_INVALID);
	/* 2^32 * 2^32 elements, 2^61 * 8 bytes, and strides beyond int64 behind an empty dimension. */
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, 2, SHAPE(INT64_C(1) << 32, INT64_C(1) << 32)),
	    KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_FP64, 1, SHAPE(INT64_C(1) << 61)), KVP_E_INVALID);
	KIT_STATUS(kvp_tensor_init(&t, memory, KVP_DTYPE_INT8, 3, SHAPE(0, INT64_C(1) << 32, INT64_C(1) << 32)),
	    KVP_E_INVALID);
	ck_assert_mem_eq(&t, &before, sizeof(t));
	KIT_STATUS(kvp_tensor_init(NULL, memory, KVP_DTYPE_INT8, 1, SHAPE(1)), KVP_E_INVALID);
}
END_TEST

START_TEST(none_and_buffers)
{
	kvp_tensor t;

	kvp_tensor_init_none(&t);
	KIT_OK(kvp_tensor_check(&t));
	ck_assert_uint_eq(kvp_tensor_elements(&t), 0);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 1);
	memset(&t, 0, sizeof(t));
	KIT_OK(kvp_tensor_check(&t));

	kvp_tensor_init_buffer(&t, memory, sizeof(memory));
	KIT_OK(kvp_tensor_check(&t));
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	kvp_tensor_init_buffer(&t, NULL, 0);
	KIT_OK(kvp_tensor_check(&t));
	kvp_tensor_init_buffer(&t, NULL, 1);
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	kvp_tensor_init_buffer(&t, memory, UINT64_MAX);
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
}
END_TEST

/* A good tensor of 4 x 6 int16 in rows of 10, to be made bad. */
static kvp_tensor strided(void)
{
	kvp_tensor t;

	KIT_OK(kvp_tensor_init(&t, memory, KVP_DTYPE_INT16, 2, SHAPE(4, 6)));
	t.strides[0] = 10;
	t.storage_bytes = (3 * 10 + 5 + 1) * 2;
	return t;
}

START_TEST(check_keeps_inside_of_the_storage)
{
	kvp_tensor t = strided();

	KIT_OK(kvp_tensor_check(&t));
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 0);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 48);
	t.storage_bytes--;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "72"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "71"));

	/* The stride of a single row is never taken. */
	t = strided();
	t.shape[0] = 1;
	t.strides[0] = INT64_MAX;
	KIT_OK(kvp_tensor_check(&t));
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 1);

	/* Nor that of no row. */
	t.shape[0] = 0;
	t.storage_bytes = 0;
	t.data = NULL;
	KIT_OK(kvp_tensor_check(&t));

	/* Repeated elements are one in memory. */
	t = strided();
	t.strides[0] = 0;
	t.storage_bytes = 12;
	KIT_OK(kvp_tensor_check(&t));
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 0);
}
END_TEST

START_TEST(check_refuses_what_makes_no_sense)
{
	kvp_tensor t = strided();

	KIT_STATUS(kvp_tensor_check(NULL), KVP_E_INVALID);
	t.size--;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t.size += 2;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.data = NULL;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.dtype = (kvp_dtype)200;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	t = strided(), t.ndim = KVP_MAX_DIMS + 1;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	ck_assert_int_eq(kvp_tensor_is_dense(&t), 0);
	t = strided(), t.ndim = -1;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.shape[1] = -6;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	ck_assert_uint_eq(kvp_tensor_bytes(&t), 0);
	t = strided(), t.strides[1] = -1;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.memory = (kvp_memory)9;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.device = -1;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t = strided(), t.data = (char *)UINTPTR_MAX - 8;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);

	/* Each way to overflow: a product, the sum of two, the last element's bytes. */
	t = strided(), t.storage_bytes = UINT64_MAX;
	t.strides[0] = INT64_MAX;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t.shape[0] = 2, t.shape[1] = 3, t.strides[1] = INT64_MAX;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t.shape[1] = 1;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	t.shape[0] = INT64_MAX, t.shape[1] = 3, t.strides[0] = t.strides[1] = 0;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
	/* 2^63 and 2^63 are 0 again, one byte further 1. */
	t.dtype = KVP_DTYPE_INT8;
	t.shape[0] = t.shape[1] = 3, t.strides[0] = t.strides[1] = INT64_C(1) << 62;
	KIT_STATUS(kvp_tensor_check(&t), KVP_E_INVALID);
}
END_TEST

START_TEST(describe_cuts_and_counts)
{
	int64_t wide[KVP_MAX_DIMS];
	char text[512];
	kvp_tensor t;

	KIT_OK(kvp_tensor_init(&t, memory, KVP_DTYPE_FP32, 2, SHAPE(2, 3)));
	ck_assert_uint_eq(kvp_tensor_describe(&t, text, sizeof(text)), 9);
	ck_assert_str_eq(text, "fp32[2,3]");
	ck_assert_uint_eq(kvp_tensor_describe(&t, text, 5), 9);
	ck_assert_str_eq(text, "fp32");
	ck_assert_uint_eq(kvp_tensor_describe(&t, text, 1), 9);
	ck_assert_str_eq(text, "");
	ck_assert_uint_eq(kvp_tensor_describe(&t, NULL, 0), 9);

	kvp_tensor_init_none(&t);
	kvp_tensor_describe(&t, text, sizeof(text));
	ck_assert_str_eq(text, "none");
	kvp_tensor_init_buffer(&t, memory, 77);
	kvp_tensor_describe(&t, text, sizeof(text));
	ck_assert_str_eq(text, "buffer of 77 bytes");
	KIT_OK(kvp_tensor_init(&t, memory, KVP_DTYPE_BOOL, 0, NULL));
	kvp_tensor_describe(&t, text, sizeof(text));
	ck_assert_str_eq(text, "bool[]");

	/* The longest there is, which nobody has checked. */
	for (int i = 0; i < KVP_MAX_DIMS; i++)
		wide[i] = INT64_MIN;
	t.dtype = KVP_DTYPE_FP8_E4M3;
	t.ndim = KVP_MAX_DIMS + 5;
	memcpy(t.shape, wide, sizeof(wide));
	ck_assert_uint_eq(kvp_tensor_describe(&t, text, sizeof(text)), 8 + 2 + 14 * 20 + 13);
	ck_assert_uint_eq(strlen(text), 8 + 2 + 14 * 20 + 13);
}
END_TEST

KIT_MAIN("tensor", dtypes_have_names_and_sizes, init_makes_a_dense_tensor, a_failed_init_changes_nothing,
    none_and_buffers, check_keeps_inside_of_the_storage, check_refuses_what_makes_no_sense, describe_cuts_and_counts)
