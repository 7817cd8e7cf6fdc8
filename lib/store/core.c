/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests, parked calls, replies.  See core.h.
 *
 * Invariant between two requests: every parked wait misses a key.  Only a put makes keys appear,
 * and it is followed by wake().
 */
#include "store/core.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "store/gather.h"
#include "store/keys.h"
#include "store/once.h"
#include <stdio.h>
#include <string.h>

#define KEYS_PER_GET 1024   /* as messages.def has it */
#define KEYS_PER_LIST 16384 /* likewise */

/* What a reply needs beside its values and keys, and beside each of them; both rounded up. */
#define REPLY_BYTES 128
#define ITEM_BYTES 5

/* Parked calls may name this many keys each on average, and this many in any case: a bound for
 * memory that still lets every rank of the largest group wait for all others. */
#define PARKED_KEYS_PER_WAIT 32
#define PARKED_KEYS_MIN 4096

/* A get, wait or take: parked, or about to be answered. */
typedef struct wait {
	kvpi_list ready; /* in core->ready: all keys were there when it was put in */
	kvpi_heap_node timer;
	kvpi_zid client;
	uint64_t id;
	bool take, want_values;
	size_t missing, count;
	kvpi_store_hold holds[]; /* .key is set where it exists, also while nothing is held */
} wait;

struct kvpi_store_core {
	kvpi_store_sink sink;
	uint64_t incarnation;
	kvpi_store_keys keys;
	kvpi_store_gathers *gathers;
	kvpi_store_once once;
	kvpi_map *waits; /* the parked ones, by client and id */
	kvpi_heap timers;
	kvpi_list ready;
	size_t max_waits;
	size_t parked_keys; /* held by parked waits */
	kvpi_store_stats stats;
	/* Of the reply that is being made; too large for a stack. */
	kvpi_view views[KEYS_PER_GET];
	uint64_t indices[KEYS_PER_GET];
	kvpi_view *list;
};

kvpi_store_core *kvpi_store_core_new(
    const kvpi_store_limits *limits, uint64_t seed, uint64_t incarnation, kvpi_store_sink sink)
{
	kvpi_store_core *core = KVPI_NEW(kvpi_store_core);

	if (core == NULL)
		return NULL;
	core->sink = sink;
	core->incarnation = incarnation;
	core->max_waits = limits->max_waits;
	kvpi_heap_init(&core->timers);
	kvpi_list_init(&core->ready);
	core->waits = kvpi_map_new(seed + 1);
	if (kvpi_store_keys_init(&core->keys, seed, limits->max_bytes, limits->max_keys) !=
	        KVP_OK ||
	    core->waits == NULL) {
		kvpi_store_core_free(core);
		return NULL;
	}
	core->gathers = kvpi_store_gathers_new(seed + 2, incarnation, &core->sink, &core->keys);
	if (core->gathers == NULL || kvpi_store_once_init(&core->once, seed + 3) != KVP_OK) {
		kvpi_store_core_free(core);
		return NULL;
	}
	return core;
}

void kvpi_store_core_free(kvpi_store_core *core)
{
	size_t cursor = 0, len;
	const void *name;
	void *parked;

	if (core == NULL)
		return;
	kvpi_store_gathers_free(core->gathers);
	kvpi_store_once_fini(&core->once);
	kvpi_heap_fini(&core->timers);
	kvpi_store_keys_fini(&core->keys);
	while (core->waits != NULL && kvpi_map_next(core->waits, &cursor, &name, &len, &parked))
		free(parked);
	kvpi_map_free(core->waits);
	free(core);
}

kvpi_store_stats *kvpi_store_core_stats(kvpi_store_core *core)
{
	return &core->stats;
}

static size_t parked(const kvpi_store_core *core)
{
	return kvpi_map_count(core->waits) + kvpi_store_gathers_parked(core->gathers);
}

static void publish_gauges(kvpi_store_core *core)
{
	atomic_store_explicit(&core->stats.keys, core->keys.existing, memory_order_relaxed);
	atomic_store_explicit(&core->stats.bytes, core->keys.bytes, memory_order_relaxed);
	atomic_store_explicit(&core->stats.waits, parked(core), memory_order_relaxed);
	atomic_store_explicit(&core->stats.gathers, kvpi_store_gathers_count(core->gathers),
	    memory_order_relaxed);
}

/* ---- replies ---- */

static kvpi_msg_store_reply reply_to(const kvpi_store_core *core, uint64_t id)
{
	return (kvpi_msg_store_reply){.id = id, .incarnation = core->incarnation};
}

static kvp_status send_reply(
    kvpi_store_core *core, const kvpi_zid *client, const kvpi_msg_store_reply *reply)
{
	return core->sink.reply(core->sink.user, client, reply);
}

/* Adds a status and this thread's sentence about it. */
static void set_error(kvpi_msg_store_reply *reply, kvp_status status)
{
	reply->status = status;
	reply->text = kvpi_view_text(kvp_last_error());
	reply->present |= KVPI_HAS(store_reply, text);
}

static kvp_status check_answer(const wait *w)
{
	size_t bytes = REPLY_BYTES;

	for (size_t i = 0; w->want_values && i < w->count; i++)
		bytes += w->holds[i].key->len + ITEM_BYTES;
	if (bytes > KVPI_STORE_FRAME_MAX)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the values of the %zu keys have %zu bytes together, more than a reply of %u "
		    "holds",
		    w->count, bytes, KVPI_STORE_FRAME_MAX);
	return KVP_OK;
}

/* All keys of the wait exist, and it holds none: replies, and takes if it is a take. */
static void answer(kvpi_store_core *core, wait *w)
{
	kvpi_msg_store_reply reply = reply_to(core, w->id);
	const kvp_status status = check_answer(w);

	if (status != KVP_OK) {
		set_error(&reply, status);
		send_reply(core, &w->client, &reply);
		return;
	}
	if (w->want_values) {
		for (size_t i = 0; i < w->count; i++)
			core->views[i] = kvpi_view_of(w->holds[i].key->value, w->holds[i].key->len);
		reply.values = (kvpi_views){core->views, w->count};
		reply.present |= KVPI_HAS(store_reply, values);
	}
	/* A client that died long ago must not take the keys from those who live. */
	if (send_reply(core, &w->client, &reply) != KVP_OK || !w->take)
		return;
	for (size_t i = 0; i < w->count; i++)
		kvpi_store_keys_take(&core->keys, w->holds[i].key);
}

/* Some keys are missing: says which. */
static void answer_missing(kvpi_store_core *core, const wait *w, kvp_status status)
{
	kvpi_msg_store_reply reply = reply_to(core, w->id);
	size_t n = 0;

	for (size_t i = 0; i < w->count; i++)
		if (w->holds[i].key == NULL || !w->holds[i].key->exists)
			core->indices[n++] = i;
	reply.status = status;
	reply.missing = (kvpi_uints){core->indices, n};
	reply.present |= KVPI_HAS(store_reply, missing);
	send_reply(core, &w->client, &reply);
}

/* ---- parked calls ---- */

/* A parked wait's name in core->waits. */
typedef struct wait_name {
	unsigned char bytes[sizeof(((kvpi_zid *)0)->bytes) + sizeof(uint64_t)];
	size_t len;
} wait_name;

static wait_name name_wait(const kvpi_zid *client, uint64_t id)
{
	wait_name name = {.len = client->len + sizeof(id)};

	memcpy(name.bytes, client->bytes, client->len);
	memcpy(name.bytes + client->len, &id, sizeof(id));
	return name;
}

static bool is_parked(const kvpi_store_core *core, const kvpi_zid *client, uint64_t id)
{
	const wait_name name = name_wait(client, id);

	return kvpi_map_get(core->waits, name.bytes, name.len) != NULL;
}

static void release_keys(kvpi_store_core *core, wait *w)
{
	for (size_t i = 0; i < w->count && kvpi_list_linked(&w->holds[i].node); i++) {
		kvpi_store_keys_release(&core->keys, &w->holds[i]);
		core->parked_keys--;
	}
}

static kvp_status hold_keys(kvpi_store_core *core, wait *w, kvpi_views names)
{
	const size_t most = PARKED_KEYS_MIN + PARKED_KEYS_PER_WAIT * core->max_waits;
	kvp_status status = KVP_OK;

	if (w->count > most - core->parked_keys)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the store is full: parked calls name %zu keys, %zu is the most they may",
		    core->parked_keys, most);
	for (size_t i = 0; i < w->count && status == KVP_OK; i++) {
		status =
		    kvpi_store_keys_hold(&core->keys, names.items[i], &w->holds[i], &w->missing);
		core->parked_keys += status == KVP_OK;
	}
	if (status != KVP_OK)
		release_keys(core, w);
	return status;
}

static kvp_status park(kvpi_store_core *core, wait *w, kvpi_views names, int64_t deadline_ns)
{
	const wait_name name = name_wait(&w->client, w->id);
	kvp_status status;

	if (parked(core) >= core->max_waits)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the store is full: %zu calls are parked, the most that may", parked(core));
	if (kvpi_map_get(core->waits, name.bytes, name.len) != NULL)
		return kvpi_error(KVP_E_INVALID, "a call with this id is parked already");

	status = hold_keys(core, w, names);
	if (status != KVP_OK)
		return status;
	status = kvpi_heap_push(&core->timers, &w->timer, deadline_ns);
	if (status != KVP_OK)
		goto release;
	status = kvpi_map_put(core->waits, name.bytes, name.len, w, NULL);
	if (status != KVP_OK)
		goto remove_timer;
	return KVP_OK;

remove_timer:
	kvpi_heap_remove(&core->timers, &w->timer);
release:
	release_keys(core, w);
	return status;
}

static void unpark(kvpi_store_core *core, wait *w)
{
	const wait_name name = name_wait(&w->client, w->id);

	kvpi_map_remove(core->waits, name.bytes, name.len);
	kvpi_heap_remove(&core->timers, &w->timer);
	release_keys(core, w);
}

/* The key has appeared: answers those who waited for it and miss nothing else, in order of arrival,
 * as far as the ones before have left them something. */
static void wake(kvpi_store_core *core, kvpi_store_key *key)
{
	KVPI_LIST_FOREACH (pos, nxt, &key->holds) {
		const kvpi_store_hold *hold = KVPI_CONTAINER_OF(pos, kvpi_store_hold, node);
		wait *w = KVPI_CONTAINER_OF(hold->missing, wait, missing);

		/* A call that names the key twice is on its list twice. */
		if (w->missing == 0 && !kvpi_list_linked(&w->ready))
			kvpi_list_append(&core->ready, &w->ready);
	}
	for (kvpi_list *node; (node = kvpi_list_first(&core->ready)) != NULL;) {
		wait *w = KVPI_CONTAINER_OF(node, wait, ready);

		kvpi_list_remove(node);
		if (w->missing > 0)
			continue;
		unpark(core, w);
		answer(core, w);
		free(w);
	}
}

/* ---- get, wait, take, cancel ---- */

static int compare_views(const void *left, const void *right)
{
	const kvpi_view *a = left, *b = right;
	const int order = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);

	return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

static kvp_status check_get(kvpi_store_core *core, const kvpi_msg_store_get *get)
{
	kvp_status status = KVP_OK;

	if (get->keys.count == 0)
		return kvpi_error(KVP_E_INVALID, "no key is named");
	for (size_t i = 0; i < get->keys.count && status == KVP_OK; i++)
		status = kvpi_store_keys_check(get->keys.items[i]);
	if (status != KVP_OK || !get->take)
		return status;

	memcpy(core->views, get->keys.items, get->keys.count * sizeof(core->views[0]));
	qsort(core->views, get->keys.count, sizeof(core->views[0]), compare_views);
	for (size_t i = 1; i < get->keys.count; i++)
		if (compare_views(&core->views[i - 1], &core->views[i]) == 0)
			return kvpi_error(KVP_E_INVALID, "a take names a key twice");
	return KVP_OK;
}

/* Replies, or parks the call; an error is the caller's to reply. */
static kvp_status handle_get(
    kvpi_store_core *core, const kvpi_zid *client, const kvpi_msg_store_get *get, int64_t now_ns)
{
	kvp_status status = check_get(core, get);
	wait *w;

	if (status != KVP_OK)
		return status;
	/* A client that is not sure whether a wait has gone with its connection says it again, maybe on the same one. */
	if (!get->take && is_parked(core, client, get->id))
		return KVP_OK;
	w = kvpi_calloc(1, sizeof(*w) + get->keys.count * sizeof(w->holds[0]));
	if (w == NULL)
		return kvpi_error_nomem("a call to the store");
	w->client = *client;
	w->id = get->id;
	w->take = get->take;
	w->want_values = get->want_values;
	w->count = get->keys.count;
	for (size_t i = 0; i < w->count; i++) {
		w->holds[i].key = kvpi_store_keys_find(&core->keys, get->keys.items[i]);
		w->missing += w->holds[i].key == NULL;
	}

	if (w->missing == 0) {
		answer(core, w);
	} else if (get->wait_ms == 0) {
		answer_missing(core, w, KVP_E_NOT_FOUND);
	} else {
		status = park(core, w, get->keys, kvpi_deadline_ms(now_ns, (int64_t)get->wait_ms));
		if (status == KVP_OK)
			return KVP_OK; /* the core has it now */
	}
	free(w);
	return status;
}

/* Has no reply: whoever cancels does not listen any more. */
static void handle_cancel(kvpi_store_core *core, const kvpi_zid *client, uint64_t id)
{
	const wait_name name = name_wait(client, id);
	wait *w = kvpi_map_get(core->waits, name.bytes, name.len);

	if (w == NULL)
		return; /* answered meanwhile */
	unpark(core, w);
	free(w);
}

/* ---- set, add, compare-and-set, delete ---- */

static kvp_status put(
    kvpi_store_core *core, kvpi_view name, kvpi_view value, int64_t expires_ns, uint32_t uses)
{
	kvp_status status = kvpi_store_keys_check(name);
	kvpi_store_key *key;
	bool appeared;

	if (status != KVP_OK)
		return status;
	status = kvpi_store_keys_put(&core->keys, name, value, expires_ns, uses, &key, &appeared);
	if (status != KVP_OK)
		return status;
	if (appeared)
		wake(core, key);
	return KVP_OK;
}

static kvp_status handle_set(kvpi_store_core *core, const kvpi_msg_store_set *set, int64_t now_ns)
{
	const bool expires = set->present & KVPI_HAS(store_set, ttl_ms);
	const bool counts = set->present & KVPI_HAS(store_set, uses);

	return put(core, set->key, set->value,
	    expires ? kvpi_deadline_ms(now_ns, (int64_t)set->ttl_ms) : KVPI_NEVER,
	    counts ? (uint32_t)set->uses : 0);
}

/* A decimal integer and nothing else. */
static bool parse_integer(const char *text, size_t len, int64_t *number)
{
	const bool negative = len > 0 && text[0] == '-';
	int64_t sum = 0;

	if (len == (size_t)negative)
		return false;
	for (size_t i = negative; i < len; i++) {
		const int digit = text[i] - '0';

		if (digit < 0 || digit > 9 || __builtin_mul_overflow(sum, 10, &sum) ||
		    __builtin_add_overflow(sum, negative ? -digit : digit, &sum))
			return false;
	}
	*number = sum;
	return true;
}

/* The key's time to live and uses stay as they are. */
static kvp_status add(kvpi_store_core *core, const kvpi_msg_store_add *msg, int64_t *result)
{
	const kvpi_store_key *key = kvpi_store_keys_find(&core->keys, msg->key);
	int64_t sum = 0;
	char text[24];
	kvp_status status;

	if (key != NULL && !parse_integer(key->value, key->len, &sum))
		return kvpi_error(KVP_E_CONFLICT, "the value is not a decimal integer of 64 bits");
	if (__builtin_add_overflow(sum, msg->delta, &sum))
		return kvpi_error(KVP_E_CONFLICT, "the sum would not fit into 64 bits");
	snprintf(text, sizeof(text), "%lld", (long long)sum);
	status = put(core, msg->key, kvpi_view_text(text),
	    key != NULL && key->ttl.index != 0 ? key->ttl.key : KVPI_NEVER,
	    key != NULL ? key->uses : 0);
	if (status == KVP_OK)
		*result = sum;
	return status;
}

/* Adds, if it was not done before under this name. */
static kvp_status add_once(
    kvpi_store_core *core, const kvpi_msg_store_add *msg, int64_t *sum, int64_t now_ns)
{
	kvpi_store_once_entry *entry;
	kvp_status status;

	if (kvpi_store_once_find(&core->once, msg->once, sum))
		return KVP_OK;
	if (msg->present & KVPI_HAS(store_add, age_ms) &&
	    !kvpi_store_once_reaches(
	        &core->once, now_ns - (int64_t)msg->age_ms * KVPI_NS_PER_MS))
		return kvpi_error(KVP_E_STORE_LOST,
		    "the reply was lost, and the store has done too much since to remember "
		    "whether it added; the call may or may not have taken place");
	status = kvpi_store_once_begin(&core->once, msg->once, now_ns, &entry);
	if (status != KVP_OK)
		return status;
	status = add(core, msg, sum);
	if (status == KVP_OK)
		kvpi_store_once_done(entry, *sum);
	else
		kvpi_store_once_cancel(&core->once, entry);
	return status;
}

static kvp_status handle_add(kvpi_store_core *core, const kvpi_msg_store_add *msg,
    kvpi_msg_store_reply *reply, int64_t now_ns)
{
	const bool once = msg->present & KVPI_HAS(store_add, once);
	const kvp_status status = once ? add_once(core, msg, &reply->number, now_ns)
	                               : add(core, msg, &reply->number);

	if (status == KVP_OK)
		reply->present |= KVPI_HAS(store_reply, number);
	return status;
}

/* Sets as a set without options does. */
static kvp_status handle_compare_set(
    kvpi_store_core *core, const kvpi_msg_store_compare_set *cas, kvpi_msg_store_reply *reply)
{
	const kvpi_store_key *key = kvpi_store_keys_find(&core->keys, cas->key);
	const bool expects = cas->present & KVPI_HAS(store_compare_set, expected);

	if (key == NULL && expects)
		return kvpi_error(KVP_E_CONFLICT, "the key does not exist");
	if (key != NULL) {
		core->views[0] = kvpi_view_of(key->value, key->len);
		if (!expects || !kvpi_view_equal(core->views[0], cas->expected)) {
			reply->values = (kvpi_views){core->views, 1};
			reply->present |= KVPI_HAS(store_reply, values);
			return kvpi_error(KVP_E_CONFLICT, "%s",
			    expects ? "the key has another value" : "the key exists");
		}
	}
	return put(core, cas->key, cas->desired, KVPI_NEVER, 0);
}

static kvp_status handle_delete(kvpi_store_core *core, const kvpi_msg_store_delete *del)
{
	kvpi_store_key *key = kvpi_store_keys_find(&core->keys, del->key);

	if (key == NULL)
		return kvpi_error(KVP_E_NOT_FOUND, "the key does not exist");
	if (del->present & KVPI_HAS(store_delete, expected) &&
	    !kvpi_view_equal(kvpi_view_of(key->value, key->len), del->expected))
		return kvpi_error(KVP_E_CONFLICT, "the key has another value");
	kvpi_store_keys_drop(&core->keys, key);
	return KVP_OK;
}

/* ---- list, open, ping ---- */

static bool is_listed(const kvpi_store_key *key, const kvpi_msg_store_list *list)
{
	const kvpi_view name = kvpi_view_of(key->name, key->name_len);

	return key->exists && name.len >= list->prefix.len &&
	       kvpi_view_equal(kvpi_view_of(name.data, list->prefix.len), list->prefix) &&
	       (list->after.len == 0 || compare_views(&name, &list->after) > 0);
}

/* Puts the names that are asked for into `out` (NULL: only counts them), in no order. */
static size_t collect(const kvpi_store_core *core, const kvpi_msg_store_list *list, kvpi_view *out)
{
	size_t cursor = 0, len, n = 0;
	const void *name;
	void *value;

	while (kvpi_map_next(core->keys.map, &cursor, &name, &len, &value)) {
		const kvpi_store_key *key = value;

		if (!is_listed(key, list))
			continue;
		if (out != NULL)
			out[n] = kvpi_view_of(key->name, key->name_len);
		n++;
	}
	return n;
}

static kvp_status handle_list(
    kvpi_store_core *core, const kvpi_msg_store_list *list, kvpi_msg_store_reply *reply)
{
	const size_t count = collect(core, list, NULL);
	size_t n = 0, bytes = REPLY_BYTES;

	core->list = kvpi_calloc(count + 1, sizeof(*core->list)); /* freed when the reply is out */
	if (core->list == NULL)
		return kvpi_error_nomem("a list of keys");
	collect(core, list, core->list);
	qsort(core->list, count, sizeof(*core->list), compare_views);
	while (n < count && n < KEYS_PER_LIST &&
	       bytes + core->list[n].len + ITEM_BYTES <= KVPI_STORE_FRAME_MAX)
		bytes += core->list[n++].len + ITEM_BYTES;
	reply->keys = (kvpi_views){core->list, n};
	reply->number = n < count;
	reply->present |= KVPI_HAS(store_reply, keys) | KVPI_HAS(store_reply, number);
	return KVP_OK;
}

static kvp_status handle_open(const kvpi_msg_store_open *open, kvpi_msg_store_reply *reply)
{
	const uint64_t version =
	    open->version_max < KVPI_WIRE_VERSION_MAX ? open->version_max : KVPI_WIRE_VERSION_MAX;

	if (version < open->version_min || version < KVPI_WIRE_VERSION_MIN)
		return kvpi_error(KVP_E_VERSION,
		    "the store speaks protocol versions %d to %d, the client %llu to %llu",
		    KVPI_WIRE_VERSION_MIN, KVPI_WIRE_VERSION_MAX,
		    (unsigned long long)open->version_min, (unsigned long long)open->version_max);
	reply->number = (int64_t)version;
	reply->present |= KVPI_HAS(store_reply, number);
	return KVP_OK;
}

/* The number names the connection: whoever sees it change has a new one, and its parked calls hang
 * on the old one, for nobody. */
static void handle_ping(const kvpi_zid *client, kvpi_msg_store_reply *reply)
{
	uint64_t name = 0;

	for (size_t i = 0; i < client->len; i++)
		name = name * 257 + client->bytes[i];
	reply->number = (int64_t)(name & INT64_MAX);
	reply->present |= KVPI_HAS(store_reply, number);
}

/* ---- time ---- */

/* Drops keys and ends parked calls whose time has come. */
static void run_out(kvpi_store_core *core, int64_t now_ns)
{
	kvpi_heap_node *node;

	/* Keys first: a call that ends at the same moment is told that they are gone. */
	while (kvpi_store_keys_expire(&core->keys, now_ns))
		kvpi_counter_add(&core->stats.expired, 1);
	while ((node = kvpi_heap_peek(&core->timers)) != NULL && node->key <= now_ns) {
		wait *w = KVPI_CONTAINER_OF(node, wait, timer);

		answer_missing(core, w, KVP_E_TIMEOUT);
		unpark(core, w);
		free(w);
		kvpi_counter_add(&core->stats.wait_timeouts, 1);
	}
	kvpi_store_once_advance(&core->once, now_ns);
	kvpi_counter_add(
	    &core->stats.wait_timeouts, kvpi_store_gathers_advance(core->gathers, now_ns));
}

/* ---- all requests ---- */

/* So that the id of a request can be read and written without asking for its kind. */
#define BEGINS_WITH_ID(name)                                                                       \
	_Static_assert(offsetof(kvpi_msg_##name, id) == 0, #name " begins with its id")
BEGINS_WITH_ID(store_open);
BEGINS_WITH_ID(store_ping);
BEGINS_WITH_ID(store_set);
BEGINS_WITH_ID(store_get);
BEGINS_WITH_ID(store_cancel);
BEGINS_WITH_ID(store_add);
BEGINS_WITH_ID(store_compare_set);
BEGINS_WITH_ID(store_delete);
BEGINS_WITH_ID(store_list);
BEGINS_WITH_ID(store_gather);

kvp_status kvpi_store_core_handle(
    kvpi_store_core *core, const kvpi_zid *client, const kvpi_msg *msg, int64_t now_ns)
{
	kvpi_msg_store_reply reply;
	kvp_status status = KVP_OK;

	if (msg->id < KVPI_MSG_store_open || msg->id > KVPI_MSG_store_gather ||
	    msg->id == KVPI_MSG_store_reply)
		return kvpi_error(
		    KVP_E_PROTOCOL, "%s is not a request to a store", kvpi_msg_name(msg->id));
	kvpi_counter_add(&core->stats.requests[msg->id - KVPI_MSG_store_open], 1);
	run_out(core, now_ns);

	reply = reply_to(core, msg->u.store_ping.id);
	switch (msg->id) {
	case KVPI_MSG_store_get:
		status = handle_get(core, client, &msg->u.store_get, now_ns);
		if (status == KVP_OK)
			goto done; /* replies itself, now or later */
		break;
	case KVPI_MSG_store_gather:
		status = kvpi_store_gathers_handle(core->gathers, client, &msg->u.store_gather,
		    parked(core) < core->max_waits ? core->max_waits - parked(core) : 0, now_ns);
		if (status == KVP_OK)
			goto done; /* likewise */
		break;
	case KVPI_MSG_store_cancel:
		handle_cancel(core, client, msg->u.store_cancel.id);
		goto done;
	case KVPI_MSG_store_open:
		status = handle_open(&msg->u.store_open, &reply);
		break;
	case KVPI_MSG_store_ping:
		handle_ping(client, &reply);
		break;
	case KVPI_MSG_store_set:
		status = handle_set(core, &msg->u.store_set, now_ns);
		break;
	case KVPI_MSG_store_add:
		status = handle_add(core, &msg->u.store_add, &reply, now_ns);
		break;
	case KVPI_MSG_store_compare_set:
		status = handle_compare_set(core, &msg->u.store_compare_set, &reply);
		break;
	case KVPI_MSG_store_delete:
		status = handle_delete(core, &msg->u.store_delete);
		break;
	default: /* store_list: the range was checked above */
		status = handle_list(core, &msg->u.store_list, &reply);
		break;
	}
	if (status != KVP_OK)
		set_error(&reply, status);
	publish_gauges(core); /* first: who has the reply finds the numbers right */
	send_reply(core, client, &reply);
	free(core->list);
	core->list = NULL;
	return KVP_OK;
done:
	publish_gauges(core);
	return KVP_OK;
}

void kvpi_store_core_advance(kvpi_store_core *core, int64_t now_ns)
{
	run_out(core, now_ns);
	publish_gauges(core);
}

int64_t kvpi_store_core_deadline(const kvpi_store_core *core)
{
	const kvpi_heap_node *node = kvpi_heap_peek(&core->timers);
	const int64_t key_ns = kvpi_store_keys_deadline(&core->keys);
	const int64_t gather_ns = kvpi_store_gathers_deadline(core->gathers);
	const int64_t first_ns = key_ns < gather_ns ? key_ns : gather_ns;

	return node != NULL && node->key < first_ns ? node->key : first_ns;
}
