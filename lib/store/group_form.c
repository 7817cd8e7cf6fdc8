/* SPDX-License-Identifier: Apache-2.0
 *
 * How a group forms.  Rank 0 takes all joins at once, draws an epoch that was never used before
 * (also not before a restart of the store: it is taken from the clock) and tells each rank.  Each
 * says that it is here, and with the table of hosts rank 0 says that all are.  A join belongs to
 * one process by its uuid, so that a rank that was restarted, or a process that claims the same
 * rank, is never taken for the other.  A process that has died since it joined does not say that it
 * is here: then all begin again.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/hostid.h"
#include "store/group.h"
#include "wire/auth.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define HOST_BYTES 512
#define JOIN_BYTES (HOST_BYTES + 64)
#define EPOCH_TTL_MS (INT64_C(24) * 3600 * 1000)
#define LINGER_MS 2000 /* a join outlives its call by this, for the others to see who came */
#define LOOK_MS 1000   /* between two looks at those who came, while others are awaited */
#define HERE_MS 3000 /* for all to say that they are here; at most a quarter of the time left */

/* What a rank says of itself when it joins. */
typedef struct group_join {
	char uuid[33];
	int world_size;
	char host[HOST_BYTES];
} group_join;

/* The bytes as text with a final 0; false if they do not fit or are no text. */
static bool to_text(const kvp_bytes *bytes, char *text, size_t size)
{
	if (bytes->len >= size || memchr(bytes->data, 0, bytes->len) != NULL)
		return false;
	memcpy(text, bytes->data, bytes->len);
	text[bytes->len] = 0;
	return true;
}

static bool parse_join(const kvp_bytes *bytes, group_join *join)
{
	char text[JOIN_BYTES];
	int host_at = 0;

	if (!to_text(bytes, text, sizeof(text)) ||
	    sscanf(text, "%32[0-9a-f] %d %n", join->uuid, &join->world_size, &host_at) != 2 ||
	    strlen(join->uuid) != 32 || host_at == 0 ||
	    strlen(text + host_at) >= sizeof(join->host) || strchr(text + host_at, '\n') != NULL)
		return false;
	strcpy(join->host, text + host_at);
	return true;
}

/* Tells one who joined that it will not be in the group. */
static kvp_status refuse(
    const kvp_group *group, const kvpi_group_op *op, const char *uuid, const char *why)
{
	char key[KVPI_GROUP_KEY_BYTES], value[256];

	kvpi_group_key(group, key, "form/%s", uuid);
	snprintf(value, sizeof(value), "no %s", why);
	return kvpi_group_put(group, op, key, value, strlen(value), 1);
}

/* It stays a little longer than this call, so that the others can tell who came and who did not. */
static kvp_status put_join(
    const kvp_group *group, const kvpi_group_op *op, const char *key, const void *value, size_t len)
{
	kvp_store_set_options options;
	int ms;
	const kvp_status status = kvpi_group_time_left(op, &ms);

	if (status != KVP_OK)
		return status;
	kvp_store_set_options_init(&options);
	options.ttl_ms = (int64_t)ms + LINGER_MS;
	return kvp_store_set(group->store, key, value, len, &options, ms);
}

/* Stands ready as this rank, in place of whoever did so before: if that one lives, it is told. */
static kvp_status stand_ready(
    const kvp_group *group, const kvpi_group_op *op, const group_join *own)
{
	char key[KVPI_GROUP_KEY_BYTES], value[JOIN_BYTES], why[96];
	kvp_bytes old;
	group_join other;
	int ms;
	kvp_status status = kvpi_group_time_left(op, &ms);

	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "join/%d", group->rank);
	status = kvp_store_get(group->store, key, &old, ms);
	if (status == KVP_OK) {
		if (parse_join(&old, &other) && strcmp(other.uuid, own->uuid) != 0) {
			snprintf(
			    why, sizeof(why), "another process has joined as rank %d", group->rank);
			status = refuse(group, op, other.uuid, why);
		}
		kvp_bytes_free(&old);
	}
	if (status != KVP_OK && status != KVP_E_NOT_FOUND)
		return status;

	snprintf(value, sizeof(value), "%s %d %s", own->uuid, own->world_size, own->host);
	return put_join(group, op, key, value, strlen(value));
}

/* Reads the table of hosts: a line per rank. */
static bool read_hosts(kvp_group *group, const group_join *own, const char *table, size_t len)
{
	const char *line = table, *end = table + len;
	kvpi_hostid mine, other;

	if (!kvpi_hostid_parse(&mine, own->host, strlen(own->host)))
		return false;
	for (int i = 0; i < group->world_size; i++) {
		const char *stop = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;

		if (stop == NULL || !kvpi_hostid_parse(&other, line, (size_t)(stop - line)))
			return false;
		group->peers[i].same_host =
		    i == group->rank || kvpi_hostid_same_host(&mine, &other);
		line = stop + 1;
	}
	return line == end;
}

/* Larger than any epoch before: the store counts within its life, the clock beyond. */
static kvp_status draw_epoch(kvp_group *group, const kvpi_group_op *op)
{
	kvp_store_set_options options;
	char key[KVPI_GROUP_KEY_BYTES], text[24];
	struct timespec ts;
	int64_t last = 0, now_us;
	int ms;
	kvp_status status = kvpi_group_time_left(op, &ms);

	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "epoch");
	status = kvp_store_add(group->store, key, 1, &last, ms);
	if (status != KVP_OK)
		return status;
	clock_gettime(CLOCK_REALTIME, &ts);
	now_us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	group->epoch = (uint64_t)(last > now_us ? last : now_us);

	status = kvpi_group_time_left(op, &ms);
	if (status != KVP_OK)
		return status;
	kvp_store_set_options_init(&options);
	options.ttl_ms = EPOCH_TTL_MS;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)group->epoch);
	return kvp_store_set(group->store, key, text, strlen(text), &options, ms);
}

/* Rank 0 asks those who joined for a sign of life in the new epoch, and waits for it. */
static kvp_status muster(const kvp_group *group, const kvpi_group_op *op, const group_join *joins)
{
	char key[KVPI_GROUP_KEY_BYTES], value[32], prefix[32];
	kvpi_group_op part;
	kvpi_group_keys keys;
	kvp_status status = KVP_OK;

	snprintf(value, sizeof(value), "ok %llu", (unsigned long long)group->epoch);
	for (int i = 1; i < group->world_size && status == KVP_OK; i++) {
		kvpi_group_key(group, key, "form/%s", joins[i].uuid);
		status = kvpi_group_put(group, op, key, value, strlen(value), 1);
	}
	if (status != KVP_OK)
		return status;
	snprintf(prefix, sizeof(prefix), "%llu/here/", (unsigned long long)group->epoch);
	status = kvpi_group_keys_init(&keys, group, prefix);
	if (status != KVP_OK)
		return status;
	status = kvpi_group_put(group, op, keys.keys[0], NULL, 0, 1);
	if (status == KVP_OK)
		status = kvpi_group_op_part(op, 4, HERE_MS, &part);
	if (status == KVP_OK)
		status = kvpi_group_take_all(group, &part, &keys, NULL);
	kvpi_group_keys_fini(&keys);
	return status;
}

/* Rank 0: these processes are the group, if all are alive.  *again tells if not. */
static kvp_status announce(
    kvp_group *group, const kvpi_group_op *op, const group_join *joins, bool *again)
{
	const uint32_t others = (uint32_t)group->world_size - 1;
	char key[KVPI_GROUP_KEY_BYTES];
	kvpi_buf table;
	kvp_status status;

	kvpi_buf_init(&table);
	for (int i = 0; i < group->world_size; i++)
		kvpi_buf_printf(&table, "%s\n", joins[i].host);
	if (table.failed) {
		status = kvpi_error_nomem("a group's table of hosts");
		goto out;
	}
	if (!read_hosts(group, &joins[0], table.data, table.len)) {
		status = kvpi_error(KVP_E_PROTOCOL,
		    "%s: a rank of group %s joined with a bad host id", op->call, group->name);
		goto out;
	}
	status = draw_epoch(group, op);
	if (status != KVP_OK || others == 0)
		goto out;
	status = muster(group, op, joins);
	*again = status == KVP_E_TIMEOUT;
	if (status != KVP_OK && !*again)
		goto out;
	kvpi_group_key(group, key, "%llu/hosts", (unsigned long long)group->epoch);
	status = kvpi_group_put(group, op, key, table.data, *again ? 0 : table.len, others);
out:
	kvpi_buf_fini(&table);
	return status;
}

/* Rank 0: do those who joined fit together?  Those who could be in the group are told if not. */
static kvp_status check_joins(kvp_group *group, const kvpi_group_op *op, const group_join *own,
    const kvpi_group_keys *keys, const kvp_bytes *values, group_join *joins)
{
	char why[128] = "";

	for (int i = 0; i < group->world_size; i++) {
		if (!parse_join(&values[i], &joins[i]))
			return kvpi_error(KVP_E_PROTOCOL,
			    "%s: what rank %d of group %s joined with is no join", op->call, i,
			    group->name);
		if (joins[i].world_size != group->world_size && why[0] == 0)
			snprintf(why, sizeof(why),
			    "rank %d says the world size is %d, rank 0 says %d", i,
			    joins[i].world_size, group->world_size);
	}
	if (strcmp(joins[0].uuid, own->uuid) != 0) {
		/* Another process became rank 0 while this one waited: the others are for that one.
		 */
		for (size_t i = 0; i < keys->count; i++)
			put_join(group, op, keys->keys[i], values[i].data, values[i].len);
		return kvpi_error(KVP_E_CONFLICT,
		    "%s: group %s: another process has joined as rank 0", op->call, group->name);
	}
	if (why[0] == 0)
		return KVP_OK;
	for (int i = 1; i < group->world_size; i++)
		refuse(group, op, joins[i].uuid, why);
	return kvpi_error(KVP_E_CONFLICT, "%s: group %s: %s", op->call, group->name, why);
}

/* Of one who says another world size than rank 0. */
typedef struct misfit {
	int rank; /* 0: there is none */
	group_join join;
} misfit;

static void say_sizes(const kvp_group *group, const misfit *other, char *why, size_t size)
{
	snprintf(why, size, "rank %d says the world size is %d, rank 0 says %d", other->rank,
	    other->join.world_size, group->world_size);
}

/* Looks for a misfit among those who have come, and tells the first one, by an answer that only a living process
 * takes. */
static kvp_status find_misfit(const kvp_group *group, const kvpi_group_op *op,
    const kvpi_group_keys *keys, misfit *other)
{
	char why[128];
	kvp_bytes value;
	int ms;

	for (int i = 1; i < group->world_size; i++) {
		kvp_status status = keys->missing[i] ? KVP_E_NOT_FOUND : kvpi_group_time_left(op, &ms);

		if (status == KVP_OK)
			status = kvp_store_get(group->store, keys->keys[i], &value, ms);
		if (status == KVP_E_NOT_FOUND)
			continue;
		if (status != KVP_OK)
			return status;
		const bool fits =
		    !parse_join(&value, &other->join) || other->join.world_size == group->world_size;
		kvp_bytes_free(&value);
		if (fits)
			continue;
		other->rank = i;
		say_sizes(group, other, why, sizeof(why));
		return refuse(group, op, other->join.uuid, why);
	}
	return KVP_OK;
}

/* Tells all others who have come, up to the larger of the two world sizes. */
static void refuse_all(const kvp_group *group, const kvpi_group_op *op, const misfit *other)
{
	const int most = other->join.world_size > group->world_size ? other->join.world_size : group->world_size;
	char key[KVPI_GROUP_KEY_BYTES], why[128];
	kvp_bytes value;
	group_join join;
	int ms;

	say_sizes(group, other, why, sizeof(why));
	for (int i = 1; i < most && i < KVPI_GROUP_WORLD_MAX && kvpi_group_time_left(op, &ms) == KVP_OK; i++) {
		kvpi_group_key(group, key, "join/%d", i);
		if (i == other->rank || kvp_store_get(group->store, key, &value, ms) != KVP_OK)
			continue;
		if (parse_join(&value, &join))
			refuse(group, op, join.uuid, why);
		kvp_bytes_free(&value);
	}
}

/* KVP_E_CONFLICT once the misfit has taken its answer: then it lives, and is no leftover of an earlier run, whose
 * place the right process has yet to take. */
static kvp_status check_misfit(const kvp_group *group, const kvpi_group_op *op,
    const kvpi_group_keys *keys, misfit *other)
{
	char key[KVPI_GROUP_KEY_BYTES], why[128];
	kvp_bytes value;
	int ms;
	kvp_status status;

	if (other->rank == 0)
		return find_misfit(group, op, keys, other);
	status = kvpi_group_time_left(op, &ms);
	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "form/%s", other->join.uuid);
	status = kvp_store_get(group->store, key, &value, ms);
	if (status == KVP_OK)
		kvp_bytes_free(&value);
	if (status != KVP_E_NOT_FOUND)
		return status;
	refuse_all(group, op, other);
	say_sizes(group, other, why, sizeof(why));
	return kvpi_error(KVP_E_CONFLICT, "%s: group %s: %s", op->call, group->name, why);
}

/* Takes all joins at once.  Somebody with another world size may keep the others away for ever: so it looks from time
 * to time. */
static kvp_status take_joins(
    const kvp_group *group, const kvpi_group_op *op, kvpi_group_keys *keys, kvp_bytes *values)
{
	misfit other = {0};

	for (;;) {
		kvpi_group_op part = *op;
		int ms;
		kvp_status status = kvpi_group_time_left(op, &ms);

		/* The last part is not a short one: it tells who did not come. */
		if (status == KVP_OK && ms > 2 * LOOK_MS)
			status = kvpi_group_op_part(op, 1, LOOK_MS, &part);
		if (status == KVP_OK)
			status = kvpi_group_take_all(group, &part, keys, values);
		if (status != KVP_E_TIMEOUT || part.deadline_ns == op->deadline_ns)
			return status;
		status = check_misfit(group, op, keys, &other);
		if (status != KVP_OK)
			return status;
	}
}

/* Rank 0 takes all joins and makes a group of them, or finds that it has to begin again. */
static kvp_status make_group(
    kvp_group *group, const kvpi_group_op *op, const group_join *own, bool *again)
{
	const size_t n = (size_t)group->world_size;
	kvpi_group_keys keys;
	kvp_bytes *values;
	group_join *joins;
	kvp_status status = kvpi_group_keys_init(&keys, group, "join/");

	if (status != KVP_OK)
		return status;
	values = kvpi_calloc(n, sizeof(*values));
	joins = kvpi_calloc(n, sizeof(*joins));
	if (values == NULL || joins == NULL) {
		status = kvpi_error_nomem("a group");
		goto out;
	}
	status = take_joins(group, op, &keys, values);
	if (status == KVP_E_TIMEOUT)
		status = kvpi_group_name_late(group, op, keys.missing);
	if (status != KVP_OK)
		goto out;
	status = check_joins(group, op, own, &keys, values, joins);
	if (status == KVP_OK)
		status = announce(group, op, joins, again);
	for (size_t i = 0; i < n; i++)
		kvp_bytes_free(&values[i]);
out:
	free(values);
	free(joins);
	kvpi_group_keys_fini(&keys);
	return status;
}

/* No answer came from rank 0: is anybody else missing? */
static kvp_status who_did_not_come(const kvp_group *group, const kvpi_group_op *op)
{
	const kvpi_group_op once = {.call = op->call}; /* looks, and does not wait */
	kvpi_group_keys keys;
	kvp_status status = kvpi_group_keys_init(&keys, group, "join/");

	if (status != KVP_OK)
		return status;
	status = kvpi_group_wait_all(group, &once, &keys);
	if (status == KVP_OK)
		status = kvpi_error(KVP_E_TIMEOUT,
		    "%s: rank 0 of group %s came, but did not form it within %d ms; it may have "
		    "given up or died",
		    op->call, group->name, op->ms);
	else if (status == KVP_E_TIMEOUT && keys.missing[group->rank])
		status = kvpi_error(KVP_E_TIMEOUT,
		    "%s: rank 0 of group %s began to form it, but did not get "
		    "through within %d ms",
		    op->call, group->name, op->ms);
	else if (status == KVP_E_TIMEOUT)
		status = kvpi_group_name_late(group, op, keys.missing);
	kvpi_group_keys_fini(&keys);
	return status;
}

/* The others wait for rank 0's answer: the epoch. */
static kvp_status get_epoch(kvp_group *group, const kvpi_group_op *op, const group_join *own)
{
	char key[KVPI_GROUP_KEY_BYTES], text[256];
	unsigned long long epoch;
	kvp_bytes value;
	kvp_status status;

	kvpi_group_key(group, key, "form/%s", own->uuid);
	status = kvpi_group_take(group, op, key, &value);
	if (status != KVP_OK)
		return status;
	const bool good = to_text(&value, text, sizeof(text));
	kvp_bytes_free(&value);
	if (good && strncmp(text, "no ", 3) == 0)
		return kvpi_error(
		    KVP_E_CONFLICT, "%s: group %s: %s", op->call, group->name, text + 3);
	if (!good || sscanf(text, "ok %llu", &epoch) != 1)
		return kvpi_error(KVP_E_PROTOCOL, "%s: the answer of rank 0 of group %s is none",
		    op->call, group->name);
	group->epoch = epoch;
	return KVP_OK;
}

/* They say that they are here, and learn whether all are. */
static kvp_status get_formed(
    kvp_group *group, const kvpi_group_op *op, const group_join *own, bool *again)
{
	char key[KVPI_GROUP_KEY_BYTES];
	kvp_bytes table;
	kvp_status status = get_epoch(group, op, own);

	if (status == KVP_E_TIMEOUT)
		return who_did_not_come(group, op);
	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "%llu/here/%d", (unsigned long long)group->epoch, group->rank);
	status = kvpi_group_put(group, op, key, NULL, 0, 1);
	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "%llu/hosts", (unsigned long long)group->epoch);
	status = kvpi_group_take(group, op, key, &table);
	if (status == KVP_E_TIMEOUT)
		return kvpi_error(KVP_E_TIMEOUT,
		    "%s: rank 0 of group %s did not get through within %d ms", op->call,
		    group->name, op->ms);
	if (status != KVP_OK)
		return status;
	*again = table.len == 0;
	if (!*again && !read_hosts(group, own, table.data, table.len))
		status = kvpi_error(KVP_E_PROTOCOL, "%s: the table of hosts of group %s is none",
		    op->call, group->name);
	kvp_bytes_free(&table);
	return status;
}

/* Who this process is, for the others. */
static kvp_status introduce(const kvp_group *group, group_join *own)
{
	unsigned char uuid[KVPI_UUID_BYTES];
	const kvp_status status = kvpi_auth_init();
	kvpi_hostid host;

	if (status != KVP_OK)
		return status;
	kvpi_random(uuid, sizeof(uuid));
	kvpi_uuid_text(uuid, own->uuid);
	own->world_size = group->world_size;
	kvpi_hostid_read(&host);
	kvpi_hostid_format(&host, own->host, sizeof(own->host));
	return KVP_OK;
}

kvp_status kvpi_group_form(kvp_group *group, const kvpi_group_op *op)
{
	group_join own;
	bool again;
	kvp_status status = introduce(group, &own);

	/* Ends by its time: each store call takes some, and none begins when it is over. */
	do {
		again = false;
		if (status == KVP_OK)
			status = stand_ready(group, op, &own);
		if (status == KVP_OK)
			status = group->rank == 0 ? make_group(group, op, &own, &again)
			                          : get_formed(group, op, &own, &again);
	} while (status == KVP_OK && again && op->ms > 0);
	if (status == KVP_OK && again)
		return kvpi_error(KVP_E_TIMEOUT, "%s: not all ranks of group %s were there",
		    op->call, group->name);
	return status;
}
