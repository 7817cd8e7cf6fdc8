/* SPDX-License-Identifier: Apache-2.0
 *
 * Intrusive binary min-heap of deadlines: which of many things runs out next.
 */
#ifndef KVPI_BASE_HEAP_H
#define KVPI_BASE_HEAP_H

#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_heap_node {
	int64_t key;  /* smallest first */
	size_t index; /* 1-based place in the heap; 0: not in one */
} kvpi_heap_node;

typedef struct kvpi_heap {
	kvpi_heap_node **nodes;
	size_t count, capacity;
} kvpi_heap;

void kvpi_heap_init(kvpi_heap *heap);
void kvpi_heap_fini(kvpi_heap *heap); /* not the nodes */
/* Makes room, so that pushes up to `count` nodes in all cannot fail. */
kvp_status kvpi_heap_reserve(kvpi_heap *heap, size_t count);
kvp_status kvpi_heap_push(kvpi_heap *heap, kvpi_heap_node *node, int64_t key);
void kvpi_heap_remove(kvpi_heap *heap, kvpi_heap_node *node); /* harmless if not in a heap */
kvpi_heap_node *kvpi_heap_peek(const kvpi_heap *heap);        /* NULL when empty */

#endif
