/* SPDX-License-Identifier: Apache-2.0
 *
 * The public calls of a store handle: arguments become a message, the reply becomes outputs and a
 * sentence.
 */
#include "store/client.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/error.h"
#include "base/log.h"
#include "base/options.h"
#include "base/thread.h"
#include "store/link.h"
#include "store/probe.h"
#include "wire/auth.h"
#include <stdatomic.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x6b767363 /* "kvsc" */

#define KEYS_MAX 1024 /* of one call, as messages.def has it */
#define KEYS_BYTES_MAX (64 * 1024)
#define ONCE_MS 1000         /* how long the answer to a call with time-out 0 may take */
#define ANSWER_LEAST_MS 250  /* how long the answer at the end of a wait may take */
#define OPEN_ATTEMPT_MS 1000 /* then the opening request is repeated: it may have been lost */
#define PROBE_MS 50          /* kept back to see why nobody answers */
#define NAMED_MAX 8          /* keys in a sentence */
#define SHOWN_MAX 40         /* bytes of a key in a sentence */
#define TTL_MAX_MS (INT64_MAX / KVPI_NS_PER_MS)

struct kvp_store {
	kvpi_handle handle;
	kvp_context *context;
	kvpi_store_link *link;
	int timeout_ms; /* what KVP_TIMEOUT_DEFAULT means */
	char *url;
	uint64_t random;            /* this handle's own */
	_Atomic uint64_t additions; /* so far */
};

static const kvpi_option option_rows[] = {
    {"store_timeout_ms", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_store_options, store_timeout_ms),
        .min = 1, .max = INT_MAX, .def = 300000,
        .help = "default time-out of a call, in milliseconds"},
};

static const kvpi_option_table option_table = {"kvp_store_options", sizeof(kvp_store_options),
    sizeof(option_rows) / sizeof(option_rows[0]), option_rows};

static const kvpi_option set_option_rows[] = {
    {"ttl_ms", KVPI_OPT_OTHER, KVPI_OPT_FIELD(kvp_store_set_options, ttl_ms),
        .help = "time to live in milliseconds; 0: none"},
    {"uses", KVPI_OPT_OTHER, KVPI_OPT_FIELD(kvp_store_set_options, uses),
        .help = "takes after which the key goes; 0: not counted"},
};

static const kvpi_option_table set_option_table = {"kvp_store_set_options",
    sizeof(kvp_store_set_options), sizeof(set_option_rows) / sizeof(set_option_rows[0]),
    set_option_rows};

void kvp_store_options_init_sized(kvp_store_options *options, size_t size)
{
	kvpi_options_init(&option_table, options, size);
}

void kvp_store_set_options_init_sized(kvp_store_set_options *options, size_t size)
{
	kvpi_options_init(&set_option_table, options, size);
}

kvp_status kvpi_store_check(const kvp_store *store, const char *call)
{
	return kvpi_handle_check(store != NULL ? &store->handle : NULL, MAGIC, call);
}

kvp_status kvpi_store_timeout(const kvp_store *store, int timeout_ms, const char *call, int *ms)
{
	if (timeout_ms < 0 && timeout_ms != KVP_TIMEOUT_DEFAULT)
		return kvpi_error(
		    KVP_E_INVALID, "%s: the time-out of %d ms is negative", call, timeout_ms);
	*ms = timeout_ms == KVP_TIMEOUT_DEFAULT ? store->timeout_ms : timeout_ms;
	return KVP_OK;
}

/* ---- one request and its reply ---- */

/* What a call wants of its reply, and what it got. */
typedef struct answer {
	size_t wanted;          /* values that a good reply must have */
	kvp_bytes *values;      /* wanted of them, owned; NULL without */
	kvp_bytes current;      /* what a compare-and-set found, owned */
	unsigned char *missing; /* one flag for each of missing_count keys, or NULL */
	size_t missing_count;
	int64_t number;
	kvpi_buf keys; /* of a list: each with its final 0 */
} answer;

static void free_answer(answer *a)
{
	for (size_t i = 0; a->values != NULL && i < a->wanted; i++)
		kvp_bytes_free(&a->values[i]);
	free(a->values);
	free(a->missing);
	kvp_bytes_free(&a->current);
	kvpi_buf_fini(&a->keys);
}

static bool copy_bytes(kvp_bytes *to, kvpi_view from)
{
	to->data = kvpi_memdup(from.data, from.len);
	to->len = to->data != NULL ? from.len : 0;
	return to->data != NULL;
}

static kvp_status read_values(answer *a, const kvpi_msg_store_reply *reply)
{
	if (reply->values.count != a->wanted)
		return KVP_E_PROTOCOL;
	a->values = kvpi_calloc(a->wanted, sizeof(*a->values));
	if (a->values == NULL)
		return KVP_E_NOMEM;
	for (size_t i = 0; i < a->wanted; i++)
		if (!copy_bytes(&a->values[i], reply->values.items[i]))
			return KVP_E_NOMEM;
	return KVP_OK;
}

/* Copies what is wanted.  Runs on the thread that received the reply, maybe another one's. */
static kvp_status read_reply(void *user, const kvpi_msg_store_reply *reply)
{
	answer *a = user;
	kvp_status status = (kvp_status)reply->status;

	a->number = reply->number;
	if (status == KVP_OK && a->wanted > 0)
		status = read_values(a, reply);
	if (status == KVP_E_CONFLICT && reply->values.count > 0 &&
	    !copy_bytes(&a->current, reply->values.items[0]))
		status = KVP_E_NOMEM;
	for (size_t i = 0; i < reply->missing.count; i++) {
		if (a->missing == NULL || reply->missing.items[i] >= a->missing_count)
			return KVP_E_PROTOCOL;
		a->missing[reply->missing.items[i]] = 1;
	}
	for (size_t i = 0; i < reply->keys.count; i++) {
		kvpi_buf_add(&a->keys, reply->keys.items[i].data, reply->keys.items[i].len);
		kvpi_buf_add(&a->keys, "", 1);
	}
	return a->keys.failed ? KVP_E_NOMEM : status;
}

/* A key for a sentence: cut, and harmless to a terminal. */
static const char *show(const char *key, char out[SHOWN_MAX + 4])
{
	size_t n = 0;

	for (; key[n] != 0 && n < SHOWN_MAX; n++)
		out[n] = key[n] >= ' ' && key[n] <= '~' ? key[n] : '?';
	strcpy(out + n, key[n] != 0 ? "..." : "");
	return out;
}

/* The sentence of a call that failed. */
kvp_status kvpi_store_explain(
    const kvp_store *store, const char *name, const char *key, const kvpi_store_call *call)
{
	char shown[SHOWN_MAX + 4];
	const char *why = call->sentence[0] != 0 ? call->sentence : kvp_status_text(call->status);

	if (key != NULL)
		return kvpi_error(call->status, "%s: key %s in the store at %s: %s", name,
		    show(key, shown), store->url, why);
	return kvpi_error(call->status, "%s: the store at %s: %s", name, store->url, why);
}

kvp_status kvpi_store_exchange(const kvp_store *store, kvpi_msg *msg, kvpi_store_reader reader,
    void *user, uint64_t incarnation, int64_t deadline_ns, kvpi_store_call *call)
{
	memset(call, 0, sizeof(*call));
	call->id = kvpi_store_link_id(store->link);
	call->deadline_ns = deadline_ns;
	call->parks = msg->id == KVPI_MSG_store_get && msg->u.store_get.wait_ms > 0;
	call->harmless =
	    (call->parks && !msg->u.store_get.take) || msg->id == KVPI_MSG_store_gather;
	call->incarnation = incarnation;
	call->read_reply = reader;
	call->user = user;
	call->repeats = msg->id == KVPI_MSG_store_gather;
	call->add = msg->id == KVPI_MSG_store_add ? msg : NULL;
	msg->u.store_ping.id = call->id; /* all requests begin with it: core.c asserts that */
	call->status = kvpi_msg_encode(msg, &call->frame);
	if (call->status == KVP_OK)
		kvpi_store_link_call(store->link, call);
	else
		snprintf(call->sentence, sizeof(call->sentence), "%s", kvp_last_error());
	kvpi_buf_fini(&call->frame);
	return call->status;
}

static kvp_status exchange(
    const kvp_store *store, kvpi_msg *msg, answer *a, int64_t deadline_ns, kvpi_store_call *call)
{
	return kvpi_store_exchange(store, msg, read_reply, a, 0, deadline_ns, call);
}

static int64_t deadline_in(int ms)
{
	return kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), ms > 0 ? ms : ONCE_MS);
}

/* The same for calls about one key, with the sentence. */
static kvp_status ask(
    const kvp_store *store, const char *name, const char *key, kvpi_msg *msg, answer *a, int ms)
{
	kvpi_store_call call;

	if (exchange(store, msg, a, deadline_in(ms), &call) == KVP_OK)
		return KVP_OK;
	return kvpi_store_explain(store, name, key, &call);
}

/* ---- open and close ---- */

static void destroy(kvp_store *store)
{
	kvpi_store_link_free(store->link);
	kvpi_context_release(store->context);
	kvpi_handle_fini(&store->handle);
	free(store->url);
	free(store);
}

/* Has only one of the two ends a cluster key?  A store that has one is just silent to who has none; one that has none
 * mostly hangs up on who has one before saying so. */
static kvp_status check_one_sided(const kvp_store *store, kvp_status status, int64_t deadline_ns)
{
	const bool has_key = kvpi_context_keyring(store->context) != NULL;
	const int64_t attempt_ns = deadline_in(OPEN_ATTEMPT_MS);
	kvpi_store_asks asks;

	if (status != (has_key ? KVP_E_REFUSED : KVP_E_STORE_LOST) || kvpi_store_link_met_somebody(store->link))
		return KVP_OK;
	asks = kvpi_store_look(store->url, attempt_ns < deadline_ns ? attempt_ns : deadline_ns);
	if (!has_key && asks == KVPI_STORE_ASKS_KEY)
		return kvpi_error(KVP_E_REFUSED,
		    "kvp_store_open: the store at %s asks for a cluster key, and this end has none; name the key "
		    "file in KVPIPE_KEY_FILE",
		    store->url);
	if (has_key && asks == KVPI_STORE_ASKS_NO_KEY)
		return kvpi_error(KVP_E_REFUSED,
		    "kvp_store_open: the store at %s asks for no cluster key, and this end has one: start it with "
		    "the key file, too",
		    store->url);
	return KVP_OK;
}

/* Asks until somebody answers: the request may be lost with a connection. */
static kvp_status greet(kvp_store *store, int ms)
{
	const int64_t deadline_ns = deadline_in(ms);
	const int64_t last_ns = deadline_ns - PROBE_MS * KVPI_NS_PER_MS;
	kvpi_store_call call;
	answer a = {0};
	kvp_status status;

	do {
		const int64_t attempt_ns = deadline_in(OPEN_ATTEMPT_MS);
		kvpi_msg msg = {.id = KVPI_MSG_store_open};

		msg.u.store_open.version_min = KVPI_WIRE_VERSION_MIN;
		msg.u.store_open.version_max = KVPI_WIRE_VERSION_MAX;
		status =
		    exchange(store, &msg, &a, attempt_ns < last_ns ? attempt_ns : last_ns, &call);
		if (check_one_sided(store, status, deadline_ns) != KVP_OK)
			return KVP_E_REFUSED;
	} while ((status == KVP_E_STORE_LOST || status == KVP_E_STORE_RESTARTED) &&
	         kvpi_now(&kvpi_clock_real) < last_ns);

	if (status == KVP_OK)
		return KVP_OK;
	if (status != KVP_E_STORE_LOST)
		return kvpi_store_explain(store, "kvp_store_open", NULL, &call);
	return kvpi_error(KVP_E_STORE_LOST,
	    "kvp_store_open: no store answered at %s within %d ms: %s", store->url,
	    ms > 0 ? ms : ONCE_MS,
	    kvpi_store_link_met_somebody(store->link)
	        ? "something is connected, but does not answer"
	        : kvpi_store_probe(store->url, deadline_ns));
}

static kvp_status set_up(kvp_store *store, kvp_context *context, const char *url, int timeout_ms)
{
	int ms = 0;
	kvp_status status = kvpi_store_timeout(store, timeout_ms, "kvp_store_open", &ms);

	if (status != KVP_OK)
		return status;
	store->url = kvpi_strdup(url);
	if (store->url == NULL)
		return kvpi_error_nomem("a store handle");
	status = kvpi_auth_init();
	if (status != KVP_OK)
		return status;
	store->random = kvpi_random_u64();
	status = kvpi_context_hold(context, &store->context);
	if (status != KVP_OK)
		return status;
	status = kvpi_store_link_new(store->context, url, &store->link);
	if (status != KVP_OK)
		return status;
	return greet(store, ms);
}

kvp_status kvp_store_open(kvp_context *context, const char *url, const kvp_store_options *options,
    int timeout_ms, kvp_store **out)
{
	kvp_store_options given;
	kvp_store *store;
	kvp_status status;

	if (out == NULL || url == NULL)
		return kvpi_error(
		    KVP_E_INVALID, "kvp_store_open: %s is NULL", out == NULL ? "store" : "url");
	status = kvpi_options_read(&option_table, options, &given, "kvp_store_open");
	if (status != KVP_OK)
		return status;
	store = KVPI_NEW(kvp_store);
	if (store == NULL)
		return kvpi_error_nomem("a store handle");
	kvpi_handle_init(&store->handle, MAGIC);
	store->timeout_ms = given.store_timeout_ms;
	status = set_up(store, context, url, timeout_ms);
	if (status != KVP_OK) {
		destroy(store);
		return status;
	}
	KVPI_LOG(DEBUG, "store", "client of %s, incarnation %016llx", url,
	    (unsigned long long)kvp_store_incarnation(store));
	*out = store;
	return KVP_OK;
}

const char *kvp_store_url(const kvp_store *store)
{
	return store != NULL ? store->url : NULL;
}

uint64_t kvp_store_incarnation(const kvp_store *store)
{
	return store != NULL ? kvpi_store_link_incarnation(store->link) : 0;
}

void kvp_store_close(kvp_store *store)
{
	/* In a forked child the mutex may be in any state. */
	if (store != NULL && kvpi_store_check(store, "kvp_store_close") == KVP_OK)
		kvpi_store_link_close(store->link);
}

void kvp_store_free(kvp_store *store)
{
	if (store == NULL || kvpi_store_check(store, "kvp_store_free") != KVP_OK)
		return;
	kvpi_store_link_close(store->link);
	destroy(store);
}

/* ---- calls about one key ---- */

static kvp_status check_key(const char *name, const char *key)
{
	if (key == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: a key is NULL", name);
	if (key[0] == 0)
		return kvpi_error(KVP_E_INVALID, "%s: a key is empty", name);
	if (strnlen(key, KVP_STORE_KEY_MAX + 1) > KVP_STORE_KEY_MAX)
		return kvpi_error(
		    KVP_E_TOO_LARGE, "%s: a key has more than %d bytes", name, KVP_STORE_KEY_MAX);
	return KVP_OK;
}

static kvp_status check_value(const char *name, const void *value, size_t len)
{
	if (value == NULL && len > 0)
		return kvpi_error(KVP_E_INVALID, "%s: a value of %zu bytes is NULL", name, len);
	if (len > KVP_STORE_VALUE_MAX)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "%s: a value has %zu bytes, at most %d are allowed", name, len,
		    KVP_STORE_VALUE_MAX);
	return KVP_OK;
}

/* What all calls about one key check first. */
static kvp_status begin(
    const kvp_store *store, const char *name, const char *key, int timeout_ms, int *ms)
{
	kvp_status status = kvpi_store_check(store, name);

	if (status != KVP_OK)
		return status;
	status = check_key(name, key);
	if (status != KVP_OK)
		return status;
	return kvpi_store_timeout(store, timeout_ms, name, ms);
}

kvp_status kvp_store_set(kvp_store *store, const char *key, const void *value, size_t len,
    const kvp_store_set_options *options, int timeout_ms)
{
	static const char name[] = "kvp_store_set";
	kvpi_msg msg = {.id = KVPI_MSG_store_set};
	kvpi_msg_store_set *set = &msg.u.store_set;
	kvp_store_set_options given;
	answer a = {0};
	int ms = 0;
	kvp_status status = begin(store, name, key, timeout_ms, &ms);

	if (status != KVP_OK)
		return status;
	status = check_value(name, value, len);
	if (status != KVP_OK)
		return status;
	status = kvpi_options_read(&set_option_table, options, &given, name);
	if (status != KVP_OK)
		return status;
	if (given.ttl_ms < 0 || given.ttl_ms > TTL_MAX_MS)
		return kvpi_error(KVP_E_INVALID,
		    "%s: a time to live of %lld ms is not within 0 .. %lld", name,
		    (long long)given.ttl_ms, (long long)TTL_MAX_MS);

	set->key = kvpi_view_text(key);
	set->value = kvpi_view_of(value, len);
	set->ttl_ms = (uint64_t)given.ttl_ms;
	set->uses = given.uses;
	set->present = (given.ttl_ms > 0 ? KVPI_HAS(store_set, ttl_ms) : 0) |
	               (given.uses > 0 ? KVPI_HAS(store_set, uses) : 0);
	status = ask(store, name, key, &msg, &a, ms);
	free_answer(&a);
	return status;
}

kvp_status kvp_store_get(kvp_store *store, const char *key, kvp_bytes *value, int timeout_ms)
{
	static const char name[] = "kvp_store_get";
	const kvpi_view view = kvpi_view_text(key);
	kvpi_msg msg = {
	    .id = KVPI_MSG_store_get, .u.store_get = {.keys = {&view, 1}, .want_values = 1}};
	unsigned char missing;
	answer a = {.wanted = 1};
	int ms = 0;
	kvp_status status = begin(store, name, key, timeout_ms, &ms);

	if (status != KVP_OK)
		return status;
	if (value == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: value is NULL", name);
	a.missing = &missing;
	a.missing_count = 1;
	status = ask(store, name, key, &msg, &a, ms);
	a.missing = NULL;
	if (status == KVP_OK) {
		*value = a.values[0];
		a.values[0] = (kvp_bytes){0};
	}
	free_answer(&a);
	return status;
}

kvp_status kvp_store_add(
    kvp_store *store, const char *key, int64_t delta, int64_t *sum, int timeout_ms)
{
	static const char name[] = "kvp_store_add";
	kvpi_msg msg = {.id = KVPI_MSG_store_add,
	    .u.store_add = {.key = kvpi_view_text(key),
	        .delta = delta,
	        .present = KVPI_HAS(store_add, once)}};
	uint64_t once[2] = {0};
	answer a = {0};
	int ms = 0;
	kvp_status status = begin(store, name, key, timeout_ms, &ms);

	if (status != KVP_OK)
		return status;
	/* Unlike any other's, of this client and of all others. */
	once[0] = store->random;
	once[1] = atomic_fetch_add(&store->additions, 1);
	msg.u.store_add.once = kvpi_view_of(once, sizeof(once));
	status = ask(store, name, key, &msg, &a, ms);
	if (status == KVP_OK && sum != NULL)
		*sum = a.number;
	free_answer(&a);
	return status;
}

kvp_status kvp_store_compare_set(kvp_store *store, const char *key, const void *expected,
    size_t expected_len, const void *desired, size_t desired_len, kvp_bytes *current,
    int timeout_ms)
{
	static const char name[] = "kvp_store_compare_set";
	kvpi_msg msg = {.id = KVPI_MSG_store_compare_set,
	    .u.store_compare_set = {.key = kvpi_view_text(key),
	        .expected = kvpi_view_of(expected, expected_len),
	        .desired = kvpi_view_of(desired, desired_len),
	        .present = expected != NULL ? KVPI_HAS(store_compare_set, expected) : 0}};
	answer a = {0};
	int ms = 0;
	kvp_status status = begin(store, name, key, timeout_ms, &ms);

	if (status != KVP_OK)
		return status;
	status = check_value(name, expected, expected_len);
	if (status != KVP_OK)
		return status;
	status = check_value(name, desired, desired_len);
	if (status != KVP_OK)
		return status;
	status = ask(store, name, key, &msg, &a, ms);
	if (status == KVP_E_CONFLICT && current != NULL) {
		*current = a.current;
		a.current = (kvp_bytes){0};
	}
	free_answer(&a);
	return status;
}

static kvp_status delete_key(
    kvp_store *store, const char *name, const char *key, kvpi_msg *msg, int timeout_ms)
{
	answer a = {0};
	int ms = 0;
	kvp_status status = begin(store, name, key, timeout_ms, &ms);

	if (status != KVP_OK)
		return status;
	msg->u.store_delete.key = kvpi_view_text(key);
	status = ask(store, name, key, msg, &a, ms);
	free_answer(&a);
	return status;
}

kvp_status kvp_store_delete(kvp_store *store, const char *key, int timeout_ms)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_delete};

	return delete_key(store, "kvp_store_delete", key, &msg, timeout_ms);
}

kvp_status kvpi_store_delete_if(
    kvp_store *store, const char *key, const void *expected, size_t expected_len, int timeout_ms)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_delete,
	    .u.store_delete = {.expected = kvpi_view_of(expected, expected_len),
	        .present = KVPI_HAS(store_delete, expected)}};

	return delete_key(store, "kvp_store_delete", key, &msg, timeout_ms);
}

/* ---- wait and take ---- */

/* Time kept for the server's answer at the end of a wait: without it nobody knows which keys are
 * missing, nor whether a take took them. */
static int answer_ms(int ms)
{
	return ms / 8 < 1 ? 1 : ms / 8 > 500 ? 500 : ms / 8;
}

/* How long the server may park a call. */
int kvpi_store_park_ms(int ms)
{
	return ms > answer_ms(ms) ? ms - answer_ms(ms) : 0;
}

/* When a wait is over, answer or not.  A short one leaves a busy server too little time: then the
 * answer may come somewhat later than asked for. */
int64_t kvpi_store_wait_deadline(int ms)
{
	const int late_ms =
	    ms > 0 && answer_ms(ms) < ANSWER_LEAST_MS ? ANSWER_LEAST_MS - answer_ms(ms) : 0;

	return deadline_in(ms) + late_ms * KVPI_NS_PER_MS;
}

static kvp_status check_keys(const char *name, const char *const *keys, size_t count)
{
	size_t bytes = 0;

	if (keys == NULL || count == 0)
		return kvpi_error(KVP_E_INVALID, "%s: no keys are given", name);
	if (count > KEYS_MAX)
		return kvpi_error(KVP_E_TOO_LARGE, "%s: %zu keys are given, at most %d are allowed",
		    name, count, KEYS_MAX);
	for (size_t i = 0; i < count; i++) {
		const kvp_status status = check_key(name, keys[i]);

		if (status != KVP_OK)
			return status;
		bytes += strlen(keys[i]);
	}
	if (bytes > KEYS_BYTES_MAX)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "%s: the keys have %zu bytes together, at most %d are allowed", name, bytes,
		    KEYS_BYTES_MAX);
	return KVP_OK;
}

/* The sentence of a time-out. */
static kvp_status name_missing(
    const kvp_store *store, const char *name, const char *const *keys, const answer *a, int ms)
{
	char names[NAMED_MAX * (SHOWN_MAX + 8) + 32] = "", shown[SHOWN_MAX + 4];
	size_t missing = 0, len = 0;

	for (size_t i = 0; i < a->missing_count; i++) {
		if (!a->missing[i])
			continue;
		if (missing < NAMED_MAX)
			len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s",
			    missing > 0 ? ", " : "", show(keys[i], shown));
		missing++;
	}
	if (missing > NAMED_MAX)
		snprintf(names + len, sizeof(names) - len, " and %zu more", missing - NAMED_MAX);
	return kvpi_error(KVP_E_TIMEOUT,
	    "%s: %zu of %zu keys are missing after %d ms in the store at %s (%s)", name, missing,
	    a->missing_count, ms, store->url, names);
}

static kvp_status wait_for(kvp_store *store, const char *name, const char *const *keys,
    size_t count, kvp_bytes *values, unsigned char *missing, int timeout_ms, bool take)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_get};
	kvpi_store_call call;
	kvpi_view *views;
	answer a = {.wanted = values != NULL ? count : 0, .missing_count = count};
	int ms = 0;
	kvp_status status = kvpi_store_check(store, name);

	if (status != KVP_OK)
		return status;
	status = check_keys(name, keys, count);
	if (status != KVP_OK)
		return status;
	status = kvpi_store_timeout(store, timeout_ms, name, &ms);
	if (status != KVP_OK)
		return status;

	views = kvpi_calloc(count, sizeof(*views));
	a.missing = kvpi_calloc(count, 1);
	if (views == NULL || a.missing == NULL) {
		status = kvpi_error_nomem("a call to the store");
		goto out;
	}
	for (size_t i = 0; i < count; i++)
		views[i] = kvpi_view_text(keys[i]);
	msg.u.store_get = (kvpi_msg_store_get){.keys = {views, count},
	    .wait_ms = (uint64_t)kvpi_store_park_ms(ms),
	    .take = take,
	    .want_values = values != NULL};
	status = exchange(store, &msg, &a, kvpi_store_wait_deadline(ms), &call);

	if (status == KVP_OK && values != NULL) {
		memcpy(values, a.values, count * sizeof(*values));
		memset(a.values, 0, count * sizeof(*values));
	} else if (status == KVP_E_NOT_FOUND ||
	           (status == KVP_E_TIMEOUT && memchr(a.missing, 1, count))) {
		if (missing != NULL)
			memcpy(missing, a.missing, count);
		status = name_missing(store, name, keys, &a, ms);
	} else if (status != KVP_OK) {
		/* A time-out that the server did not confirm in time: any key may be missing. */
		if (status == KVP_E_TIMEOUT && missing != NULL)
			memset(missing, 1, count);
		status = kvpi_store_explain(store, name, count == 1 ? keys[0] : NULL, &call);
	}
out:
	free(views);
	free_answer(&a);
	return status;
}

kvp_status kvp_store_wait(kvp_store *store, const char *const *keys, size_t count,
    kvp_bytes *values, unsigned char *missing, int timeout_ms)
{
	return wait_for(store, "kvp_store_wait", keys, count, values, missing, timeout_ms, false);
}

kvp_status kvp_store_take(kvp_store *store, const char *const *keys, size_t count,
    kvp_bytes *values, unsigned char *missing, int timeout_ms)
{
	return wait_for(store, "kvp_store_take", keys, count, values, missing, timeout_ms, true);
}

/* ---- list ---- */

kvp_status kvp_store_list(kvp_store *store, const char *prefix,
    int (*each)(void *user, const char *key), void *user, int timeout_ms)
{
	static const char name[] = "kvp_store_list";
	char last[KVP_STORE_KEY_MAX + 1] = "";
	int64_t deadline_ns;
	bool more = true;
	int ms = 0;
	kvp_status status = kvpi_store_check(store, name);

	if (status != KVP_OK)
		return status;
	if (prefix == NULL || each == NULL)
		return kvpi_error(
		    KVP_E_INVALID, "%s: %s is NULL", name, prefix == NULL ? "prefix" : "each");
	if (prefix[0] != 0) {
		status = check_key(name, prefix);
		if (status != KVP_OK)
			return status;
	}
	status = kvpi_store_timeout(store, timeout_ms, name, &ms);
	if (status != KVP_OK)
		return status;

	deadline_ns = deadline_in(ms);
	while (status == KVP_OK && more) {
		kvpi_msg msg = {.id = KVPI_MSG_store_list,
		    .u.store_list = {
		        .prefix = kvpi_view_text(prefix), .after = kvpi_view_text(last)}};
		kvpi_store_call call;
		answer a = {0};

		status = exchange(store, &msg, &a, deadline_ns, &call);
		if (status != KVP_OK)
			status = kvpi_store_explain(store, name, NULL, &call);
		more = status == KVP_OK && a.number == 1 && a.keys.len > 0;
		for (size_t at = 0; status == KVP_OK && at < a.keys.len;
		     at += strlen(a.keys.data + at) + 1) {
			snprintf(last, sizeof(last), "%s", a.keys.data + at);
			if (each(user, a.keys.data + at) != 0) {
				more = false;
				break;
			}
		}
		free_answer(&a);
	}
	return status;
}
