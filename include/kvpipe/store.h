/* SPDX-License-Identifier: Apache-2.0
 *
 * The store: a small key-value server for rendezvous and metadata.  Stateless processes find each
 * other through it; no tensor ever passes.  A server embeds in any process (kvp_store_server) or
 * stands alone (the program kvpipe-store); any number of servers, clients and groups live in one
 * process, there is no process-global state.  Values are bytes; nothing is ever executed or
 * unpickled.
 *
 * Bounds: a key 1..256 bytes, a value up to 960 KiB, a call's keys together up to 64 KiB, the server's
 * memory by its options.  Every server has an incarnation number: a client that sees it change knows
 * that everything is forgotten and fails its pending calls with KVP_E_STORE_RESTARTED; the store
 * handle itself then goes on with the new server.
 *
 * All functions here may be called from any thread, several at once on one handle.
 */
#ifndef KVPIPE_STORE_H
#define KVPIPE_STORE_H

#include <kvpipe/context.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_STORE_KEY_MAX 256
#define KVP_STORE_VALUE_MAX (960 * 1024)

/* ---- server ------------------------------------------------------------------------------------ */

typedef struct kvp_store_server kvp_store_server;

typedef struct kvp_store_server_options {
	size_t size;
	const char *bind;    /* "host:port" or "host:first-last" (the first port that is free); port 0 lets the
	                        system choose.  The host is an address, a network interface's name or a host name.
	                        Default "127.0.0.1:0".  Anything but loopback needs a cluster key (kvp_context) */
	uint64_t max_bytes;  /* of keys and values together; default 1 GiB */
	int max_keys;        /* default 1,000,000 */
	int max_waits;       /* parked calls of all clients; default 65,536 */
	const char *advertise; /* the host in kvp_store_server_url; default NULL: the address that is bound, or one of
	                          this machine's if that is a wildcard */
} kvp_store_server_options;

KVP_API void kvp_store_server_options_init_sized(kvp_store_server_options *options, size_t size);
static inline void kvp_store_server_options_init(kvp_store_server_options *options)
{
	kvp_store_server_options_init_sized(options, sizeof(*options));
}

/* Binds, starts the server's thread.  Returns owned.  KVP_E_INVALID (a bad address, or one that is
 * not loopback without a cluster key; a bad key file), KVP_E_SYSTEM (address in use), KVP_E_NOMEM. */
KVP_API kvp_status kvp_store_server_start(kvp_context *context, const kvp_store_server_options *options,
                                          kvp_store_server **server);

/* "tcp://127.0.0.1:43127": what clients open.  Borrowed from the server. */
KVP_API const char *kvp_store_server_url(const kvp_store_server *server);

/* A random number made at start, never 0. */
KVP_API uint64_t kvp_store_server_incarnation(const kvp_store_server *server);

/* Stops the thread (within a second), drops the contents, frees.  NULL is fine. */
KVP_API void kvp_store_server_free(kvp_store_server *server);

/* ---- client ------------------------------------------------------------------------------------ */

typedef struct kvp_store kvp_store;

typedef struct kvp_store_options {
	size_t size;
	int store_timeout_ms; /* what KVP_TIMEOUT_DEFAULT means; default 300,000, at least 1 */
} kvp_store_options;

KVP_API void kvp_store_options_init_sized(kvp_store_options *options, size_t size);
static inline void kvp_store_options_init(kvp_store_options *options)
{
	kvp_store_options_init_sized(options, sizeof(*options));
}

/*
 * Connects to `url` ("tcp://host:port") and waits until the server has answered with a common protocol
 * version.  Returns owned.  KVP_E_STORE_LOST when it does not answer within the time (the sentence says
 * whether anything listens there), KVP_E_REFUSED when it has another cluster key, or only one of the two has any,
 * KVP_E_VERSION, KVP_E_INVALID.
 */
KVP_API kvp_status kvp_store_open(kvp_context *context, const char *url, const kvp_store_options *options,
                                  int timeout_ms, kvp_store **store);

/* The url it was opened with, borrowed; the server's incarnation as last seen. */
KVP_API const char *kvp_store_url(const kvp_store *store);
KVP_API uint64_t kvp_store_incarnation(const kvp_store *store);

/* Refuses new calls and ends pending ones with KVP_E_CLOSED; returns at once. */
KVP_API void kvp_store_close(kvp_store *store);

/* Closes and frees.  No other thread may be inside a call on it.  NULL is fine. */
KVP_API void kvp_store_free(kvp_store *store);

/*
 * Errors common to the calls below: KVP_E_INVALID, KVP_E_TOO_LARGE (a bound of ours or of the server:
 * the sentence says which), KVP_E_STORE_LOST (no answer within the time), KVP_E_STORE_RESTARTED,
 * KVP_E_CLOSED, KVP_E_FORKED, KVP_E_NOMEM.  After STORE_LOST a call may or may not have taken place.
 */

/* Options of one set.  Zeroed: keep until deleted. */
typedef struct kvp_store_set_options {
	size_t size;
	int64_t ttl_ms; /* time to live; 0 = none */
	uint32_t uses;  /* the key goes after this many kvp_store_take; 0 = not counted */
} kvp_store_set_options;

KVP_API void kvp_store_set_options_init_sized(kvp_store_set_options *options, size_t size);
static inline void kvp_store_set_options_init(kvp_store_set_options *options)
{
	kvp_store_set_options_init_sized(options, sizeof(*options));
}

/* Sets a key; options may be NULL.  Borrows key and value for the call. */
KVP_API kvp_status kvp_store_set(kvp_store *store, const char *key, const void *value, size_t len,
                                 const kvp_store_set_options *options, int timeout_ms);

/* The value now, returned owned.  KVP_E_NOT_FOUND. */
KVP_API kvp_status kvp_store_get(kvp_store *store, const char *key, kvp_bytes *value, int timeout_ms);

/*
 * Waits, parked at the server, until all `count` keys exist at once, and returns their values, owned, in
 * values[count] (values may be NULL).  When the time runs out: KVP_E_TIMEOUT; the sentence names up to
 * eight of the missing keys, and missing[count] (may be NULL) tells all (1 = missing).
 */
KVP_API kvp_status kvp_store_wait(kvp_store *store, const char *const *keys, size_t count, kvp_bytes *values,
                                  unsigned char *missing, int timeout_ms);

/* The same, and one use of each key is taken, all at once or none: a key set with `uses` goes when none
 * is left, a key without goes now. */
KVP_API kvp_status kvp_store_take(kvp_store *store, const char *const *keys, size_t count, kvp_bytes *values,
                                  unsigned char *missing, int timeout_ms);

/* Adds to a decimal integer (a missing key counts as 0) and returns the sum.  KVP_E_CONFLICT when the
 * value is not an integer or would overflow.  If the reply is lost or the connection renewed, the library
 * asks again within the time, and the store counts it once. */
KVP_API kvp_status kvp_store_add(kvp_store *store, const char *key, int64_t delta, int64_t *sum, int timeout_ms);

/*
 * Sets the key to `desired` if its value is `expected` (expected NULL: if it does not exist).
 * KVP_E_CONFLICT otherwise; *current (may be NULL) then gets the value found, owned (empty if none).
 */
KVP_API kvp_status kvp_store_compare_set(kvp_store *store, const char *key, const void *expected,
                                         size_t expected_len, const void *desired, size_t desired_len,
                                         kvp_bytes *current, int timeout_ms);

/* Deletes; KVP_E_NOT_FOUND. */
KVP_API kvp_status kvp_store_delete(kvp_store *store, const char *key, int timeout_ms);

/*
 * Calls `each` for every key that begins with `prefix`, in byte order, on this thread.  The key (0-ended)
 * is borrowed for the call; a non-zero return ends the listing (still KVP_OK).  A listing is fetched in
 * pieces: keys that come or go meanwhile may or may not be seen.
 */
KVP_API kvp_status kvp_store_list(kvp_store *store, const char *prefix,
                                  int (*each)(void *user, const char *key), void *user, int timeout_ms);

/* ---- groups ------------------------------------------------------------------------------------ */

/*
 * A group: `world_size` processes (or threads) that exchange byte objects by rank.  Many groups share
 * one store, told apart by name.  Forming is a rendezvous of all ranks and gives the group an epoch: a
 * rank that dies, or a store that restarts, ends the group (calls fail, they do not hang); all ranks
 * open it again and meet in a new epoch, which never sees messages of an old one.
 *
 * Collective calls (broadcast, all_gather, barrier) must come in the same order on every rank.  send and
 * recv keep order per pair of ranks.  A call whose time runs out names the late rank.  One thread at a
 * time calls collectives; send and recv of different pairs may run beside each other.
 */
typedef struct kvp_group kvp_group;

typedef struct kvp_group_options {
	size_t size;
	const char *name; /* at most 64 bytes of letters, digits, '.', '-', '_'; default "default" */
	int rank;         /* 0 .. world_size-1 */
	int world_size;   /* 1 .. 1024 */
} kvp_group_options;

KVP_API void kvp_group_options_init_sized(kvp_group_options *options, size_t size);
static inline void kvp_group_options_init(kvp_group_options *options)
{
	kvp_group_options_init_sized(options, sizeof(*options));
}

/* Meets the others.  The group borrows the store, which must outlive it.  Returns owned.
 * KVP_E_TIMEOUT (the sentence names the ranks that did not come), KVP_E_CONFLICT (a rank taken twice or
 * world sizes differ), store errors. */
KVP_API kvp_status kvp_group_open(kvp_store *store, const kvp_group_options *options, int timeout_ms,
                                  kvp_group **group);
KVP_API void kvp_group_free(kvp_group *group); /* NULL is fine */

KVP_API int kvp_group_rank(const kvp_group *group);
KVP_API int kvp_group_world_size(const kvp_group *group);
KVP_API uint64_t kvp_group_epoch(const kvp_group *group); /* grows with each forming of this name */

/* 1 when `rank` runs on this host (equal boot id), 0 when not or unknown, negative kvp_status for a bad rank. */
KVP_API int kvp_group_same_host(const kvp_group *group, int rank);

KVP_API kvp_status kvp_group_send(kvp_group *group, int to, const void *data, size_t len, int timeout_ms);
KVP_API kvp_status kvp_group_recv(kvp_group *group, int from, kvp_bytes *data, int timeout_ms);

/* On rank `root`, data/len are sent to all; on the others *received gets a copy, owned.  `received` may
 * be NULL on root. */
KVP_API kvp_status kvp_group_broadcast(kvp_group *group, int root, const void *data, size_t len,
                                       kvp_bytes *received, int timeout_ms);

/* Everybody gives one object, everybody gets all: all[world_size], owned, own one included. */
KVP_API kvp_status kvp_group_all_gather(kvp_group *group, const void *data, size_t len, kvp_bytes *all,
                                        int timeout_ms);

/* Returns when all ranks have called it. */
KVP_API kvp_status kvp_group_barrier(kvp_group *group, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
