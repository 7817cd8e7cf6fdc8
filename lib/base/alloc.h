/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation with the fault point "alloc", so that every out-of-memory path can be tested.
 * All memory of the library comes from here and goes back through free().
 */
#ifndef KVPI_BASE_ALLOC_H
#define KVPI_BASE_ALLOC_H

#include <stddef.h>
#include <stdlib.h>

void *kvpi_calloc(size_t count, size_t size); /* zeroed; NULL on overflow or no memory */
void *kvpi_malloc(size_t size);
void *kvpi_realloc(void *old, size_t size);
void *kvpi_memdup(const void *bytes, size_t len); /* len 0 gives a unique pointer */
char *kvpi_strdup(const char *text);              /* NULL gives NULL */

#define KVPI_NEW(type) ((type *)kvpi_calloc(1, sizeof(type)))

#endif
