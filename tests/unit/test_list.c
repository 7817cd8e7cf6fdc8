/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/list.h"

struct item {
	int number;
	kvpi_list node;
};

static struct item items[] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};

static void fill(kvpi_list *head)
{
	kvpi_list_init(head);
	for (size_t i = 0; i < 4; i++)
		kvpi_list_append(head, &items[i].node);
}

/* The numbers in order, as the digits of one number, with a 1 in front. */
static int digits(const kvpi_list *head)
{
	int sum = 1;

	KVPI_LIST_FOREACH (pos, next, head)
		sum = 10 * sum + KVPI_CONTAINER_OF(pos, struct item, node)->number;
	return sum;
}

START_TEST(first_in_is_first)
{
	kvpi_list head;

	kvpi_list_init(&head);
	ck_assert(kvpi_list_empty(&head));
	ck_assert_ptr_null(kvpi_list_first(&head));
	ck_assert_int_eq(digits(&head), 1);
	fill(&head);
	ck_assert(!kvpi_list_empty(&head));
	ck_assert_ptr_eq(kvpi_list_first(&head), &items[0].node);
	ck_assert_int_eq(digits(&head), 10123);
}
END_TEST

START_TEST(removal_is_harmless_when_repeated)
{
	kvpi_list head;

	fill(&head);
	kvpi_list_remove(&items[1].node);
	ck_assert(!kvpi_list_linked(&items[1].node));
	kvpi_list_remove(&items[1].node);
	ck_assert_int_eq(digits(&head), 1023);
	kvpi_list_append(&head, &items[1].node);
	ck_assert(kvpi_list_linked(&items[1].node));
	ck_assert_int_eq(digits(&head), 10231);
}
END_TEST

START_TEST(the_current_entry_may_be_removed)
{
	kvpi_list head;

	fill(&head);
	KVPI_LIST_FOREACH (pos, next, &head) {
		if (KVPI_CONTAINER_OF(pos, struct item, node)->number != 2)
			kvpi_list_remove(pos);
	}
	ck_assert_int_eq(digits(&head), 12);
	kvpi_list_remove(&items[2].node);
	ck_assert(kvpi_list_empty(&head));
}
END_TEST

KIT_MAIN(
    "list", first_in_is_first, removal_is_harmless_when_repeated, the_current_entry_may_be_removed)
