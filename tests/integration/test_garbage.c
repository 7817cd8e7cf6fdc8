/* SPDX-License-Identifier: Apache-2.0
 *
 * Garbage on every listening port, while a producer and a consumer are at work: they do not notice.
 */
#include "kit/kit.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <kvpipe/kvpipe.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 60000
#define MAX_PORTS 64
#define MAX_IDLE 12 /* connections that are left open and say nothing more */

/* ---- the ports of a process ---- */

/* Is one of the process's descriptors this socket? */
static bool owns_socket(pid_t pid, unsigned long inode)
{
	char path[300], wanted[64], link[64];
	struct dirent *entry;
	bool owns = false;
	DIR *dir;

	snprintf(wanted, sizeof(wanted), "socket:[%lu]", inode);
	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	while (dir != NULL && !owns && (entry = readdir(dir)) != NULL) {
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/%ld/fd/%s", (long)pid, entry->d_name);
		length = readlink(path, link, sizeof(link) - 1);
		link[length > 0 ? length : 0] = '\0';
		owns = strcmp(link, wanted) == 0;
	}
	if (dir != NULL)
		closedir(dir);
	return owns;
}

/* Adds the TCP ports at which the process listens. */
static size_t add_ports(pid_t pid, int *ports, size_t count)
{
	char line[512];
	FILE *table = fopen("/proc/net/tcp", "r");

	ck_assert_ptr_nonnull(table);
	while (count < MAX_PORTS && fgets(line, sizeof(line), table) != NULL) {
		unsigned port, state;
		unsigned long inode;

		if (sscanf(line, " %*[^:]: %*8x:%x %*8x:%*x %x %*s %*s %*s %*s %*s %lu", &port,
		        &state, &inode) == 3 &&
		    state == 0x0a && owns_socket(pid, inode))
			ports[count++] = (int)port;
	}
	fclose(table);
	return count;
}

/* ---- garbage ---- */

static int dial(int port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
		close(fd); /* whoever listened there has finished */
		return -1;
	}
	return fd;
}

/* Noise, another protocol, and the beginnings of the right ones with nonsense behind. */
static size_t make_garbage(uint64_t *random, unsigned char *bytes, size_t size)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	static const unsigned char zmtp[] = {
	    0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1, 'N', 'U', 'L', 'L'};
	static const unsigned char zmtp_long[] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N',
	    'U', 'L', 'L', [64] = 6, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	size_t length = kit_random(random) % (size - 80);

	kit_random_fill(bytes, size, kit_random(random));
	switch (kit_random(random) % 5) {
	case 0:
		memcpy(bytes, http, sizeof(http) - 1);
		return sizeof(http) - 1;
	case 1:
		memcpy(bytes, zmtp, sizeof(zmtp));
		return sizeof(zmtp) + length;
	case 2: /* a whole greeting, then a command of 2^63 bytes */
		memcpy(bytes, zmtp_long, sizeof(zmtp_long));
		return sizeof(zmtp_long);
	case 3:
		return length % 40; /* too little, perhaps nothing */
	default:
		return length;
	}
}

static size_t throw_garbage(int port, uint64_t *random, int *idle)
{
	unsigned char bytes[4096];
	size_t length = make_garbage(random, bytes, sizeof(bytes));
	size_t slot = kit_random(random) % MAX_IDLE;
	int fd = dial(port);

	if (fd < 0)
		return 0;
	(void)!send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (kit_random(random) % 8 == 0) { /* this one stays, in place of another */
		if (idle[slot] >= 0)
			close(idle[slot]);
		idle[slot] = fd;
	} else {
		close(fd);
	}
	return 1;
}

/* ---- the two at work ---- */

/* Starts an example with what it writes, errors included, in *out. */
static pid_t start(const char *program, const char *url, const char *rounds, int *out)
{
	char path[1024];
	const char *argv[] = {"sh", "-c", "exec \"$0\" \"$@\" 2>&1", path, "--url", url,
	    rounds ? "--rounds" : NULL, rounds, "--count", "16", "--bytes", "64KiB", NULL};

	ck_assert_msg(getenv("KVP_BUILDDIR") != NULL, "KVP_BUILDDIR is set by make check");
	snprintf(path, sizeof(path), "%s/examples/%s", getenv("KVP_BUILDDIR"), program);
	return kit_spawn(argv, out);
}

static void wait_for_line(int fd)
{
	char c = 0;

	while (c != '\n')
		ck_assert_int_eq(read(fd, &c, 1), 1);
}

START_TEST(transfers_go_on)
{
	uint64_t random = 42;
	size_t count, thrown = 0;
	int ports[MAX_PORTS], idle[MAX_IDLE], producer_out, consumer_out, status;
	char text[4096];
	kvp_store_server *server;
	pid_t producer, consumer, ended;

	for (size_t i = 0; i < MAX_IDLE; i++)
		idle[i] = -1;
	KIT_OK(kvp_store_server_start(NULL, NULL, &server));
	producer = start("producer", kvp_store_server_url(server), "400", &producer_out);
	consumer = start("consumer", kvp_store_server_url(server), NULL, &consumer_out);
	wait_for_line(producer_out); /* they have connected */
	wait_for_line(consumer_out);
	count = add_ports(getpid(), ports, 0);
	ck_assert_uint_ge(count, 1); /* the store */
	count = add_ports(producer, ports, count);
	count = add_ports(consumer, ports, count);
	ck_assert_uint_ge(count, 5); /* and of each: control and data */

	while ((ended = waitpid(producer, &status, WNOHANG)) == 0)
		thrown += throw_garbage(ports[kit_random(&random) % count], &random, idle);
	ck_assert_int_eq(ended, producer);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the producer failed");
	ck_assert_int_eq(kit_wait_exit(consumer, PATIENCE_MS), 0);
	kit_read_all(consumer_out, text, sizeof(text));
	ck_assert_msg(strstr(text, "checksums: equal") != NULL, "the consumer said: %s", text);
	ck_assert_uint_gt(thrown, 0);
	printf("%zu pieces of garbage on %zu ports\n", thrown, count);

	for (size_t i = 0; i < MAX_IDLE; i++)
		if (idle[i] >= 0)
			close(idle[i]);
	close(producer_out);
	kvp_store_server_free(server);
}
END_TEST

/* The store and its clients, too, while nobody transfers. */
START_TEST(the_store_goes_on)
{
	uint64_t random = 43;
	int ports[MAX_PORTS], idle[MAX_IDLE];
	kvp_store_server *server;
	kvp_store *store;
	kvp_bytes value;

	for (size_t i = 0; i < MAX_IDLE; i++)
		idle[i] = -1;
	KIT_OK(kvp_store_server_start(NULL, NULL, &server));
	KIT_OK(kvp_store_open(NULL, kvp_store_server_url(server), NULL, 5000, &store));
	ck_assert_uint_eq(add_ports(getpid(), ports, 0), 1);
	for (int i = 0; i < 200; i++) {
		throw_garbage(ports[0], &random, idle);
		KIT_OK(kvp_store_set(store, "key", &i, sizeof(i), NULL, 5000));
		KIT_OK(kvp_store_get(store, "key", &value, 5000));
		ck_assert_mem_eq(value.data, &i, sizeof(i));
		kvp_bytes_free(&value);
	}
	for (size_t i = 0; i < MAX_IDLE; i++)
		if (idle[i] >= 0)
			close(idle[i]);
	kvp_store_free(store);
	kvp_store_server_free(server);
}
END_TEST

KIT_MAIN("garbage", transfers_go_on, the_store_goes_on)
