/* SPDX-License-Identifier: Apache-2.0
 *
 * Status codes and the last error's sentence.
 *
 * Every function that can fail returns kvp_status: 0 is success, a negative value is an error, and
 * KVP_PENDING (positive) says of a request that it has not ended.  A call that fails has changed
 * nothing: not the outputs, not the ownership, not a queue.
 */
#ifndef KVPIPE_STATUS_H
#define KVPIPE_STATUS_H

#if defined(__GNUC__)
#define KVP_API __attribute__((visibility("default")))
#else
#define KVP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvp_status {
	KVP_OK = 0,
	KVP_PENDING = 1,
#define KVP_STATUS(name, value, text) name = value,
#include <kvpipe/errors.def>
#undef KVP_STATUS
	KVP_STATUS_MIN = -99 /* no code lies below; makes the enum's range wide enough for ever */
} kvp_status;

/* What a status says broke. */
typedef enum kvp_scope {
	KVP_SCOPE_NONE,
	KVP_SCOPE_CALL,
	KVP_SCOPE_REQUEST,
	KVP_SCOPE_PEER,
	KVP_SCOPE_PIPE,
	KVP_SCOPE_PROCESS
} kvp_scope;

/* Any thread.  The code's name ("KVP_E_AGAIN"); a static string, also for an unknown code. */
KVP_API const char *kvp_status_name(kvp_status status);

/* Any thread.  The code's general text; a static string. */
KVP_API const char *kvp_status_text(kvp_status status);

/* Any thread.  What broke; KVP_SCOPE_NONE for KVP_OK and KVP_PENDING. */
KVP_API kvp_scope kvp_status_scope(kvp_status status);

/*
 * Any thread.  One sentence about the last error that a kvp_ function returned to *this thread*:
 * what failed, with which peer, what to try.  Never NULL; "" before the first error.  Borrowed:
 * valid until this thread's next failing call.  A success does not clear it.
 */
KVP_API const char *kvp_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
