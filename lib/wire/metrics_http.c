/* SPDX-License-Identifier: Apache-2.0
 *
 * The only file that knows libmicrohttpd.
 *
 * It parses HTTP; sockets, thread and time are ours: libmicrohttpd runs on an epoll descriptor that our thread polls
 * beside a wake-up, because its own threads have neither our name nor our signal mask, and because its time-out is one
 * of silence: a client that sends a byte now and then would keep a connection for ever.  Here each has 10 seconds.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/options.h"
#include "base/thread.h"
#include "base/wakeup.h"
#include "wire/addr.h"
#include <kvpipe/metrics.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const kvpi_option option_rows[] = {
    {"bind", KVPI_OPT_STRING, KVPI_OPT_FIELD(kvp_metrics_server_options, bind), .def_text = "127.0.0.1:0",
     .help = "address to listen at, host:port; port 0: any free one"},
    {"allow_remote", KVPI_OPT_BOOL, KVPI_OPT_FIELD(kvp_metrics_server_options, allow_remote), .def = 0,
     .help = "may listen on other addresses than loopback"},
};

static const kvpi_option_table option_table = {
    .name = "kvp_metrics_server_options",
    .struct_size = sizeof(kvp_metrics_server_options),
    .count = sizeof(option_rows) / sizeof(option_rows[0]),
    .rows = option_rows,
};

void kvp_metrics_server_options_init_sized(kvp_metrics_server_options *options, size_t size)
{
	kvpi_options_init(&option_table, options, size);
}

#ifdef HAVE_MICROHTTPD

#include <microhttpd.h>

#define MAGIC 0x6b76686d /* "kvhm" */

#define CONNECTIONS_MAX 16
#define CONNECTION_BYTES ((size_t)16 * 1024) /* what a request's head may have */
#define LIFE_MS 10000
#define TICK_MS 500 /* how exactly LIFE_MS is kept */

typedef struct client {
	int fd; /* -1: free */
	int64_t since_ns;
} client;

struct kvp_metrics_server {
	kvpi_handle handle;
	kvp_context *context;
	char url[320];
	kvpi_wakeup wakeup;
	atomic_bool stop;
	bool running;
	pthread_t thread;
	/* From here the thread's own, while it runs. */
	struct MHD_Daemon *daemon;
	int epoll_fd;
	bool any_closed; /* since MHD_run was called last */
	client clients[CONNECTIONS_MAX];
};

/* ---- on the thread ------------------------------------------------------------------------------- */

/* A connection has come or gone.  *place is ours for as long as it lives. */
static void on_connection(
    void *user, struct MHD_Connection *connection, void **place, enum MHD_ConnectionNotificationCode code)
{
	kvp_metrics_server *const server = user;
	const union MHD_ConnectionInfo *info;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (*place != NULL)
			((client *)*place)->fd = -1;
		*place = NULL;
		server->any_closed = true;
		return;
	}
	info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	for (size_t i = 0; info != NULL && i < CONNECTIONS_MAX; i++) {
		client *const c = &server->clients[i];

		if (c->fd < 0) {
			*c = (client){.fd = info->connect_fd, .since_ns = kvpi_now(&kvpi_clock_real)};
			*place = c;
			return;
		}
	}
}

/* Takes what has had its time: libmicrohttpd then reads an end, and closes.  True if any connection is left. */
static bool end_old_connections(kvp_metrics_server *server)
{
	const int64_t now = kvpi_now(&kvpi_clock_real);
	bool any = false;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		const client *const c = &server->clients[i];

		if (c->fd < 0)
			continue;
		any = true;
		if (now - c->since_ns > LIFE_MS * KVPI_NS_PER_MS || kvpi_fault("metrics_http.old"))
			shutdown(c->fd, SHUT_RDWR);
	}
	return any;
}

static enum MHD_Result answer_with(
    struct MHD_Connection *connection, unsigned code, const char *type, const void *text, size_t len)
{
	struct MHD_Response *const response =
	    MHD_create_response_from_buffer(len, (void *)text, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result result;

	if (response == NULL)
		return MHD_NO; /* closes the connection */
	result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (result == MHD_YES)
		result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	if (result == MHD_YES && code == MHD_HTTP_METHOD_NOT_ALLOWED)
		result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_GET);
	if (result == MHD_YES)
		result = MHD_queue_response(connection, code, response);
	MHD_destroy_response(response);
	return result;
}

/* A request's head is there.  What may follow it is never waited for. */
static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *upload_len, void **place)
{
	static const char plain[] = "text/plain; charset=utf-8";
	static const char elsewhere[] = "try /metrics\n", get_only[] = "only GET\n";
	kvp_metrics_server *const server = user;
	enum MHD_Result result;
	kvpi_buf text;

	(void)version;
	(void)upload;
	(void)upload_len;
	(void)place;
	if (strcmp(path, "/metrics") != 0)
		return answer_with(connection, MHD_HTTP_NOT_FOUND, plain, elsewhere, sizeof(elsewhere) - 1);
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0)
		return answer_with(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, get_only, sizeof(get_only) - 1);
	kvpi_buf_init(&text);
	kvpi_metrics_text(kvpi_context_metrics(server->context), &text);
	if (text.failed)
		result = MHD_NO;
	else
		result = answer_with(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
		    text.len > 0 ? text.data : "", text.len);
	kvpi_buf_fini(&text);
	return result;
}

static void *run(void *arg)
{
	kvp_metrics_server *const server = arg;
	struct pollfd ready[] = {{.fd = server->epoll_fd, .events = POLLIN}, {.fd = server->wakeup.fd, .events = POLLIN}};

	while (!atomic_load(&server->stop)) {
		const bool any = end_old_connections(server);
		MHD_UNSIGNED_LONG_LONG wanted = 0;
		int ms = any ? TICK_MS : -1;

		if (MHD_get_timeout(server->daemon, &wanted) == MHD_YES && (ms < 0 || wanted < (unsigned)ms))
			ms = wanted < INT_MAX ? (int)wanted : INT_MAX;
		/* With every place taken libmicrohttpd does not look at its listening socket, and begins to do so again at the
		 * call after the one that closes a connection. */
		if (server->any_closed)
			ms = 0;
		server->any_closed = false;
		(void)poll(ready, 2, ms);
		kvpi_wakeup_clear(&server->wakeup);
		(void)MHD_run(server->daemon);
	}
	return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------- */

/* A listening socket, at loopback unless more is allowed.  *told is where it can be reached. */
static kvp_status listen_at(const kvp_metrics_server_options *options, int *fd, kvpi_addr *told)
{
	char host[256];
	kvpi_listen listen = {0};
	kvpi_addr addr;
	kvp_status status = kvpi_listen_parse(options->bind, host, &listen);

	/* The cluster key is nothing to HTTP; the rule about loopback is kept here. */
	if (status == KVP_OK)
		status = kvpi_listen_resolve(&listen, true, &addr);
	if (status != KVP_OK)
		return status;
	if (!options->allow_remote && strncmp(addr.host, "127.", 4) != 0 && strcmp(addr.host, "::1") != 0)
		return kvpi_error(KVP_E_INVALID,
		    "%s is not a loopback address: everybody who reaches it could read the metrics; bind a loopback address, "
		    "or set allow_remote", addr.host);
	listen.bind_host = addr.host; /* that and no other, if a name should mean something else a moment later */
	return kvpi_listen_tcp(&listen, true, CONNECTIONS_MAX, fd, told);
}

static kvp_status start_daemon(kvp_metrics_server *server, int fd)
{
	const union MHD_DaemonInfo *info;

	if (!kvpi_fault("metrics_http.daemon"))
		server->daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, server,
		    MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
		    MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_END);
	else
		close(fd);
	if (server->daemon == NULL) /* it has the socket now, whatever became of it */
		return kvpi_error(KVP_E_SYSTEM, "libmicrohttpd does not start");
	info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (info == NULL)
		return kvpi_error(KVP_E_SYSTEM, "libmicrohttpd was built without epoll");
	server->epoll_fd = info->epoll_fd;
	return KVP_OK;
}

static kvp_status set_up(kvp_metrics_server *server, kvp_context *context, const kvp_metrics_server_options *options)
{
	char url[300];
	kvpi_addr told;
	kvp_status status;
	int fd = -1;

	status = kvpi_context_hold(context, &server->context);
	if (status == KVP_OK)
		status = kvpi_wakeup_init(&server->wakeup);
	if (status == KVP_OK)
		status = listen_at(options, &fd, &told);
	if (status == KVP_OK)
		status = start_daemon(server, fd);
	if (status != KVP_OK)
		return status;
	kvpi_addr_format(&told, url, sizeof(url));
	snprintf(server->url, sizeof(server->url), "http%s/metrics", url + strlen("tcp"));
	status = kvpi_thread_start(&server->thread, "kvp-metrics", run, server);
	server->running = status == KVP_OK;
	return status;
}

static void destroy(kvp_metrics_server *server)
{
	if (server->running) {
		atomic_store(&server->stop, true);
		kvpi_wakeup_post(&server->wakeup);
		pthread_join(server->thread, NULL);
	}
	if (server->daemon != NULL)
		MHD_stop_daemon(server->daemon);
	kvpi_wakeup_fini(&server->wakeup);
	kvpi_context_release(server->context);
	kvpi_handle_fini(&server->handle);
	free(server);
}

kvp_status kvp_metrics_server_start(
    kvp_context *context, const kvp_metrics_server_options *options, kvp_metrics_server **out)
{
	kvp_metrics_server_options given;
	kvp_metrics_server *server;
	kvp_status status;

	if (out == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_metrics_server_start: server is NULL");
	status = kvpi_options_read(&option_table, options, &given, "kvp_metrics_server_start");
	if (status != KVP_OK)
		return status;
	if (given.bind == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_metrics_server_start: bind is NULL");
	server = KVPI_NEW(kvp_metrics_server);
	if (server == NULL)
		return kvpi_error_nomem("a metrics server");
	kvpi_handle_init(&server->handle, MAGIC);
	server->wakeup.fd = -1;
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		server->clients[i].fd = -1;
	status = set_up(server, context, &given);
	if (status != KVP_OK) {
		destroy(server);
		return status;
	}
	KVPI_LOG(INFO, "metrics", "metrics are at %s", server->url);
	*out = server;
	return KVP_OK;
}

const char *kvp_metrics_server_url(const kvp_metrics_server *server)
{
	return server != NULL ? server->url : NULL;
}

void kvp_metrics_server_free(kvp_metrics_server *server)
{
	/* In a forked child the thread and the sockets are the parent's. */
	if (server == NULL || kvpi_handle_check(&server->handle, MAGIC, "kvp_metrics_server_free") != KVP_OK)
		return;
	destroy(server);
}

#else /* without libmicrohttpd */

kvp_status kvp_metrics_server_start(
    kvp_context *context, const kvp_metrics_server_options *options, kvp_metrics_server **out)
{
	(void)context;
	(void)options;
	(void)out;
	return kvpi_error(KVP_E_UNSUPPORTED, "kvp_metrics_server_start: this library was built without libmicrohttpd; "
	                                     "kvp_metrics_text gives the same text");
}

const char *kvp_metrics_server_url(const kvp_metrics_server *server)
{
	(void)server;
	return NULL;
}

void kvp_metrics_server_free(kvp_metrics_server *server)
{
	(void)server;
}

#endif
