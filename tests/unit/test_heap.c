/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/heap.h"

#define N 500

static kvpi_heap_node nodes[N];

/* Every node knows its place, and no child is before its parent.  One check for all of them: each
 * check of libcheck is a system call. */
static bool in_order(const kvpi_heap *heap)
{
	for (size_t i = 1; i <= heap->count; i++) {
		if (heap->nodes[i - 1]->index != i ||
		    (i > 1 && heap->nodes[i / 2 - 1]->key > heap->nodes[i - 1]->key))
			return false;
	}
	return true;
}

START_TEST(the_earliest_comes_first)
{
	static const int64_t keys[] = {5, INT64_MAX, -3, 5, 0, INT64_MIN, 7};
	static const int64_t sorted[] = {INT64_MIN, -3, 0, 5, 5, 7, INT64_MAX};
	kvpi_heap heap;

	kvpi_heap_init(&heap);
	ck_assert_ptr_null(kvpi_heap_peek(&heap));
	for (size_t i = 0; i < 7; i++)
		KIT_OK(kvpi_heap_push(&heap, &nodes[i], keys[i]));
	for (size_t i = 0; i < 7; i++) {
		kvpi_heap_node *node = kvpi_heap_peek(&heap);

		ck_assert_int_eq(node->key, sorted[i]);
		kvpi_heap_remove(&heap, node);
		ck_assert(in_order(&heap));
	}
	ck_assert_ptr_null(kvpi_heap_peek(&heap));
	kvpi_heap_fini(&heap);
}
END_TEST

START_TEST(random_pushes_and_removals_keep_the_order)
{
	uint64_t random = 7;
	size_t in = 0;
	kvpi_heap heap;

	kvpi_heap_init(&heap);
	for (int step = 0; step < 20000; step++) {
		kvpi_heap_node *node = &nodes[kit_random(&random) % N];

		if (node->index == 0) {
			/* Few different keys, so that there are many equal ones. */
			KIT_OK(kvpi_heap_push(&heap, node, (int64_t)(kit_random(&random) % 50)));
			in++;
		} else {
			kvpi_heap_remove(&heap, node);
			ck_assert_uint_eq(node->index, 0);
			in--;
		}
		ck_assert_uint_eq(heap.count, in);
		ck_assert(in_order(&heap));
	}
	kvpi_heap_fini(&heap);
	for (size_t i = 0; i < N; i++)
		ck_assert_uint_eq(nodes[i].index, 0);
}
END_TEST

START_TEST(removing_what_is_not_in_is_harmless)
{
	kvpi_heap_node node = {.key = 1};
	kvpi_heap heap;

	kvpi_heap_init(&heap);
	kvpi_heap_remove(&heap, &node);
	KIT_OK(kvpi_heap_push(&heap, &node, 3));
	KIT_STATUS(kvpi_heap_push(&heap, &node, 4), KVP_E_INVALID);
	ck_assert_int_eq(node.key, 3);
	kvpi_heap_remove(&heap, &node);
	kvpi_heap_remove(&heap, &node);
	KIT_OK(kvpi_heap_push(&heap, &node, 4));
	kvpi_heap_fini(&heap);
}
END_TEST

START_TEST(without_memory_nothing_changes)
{
	size_t pushed = 0;
	kvpi_heap heap;

	kvpi_heap_init(&heap);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_heap_push(&heap, &nodes[0], 1), KVP_E_NOMEM);
	ck_assert_uint_eq(nodes[0].index, 0);
	ck_assert_uint_eq(heap.count, 0);
	kvpi_fault_arm("alloc", 2, 1);
	while (pushed < N) {
		kvp_status status = kvpi_heap_push(&heap, &nodes[pushed], (int64_t)pushed);

		if (status != KVP_OK) {
			ck_assert_int_eq(status, KVP_E_NOMEM);
			break;
		}
		pushed++;
	}
	ck_assert_uint_lt(pushed, N);
	ck_assert_uint_eq(heap.count, pushed);
	ck_assert(in_order(&heap));
	KIT_OK(kvpi_heap_push(&heap, &nodes[pushed], -1));
	ck_assert_ptr_eq(kvpi_heap_peek(&heap), &nodes[pushed]);
	kvpi_heap_fini(&heap);
}
END_TEST

KIT_MAIN("heap", the_earliest_comes_first, random_pushes_and_removals_keep_the_order,
    removing_what_is_not_in_is_harmless, without_memory_nothing_changes)
