/* SPDX-License-Identifier: Apache-2.0
 *
 * The sentence behind a status.  The function that decides which error it is writes the sentence,
 * with what failed, with whom, and what to try; everybody above hands the code on untouched.
 *
 *	return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: rank %d is not below parallel_size %d", ...);
 *
 * Sentences start in lower case or with the public function's name, end without a full stop or
 * newline, and are at most KVPI_ERROR_MAX bytes (cut beyond).
 */
#ifndef KVPI_BASE_ERROR_H
#define KVPI_BASE_ERROR_H

#include <kvpipe/status.h>
#include <stddef.h>

#define KVPI_ERROR_MAX 512

/* Sets this thread's sentence, returns `status`.  Keeps errno.  A NULL fmt uses the table's text. */
kvp_status kvpi_error(kvp_status status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same with ": " and errno's text behind; KVP_E_NOMEM for ENOMEM, else KVP_E_SYSTEM. */
kvp_status kvpi_error_errno(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* kvpi_error(KVP_E_NOMEM, "no memory for <what>"). */
kvp_status kvpi_error_nomem(const char *what);

/* Restores a sentence that travelled on a request or from another thread; returns `status`. */
kvp_status kvpi_error_set(kvp_status status, const char *sentence);

#endif
