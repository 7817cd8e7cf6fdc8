/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups: the public calls.  See group.h.
 */
#include "store/group.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/options.h"
#include "store/client.h"
#include <stdio.h>
#include <string.h>

#define MAGIC 0x6b767367 /* "kvsg" */

static const kvpi_option option_rows[] = {
    {"name", KVPI_OPT_STRING, KVPI_OPT_FIELD(kvp_group_options, name), .def_text = "default",
        .help = "tells groups on one store apart"},
    {"rank", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_group_options, rank), .min = 0,
        .max = KVPI_GROUP_WORLD_MAX - 1, .def = 0,
        .help = "this process's number, 0 .. world_size-1"},
    {"world_size", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_group_options, world_size), .min = 1,
        .max = KVPI_GROUP_WORLD_MAX, .def = 1, .help = "how many processes the group has"},
};

static const kvpi_option_table option_table = {"kvp_group_options", sizeof(kvp_group_options),
    sizeof(option_rows) / sizeof(option_rows[0]), option_rows};

void kvp_group_options_init_sized(kvp_group_options *options, size_t size)
{
	kvpi_options_init(&option_table, options, size);
}

/* The group lives in the store it was formed in. */
static kvp_status check_store(const kvp_group *group, const char *call)
{
	if (kvp_store_incarnation(group->store) == group->incarnation)
		return KVP_OK;
	return kvpi_error(KVP_E_STORE_RESTARTED,
	    "%s: the store at %s was restarted and has forgotten group %s; open the group again on "
	    "all ranks",
	    call, kvp_store_url(group->store), group->name);
}

static kvp_status check_options(const kvp_group_options *options, const char *call)
{
	static const char letters[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	const size_t len = options->name != NULL ? strlen(options->name) : 0;

	if (len == 0 || len > KVPI_GROUP_NAME_MAX || strspn(options->name, letters) != len)
		return kvpi_error(KVP_E_INVALID,
		    "%s: a group's name has 1 to %d letters, digits, '.', '-' and '_'", call,
		    KVPI_GROUP_NAME_MAX);
	if (options->rank >= options->world_size)
		return kvpi_error(KVP_E_INVALID, "%s: rank %d is not below the world size %d", call,
		    options->rank, options->world_size);
	return KVP_OK;
}

kvp_status kvp_group_open(
    kvp_store *store, const kvp_group_options *options, int timeout_ms, kvp_group **out)
{
	static const char call[] = "kvp_group_open";
	kvp_group_options given;
	kvp_group *group;
	kvpi_group_op op;
	kvp_status status = kvpi_store_check(store, call);

	if (status != KVP_OK)
		return status;
	if (out == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: group is NULL", call);
	status = kvpi_options_read(&option_table, options, &given, call);
	if (status != KVP_OK)
		return status;
	status = check_options(&given, call);
	if (status != KVP_OK)
		return status;
	status = kvpi_group_op_begin(&op, store, call, timeout_ms);
	if (status != KVP_OK)
		return status;

	group = kvpi_calloc(1, sizeof(*group) + (size_t)given.world_size * sizeof(group->peers[0]));
	if (group == NULL)
		return kvpi_error_nomem("a group");
	kvpi_handle_init(&group->handle, MAGIC);
	group->store = store;
	group->incarnation = kvp_store_incarnation(store);
	group->rank = given.rank;
	group->world_size = given.world_size;
	snprintf(group->name, sizeof(group->name), "%s", given.name);

	status = kvpi_group_form(group, &op);
	if (status == KVP_OK)
		status = check_store(group, call);
	if (status != KVP_OK) {
		kvp_group_free(group);
		return status;
	}
	*out = group;
	return KVP_OK;
}

void kvp_group_free(kvp_group *group)
{
	if (group == NULL)
		return;
	kvpi_handle_fini(&group->handle);
	free(group);
}

/* ---- facts ---- */

static kvp_status check_rank(const kvp_group *group, const char *call, int rank)
{
	const kvp_status status =
	    kvpi_handle_check(group != NULL ? &group->handle : NULL, MAGIC, call);

	if (status != KVP_OK)
		return status;
	if (rank < 0 || rank >= group->world_size)
		return kvpi_error(KVP_E_INVALID, "%s: rank %d is not within 0 .. %d", call, rank,
		    group->world_size - 1);
	return KVP_OK;
}

int kvp_group_rank(const kvp_group *group)
{
	return group != NULL ? group->rank : (int)KVP_E_INVALID;
}

int kvp_group_world_size(const kvp_group *group)
{
	return group != NULL ? group->world_size : (int)KVP_E_INVALID;
}

uint64_t kvp_group_epoch(const kvp_group *group)
{
	return group != NULL ? group->epoch : 0;
}

int kvp_group_same_host(const kvp_group *group, int rank)
{
	const kvp_status status = check_rank(group, "kvp_group_same_host", rank);

	return status == KVP_OK ? group->peers[rank].same_host : (int)status;
}

/* ---- exchange ---- */

/* What all calls check first. */
static kvp_status begin(
    const kvp_group *group, kvpi_group_op *op, const char *call, int peer, int timeout_ms)
{
	kvp_status status = check_rank(group, call, peer);

	if (status != KVP_OK)
		return status;
	status = kvpi_group_op_begin(op, group->store, call, timeout_ms);
	return status == KVP_OK ? check_store(group, call) : status;
}

static kvp_status check_object(const char *call, const void *data, size_t len)
{
	if (data == NULL && len > 0)
		return kvpi_error(KVP_E_INVALID, "%s: an object of %zu bytes is NULL", call, len);
	if (len > KVP_STORE_VALUE_MAX)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "%s: an object has %zu bytes, at most %d are allowed", call, len,
		    KVP_STORE_VALUE_MAX);
	return KVP_OK;
}

/* A put may have gone into a new store that another thread's call has found meanwhile. */
static kvp_status put_object(const kvp_group *group, const kvpi_group_op *op, const char *key,
    const void *data, size_t len, int uses)
{
	const kvp_status status = kvpi_group_put(group, op, key, data, len, (uint32_t)uses);

	return status == KVP_OK ? check_store(group, op->call) : status;
}

/* Takes an object that `from` has to put there. */
static kvp_status take_object(
    const kvp_group *group, const kvpi_group_op *op, const char *key, int from, kvp_bytes *data)
{
	const kvp_status status = kvpi_group_take(group, op, key, data);

	if (status != KVP_E_TIMEOUT)
		return status;
	/* In a new store nothing will ever come. */
	if (check_store(group, op->call) != KVP_OK)
		return KVP_E_STORE_RESTARTED;
	return kvpi_error(KVP_E_TIMEOUT, "%s: rank %d of group %s sent nothing within %d ms",
	    op->call, from, group->name, op->ms);
}

kvp_status kvp_group_send(kvp_group *group, int to, const void *data, size_t len, int timeout_ms)
{
	char key[KVPI_GROUP_KEY_BYTES];
	kvpi_group_op op;
	kvp_status status = begin(group, &op, "kvp_group_send", to, timeout_ms);

	if (status != KVP_OK)
		return status;
	status = check_object(op.call, data, len);
	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "%llu/s/%d/%d/%llu", (unsigned long long)group->epoch,
	    group->rank, to, (unsigned long long)group->peers[to].sent);
	status = put_object(group, &op, key, data, len, 1);
	group->peers[to].sent += status == KVP_OK;
	return status;
}

kvp_status kvp_group_recv(kvp_group *group, int from, kvp_bytes *data, int timeout_ms)
{
	char key[KVPI_GROUP_KEY_BYTES];
	kvpi_group_op op;
	kvp_status status = begin(group, &op, "kvp_group_recv", from, timeout_ms);

	if (status != KVP_OK)
		return status;
	if (data == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: data is NULL", op.call);
	kvpi_group_key(group, key, "%llu/s/%d/%d/%llu", (unsigned long long)group->epoch, from,
	    group->rank, (unsigned long long)group->peers[from].received);
	status = take_object(group, &op, key, from, data);
	group->peers[from].received += status == KVP_OK;
	return status;
}

kvp_status kvp_group_broadcast(
    kvp_group *group, int root, const void *data, size_t len, kvp_bytes *received, int timeout_ms)
{
	char key[KVPI_GROUP_KEY_BYTES];
	kvpi_group_op op;
	kvp_status status = begin(group, &op, "kvp_group_broadcast", root, timeout_ms);

	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "%llu/b/%llu/%d", (unsigned long long)group->epoch,
	    (unsigned long long)group->broadcasts, root);
	if (group->rank == root) {
		status = check_object(op.call, data, len);
		if (status == KVP_OK && group->world_size > 1)
			status = put_object(group, &op, key, data, len, group->world_size - 1);
	} else if (received == NULL) {
		status = kvpi_error(KVP_E_INVALID,
		    "%s: received is NULL on rank %d, the root is %d", op.call, group->rank, root);
	} else {
		status = take_object(group, &op, key, root, received);
	}
	group->broadcasts += status == KVP_OK;
	return status;
}

/* One round of the group's gathering.  A call that timed out may be repeated: its part is there already. */
static kvp_status gather(
    kvp_group *group, const kvpi_group_op *op, const void *data, size_t len, kvp_bytes *all)
{
	char key[KVPI_GROUP_KEY_BYTES];
	unsigned char missing[KVPI_GROUP_WORLD_MAX];
	kvpi_store_gathering gathering = {.incarnation = group->incarnation,
	    .key = key,
	    .round = group->gathers,
	    .count = group->world_size,
	    .index = group->rank,
	    .part = data,
	    .len = len};
	int ms;
	kvp_status status = check_object(op->call, data, len);

	if (status == KVP_OK)
		status = kvpi_group_time_left(op, &ms);
	if (status != KVP_OK)
		return status;
	kvpi_group_key(group, key, "%llu/c", (unsigned long long)group->epoch);
	gathering.ttl_ms = kvpi_group_ttl_ms(op);
	status = kvpi_store_gather(group->store, op->call, &gathering, all, missing, ms);
	if (status == KVP_E_TIMEOUT)
		status = kvpi_group_name_late(group, op, missing);
	group->gathers += status == KVP_OK;
	return status;
}

kvp_status kvp_group_all_gather(
    kvp_group *group, const void *data, size_t len, kvp_bytes *all, int timeout_ms)
{
	kvpi_group_op op;
	kvp_bytes *values;
	kvp_status status = begin(group, &op, "kvp_group_all_gather", 0, timeout_ms);

	if (status != KVP_OK)
		return status;
	if (all == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: all is NULL", op.call);
	values = kvpi_calloc((size_t)group->world_size, sizeof(*values));
	if (values == NULL)
		return kvpi_error_nomem("an all-gather");
	status = gather(group, &op, data, len, values);
	if (status == KVP_OK)
		memcpy(all, values, (size_t)group->world_size * sizeof(*values));
	free(values);
	return status;
}

kvp_status kvp_group_barrier(kvp_group *group, int timeout_ms)
{
	kvpi_group_op op;
	const kvp_status status = begin(group, &op, "kvp_group_barrier", 0, timeout_ms);

	return status == KVP_OK ? gather(group, &op, NULL, 0, NULL) : status;
}
