/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of a store through real sockets share.
 */
#ifndef KVP_TESTS_STORE_KIT_H
#define KVP_TESTS_STORE_KIT_H

#include "kit/kit.h"
#include <kvpipe/store.h>
#include <pthread.h>

/* A bound for what should come much sooner; slow machines need it. */
#define SOON_MS 20000

/* What a test works on. */
extern kvp_store_server *server;
extern kvp_store *store;

/* A server on a port of its own, and a client; finish frees them. */
void begin(void);
void finish(void);

kvp_store_server *start_server(const char *bind); /* NULL: any port */
kvp_store *open_store(const char *url);

/* Calls on `store` that must go well. */
void set(const char *key, const char *value);
void check_value(const char *key, const char *expected);
void check_absent(const char *key);
void check_bytes(kvp_bytes *bytes, const char *expected); /* frees them */
int count_all(void *user, const char *key);               /* for kvp_store_list; user: int */

/* A call on another thread, which waits for a key. */
typedef struct waiter {
	pthread_t thread;
	kvp_store *store;
	const char *key;
	int timeout_ms;
	bool take;
	kvp_status status;
	kvp_bytes value;
	char sentence[512];
} waiter;

void start_waiter(waiter *w);

/* What a metric of the default context says; -1 if it is not there. */
long long metric(const char *name);

/* Until so many calls are parked at the server. */
void wait_parked(int count);

#endif
