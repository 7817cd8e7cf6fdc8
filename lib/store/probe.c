/* SPDX-License-Identifier: Apache-2.0
 *
 * A bare TCP connection, only to see what becomes of it.
 */
#include "store/probe.h"
#include "base/clock.h"
#include "wire/addr.h"
#include <errno.h>
#include <poll.h>
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

const char *kvpi_store_probe(const char *url, int64_t deadline_ns)
{
	struct sockaddr_storage sa;
	socklen_t len;
	kvpi_addr addr;
	int fd, err;

	if (kvpi_addr_parse(url, &addr) != KVP_OK || kvpi_addr_resolve(&addr, &sa, &len) != KVP_OK)
		return "its host is not known";
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return "no socket is left to look what is there";
	err = try_connect(fd, &sa, len, deadline_ns);
	close(fd);
	switch (err) {
	case 0:
		return "something listens there, but it does not talk like a store";
	case ECONNREFUSED:
		return "nothing listens there; start kvpipe-store, or check the url";
	case EHOSTUNREACH:
	case ENETUNREACH:
		return "the host is not reachable from here";
	default:
		return "no connection came about within the time";
	}
}
