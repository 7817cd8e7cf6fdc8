/* SPDX-License-Identifier: Apache-2.0
 *
 * How a pipe comes to be: meet at the store, tell the others where to dial, connect, pass a barrier.
 */
#include "pipe/pipe_handle.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "store/client.h"

#include <stdio.h>
#include <string.h>

/* How long a named peer's address is tried before the store is asked whether it has changed. */
#define REDIAL_MS 1000
#define REDIAL_PAUSE_MS 50
#define FAREWELL_MS 250 /* for taking our address back, when the store may be gone already */

static int64_t now_ns(void)
{
	return kvpi_now(&kvpi_clock_real);
}

static int ms_left(int64_t deadline_ns)
{
	return kvpi_ms_left(deadline_ns, now_ns());
}

int64_t kvpi_pipe_deadline(const kvp_pipe *pipe, int timeout_ms)
{
	return kvpi_deadline_ms(now_ns(), timeout_ms == KVP_TIMEOUT_DEFAULT ? pipe->timeout_ms : timeout_ms);
}

/* The sentence begins with the function that the user called. */
static kvp_status prefix(kvp_status status)
{
	char text[KVPI_ERROR_MAX];

	if (status == KVP_OK || strncmp(kvp_last_error(), "kvp_pipe_open", 13) == 0)
		return status;
	snprintf(text, sizeof(text), "%s", kvp_last_error());
	return kvpi_error(status, "kvp_pipe_open: %s", text);
}

/* Names become parts of keys and of services: nothing in them may look like a separator. */
static bool is_name(const char *text, size_t most)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
	size_t len = strlen(text);

	return len > 0 && len <= most && strspn(text, allowed) == len;
}

static kvp_status check_options(kvp_pipe_options *options)
{
	const char *device = options->kv_buffer_device;
	const char *ends[3] = {options->endpoint, options->send_to, options->recv_from};
	kvp_status status;

	if (options->endpoint == NULL && options->kv_rank >= options->kv_parallel_size)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: kv_rank %d is not below kv_parallel_size %d",
		                  options->kv_rank, options->kv_parallel_size);
	if (options->endpoint != NULL && options->send_to == NULL && options->recv_from == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: endpoint \"%s\" has neither send_to nor recv_from",
		                  options->endpoint);
	if (options->endpoint != NULL && options->store == NULL && options->store_url == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: peers by name need store or store_url");
	if (options->endpoint == NULL && (options->send_to != NULL || options->recv_from != NULL))
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: send_to and recv_from need endpoint, this end's name");
	if (options->kv_port + options->kv_port_offset > 65535)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: kv_port %d plus kv_port_offset %d is no port",
		                  options->kv_port, options->kv_port_offset);
	if (strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0 && strcmp(device, "cuda") != 0)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: kv_buffer_device \"%s\" is not auto, cpu or cuda", device);
	if (strcmp(device, "cuda") == 0 && kvpi_device_find(KVP_MEMORY_CUDA) == NULL)
		return kvpi_error(KVP_E_UNSUPPORTED, "kvp_pipe_open: this library was built without CUDA");
	if (!is_name(options->name, 50))
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: name is not 1 to 50 letters, digits, '.', '-' or '_'");
	for (size_t i = 0; i < 3; i++)
		if (ends[i] != NULL && !is_name(ends[i], 32))
			return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: endpoint, send_to and recv_from are 1 to 32 letters, "
			                  "digits, '.', '-' or '_'");
	status = kvpi_engine_check_cpu(options->worker_cpu);
	return prefix(status != KVP_OK ? status : kvpi_engine_check_planes(options->planes));
}

/* A NULL string means its default, as a zeroed field in a hand-made struct would. */
static kvp_status read_options(const kvp_pipe_options *given, kvp_pipe_options *options)
{
	kvp_pipe_options defaults;
	kvp_status status = kvpi_options_read(&kvpi_pipe_option_table, given, options, "kvp_pipe_open");

	if (status != KVP_OK)
		return status;
	kvp_pipe_options_init(&defaults);
	if (options->kv_ip == NULL)
		options->kv_ip = defaults.kv_ip;
	if (options->name == NULL)
		options->name = defaults.name;
	if (options->kv_buffer_device == NULL)
		options->kv_buffer_device = defaults.kv_buffer_device;
	if (options->bind_host == NULL)
		options->bind_host = defaults.bind_host;
	if (options->port_range == NULL)
		options->port_range = defaults.port_range;
	return check_options(options);
}

static kvp_status find_store(kvp_pipe *pipe, const kvp_pipe_options *options, int64_t deadline_ns)
{
	kvp_store_server_options server_options;
	kvp_store_options store_options;
	char address[300], url[310];
	kvp_status status;

	if (options->store != NULL) {
		pipe->meeting = options->store;
		return KVP_OK;
	}
	snprintf(address, sizeof(address), strchr(options->kv_ip, ':') ? "[%s]:%d" : "%s:%d", options->kv_ip,
	         options->kv_port + options->kv_port_offset);
	snprintf(url, sizeof(url), "tcp://%s", address);
	if (options->store_url == NULL && options->kv_rank == 0) {
		kvp_store_server_options_init(&server_options);
		server_options.bind = address;
		status = kvp_store_server_start(pipe->context, &server_options, &pipe->server);
		if (status != KVP_OK)
			return status;
		snprintf(url, sizeof(url), "%s", kvp_store_server_url(pipe->server)); /* kv_ip may be a wildcard */
	}
	kvp_store_options_init(&store_options);
	store_options.store_timeout_ms = options->store_timeout_ms;
	status = kvp_store_open(pipe->context, options->store_url ? options->store_url : url, &store_options,
	                        ms_left(deadline_ns), &pipe->store);
	pipe->meeting = pipe->store;
	return status;
}

static void on_room(void *user)
{
	kvpi_wakeup_post(user);
}

static kvp_status make_engine(kvp_pipe *pipe, const kvp_pipe_options *options, const char *name, const char *compat)
{
	kvp_status status;
	kvpi_engine_params params = {.context = pipe->context,
	                             .name = name,
	                             .compat_text = compat,
	                             .listen = {.bind_host = options->bind_host, .advertise_host = options->advertise_host},
	                             .tcp_streams = options->tcp_streams,
	                             .checksum = options->checksum != 0,
	                             .poll_ns = (int64_t)options->poll_us * 1000,
	                             .worker_cpu = options->worker_cpu,
	                             .planes = options->planes,
	                             .heartbeat_ms = options->heartbeat_ms,
	                             .buffer_bytes = options->kv_buffer_size,
	                             .on_room = on_room,
	                             .on_room_user = &pipe->room};

	status = kvpi_listen_ports(&params.listen, options->port_range);
	return status == KVP_OK ? kvpi_engine_new(&params, &pipe->engine) : status;
}

/* ---- ring ------------------------------------------------------------------------------------------- */

static void ring_service(char *out, size_t size, const kvp_pipe_options *options, const kvp_group *group, int from,
                         int to)
{
	snprintf(out, size, "%s/%016llx/%d>%d", options->name, (unsigned long long)kvp_group_epoch(group), from, to);
}

/* Rank 0 hosts the store: it stays until every other rank has had its answers from it. */
static kvp_status host_leaves_last(kvp_group *group, int rank, int size, int64_t deadline_ns)
{
	kvp_status status = KVP_OK;

	if (rank != 0) {
		/* Our last word to it.  The answer may get lost, when the host leaves on hearing it. */
		int ms = ms_left(deadline_ns);

		(void)kvp_group_send(group, 0, "", 0, ms < FAREWELL_MS ? ms : FAREWELL_MS);
		return KVP_OK;
	}
	for (int other = 1; other < size && status == KVP_OK; other++) {
		kvp_bytes nothing = {0};

		status = kvp_group_recv(group, other, &nothing, ms_left(deadline_ns));
		kvp_bytes_free(&nothing);
	}
	return status;
}

static kvp_status ring_connect(kvp_pipe *pipe, const kvp_pipe_options *options, kvp_group *group, int64_t deadline_ns)
{
	int rank = options->kv_rank, size = options->kv_parallel_size;
	int next = (rank + 1) % size, previous = (rank + size - 1) % size;
	kvp_bytes *urls = kvpi_calloc((size_t)size, sizeof(*urls));
	const char *mine = kvpi_engine_url(pipe->engine);
	char service[KVPI_SESSION_NAME_MAX], url[300];
	kvp_status status;

	if (urls == NULL)
		return kvpi_error_nomem("the addresses of the ring");
	ring_service(service, sizeof(service), options, group, previous, rank);
	kvpi_engine_expect(pipe->engine, service);
	status = kvpi_engine_start(pipe->engine);
	if (status == KVP_OK)
		status = kvp_group_all_gather(group, mine, strlen(mine), urls, ms_left(deadline_ns));
	if (status == KVP_OK) {
		snprintf(url, sizeof(url), "%.*s", (int)urls[next].len, (const char *)urls[next].data);
		ring_service(service, sizeof(service), options, group, rank, next);
		kvpi_engine_dial(pipe->engine, url, service, deadline_ns);
		status = kvpi_engine_wait_link(pipe->engine, &pipe->engine->out, deadline_ns);
	}
	if (status == KVP_OK)
		status = kvpi_engine_wait_link(pipe->engine, &pipe->engine->in, deadline_ns);
	if (status == KVP_OK)
		status = kvp_group_barrier(group, ms_left(deadline_ns));
	if (status == KVP_OK && options->store == NULL && options->store_url == NULL)
		status = host_leaves_last(group, rank, size, deadline_ns);
	for (int i = 0; i < size; i++)
		kvp_bytes_free(&urls[i]);
	free(urls);
	return status;
}

static kvp_status open_ring(kvp_pipe *pipe, const kvp_pipe_options *options, int64_t deadline_ns)
{
	kvp_group_options group_options;
	kvp_group *group;
	char name[100], compat[100], group_name[64];
	kvp_status status;

	snprintf(group_name, sizeof(group_name), "pipe.%s", options->name);
	kvp_group_options_init(&group_options);
	group_options.name = group_name;
	group_options.rank = options->kv_rank;
	group_options.world_size = options->kv_parallel_size;
	status = kvp_group_open(pipe->meeting, &group_options, ms_left(deadline_ns), &group);
	if (status != KVP_OK)
		return status;
	snprintf(name, sizeof(name), "%s rank %d", options->name, options->kv_rank);
	snprintf(compat, sizeof(compat), "pipe \"%s\", a ring of %d", options->name, options->kv_parallel_size);
	status = make_engine(pipe, options, name, compat);
	if (status == KVP_OK)
		status = ring_connect(pipe, options, group, deadline_ns);
	kvp_group_free(group);
	return status;
}

/* ---- peers by name ------------------------------------------------------------------------------------ */

static void endpoint_key(char *out, size_t size, const char *pipe_name, const char *endpoint)
{
	snprintf(out, size, "pipe/%s/%s", pipe_name, endpoint);
}

/* Can another try help?  The store may still hold the address of a process that is gone. */
static bool may_be_stale(kvp_status status)
{
	return status == KVP_E_TIMEOUT || status == KVP_E_PEER_LOST || status == KVP_E_REFUSED ||
	       status == KVP_E_PEER_CLOSED;
}

static kvp_status dial_by_name(kvp_pipe *pipe, const kvp_pipe_options *options, int64_t deadline_ns)
{
	char key[200], url[300] = "", service[KVPI_SESSION_NAME_MAX], text[KVPI_ERROR_MAX];
	const char *keys[1] = {key};
	kvp_status status;
	bool fresh = true;

	endpoint_key(key, sizeof(key), options->name, options->send_to);
	snprintf(service, sizeof(service), "%s/%s>%s", options->name, options->endpoint, options->send_to);
	for (;;) {
		kvp_bytes value = {0};
		int64_t slice_ns = kvpi_deadline_ms(now_ns(), REDIAL_MS);

		status = kvp_store_wait(pipe->meeting, keys, 1, &value, NULL, ms_left(deadline_ns));
		if (status == KVP_E_TIMEOUT)
			return kvpi_error(status, "kvp_pipe_open: \"%s\" has not come", options->send_to);
		if (status != KVP_OK)
			return status;
		if (fresh || strlen(url) != value.len || memcmp(url, value.data, value.len) != 0) {
			snprintf(url, sizeof(url), "%.*s", (int)value.len, (const char *)value.data);
			kvpi_engine_dial(pipe->engine, url, service, deadline_ns);
		}
		kvp_bytes_free(&value);
		status = kvpi_engine_wait_link(pipe->engine, &pipe->engine->out,
		                               slice_ns < deadline_ns ? slice_ns : deadline_ns);
		if (status == KVP_OK || !may_be_stale(status) || atomic_load(&pipe->engine->out.locked_out))
			return status;
		fresh = status != KVP_E_TIMEOUT;
		if (now_ns() < deadline_ns) {
			if (fresh)
				kvpi_pause_ms(REDIAL_PAUSE_MS);
			continue;
		}
		snprintf(text, sizeof(text), "%s", kvp_last_error());
		return kvpi_error(fresh ? status : KVP_E_TIMEOUT, "kvp_pipe_open: \"%s\" at %s: %s", options->send_to, url,
		                  text);
	}
}

static kvp_status open_named(kvp_pipe *pipe, const kvp_pipe_options *options, int64_t deadline_ns)
{
	char service[KVPI_SESSION_NAME_MAX], compat[100];
	kvp_status status;

	snprintf(compat, sizeof(compat), "pipe \"%s\", peers by name", options->name);
	status = make_engine(pipe, options, options->endpoint, compat);
	if (status != KVP_OK)
		return status;
	if (options->recv_from != NULL) {
		snprintf(service, sizeof(service), "%s/%s>%s", options->name, options->recv_from, options->endpoint);
		kvpi_engine_expect(pipe->engine, service);
		pipe->engine->in_may_return = true; /* a sender that gives up its own open may come again */
	}
	status = kvpi_engine_start(pipe->engine);
	if (status == KVP_OK && options->recv_from != NULL) {
		snprintf(pipe->url, sizeof(pipe->url), "%s", kvpi_engine_url(pipe->engine));
		endpoint_key(pipe->key, sizeof(pipe->key), options->name, options->endpoint);
		status = kvp_store_set(pipe->meeting, pipe->key, pipe->url, strlen(pipe->url), NULL, ms_left(deadline_ns));
	}
	if (status == KVP_OK && options->send_to != NULL)
		status = dial_by_name(pipe, options, deadline_ns);
	if (status == KVP_OK && options->recv_from != NULL) {
		do
			status = kvpi_engine_wait_link(pipe->engine, &pipe->engine->in, deadline_ns);
		while (status == KVP_OK && !kvpi_engine_settle_in(pipe->engine));
		if (status == KVP_E_TIMEOUT)
			return kvpi_error(status, "kvp_pipe_open: \"%s\" has not come", options->recv_from);
	}
	return status;
}

/* ---- both --------------------------------------------------------------------------------------------- */

kvp_status kvp_pipe_open(kvp_context *context, const kvp_pipe_options *given, int timeout_ms, kvp_pipe **out)
{
	kvp_pipe_options options;
	int64_t deadline_ns;
	kvp_pipe *pipe;
	kvp_status status;

	if (out == NULL || timeout_ms < KVP_TIMEOUT_DEFAULT)
		return kvpi_error(KVP_E_INVALID, "kvp_pipe_open: %s", out ? "a negative time-out" : "pipe is NULL");
	status = read_options(given, &options);
	if (status != KVP_OK)
		return status;
	pipe = KVPI_NEW(kvp_pipe);
	if (pipe == NULL)
		return kvpi_error_nomem("a pipe");
	pipe->timeout_ms = options.store_timeout_ms;
	pipe->host_only = strcmp(options.kv_buffer_device, "cpu") == 0;
	pipe->room.fd = -1;
	kvpi_handle_init(&pipe->handle, KVPI_PIPE_MAGIC);
	pthread_mutex_init(&pipe->turn_mutex, NULL);
	deadline_ns = kvpi_pipe_deadline(pipe, timeout_ms);
	status = kvpi_cond_init(&pipe->turn_free);
	if (status != KVP_OK) {
		pthread_mutex_destroy(&pipe->turn_mutex);
		free(pipe);
		return status;
	}
	status = kvpi_context_hold(context, &pipe->context);
	if (status == KVP_OK)
		status = kvpi_wakeup_init(&pipe->room);
	if (status == KVP_OK)
		status = find_store(pipe, &options, deadline_ns);
	if (status == KVP_OK)
		status = options.endpoint ? open_named(pipe, &options, deadline_ns) : open_ring(pipe, &options, deadline_ns);
	if (status != KVP_OK) {
		status = prefix(status);
		kvpi_pipe_destroy(pipe);
		return status;
	}
	*out = pipe;
	return KVP_OK;
}

/* Also of a pipe that was not opened all the way: every part may be missing. */
void kvpi_pipe_destroy(kvp_pipe *pipe)
{
	char text[KVPI_ERROR_MAX];

	snprintf(text, sizeof(text), "%s", kvp_last_error()); /* tidying up must not hide why */
	kvpi_engine_free(pipe->engine);
	if (pipe->key[0] != '\0') /* unless a later endpoint of this name has put its own there */
		(void)kvpi_store_delete_if(pipe->meeting, pipe->key, pipe->url, strlen(pipe->url), FAREWELL_MS);
	kvp_store_free(pipe->store);
	kvp_store_server_free(pipe->server);
	if (pipe->room.fd >= 0)
		kvpi_wakeup_fini(&pipe->room);
	kvpi_context_release(pipe->context);
	pthread_cond_destroy(&pipe->turn_free);
	pthread_mutex_destroy(&pipe->turn_mutex);
	kvpi_handle_fini(&pipe->handle);
	free(pipe);
	(void)kvpi_error_set(KVP_OK, text);
}
