/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/map.h"
#include <stdio.h>
#include <string.h>

static int values[2000];

static size_t make_key(char *key, size_t size, size_t i)
{
	return (size_t)snprintf(key, size, "key %zu", i);
}

START_TEST(put_get_remove)
{
	kvpi_map *map = kvpi_map_new(1);
	void *old = &old;

	ck_assert_uint_eq(kvpi_map_count(map), 0);
	ck_assert_ptr_null(kvpi_map_get(map, "a", 1));
	ck_assert_ptr_null(kvpi_map_remove(map, "a", 1));
	KIT_OK(kvpi_map_put(map, "a", 1, &values[0], &old));
	ck_assert_ptr_null(old);
	KIT_OK(kvpi_map_put(map, "a", 1, &values[1], &old));
	ck_assert_ptr_eq(old, &values[0]);
	KIT_OK(kvpi_map_put(map, "a", 1, &values[2], NULL));
	ck_assert_uint_eq(kvpi_map_count(map), 1);
	ck_assert_ptr_eq(kvpi_map_get(map, "a", 1), &values[2]);
	ck_assert_ptr_eq(kvpi_map_remove(map, "a", 1), &values[2]);
	ck_assert_ptr_null(kvpi_map_get(map, "a", 1));
	ck_assert_uint_eq(kvpi_map_count(map), 0);
	kvpi_map_free(map);
	kvpi_map_free(NULL);
}
END_TEST

START_TEST(keys_are_bytes_and_are_copied)
{
	kvpi_map *map = kvpi_map_new(2);
	char key[16] = "abcdefgh\0ijkl";

	/* Every length up to 13, also 0, also with a 0 byte within. */
	for (size_t len = 0; len <= 13; len++)
		KIT_OK(kvpi_map_put(map, key, len, &values[len], NULL));
	memset(key, 'x', sizeof(key));
	for (size_t len = 0; len <= 13; len++)
		ck_assert_ptr_eq(kvpi_map_get(map, "abcdefgh\0ijkl", len), &values[len]);
	ck_assert_ptr_eq(kvpi_map_get(map, NULL, 0), &values[0]);
	ck_assert_ptr_null(kvpi_map_get(map, "abcdefgh0ijkl", 13));
	kvpi_map_free(map);
}
END_TEST

START_TEST(no_null_values)
{
	kvpi_map *map = kvpi_map_new(3);

	KIT_STATUS(kvpi_map_put(map, "a", 1, NULL, NULL), KVP_E_INVALID);
	ck_assert_uint_eq(kvpi_map_count(map), 0);
	kvpi_map_free(map);
}
END_TEST

/* Compared step by step with the plainest model there is. */
START_TEST(random_steps_agree_with_an_array)
{
	static void *model[500];
	uint64_t random = 11;
	size_t count = 0;
	kvpi_map *map = kvpi_map_new(random);
	char key[32];

	for (int step = 0; step < 50000; step++) {
		size_t i = kit_random(&random) % 500;
		size_t len = make_key(key, sizeof(key), i);
		void *value = &values[kit_random(&random) % 2000];
		void *old = NULL;

		ck_assert_ptr_eq(kvpi_map_get(map, key, len), model[i]);
		if (kit_random(&random) % 2 == 0) {
			KIT_OK(kvpi_map_put(map, key, len, value, &old));
			ck_assert_ptr_eq(old, model[i]);
			count += model[i] == NULL;
			model[i] = value;
		} else {
			ck_assert_ptr_eq(kvpi_map_remove(map, key, len), model[i]);
			count -= model[i] != NULL;
			model[i] = NULL;
		}
		ck_assert_uint_eq(kvpi_map_count(map), count);
	}
	kvpi_map_free(map);
}
END_TEST

START_TEST(iteration_sees_each_once_and_may_remove)
{
	static unsigned seen[2000];
	kvpi_map *map = kvpi_map_new(4);
	char key[32];
	const void *found;
	void *value;
	size_t len, cursor = 0, steps = 0;

	ck_assert(!kvpi_map_next(map, &cursor, &found, &len, &value));
	for (size_t i = 0; i < 2000; i++)
		KIT_OK(kvpi_map_put(map, key, make_key(key, sizeof(key), i), &values[i], NULL));
	for (cursor = 0; kvpi_map_next(map, &cursor, &found, &len, &value); steps++) {
		size_t i = (size_t)((int *)value - values);

		ck_assert_uint_eq(len, make_key(key, sizeof(key), i));
		ck_assert_mem_eq(found, key, len);
		seen[i]++;
		if (i % 3 != 0)
			ck_assert_ptr_eq(kvpi_map_remove(map, found, len), value);
	}
	ck_assert_uint_eq(steps, 2000);
	for (size_t i = 0; i < 2000; i++) {
		ck_assert_uint_eq(seen[i], 1);
		len = make_key(key, sizeof(key), i);
		ck_assert_ptr_eq(kvpi_map_get(map, key, len), i % 3 == 0 ? &values[i] : NULL);
	}
	ck_assert_uint_eq(kvpi_map_count(map), 667);
	kvpi_map_free(map);
}
END_TEST

START_TEST(churn_needs_no_more_memory)
{
	kvpi_map *map = kvpi_map_new(5);
	char key[32];
	const void *found;
	size_t len, cursor = 0;
	void *value;

	/* Removed entries leave marks; a map that only marks would be full one day and hang. */
	for (size_t i = 0; i < 100000; i++) {
		len = make_key(key, sizeof(key), i);
		KIT_OK(kvpi_map_put(map, key, len, &values[0], NULL));
		ck_assert_ptr_eq(kvpi_map_remove(map, key, len), &values[0]);
	}
	KIT_OK(kvpi_map_put(map, "a", 1, &values[0], NULL));
	ck_assert(kvpi_map_next(map, &cursor, &found, &len, &value));
	ck_assert_uint_le(cursor, 8); /* the table is as small as it began */
	kvpi_map_free(map);
}
END_TEST

START_TEST(without_memory_nothing_changes)
{
	char key[32];
	size_t failures = 0;
	kvpi_map *map;

	kvpi_fault_arm("alloc", 1, 1);
	ck_assert_ptr_null(kvpi_map_new(6));
	map = kvpi_map_new(6);
	for (size_t i = 0; i < 200; i++) {
		size_t len = make_key(key, sizeof(key), i);

		/* Each allocation of each put in turn. */
		for (unsigned nth = 1;; nth++) {
			void *old = &old;

			kvpi_fault_arm("alloc", nth, 1);
			kvp_status status = kvpi_map_put(map, key, len, &values[i], &old);
			if (status == KVP_OK)
				break;
			failures++;
			ck_assert_int_eq(status, KVP_E_NOMEM);
			ck_assert_ptr_eq(old, &old);
			ck_assert_uint_eq(kvpi_map_count(map), i);
			ck_assert_ptr_null(kvpi_map_get(map, key, len));
		}
		kvpi_fault_arm("alloc", 1, 0);
		KIT_OK(kvpi_map_put(map, key, len, &values[i], NULL)); /* replacing needs none */
	}
	ck_assert_uint_gt(failures, 200);
	kvpi_fault_disarm_all();
	for (size_t i = 0; i < 200; i++) {
		size_t len = make_key(key, sizeof(key), i);

		ck_assert_ptr_eq(kvpi_map_get(map, key, len), &values[i]);
	}
	kvpi_map_free(map);
}
END_TEST

KIT_MAIN("map", put_get_remove, keys_are_bytes_and_are_copied, no_null_values,
    random_steps_agree_with_an_array, iteration_sees_each_once_and_may_remove,
    churn_needs_no_more_memory, without_memory_nothing_changes)
