/* SPDX-License-Identifier: Apache-2.0
 *
 * How groups use the store: time, keys, one key, one key of each rank.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "store/client.h"
#include "store/group.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define KEYS_BYTES_MAX (64 * 1024) /* of one store call */
#define NAMED_MAX 8                /* ranks in a sentence */
#define OBJECT_TTL_MS (INT64_C(3600) * 1000)

/* ---- calls, time, keys ---- */

kvp_status kvpi_group_op_begin(
    kvpi_group_op *op, const kvp_store *store, const char *call, int timeout_ms)
{
	op->call = call;
	const kvp_status status = kvpi_store_timeout(store, timeout_ms, call, &op->ms);

	op->deadline_ns = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), op->ms);
	return status;
}

kvp_status kvpi_group_time_left(const kvpi_group_op *op, int *ms)
{
	*ms = kvpi_ms_left(op->deadline_ns, kvpi_now(&kvpi_clock_real));
	if (*ms == 0 && op->ms > 0)
		return kvpi_error(KVP_E_TIMEOUT, "%s: the time of %d ms ran out", op->call, op->ms);
	return KVP_OK;
}

kvp_status kvpi_group_op_part(
    const kvpi_group_op *op, int divisor, int most_ms, kvpi_group_op *part)
{
	int ms;
	const kvp_status status = kvpi_group_time_left(op, &ms);

	if (status != KVP_OK)
		return status;
	*part = *op;
	part->ms = ms / divisor < most_ms ? ms / divisor : most_ms;
	part->deadline_ns = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), part->ms);
	return KVP_OK;
}

void kvpi_group_key(const kvp_group *group, char key[KVPI_GROUP_KEY_BYTES], const char *fmt, ...)
{
	const int len = snprintf(key, KVPI_GROUP_KEY_BYTES, "g/%s/", group->name);
	va_list args;

	va_start(args, fmt);
	vsnprintf(key + len, KVPI_GROUP_KEY_BYTES - (size_t)len, fmt, args);
	va_end(args);
}

int64_t kvpi_group_ttl_ms(const kvpi_group_op *op)
{
	return 2 * (int64_t)op->ms > OBJECT_TTL_MS ? 2 * (int64_t)op->ms : OBJECT_TTL_MS;
}

kvp_status kvpi_group_put(const kvp_group *group, const kvpi_group_op *op, const char *key,
    const void *value, size_t len, uint32_t uses)
{
	kvp_store_set_options options;
	int ms;
	const kvp_status status = kvpi_group_time_left(op, &ms);

	if (status != KVP_OK)
		return status;
	kvp_store_set_options_init(&options);
	options.uses = uses;
	options.ttl_ms = kvpi_group_ttl_ms(op);
	return kvp_store_set(group->store, key, value, len, &options, ms);
}

kvp_status kvpi_group_take(
    const kvp_group *group, const kvpi_group_op *op, const char *key, kvp_bytes *value)
{
	int ms;
	const kvp_status status = kvpi_group_time_left(op, &ms);

	return status == KVP_OK ? kvp_store_take(group->store, &key, 1, value, NULL, ms) : status;
}

/* ---- many keys at once ---- */

void kvpi_group_keys_fini(kvpi_group_keys *keys)
{
	free(keys->text);
	free(keys->keys);
	free(keys->missing);
}

kvp_status kvpi_group_keys_init(kvpi_group_keys *keys, const kvp_group *group, const char *prefix)
{
	keys->count = (size_t)group->world_size;
	keys->text = kvpi_calloc(keys->count, sizeof(*keys->text));
	keys->keys = kvpi_calloc(keys->count, sizeof(*keys->keys));
	keys->missing = kvpi_calloc(keys->count, 1);
	if (keys->text == NULL || keys->keys == NULL || keys->missing == NULL) {
		kvpi_group_keys_fini(keys);
		return kvpi_error_nomem("the keys of a group");
	}
	for (size_t i = 0; i < keys->count; i++) {
		kvpi_group_key(group, keys->text[i], "%s%zu", prefix, i);
		keys->keys[i] = keys->text[i];
	}
	return KVP_OK;
}

/* As many of the keys from `from` on as one store call takes. */
static size_t fitting(const kvpi_group_keys *keys, size_t from)
{
	size_t n = 0, bytes = 0;

	while (from + n < keys->count) {
		bytes += strlen(keys->keys[from + n]);
		if (bytes > KEYS_BYTES_MAX)
			break;
		n++;
	}
	return n;
}

kvp_status kvpi_group_wait_all(
    const kvp_group *group, const kvpi_group_op *op, kvpi_group_keys *keys)
{
	kvp_status status = KVP_OK;
	size_t n;
	int ms;

	for (size_t at = 0; at < keys->count && status == KVP_OK; at += n) {
		n = fitting(keys, at);
		status = kvpi_group_time_left(op, &ms);
		if (status == KVP_OK)
			status = kvp_store_wait(
			    group->store, keys->keys + at, n, NULL, keys->missing + at, ms);
	}
	return status;
}

/*
 * One call, parked until all keys are there, if they fit into one.  If not, they are waited for
 * first, so that none is taken before all are there.  Values that do not fit into one reply are
 * fetched in smaller parts: nothing is taken by a call that finds them too large.
 */
kvp_status kvpi_group_take_all(
    const kvp_group *group, const kvpi_group_op *op, kvpi_group_keys *keys, kvp_bytes *values)
{
	size_t at = 0, part = keys->count, n;
	kvp_status status = KVP_OK;
	int ms;

	if (fitting(keys, 0) < keys->count)
		status = kvpi_group_wait_all(group, op, keys);
	while (at < keys->count && status == KVP_OK) {
		n = fitting(keys, at);
		n = n < part ? n : part;
		status = kvpi_group_time_left(op, &ms);
		if (status == KVP_OK)
			status = kvp_store_take(group->store, keys->keys + at, n,
			    values != NULL ? values + at : NULL, keys->missing + at, ms);
		if (status == KVP_E_TOO_LARGE && n > 1) {
			part = (n + 1) / 2;
			status = KVP_OK;
		} else if (status == KVP_OK) {
			at += n;
		}
	}
	for (size_t i = 0; status != KVP_OK && values != NULL && i < at; i++)
		kvp_bytes_free(&values[i]);
	return status;
}

kvp_status kvpi_group_name_late(
    const kvp_group *group, const kvpi_group_op *op, const unsigned char *missing)
{
	char ranks[NAMED_MAX * 6 + 32] = "";
	size_t len = 0;
	int late = 0;

	for (int i = 0; i < group->world_size; i++) {
		if (!missing[i])
			continue;
		if (late < NAMED_MAX)
			len += (size_t)snprintf(
			    ranks + len, sizeof(ranks) - len, "%s%d", late > 0 ? ", " : "", i);
		late++;
	}
	if (late == 0)
		return kvpi_error(KVP_E_TIMEOUT, "%s: group %s did not get through within %d ms",
		    op->call, group->name, op->ms);
	if (late > NAMED_MAX)
		snprintf(ranks + len, sizeof(ranks) - len, " and %d more", late - NAMED_MAX);
	return kvpi_error(KVP_E_TIMEOUT, "%s: rank%s %s of group %s did not come within %d ms",
	    op->call, late > 1 ? "s" : "", ranks, group->name, op->ms);
}
