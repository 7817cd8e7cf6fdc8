/* SPDX-License-Identifier: Apache-2.0
 *
 * The metrics of a context over HTTP, as Prometheus fetches them: GET /metrics answers with the text of
 * kvp_metrics_text.  Anything else is 404 or 405; nothing can be changed through it.
 *
 * There is no authentication, and metrics name pipes, ranks and peers: so it listens on loopback only unless
 * `allow_remote` says otherwise.  It has one thread, at most 16 connections, and each of them 10 seconds.
 */
#ifndef KVPIPE_METRICS_H
#define KVPIPE_METRICS_H

#include <kvpipe/context.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_metrics_server kvp_metrics_server;

typedef struct kvp_metrics_server_options {
	size_t size;
	const char *bind; /* "host:port", "host:first-last", also an interface's name; port 0 lets the system choose.
	                     Default "127.0.0.1:0" */
	int allow_remote; /* 1: may listen on other addresses than loopback, where everybody can read; default 0 */
} kvp_metrics_server_options;

KVP_API void kvp_metrics_server_options_init_sized(kvp_metrics_server_options *options, size_t size);
static inline void kvp_metrics_server_options_init(kvp_metrics_server_options *options)
{
	kvp_metrics_server_options_init_sized(options, sizeof(*options));
}

/* Any thread.  Binds, starts the thread.  Holds the context (NULL: the default one).  Returns owned.  KVP_E_INVALID (bad
 * address, or not loopback), KVP_E_SYSTEM (address in use), KVP_E_NOMEM; KVP_E_UNSUPPORTED when the library was built
 * without libmicrohttpd. */
KVP_API kvp_status kvp_metrics_server_start(kvp_context *context, const kvp_metrics_server_options *options,
                                            kvp_metrics_server **server);

/* Any thread.  "http://127.0.0.1:9400/metrics".  Borrowed from the server. */
KVP_API const char *kvp_metrics_server_url(const kvp_metrics_server *server);

/* Any thread, once.  Stops the thread, closes what is open, frees.  Waits for nobody who reads slowly.  NULL is fine. */
KVP_API void kvp_metrics_server_free(kvp_metrics_server *server);

#ifdef __cplusplus
}
#endif
#endif
