/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the library's log lines go.  Silent unless asked: by kvp_log_set(), or by the environment
 * variable KVP_LOG, which writes to standard error: "debug", or per component
 * "pipe:debug,store:info" (components are the library's floors: base wire device store control
 * plane engine pipe).  Whoever decides on an error logs it, once.
 */
#ifndef KVPIPE_LOG_H
#define KVPIPE_LOG_H

#include <kvpipe/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvp_log_level {
	KVP_LOG_OFF = 0,
	KVP_LOG_ERROR = 1,
	KVP_LOG_WARN = 2,
	KVP_LOG_INFO = 3,
	KVP_LOG_DEBUG = 4
} kvp_log_level;

/*
 * A callback is three things: what to call, what to hand it, and how to free that.  `free` (may be
 * NULL) is called exactly once, after the last possible call.
 */
typedef struct kvp_log_callback {
	/* Called from any thread, also several at once; must not call kvp_ functions.  `component`
	 * and `line` (no newline) are borrowed for the call. */
	void (*call)(void *user, kvp_log_level level, const char *component, const char *line);
	void *user;
	void (*free)(void *user);
} kvp_log_callback;

/*
 * Any thread.  Sends lines up to `level` of all components to `callback`; takes `callback.user`
 * (frees the one before once no thread uses it).  callback.call == NULL goes back to the default:
 * silence, or what KVP_LOG says.
 */
KVP_API void kvp_log_set(kvp_log_callback callback, kvp_log_level level);

#ifdef __cplusplus
}
#endif
#endif
