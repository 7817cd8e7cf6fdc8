/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LLAMA_FILE_H
#define LLAMA_FILE_H

#include "llama/llama.h"

/* Reads a whole file of at most max_bytes. Returns memory that the caller frees, its length in
 * *n_bytes, or NULL. */
unsigned char *llama_file_read(
    const char *path, size_t max_bytes, size_t *n_bytes, llama_error *err);

#endif
