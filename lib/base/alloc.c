/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"

#include "base/fault.h"
#include <errno.h>
#include <string.h>

static bool refused(void)
{
	if (!kvpi_fault("alloc"))
		return false;
	errno = ENOMEM;
	return true;
}

/* A size of 0 is asked for as 1 everywhere: NULL then always means "no memory", on any libc. */

void *kvpi_calloc(size_t count, size_t size)
{
	size_t product;

	/* calloc checks the product, too; but a sanitizer's ends the process instead of saying NULL. */
	if (refused() || __builtin_mul_overflow(count, size, &product))
		return NULL;
	return calloc(1, product == 0 ? 1 : product);
}

void *kvpi_malloc(size_t size)
{
	return refused() ? NULL : malloc(size == 0 ? 1 : size);
}

void *kvpi_realloc(void *old, size_t size)
{
	return refused() ? NULL : realloc(old, size == 0 ? 1 : size);
}

void *kvpi_memdup(const void *bytes, size_t len)
{
	void *copy = kvpi_malloc(len);

	if (copy != NULL && len != 0)
		memcpy(copy, bytes, len);
	return copy;
}

char *kvpi_strdup(const char *text)
{
	return text == NULL ? NULL : kvpi_memdup(text, strlen(text) + 1);
}
