/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the server's mind share: a core on a manual clock, without a socket; requests go in by hand,
 * replies are recorded.
 */
#ifndef KVP_TESTS_CORE_KIT_H
#define KVP_TESTS_CORE_KIT_H

#include "kit/kit.h"

#include "base/clock.h"
#include "store/core.h"
#include <stdbool.h>

#define REPLIES_MAX 64
#define INCARNATION 4711

/* A reply as it left the core, copied. */
typedef struct record {
	int client;
	uint64_t id;
	kvp_status status;
	bool has_number;
	int64_t number;
	size_t value_count, missing_count, key_count;
	char values[1024];  /* joined by '|' */
	char missing[1024]; /* likewise, decimal */
	char first_key[300], last_key[300];
	char text[600];
} record;

/* What a test works on.  One per process: tests run in processes of their own. */
extern kvpi_store_core *core;
extern kvpi_clock test_clock;
extern record records[REPLIES_MAX];
extern size_t record_count;
extern int unreachable; /* this client is gone */
extern bool injecting;  /* allocations fail: the core's, not those of the checks here */
extern uint64_t last_id;

kvpi_zid client_id(int client);

/* The core's sink. */
kvp_status record_reply(void *user, const kvpi_zid *to, const kvpi_msg_store_reply *reply);

void start_with(uint64_t max_bytes, size_t max_keys, size_t max_waits);
void start(void);
void finish(void);
void advance_ms(int64_t ms);

/* The reply to a request, which must have come; it is forgotten with the next one. */
record *reply_to(int client, uint64_t id);
void handle(int client, const kvpi_msg *msg);
record *set_with(int client, const char *key, kvpi_view value, uint64_t ttl_ms, uint64_t uses);
void set(const char *key, const char *value);
void set_uses(const char *key, const char *value, uint64_t uses);
void set_ttl(const char *key, const char *value, uint64_t ttl_ms);

/* Keys are separated by blanks.  Returns the request's id. */
uint64_t ask(int client, const char *keys, bool take, uint64_t wait_ms);
record *get(const char *keys);
record *take(const char *keys);
void check_value(const char *key, const char *value);
void check_absent(const char *key);
void delete(const char *key, kvp_status expected);
record *add(const char *key, int64_t delta);
record *compare_set(const char *key, const char *expected, const char *desired);
record *list(const char *prefix, const char *after);
void cancel(int client, uint64_t id);
uint64_t gauge(kvpi_counter *counter);
void check_empty(void);

#endif
