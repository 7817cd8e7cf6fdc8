/* SPDX-License-Identifier: Apache-2.0
 *
 * Intrusive doubly linked list.  A zeroed node is "on no list"; removing it is then harmless.
 */
#ifndef KVPI_BASE_LIST_H
#define KVPI_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kvpi_list kvpi_list;
struct kvpi_list {
	kvpi_list *next, *prev;
};

#define KVPI_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Safe against removal of the current entry. */
#define KVPI_LIST_FOREACH(pos, nxt, head)                                                          \
	for (kvpi_list *pos = (head)->next, *nxt = pos->next; pos != (head); pos = nxt, nxt = pos->next)

static inline void kvpi_list_init(kvpi_list *head)
{
	head->next = head->prev = head;
}

static inline bool kvpi_list_empty(const kvpi_list *head)
{
	return head->next == head;
}

static inline bool kvpi_list_linked(const kvpi_list *node)
{
	return node->next != NULL;
}

static inline void kvpi_list_append(kvpi_list *head, kvpi_list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

static inline void kvpi_list_remove(kvpi_list *node)
{
	if (node->next == NULL)
		return;
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node->next = node->prev = NULL;
}

static inline kvpi_list *kvpi_list_first(const kvpi_list *head)
{
	return head->next == head ? NULL : head->next;
}

#endif
