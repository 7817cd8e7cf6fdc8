/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/core_kit.h"

#include "base/error.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kvpi_store_core *core;
kvpi_clock test_clock;
record records[REPLIES_MAX];
size_t record_count;
int unreachable;
bool injecting;
uint64_t last_id;

kvpi_zid client_id(int client)
{
	return (kvpi_zid){.len = 5, .bytes = {0, 0, 0, 0, (unsigned char)client}};
}

static void join_bytes(char *out, size_t size, const void *bytes, size_t len, size_t index)
{
	const size_t used = strlen(out);

	snprintf(
	    out + used, size - used, "%s%.*s", index > 0 ? "|" : "", (int)len, (const char *)bytes);
}

kvp_status record_reply(void *user, const kvpi_zid *to, const kvpi_msg_store_reply *reply)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_reply, .u.store_reply = *reply};
	kvpi_buf frame = {0};
	record *r = &records[record_count];

	ck_assert_ptr_eq(user, &test_clock);
	/* All replies can be sent. */
	if (!injecting)
		KIT_OK(kvpi_msg_encode(&msg, &frame));
	kvpi_buf_fini(&frame);
	if (to->bytes[4] == unreachable)
		return kvpi_error(KVP_E_PEER_LOST, "gone");

	ck_assert_uint_lt(record_count, REPLIES_MAX);
	ck_assert_uint_eq(reply->incarnation, INCARNATION);
	*r = (record){.client = to->bytes[4], .id = reply->id, .status = (kvp_status)reply->status};
	record_count++;
	r->has_number = reply->present & KVPI_HAS(store_reply, number);
	r->number = reply->number;
	if (reply->present & KVPI_HAS(store_reply, values))
		r->value_count = reply->values.count;
	for (size_t i = 0; i < r->value_count; i++)
		join_bytes(r->values, sizeof(r->values), reply->values.items[i].data,
		    reply->values.items[i].len, i);
	if (reply->present & KVPI_HAS(store_reply, missing))
		r->missing_count = reply->missing.count;
	for (size_t i = 0; i < r->missing_count; i++) {
		char number[24];

		snprintf(number, sizeof(number), "%d", (int)reply->missing.items[i]);
		join_bytes(r->missing, sizeof(r->missing), number, strlen(number), i);
	}
	if (reply->present & KVPI_HAS(store_reply, keys))
		r->key_count = reply->keys.count;
	if (r->key_count > 0) {
		const kvpi_view *keys = reply->keys.items;

		snprintf(r->first_key, sizeof(r->first_key), "%.*s", (int)keys[0].len,
		    (const char *)keys[0].data);
		snprintf(r->last_key, sizeof(r->last_key), "%.*s", (int)keys[r->key_count - 1].len,
		    (const char *)keys[r->key_count - 1].data);
	}
	if (reply->present & KVPI_HAS(store_reply, text))
		snprintf(r->text, sizeof(r->text), "%.*s", (int)reply->text.len,
		    (const char *)reply->text.data);
	return KVP_OK;
}

void start_with(uint64_t max_bytes, size_t max_keys, size_t max_waits)
{
	const kvpi_store_limits limits = {max_bytes, max_keys, max_waits};

	kvpi_clock_manual_init(&test_clock, 1000);
	core = kvpi_store_core_new(
	    &limits, 1, INCARNATION, (kvpi_store_sink){record_reply, &test_clock});
	ck_assert_ptr_nonnull(core);
	ck_assert_int_eq(kvpi_store_core_deadline(core), KVPI_NEVER);
}

void start(void)
{
	start_with(1 << 20, 1000, 1000);
}

/* Ends the test: nothing more was said than was looked at. */
void finish(void)
{
	ck_assert_uint_eq(record_count, 0);
	kvpi_store_core_free(core);
	core = NULL;
}

void advance_ms(int64_t ms)
{
	kvpi_clock_manual_advance(&test_clock, ms * KVPI_NS_PER_MS);
	kvpi_store_core_advance(core, kvpi_now(&test_clock));
}

/* The reply to a request, which must have come; it is forgotten with the next one. */
record *reply_to(int client, uint64_t id)
{
	static record found;

	for (size_t i = 0; i < record_count; i++) {
		if (records[i].client != client || records[i].id != id)
			continue;
		found = records[i];
		memmove(&records[i], &records[i + 1], (record_count - i - 1) * sizeof(records[0]));
		record_count--;
		return &found;
	}
	ck_abort_msg("no reply to request %d of client %d", (int)id, client);
	return NULL;
}

void handle(int client, const kvpi_msg *msg)
{
	const kvpi_zid id = client_id(client);

	KIT_OK(kvpi_store_core_handle(core, &id, msg, kvpi_now(&test_clock)));
}

record *set_with(
    int client, const char *key, kvpi_view value, uint64_t ttl_ms, uint64_t uses)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_set,
	    .u.store_set = {.id = ++last_id,
	        .key = kvpi_view_text(key),
	        .value = value,
	        .ttl_ms = ttl_ms,
	        .uses = uses,
	        .present = (ttl_ms > 0 ? KVPI_HAS(store_set, ttl_ms) : 0) |
	                   (uses > 0 ? KVPI_HAS(store_set, uses) : 0)}};

	handle(client, &msg);
	return reply_to(client, msg.u.store_set.id);
}

void set(const char *key, const char *value)
{
	ck_assert_int_eq(set_with(1, key, kvpi_view_text(value), 0, 0)->status, KVP_OK);
}

void set_uses(const char *key, const char *value, uint64_t uses)
{
	ck_assert_int_eq(set_with(1, key, kvpi_view_text(value), 0, uses)->status, KVP_OK);
}

void set_ttl(const char *key, const char *value, uint64_t ttl_ms)
{
	ck_assert_int_eq(set_with(1, key, kvpi_view_text(value), ttl_ms, 0)->status, KVP_OK);
}

/* Keys are separated by blanks.  Returns the request's id. */
uint64_t ask(int client, const char *keys, bool take, uint64_t wait_ms)
{
	kvpi_view views[16];
	size_t n = 0;

	for (const char *key = keys; *key != 0; n++) {
		views[n] = kvpi_view_of(key, strcspn(key, " "));
		key += views[n].len + (key[views[n].len] == ' ');
	}
	const kvpi_msg msg = {.id = KVPI_MSG_store_get,
	    .u.store_get = {.id = ++last_id,
	        .keys = {views, n},
	        .wait_ms = wait_ms,
	        .take = take,
	        .want_values = 1}};
	handle(client, &msg);
	return msg.u.store_get.id;
}

record *get(const char *keys)
{
	return reply_to(1, ask(1, keys, false, 0));
}

record *take(const char *keys)
{
	return reply_to(1, ask(1, keys, true, 0));
}

void check_value(const char *key, const char *value)
{
	record *r = get(key);

	ck_assert_int_eq(r->status, KVP_OK);
	ck_assert_str_eq(r->values, value);
}

void check_absent(const char *key)
{
	ck_assert_int_eq(get(key)->status, KVP_E_NOT_FOUND);
}

void delete (const char *key, kvp_status expected)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_delete,
	    .u.store_delete = {.id = ++last_id, .key = kvpi_view_text(key)}};

	handle(1, &msg);
	ck_assert_int_eq(reply_to(1, msg.u.store_delete.id)->status, expected);
}

record *add(const char *key, int64_t delta)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_add,
	    .u.store_add = {.id = ++last_id, .key = kvpi_view_text(key), .delta = delta}};

	handle(1, &msg);
	return reply_to(1, msg.u.store_add.id);
}

record *compare_set(const char *key, const char *expected, const char *desired)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_compare_set,
	    .u.store_compare_set = {.id = ++last_id,
	        .key = kvpi_view_text(key),
	        .expected = kvpi_view_text(expected),
	        .desired = kvpi_view_text(desired),
	        .present = expected != NULL ? KVPI_HAS(store_compare_set, expected) : 0}};

	handle(1, &msg);
	return reply_to(1, msg.u.store_compare_set.id);
}

record *list(const char *prefix, const char *after)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_list,
	    .u.store_list = {
	        .id = ++last_id, .prefix = kvpi_view_text(prefix), .after = kvpi_view_text(after)}};

	handle(1, &msg);
	return reply_to(1, msg.u.store_list.id);
}

void cancel(int client, uint64_t id)
{
	const kvpi_msg msg = {.id = KVPI_MSG_store_cancel, .u.store_cancel = {.id = id}};

	handle(client, &msg);
}

uint64_t gauge(kvpi_counter *counter)
{
	return kvpi_counter_get(counter);
}

/* Nothing is held for anybody. */
void check_empty(void)
{
	kvpi_store_stats *stats = kvpi_store_core_stats(core);

	ck_assert_uint_eq(gauge(&stats->keys), 0);
	ck_assert_uint_eq(gauge(&stats->bytes), 0);
	ck_assert_uint_eq(gauge(&stats->waits), 0);
}
