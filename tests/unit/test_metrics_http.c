/* SPDX-License-Identifier: Apache-2.0
 *
 * Metrics over HTTP, asked by a raw socket.
 */
#include "kit/kit.h"

#include "base/fault.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <kvpipe/metrics.h>
#include <kvpipe/store.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 20000
#define TEXT_MAX 65536

static kvp_metrics_server *serve(kvp_context *context)
{
	kvp_metrics_server *server = NULL;

	KIT_OK(kvp_metrics_server_start(context, NULL, &server));
	return server;
}

/* ---- a client: no checks in it, since threads use it too ---- */

static int port_of(const kvp_metrics_server *server)
{
	return atoi(strrchr(kvp_metrics_server_url(server), ':') + 1);
}

static int dial(int port)
{
	struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
	                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&place, sizeof(place)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Until the other end closes or nothing comes for long.  The bytes, 0-ended; -1 if it did not close. */
static int read_reply(int fd, char *text, size_t size)
{
	size_t len = 0;

	for (;;) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		char spill[4096];
		ssize_t n;

		if (poll(&wait, 1, PATIENCE_MS) <= 0)
			return -1;
		n = recv(fd, spill, sizeof(spill), 0);
		if (n <= 0) {
			text[len] = '\0';
			return (int)len;
		}
		for (ssize_t i = 0; i < n && len + 1 < size; i++)
			text[len++] = spill[i];
	}
}

/* One request as it stands; the reply's status, 0 if it was closed without one, -1 if nothing came. */
static int ask_at(int port, const char *request, size_t len, char *reply)
{
	const int fd = dial(port);
	int got;

	if (fd < 0)
		return -1;
	/* The server may have closed before it has read everything. */
	(void)send(fd, request, len, MSG_NOSIGNAL);
	got = read_reply(fd, reply, TEXT_MAX);
	close(fd);
	if (got < 0)
		return -1;
	return strncmp(reply, "HTTP/1.1 ", 9) == 0 ? atoi(reply + 9) : 0;
}

static int ask(const kvp_metrics_server *server, const char *request, char *reply)
{
	return ask_at(port_of(server), request, strlen(request), reply);
}

#define GET "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

/* ---- what is served ---- */

/* "name value" or "name{label="..."} value", or a comment. */
static bool is_prometheus(const char *line, size_t len)
{
	const char *const end = line + len, *at = line;
	char *after;

	if (len > 7 && (strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0))
		return true;
	while (at < end && (isalnum((unsigned char)*at) || *at == '_'))
		at++;
	if (at == line)
		return false;
	if (*at == '{') {
		at = memchr(at, '}', (size_t)(end - at));
		if (at == NULL)
			return false;
		at++;
	}
	if (*at != ' ')
		return false;
	(void)strtod(at + 1, &after);
	return after == end;
}

START_TEST(prometheus_gets_its_text)
{
	static char reply[TEXT_MAX];
	kvp_store_server *store;
	kvp_metrics_server *server;
	const char *body;
	size_t lines = 0;

	KIT_OK(kvp_store_server_start(NULL, NULL, &store));
	server = serve(NULL);
	ck_assert_int_eq(strncmp(kvp_metrics_server_url(server), "http://127.0.0.1:", 17), 0);
	ck_assert_int_eq(ask(server, GET, reply), 200);
	ck_assert_ptr_nonnull(strstr(reply, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
	ck_assert_ptr_nonnull(strstr(reply, "Connection: close\r\n"));
	body = strstr(reply, "\r\n\r\n");
	ck_assert_ptr_nonnull(body);
	for (body += 4; *body != '\0'; body += strcspn(body, "\n") + 1, lines++) {
		const size_t len = strcspn(body, "\n");

		ck_assert_msg(is_prometheus(body, len), "not Prometheus: %.*s", (int)len, body);
		ck_assert_int_eq(body[len], '\n');
	}
	ck_assert_uint_gt(lines, 10);
	ck_assert_ptr_nonnull(strstr(reply, "\nkvpipe_store_"));
	kvp_metrics_server_free(server);
	kvp_store_server_free(store);
}
END_TEST

START_TEST(an_empty_context_has_an_empty_text)
{
	static char reply[TEXT_MAX];
	kvp_context *context;
	kvp_metrics_server *server;

	KIT_OK(kvp_context_new(&context, NULL));
	server = serve(context);
	kvp_context_free(context); /* the server holds it */
	ck_assert_int_eq(ask(server, GET, reply), 200);
	ck_assert_str_eq(strstr(reply, "\r\n\r\n"), "\r\n\r\n");
	kvp_metrics_server_free(server);
}
END_TEST

START_TEST(other_paths_and_methods_are_refused)
{
	static char reply[TEXT_MAX];
	kvp_metrics_server *const server = serve(NULL);

	ck_assert_int_eq(ask(server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", reply), 404);
	ck_assert_int_eq(ask(server, "GET /metrics/x HTTP/1.1\r\nHost: x\r\n\r\n", reply), 404);
	ck_assert_int_eq(ask(server, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", reply), 405);
	ck_assert_int_eq(ask(server, "DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", reply), 405);
	ck_assert_ptr_nonnull(strstr(reply, "Allow: GET\r\n"));
	/* The body that is announced never comes, and is not waited for. */
	ck_assert_int_eq(
	    ask(server, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nab", reply), 405);
	ck_assert_int_eq(ask(server, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", reply), 200);
	kvp_metrics_server_free(server);
}
END_TEST

START_TEST(garbage_does_no_harm)
{
	static char reply[TEXT_MAX], garbage[TEXT_MAX];
	kvp_metrics_server *const server = serve(NULL);

	for (uint64_t seed = 1; seed <= 20; seed++) {
		kit_random_fill(garbage, sizeof(garbage), seed);
		garbage[seed * 50] = '\n'; /* somewhere a line ends */
		ck_assert_int_ne(ask_at(port_of(server), garbage, sizeof(garbage), reply), 200);
	}
	/* A head without an end is longer than what a connection may have. */
	memset(garbage, 'a', sizeof(garbage));
	memcpy(garbage, "GET /metrics HTTP/1.1\r\nX: ", 26);
	ck_assert_int_ne(ask_at(port_of(server), garbage, sizeof(garbage), reply), 200);
	ck_assert_int_eq(ask(server, GET, reply), 200);
	kvp_metrics_server_free(server);
}
END_TEST

/* ---- many and slow ones ---- */

typedef struct crowd {
	int port;
	atomic_int good;
} crowd;

static void *ask_often(void *user)
{
	crowd *const all = user;
	char *const reply = malloc(TEXT_MAX);

	for (int i = 0; reply != NULL && i < 20; i++)
		if (ask_at(all->port, GET, strlen(GET), reply) == 200)
			atomic_fetch_add(&all->good, 1);
	free(reply);
	return NULL;
}

START_TEST(many_ask_at_once)
{
	kvp_metrics_server *const server = serve(NULL);
	crowd all = {.port = port_of(server)};
	pthread_t threads[8];

	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_often, &all), 0);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(atomic_load(&all.good), 160);
	kvp_metrics_server_free(server);
}
END_TEST

/* Clients that say half a request and no more take every place; when their time is up, others are served. */
START_TEST(slow_clients_lose_their_place)
{
	static char reply[TEXT_MAX];
	kvp_metrics_server *const server = serve(NULL);
	int slow[16];

	for (int i = 0; i < 16; i++) {
		slow[i] = dial(port_of(server));
		ck_assert_int_ge(slow[i], 0);
		ck_assert_int_eq(send(slow[i], "GET /met", 8, MSG_NOSIGNAL), 8);
	}
	kvpi_fault_arm("metrics_http.old", 1, 64); /* as if ten seconds had passed */
	ck_assert_int_eq(read_reply(slow[0], reply, sizeof(reply)), 0);
	kvpi_fault_disarm_all();
	ck_assert_int_eq(ask(server, GET, reply), 200);
	for (int i = 0; i < 16; i++)
		close(slow[i]);
	kvp_metrics_server_free(server);
}
END_TEST

START_TEST(free_does_not_wait_for_clients)
{
	static char reply[TEXT_MAX];
	kvp_metrics_server *const server = serve(NULL);
	const int half = dial(port_of(server)), silent = dial(port_of(server));

	ck_assert_int_eq(send(half, "GET /metrics HTTP/1.1\r\n", 23, MSG_NOSIGNAL), 23);
	ck_assert_int_eq(ask(server, GET, reply), 200); /* so both have been accepted */
	kvp_metrics_server_free(server);
	ck_assert_int_eq(read_reply(half, reply, sizeof(reply)), 0);
	ck_assert_int_eq(read_reply(silent, reply, sizeof(reply)), 0);
	close(half);
	close(silent);
}
END_TEST

/* ---- life ---- */

static int threads_called(const char *wanted)
{
	DIR *const dir = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		char path[300], name[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (file != NULL) {
			if (fgets(name, sizeof(name), file) != NULL)
				name[strcspn(name, "\n")] = '\0';
			fclose(file);
		}
		count += strcmp(name, wanted) == 0;
	}
	if (dir != NULL)
		closedir(dir);
	return count;
}

static bool is_named(void *user)
{
	(void)user;
	return threads_called("kvp-metrics") == 1;
}

static int free_in_child(void *user)
{
	kvp_metrics_server_free(user);
	return 0;
}

START_TEST(it_has_one_thread_and_stays_its_process_own)
{
	static char reply[TEXT_MAX];
	const size_t threads = kit_thread_count();
	kvp_metrics_server *const server = serve(NULL);

	ck_assert_uint_eq(kit_thread_count(), threads + 1);
	kit_wait_until(is_named, NULL, PATIENCE_MS);
	ck_assert_int_eq(kit_wait_exit(kit_fork(free_in_child, server), PATIENCE_MS), 0);
	ck_assert_int_eq(ask(server, GET, reply), 200);
	kvp_metrics_server_free(server);
	kvp_metrics_server_free(NULL);
}
END_TEST

START_TEST(only_loopback_unless_allowed)
{
	kvp_metrics_server_options options;
	kvp_metrics_server *server = NULL, *other;
	char taken[64];

	kvp_metrics_server_options_init(&options);
	ck_assert_str_eq(options.bind, "127.0.0.1:0");
	options.bind = "0.0.0.0:0";
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &server), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "allow_remote"));
	options.bind = "[::]:0";
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &server), KVP_E_INVALID);
	options.bind = "nonsense";
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &server), KVP_E_INVALID);
	options.bind = NULL;
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &server), KVP_E_INVALID);
	options.bind = "0.0.0.0:0";
	options.allow_remote = 2;
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &server), KVP_E_INVALID);
	ck_assert_ptr_null(server);
	options.allow_remote = 1;
	KIT_OK(kvp_metrics_server_start(NULL, &options, &server));
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, NULL), KVP_E_INVALID);
	snprintf(taken, sizeof(taken), "127.0.0.1:%d", port_of(server));
	options.bind = taken;
	KIT_STATUS(kvp_metrics_server_start(NULL, &options, &other), KVP_E_SYSTEM);
	kvp_metrics_server_free(server);
	ck_assert_ptr_null(kvp_metrics_server_url(NULL));
}
END_TEST

START_TEST(a_start_that_fails_leaves_nothing)
{
	kvp_metrics_server *server = NULL;
	kvp_status status = KVP_E_NOMEM;
	int tries = 0;

	kvpi_fault_arm("metrics_http.daemon", 1, 1);
	KIT_STATUS(kvp_metrics_server_start(NULL, NULL, &server), KVP_E_SYSTEM);
	kvpi_fault_disarm_all();
	for (; status == KVP_E_NOMEM; tries++) {
		kvpi_fault_arm("alloc", tries + 1, 1);
		status = kvp_metrics_server_start(NULL, NULL, &server);
		kvpi_fault_disarm_all();
		ck_assert(status == KVP_OK || server == NULL);
	}
	KIT_OK(status);
	ck_assert_int_gt(tries, 1);
	kvp_metrics_server_free(server);
}
END_TEST

/* Without libmicrohttpd there is this to see, and nothing else. */
static const char *missing(void)
{
	kvp_metrics_server *server = NULL;
	const kvp_status status = kvp_metrics_server_start(NULL, NULL, &server);

	if (status == KVP_E_UNSUPPORTED && server == NULL && strstr(kvp_last_error(), "libmicrohttpd") != NULL)
		return "this build has no libmicrohttpd";
	kvp_metrics_server_free(server);
	return NULL;
}

KIT_MAIN_WITH("metrics over HTTP", 1, missing, prometheus_gets_its_text, an_empty_context_has_an_empty_text,
    other_paths_and_methods_are_refused, garbage_does_no_harm, many_ask_at_once, slow_clients_lose_their_place,
    free_does_not_wait_for_clients, it_has_one_thread_and_stays_its_process_own, only_loopback_unless_allowed,
    a_start_that_fails_leaves_nothing)
