/* SPDX-License-Identifier: Apache-2.0
 *
 * Two published attacks on software of this kind, as they are made, against ours:
 *
 * CVE-2025-47277: vLLM's PyNcclPipe opened a TCPStore on every interface, and unpickled what it found there: whoever
 * reached the port set a key to a pickle of his own, and had his code run by the receiver.
 * CVE-2025-32444: vLLM's Mooncake pipe bound ZeroMQ sockets to every interface and called recv_pyobj() on them, which
 * unpickles: one message from anybody, and his code runs.
 *
 * The answer here is threefold: nothing that comes in is ever executed or unpickled; without a key nothing but
 * loopback is bound; with one, who does not have it does not get past the handshake.  These tests send the payload to
 * the store, the control port and the data port, raw and by ZeroMQ, and see that nothing runs and all work on.
 */
#include "kit/kit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <kvpipe/kvpipe.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <zmq.h>

#define KEY "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef\n"
#define PATIENCE_MS 20000
#define PORTS_MAX 16

static char proof[300], payload[600];
static size_t payload_len;

/* A pickle that makes a file when it is read: what pickle.dumps gives for an object whose __reduce__ says
 * (os.system, ("touch FILE",)). */
static void make_payload(void)
{
	snprintf(proof, sizeof(proof), "%s/it-ran", kit_tmpdir());
	payload_len = (size_t)snprintf(payload, sizeof(payload), "cos\nsystem\n(S'touch %s'\ntR.", proof);
}

static bool it_ran(void)
{
	return access(proof, F_OK) == 0;
}

/* The payload is a real one: what unpickles it, runs it. */
START_TEST(the_payload_is_alive)
{
	static const char *const argv[] = {"python3", "-c", "import sys, pickle; pickle.loads(sys.argv[1].encode())", NULL, NULL};
	const char *args[5];
	pid_t pid;

	if (system("python3 -c pass >/dev/null 2>&1") != 0)
		KIT_SKIP("there is no python3 here to try the payload on");
	make_payload();
	memcpy(args, argv, sizeof(args));
	args[3] = payload;
	pid = kit_spawn(args, NULL);
	ck_assert_int_eq(kit_wait_exit(pid, PATIENCE_MS), 0);
	ck_assert(it_ran());
}
END_TEST

/* ---- a pipe and its ports ---- */

typedef struct victim {
	kvp_context *context;
	kvp_store_server *server;
	kvp_store *store;
	kvp_pipe *pipes[2];
	int ports[PORTS_MAX];
	size_t port_count;
} victim;

static victim v;

/* The TCP ports at which this process listens. */
static void find_ports(void)
{
	v.port_count = 0;
	for (int fd = 0; fd < 1024 && v.port_count < PORTS_MAX; fd++) {
		struct sockaddr_in addr;
		socklen_t len = sizeof(addr), on_len = sizeof(int);
		int on = 0;

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &on_len) == 0 && on &&
		    getsockname(fd, (struct sockaddr *)&addr, &len) == 0 && addr.sin_family == AF_INET)
			v.ports[v.port_count++] = ntohs(addr.sin_port);
	}
	ck_assert_uint_ge(v.port_count, 5); /* a store, and control and data of two ends */
}

static void *open_one(void *arg)
{
	kvp_pipe_options options;
	const int rank = arg != NULL;

	kvp_pipe_options_init(&options);
	options.store_url = kvp_store_server_url(v.server);
	options.kv_rank = rank;
	options.planes = "tcp";
	options.store_timeout_ms = PATIENCE_MS;
	return kvp_pipe_open(v.context, &options, PATIENCE_MS, &v.pipes[rank]) == KVP_OK ? &v : NULL;
}

static void set_up(bool with_key)
{
	kvp_context_options options;
	pthread_t threads[2];
	char path[300];
	FILE *file;

	make_payload();
	memset(&v, 0, sizeof(v));
	kvp_context_options_init(&options);
	if (with_key) {
		snprintf(path, sizeof(path), "%s/key", kit_tmpdir());
		file = fopen(path, "we");
		ck_assert_ptr_nonnull(file);
		ck_assert_int_eq(fchmod(fileno(file), 0600), 0);
		ck_assert_int_ge(fputs(KEY, file), 0);
		fclose(file);
		options.key_file = path;
	}
	KIT_OK(kvp_context_new(&v.context, &options));
	KIT_OK(kvp_store_server_start(v.context, NULL, &v.server));
	KIT_OK(kvp_store_open(v.context, kvp_store_server_url(v.server), NULL, PATIENCE_MS, &v.store));
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, open_one, i == 0 ? NULL : &v), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ck_assert(v.pipes[0] != NULL && v.pipes[1] != NULL);
	find_ports();
}

static void tear_down(void)
{
	for (int i = 0; i < 2; i++)
		kvp_pipe_free(v.pipes[i]);
	kvp_store_free(v.store);
	kvp_store_server_free(v.server);
	kvp_context_free(v.context);
}

static void still_works(uint64_t seed)
{
	char data[3000], got[3000];
	int64_t shape[1] = {sizeof(data)};
	kvp_tensor from, to;
	kvp_bytes value;

	ck_assert(!it_ran());
	kit_random_fill(data, sizeof(data), seed);
	KIT_OK(kvp_store_set(v.store, "key", data, sizeof(data), NULL, PATIENCE_MS));
	KIT_OK(kvp_store_get(v.store, "key", &value, PATIENCE_MS));
	ck_assert_uint_eq(value.len, sizeof(data));
	ck_assert_mem_eq(value.data, data, sizeof(data));
	kvp_bytes_free(&value);
	KIT_OK(kvp_tensor_init(&from, data, KVP_DTYPE_INT8, 1, shape));
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_send(v.pipes[0], &from, NULL, NULL));
	KIT_OK(kvp_pipe_recv(v.pipes[1], &to, PATIENCE_MS));
	ck_assert_mem_eq(got, data, sizeof(data));
	ck_assert(!it_ran());
}

/* ---- the attacker ---- */

static int dial(int port)
{
	struct sockaddr_in addr = {
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct timeval patience = {.tv_sec = 1};
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void say(int fd, const void *bytes, size_t len)
{
	(void)!send(fd, bytes, len, MSG_NOSIGNAL); /* it may have hung up */
}

/* TCPStore: validate, then set a key that a receiver looks at; lengths are 64 bits, in the host's order. */
static void attack_as_tcpstore(int port)
{
	static const char *const keys[] = {"/send_to/1/0", "send_to/1/0", "broadcast_from/0/0"};
	const uint32_t magic = 0x3c85f7ce;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const uint64_t key_len = strlen(keys[i]), value_len = payload_len;
		char bytes[1200], *at = bytes;
		const int fd = dial(port);

		*at++ = 0; /* VALIDATE */
		memcpy(at, &magic, 4);
		at += 4;
		*at++ = 1; /* SET */
		memcpy(at, &key_len, 8);
		memcpy(at + 8, keys[i], key_len);
		at += 8 + key_len;
		memcpy(at, &value_len, 8);
		memcpy(at + 8, payload, payload_len);
		at += 8 + payload_len;
		say(fd, bytes, (size_t)(at - bytes));
		close(fd);
	}
}

static void attack_raw(int port)
{
	const int fd = dial(port);

	say(fd, payload, payload_len);
	close(fd);
}

/* send_pyobj: the pickle as one frame; and what else ZeroMQ makes of it. */
static void attack_by_zeromq(void *zmq, int port)
{
	static const int types[] = {ZMQ_DEALER, ZMQ_PUSH, ZMQ_REQ, ZMQ_PUB, ZMQ_PAIR, ZMQ_ROUTER};
	const int linger = 100;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		void *const socket = zmq_socket(zmq, types[i]);
		char url[64];

		snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
		zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
		ck_assert_int_eq(zmq_connect(socket, url), 0);
		zmq_send(socket, payload, payload_len, ZMQ_DONTWAIT);
		zmq_send(socket, payload, payload_len, ZMQ_DONTWAIT | ZMQ_SNDMORE); /* and in two parts */
		zmq_send(socket, payload, payload_len, ZMQ_DONTWAIT);
		zmq_close(socket);
	}
}

static void attack_all(void)
{
	void *const zmq = zmq_ctx_new();

	for (size_t i = 0; i < v.port_count; i++) {
		attack_as_tcpstore(v.ports[i]);
		attack_raw(v.ports[i]);
		attack_by_zeromq(zmq, v.ports[i]);
	}
	zmq_ctx_term(zmq); /* after the linger time all has gone out */
}

START_TEST(pickles_from_strangers)
{
	for (int with_key = 0; with_key < 2; with_key++) {
		set_up(with_key);
		still_works(1);
		attack_all();
		still_works(2);
		tear_down();
	}
}
END_TEST

/* Even from one who may write into the store (everybody on this machine, without a key): a value is bytes, and groups
 * hand on what was sent. */
START_TEST(pickles_as_values)
{
	kvp_group_options options;
	kvp_group *group;
	kvp_bytes got;

	set_up(false);
	KIT_OK(kvp_store_set(v.store, "send_to/1/0", payload, payload_len, NULL, PATIENCE_MS));
	KIT_OK(kvp_store_get(v.store, "send_to/1/0", &got, PATIENCE_MS));
	ck_assert_uint_eq(got.len, payload_len);
	ck_assert_mem_eq(got.data, payload, payload_len);
	kvp_bytes_free(&got);
	kvp_group_options_init(&options);
	options.world_size = 1;
	KIT_OK(kvp_group_open(v.store, &options, PATIENCE_MS, &group));
	KIT_OK(kvp_group_send(group, 0, payload, payload_len, PATIENCE_MS));
	KIT_OK(kvp_group_recv(group, 0, &got, PATIENCE_MS));
	ck_assert_uint_eq(got.len, payload_len);
	ck_assert_mem_eq(got.data, payload, payload_len);
	kvp_bytes_free(&got);
	kvp_group_free(group);
	still_works(3);
	tear_down();
}
END_TEST

/* ---- how much an unauthenticated peer can make us hold ---- */

static long resident_kib(void)
{
	long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%*d %ld", &pages), 1);
	fclose(file);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Reads the server's greeting, 64 bytes. */
static bool hear_greeting(int fd)
{
	char greeting[64];
	size_t len = 0;

	while (len < sizeof(greeting)) {
		const ssize_t got = recv(fd, greeting + len, sizeof(greeting) - len, 0);

		if (got <= 0)
			return false;
		len += (size_t)got;
	}
	return memcmp(greeting + 12, "CURVE", 5) == 0;
}

/* Greeted, but without a key: frames of the largest size but for one byte, so that they stay. */
START_TEST(with_a_key_strangers_cannot_send_messages)
{
	enum { STRANGERS = 16, PIECE = 512 * 1024 };
	static char piece[PIECE];
	unsigned char greeting[64] = "\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE";
	unsigned char head[9] = {6, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff}; /* a command of 1 MiB less 1 */
	unsigned char flood[3] = {1, 1, 'x'};                          /* a frame of a message that has more */
	int fds[STRANGERS];
	long before;

	set_up(true);
	still_works(4);
	before = resident_kib();
	for (size_t p = 0; p < v.port_count; p++) {
		int greeted = 0;

		for (int i = 0; i < STRANGERS; i++) {
			fds[i] = dial(v.ports[p]);
			say(fds[i], greeting, sizeof(greeting));
			if (!hear_greeting(fds[i]))
				continue; /* the data port */
			greeted++;
			if (i % 2 == 0) {
				say(fds[i], head, sizeof(head));
				say(fds[i], piece, sizeof(piece));
			} else { /* message frames before the handshake: the first one ends it */
				for (int n = 0; n < 20000; n++)
					if (send(fds[i], flood, sizeof(flood), MSG_NOSIGNAL) < 0)
						break;
			}
		}
		if (greeted > 0)
			printf("port %d: %d strangers make %ld KiB more resident\n", v.ports[p], greeted, resident_kib() - before);
		/* At most a frame for each who sent one; 20,000 frames of others are not kept. */
		ck_assert_int_lt(resident_kib() - before, (STRANGERS / 2 + 8) * 1024);
		still_works(5 + p);
		for (int i = 0; i < STRANGERS; i++)
			close(fds[i]);
	}
	tear_down();
}
END_TEST

KIT_MAIN("attacks", the_payload_is_alive, pickles_from_strangers, pickles_as_values,
    with_a_key_strangers_cannot_send_messages)
