/* SPDX-License-Identifier: Apache-2.0
 *
 * The context owns what exists once per process: the ZeroMQ context and its I/O threads, the metric
 * registry, the meeting place of endpoints of the same process (and later: import caches, copy
 * streams, the cluster key).  Every handle is made in one.  Most programs pass NULL and use the
 * default context, which appears with the first handle and goes with the last.
 */
#ifndef KVPIPE_CONTEXT_H
#define KVPIPE_CONTEXT_H

#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_context kvp_context;

typedef struct kvp_context_options {
	size_t size;    /* filled by kvp_context_options_init */
	int io_threads; /* ZeroMQ I/O threads, 1..8; default 1 (control traffic only) */
	const char *key_file; /* the cluster key, read now: everything made in this context authenticates with it.
	                         Default NULL: the file named by KVPIPE_KEY_FILE, if that is set; else no key */
} kvp_context_options;

/*
 * Any thread.  Fills every field with its default.  As all _init functions of option structs it is an inline that
 * passes the caller's own size on, so that a newer library, whose struct has grown, writes no further.
 */
KVP_API void kvp_context_options_init_sized(kvp_context_options *options, size_t size);
static inline void kvp_context_options_init(kvp_context_options *options)
{
	kvp_context_options_init_sized(options, sizeof(*options));
}

/* Any thread.  Returns owned; options NULL means defaults.  KVP_E_NOMEM, KVP_E_SYSTEM, KVP_E_INVALID. */
KVP_API kvp_status kvp_context_new(kvp_context **context, const kvp_context_options *options);

/*
 * Any thread, once.  Gives the caller's hold up; the context itself goes when the last handle made in
 * it is freed, so the order of frees does not matter.  NULL is fine.
 */
KVP_API void kvp_context_free(kvp_context *context);

/*
 * Any thread.  Writes all counters and histograms of the context's handles as Prometheus text (format
 * 0.0.4, with a final 0 byte) into text[capacity].  *needed (may be NULL) gets the bytes required,
 * final 0 included.  KVP_E_TOO_LARGE when capacity is less; nothing is written then.  context NULL:
 * the default context (empty text if it does not exist).
 */
KVP_API kvp_status kvp_metrics_text(kvp_context *context, char *text, size_t capacity, size_t *needed);

/* Bytes that the library allocated for the caller: returned owned, freed with kvp_bytes_free. */
typedef struct kvp_bytes {
	void *data; /* NULL when len is 0 and nothing was returned */
	size_t len;
} kvp_bytes;

/* Any thread.  Frees the data and zeroes the struct; NULL and an empty struct are fine. */
KVP_API void kvp_bytes_free(kvp_bytes *bytes);

/*
 * Time-outs.  Every function that can block takes `timeout_ms`: 0 tries once, a positive number is
 * the bound, KVP_TIMEOUT_DEFAULT is the handle's own (`store_timeout_ms`, 300 s unless set).  Nothing
 * waits without end.
 */
#define KVP_TIMEOUT_DEFAULT (-1)

#ifdef __cplusplus
}
#endif
#endif
