/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LLAMA_ERROR_H
#define LLAMA_ERROR_H

#include "llama/llama.h"

/* Writes a sentence to err, unless that is NULL. Returns -1, so that a caller can return it in one
 * line. */
__attribute__((format(printf, 2, 3))) int llama_error_set(
    llama_error *err, const char *format, ...);

#endif
