/* SPDX-License-Identifier: Apache-2.0
 *
 * A redis-server and a client of a few lines.  See bare_redis.h.
 */
#include "bare_redis.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TRIES 100
#define START_TRY_US 20000
#define HEAD_MAX 128
#define VALUE_MAX (64 * 1024)

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* One that is free now; if somebody takes it meanwhile, the server does not come up, and we go without. */
static int free_port(void)
{
	struct sockaddr_in addr = loopback(0);
	socklen_t len = sizeof(addr);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int port = -1;

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&addr, len) == 0 && getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
		port = ntohs(addr.sin_port);
	close(fd);
	return port;
}

pid_t redis_start(int *port)
{
	char text[16];
	pid_t pid;

	*port = free_port();
	if (*port < 0)
		return -1;
	snprintf(text, sizeof(text), "%d", *port);
	pid = fork();
	if (pid == 0) {
		const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		execlp("redis-server", "redis-server", "--port", text, "--bind", "127.0.0.1", "--save", "",
		    "--appendonly", "no", (char *)NULL);
		_exit(127);
	}
	for (int i = 0; pid > 0 && i < START_TRIES; i++) {
		const int fd = redis_connect(*port);

		if (fd >= 0) {
			close(fd);
			return pid;
		}
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return -1;
		usleep(START_TRY_US);
	}
	redis_stop(pid);
	return -1;
}

void redis_stop(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int redis_connect(int port)
{
	const struct sockaddr_in addr = loopback(port);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int write_all(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		const ssize_t n = write(fd, bytes, len);

		if (n <= 0)
			return -1;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Reads an answer that begins with `head` and has `len` bytes in all. */
static int read_answer(int fd, const char *head, size_t len)
{
	char bytes[VALUE_MAX + HEAD_MAX];
	size_t got = 0;

	if (len > sizeof(bytes))
		return -1;
	while (got < len) {
		const ssize_t n = read(fd, bytes + got, len - got);

		if (n <= 0)
			return -1;
		got += (size_t)n;
	}
	return memcmp(bytes, head, strlen(head)) == 0 ? 0 : -1;
}

int redis_set(int fd, const char *key, const void *value, size_t len)
{
	char bytes[VALUE_MAX + 2 * HEAD_MAX];
	int at;

	if (len > VALUE_MAX || strlen(key) > HEAD_MAX / 2)
		return -1;
	at = snprintf(bytes, HEAD_MAX, "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(key), key, len);
	memcpy(bytes + at, value, len);
	memcpy(bytes + at + len, "\r\n", 2);
	if (write_all(fd, bytes, (size_t)at + len + 2) != 0)
		return -1;
	return read_answer(fd, "+OK\r\n", 5);
}

int redis_get(int fd, const char *key, size_t len)
{
	char ask[HEAD_MAX], head[32];
	const int n = snprintf(ask, sizeof(ask), "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", strlen(key), key);

	if (n >= (int)sizeof(ask) || write_all(fd, ask, (size_t)n) != 0)
		return -1;
	snprintf(head, sizeof(head), "$%zu\r\n", len);
	return read_answer(fd, head, strlen(head) + len + 2);
}
