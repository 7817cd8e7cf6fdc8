/* SPDX-License-Identifier: Apache-2.0
 *
 * A bare TCP connection, only to see what becomes of it.
 */
#include "store/probe.h"
#include "base/clock.h"
#include "wire/addr.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* 0, or the errno of the attempt. */
static int try_connect(
    int fd, const struct sockaddr_storage *addr, socklen_t addr_len, int64_t deadline_ns)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	int err = 0;
	socklen_t err_len = sizeof(err);

	if (connect(fd, (const struct sockaddr *)addr, addr_len) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (poll(&poll_fd, 1, kvpi_ms_left(deadline_ns, kvpi_now(&kvpi_clock_real))) <= 0)
		return ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &err_len) != 0)
		return errno;
	return err;
}

/* Whoever speaks ZMTP tells in its greeting of 64 bytes how it wants to be talked to.  It sends that when it has seen our
 * version; our own wish must stay unsaid, as it hangs up without another word if that is a different one. */
static kvpi_store_asks hear_greeting(int fd, int64_t deadline_ns)
{
	static const char greeting[] = "\xff\0\0\0\0\0\0\0\1\x7f\3\1";
	unsigned char answer[32];
	size_t len = 0;

	if (send(fd, greeting, sizeof(greeting) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(greeting) - 1)
		return KVPI_STORE_ASKS_UNKNOWN;
	while (len < sizeof(answer)) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&poll_fd, 1, kvpi_ms_left(deadline_ns, kvpi_now(&kvpi_clock_real))) <= 0)
			return KVPI_STORE_ASKS_UNKNOWN;
		got = recv(fd, answer + len, sizeof(answer) - len, 0);
		if (got <= 0)
			return KVPI_STORE_ASKS_UNKNOWN;
		len += (size_t)got;
	}
	if (answer[0] != 0xff || answer[9] != 0x7f)
		return KVPI_STORE_ASKS_UNKNOWN;
	if (memcmp(answer + 12, "CURVE", 6) == 0)
		return KVPI_STORE_ASKS_KEY;
	return memcmp(answer + 12, "NULL", 5) == 0 ? KVPI_STORE_ASKS_NO_KEY : KVPI_STORE_ASKS_UNKNOWN;
}

/* A connection, or -1 and the errno. */
static int dial(const char *url, int64_t deadline_ns, int *err)
{
	struct sockaddr_storage sa;
	socklen_t len;
	kvpi_addr addr;
	int fd;

	*err = 0;
	if (kvpi_addr_parse(url, &addr) != KVP_OK || kvpi_addr_resolve(&addr, &sa, &len) != KVP_OK)
		return -1;
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	*err = fd < 0 ? EMFILE : try_connect(fd, &sa, len, deadline_ns);
	if (fd >= 0 && *err != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

kvpi_store_asks kvpi_store_look(const char *url, int64_t deadline_ns)
{
	int err;
	const int fd = dial(url, deadline_ns, &err);
	const kvpi_store_asks asks = fd >= 0 ? hear_greeting(fd, deadline_ns) : KVPI_STORE_ASKS_UNKNOWN;

	if (fd >= 0)
		close(fd);
	return asks;
}

const char *kvpi_store_probe(const char *url, int64_t deadline_ns)
{
	int err;
	const int fd = dial(url, deadline_ns, &err);

	if (fd >= 0) {
		close(fd);
		return "something listens there, but it does not talk like a store";
	}
	switch (err) {
	case 0:
		return "its host is not known";
	case EMFILE:
		return "no socket is left to look what is there";
	case ECONNREFUSED:
		return "nothing listens there; start kvpipe-store, or check the url";
	case EHOSTUNREACH:
	case ENETUNREACH:
		return "the host is not reachable from here";
	default:
		return "no connection came about within the time";
	}
}
