/* SPDX-License-Identifier: Apache-2.0 */
#include "base/heap.h"

#include "base/alloc.h"
#include "base/error.h"

#define FIRST_CAPACITY 16

/* Places are 1-based, so that children are 2i and 2i+1 and 0 says "in no heap". */

static void place(kvpi_heap *heap, size_t index, kvpi_heap_node *node)
{
	heap->nodes[index - 1] = node;
	node->index = index;
}

static kvpi_heap_node *at(const kvpi_heap *heap, size_t index)
{
	return heap->nodes[index - 1];
}

static void sift_up(kvpi_heap *heap, size_t index, kvpi_heap_node *node)
{
	for (; index > 1 && at(heap, index / 2)->key > node->key; index /= 2)
		place(heap, index, at(heap, index / 2));
	place(heap, index, node);
}

static void sift_down(kvpi_heap *heap, size_t index, kvpi_heap_node *node)
{
	while (index <= heap->count / 2) {
		size_t child = 2 * index;

		if (child < heap->count && at(heap, child + 1)->key < at(heap, child)->key)
			child++;
		if (at(heap, child)->key >= node->key)
			break;
		place(heap, index, at(heap, child));
		index = child;
	}
	place(heap, index, node);
}

void kvpi_heap_init(kvpi_heap *heap)
{
	*heap = (kvpi_heap){0};
}

void kvpi_heap_fini(kvpi_heap *heap)
{
	for (size_t i = 0; i < heap->count; i++)
		heap->nodes[i]->index = 0;
	free(heap->nodes);
	kvpi_heap_init(heap);
}

kvp_status kvpi_heap_reserve(kvpi_heap *heap, size_t count)
{
	kvpi_heap_node **nodes = NULL;

	if (count <= heap->capacity)
		return KVP_OK;
	if (count <= SIZE_MAX / sizeof(*nodes))
		nodes = kvpi_realloc(heap->nodes, count * sizeof(*nodes));
	if (nodes == NULL)
		return kvpi_error_nomem("a heap of deadlines");
	heap->nodes = nodes;
	heap->capacity = count;
	return KVP_OK;
}

kvp_status kvpi_heap_push(kvpi_heap *heap, kvpi_heap_node *node, int64_t key)
{
	if (node->index != 0)
		return kvpi_error(KVP_E_INVALID, "a deadline is in a heap already");
	if (heap->count == heap->capacity) {
		kvp_status status = kvpi_heap_reserve(
		    heap, heap->capacity == 0 ? FIRST_CAPACITY : 2 * heap->capacity);

		if (status != KVP_OK)
			return status;
	}
	node->key = key;
	heap->count++;
	sift_up(heap, heap->count, node);
	return KVP_OK;
}

void kvpi_heap_remove(kvpi_heap *heap, kvpi_heap_node *node)
{
	size_t index = node->index;

	if (index == 0)
		return;
	kvpi_heap_node *last = at(heap, heap->count);
	heap->count--;
	node->index = 0;
	if (last == node)
		return;
	/* The last node may belong above or below the gap. */
	if (index > 1 && at(heap, index / 2)->key > last->key)
		sift_up(heap, index, last);
	else
		sift_down(heap, index, last);
}

kvpi_heap_node *kvpi_heap_peek(const kvpi_heap *heap)
{
	return heap->count == 0 ? NULL : heap->nodes[0];
}
