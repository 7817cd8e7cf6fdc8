/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama/error.h"

/* Reads to the end of the file, at most max_bytes + 1 bytes: one more tells the caller that there
 * was too much. */
static unsigned char *read_all(FILE *file, size_t max_bytes, size_t *n_bytes)
{
	unsigned char *bytes = NULL;
	size_t length = 0;
	size_t capacity = 0;
	while (length <= max_bytes && !feof(file) && !ferror(file)) {
		if (length == capacity) {
			capacity = capacity ? 2 * capacity : 65536;
			if (capacity > max_bytes + 1)
				capacity = max_bytes + 1;
			unsigned char *larger = realloc(bytes, capacity);
			if (!larger) {
				free(bytes);
				return NULL;
			}
			bytes = larger;
		}
		length += fread(bytes + length, 1, capacity - length, file);
	}
	*n_bytes = length;
	return bytes;
}

unsigned char *llama_file_read(
    const char *path, size_t max_bytes, size_t *n_bytes, llama_error *err)
{
	FILE *file = fopen(path, "rb");
	if (!file) {
		llama_error_set(err, "%s: cannot open: %s", path, strerror(errno));
		return NULL;
	}
	errno = 0;
	size_t length = 0;
	unsigned char *bytes = read_all(file, max_bytes, &length);
	if (!bytes)
		llama_error_set(err, "%s: no memory to read it", path);
	else if (ferror(file))
		llama_error_set(err, "%s: cannot read: %s", path, strerror(errno));
	else if (length > max_bytes)
		llama_error_set(err, "%s: larger than the %zu bytes that this program accepts",
		    path, max_bytes);
	else {
		fclose(file);
		*n_bytes = length;
		return bytes;
	}
	free(bytes);
	fclose(file);
	return NULL;
}
