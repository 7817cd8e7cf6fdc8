/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer of the plane `tcp` that is not kvpipe: the test's own socket, which says what it likes.
 */
#ifndef KVP_TESTS_UNIT_TCP_KIT_H
#define KVP_TESTS_UNIT_TCP_KIT_H

#include "conformance/rig.h"
#include "kit/kit.h"
#include "plane/tcp_frame.h"
#include "plane/tcp_greet.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOST KVPI_PLANE_LOST
#define CONNECTED KVPI_PLANE_CONNECTED
#define RECEIVED KVPI_PLANE_RECEIVED
#define SENT KVPI_PLANE_SENT
#define NOTIFIED KVPI_PLANE_NOTIFIED

static inline uint16_t port_of(rig *r)
{
	char address[KVPI_PLANE_ADDRESS_MAX + 1];
	size_t len = 0;
	unsigned port = 0;

	KIT_OK(r->ops->address(r->a.plane, address, &len));
	address[len] = 0;
	ck_assert_int_eq(sscanf(address, "127.0.0.1:%u", &port), 1);
	return (uint16_t)port;
}

/* A socket connected to the plane's listener. */
static inline int dial(rig *r)
{
	const struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(port_of(r)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	ck_assert_int_ge(fd, 0);
	/* What is said is there: a test that asks whether something does not happen must not ask too early. */
	ck_assert_int_eq(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
	ck_assert_int_eq(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static inline void say(int fd, const void *bytes, size_t len)
{
	/* The other end may have closed already. */
	(void)!send(fd, bytes, len, MSG_NOSIGNAL);
}

/* Has the plane closed it?  (Or sent something: then *got is the number of bytes.) */
static inline bool ended(int fd, void *bytes, size_t len, ssize_t *got)
{
	*got = recv(fd, bytes, len, MSG_DONTWAIT);
	return *got == 0 || (*got < 0 && errno != EAGAIN);
}

static inline bool closed(int fd)
{
	char byte;
	ssize_t got;

	return ended(fd, &byte, 1, &got);
}

/* Reads exactly len bytes, stepping the rig. */
static inline void hear(rig *r, int fd, void *bytes, size_t len)
{
	size_t have = 0;

	while (have < len) {
		ssize_t got = -1;

		RIG_UNTIL(r, ended(fd, (char *)bytes + have, len - have, &got) || got > 0);
		ck_assert_int_gt(got, 0);
		have += (size_t)got;
	}
}

/* Says hello for one socket of a connection and confirms the answer.  *session: of stream 0; in for the others. */
static inline void greet(rig *r, int fd, const unsigned char *token, int streams, int stream, bool checksum,
    unsigned char session[KVPI_TCP_NONCE_BYTES])
{
	kvpi_tcp_greeting hello, answer, confirm;

	kvpi_tcp_hello_make(token, streams, stream, checksum, stream == 0 ? NULL : session, &hello);
	say(fd, &hello, sizeof(hello));
	hear(r, fd, &answer, sizeof(answer));
	ck_assert(kvpi_tcp_answer_right(token, &hello, &answer));
	if (stream == 0)
		memcpy(session, answer.first, KVPI_TCP_NONCE_BYTES);
	kvpi_tcp_confirm_make(token, &hello, &answer, &confirm);
	say(fd, &confirm, sizeof(confirm));
}

/* A peer that has greeted, on one socket. */
static inline int greeted_with(rig *r, const unsigned char *token, bool checksum)
{
	const unsigned before = r->a.counts[CONNECTED];
	unsigned char session[KVPI_TCP_NONCE_BYTES];
	const int fd = dial(r);

	greet(r, fd, token, 1, 0, checksum, session);
	RIG_UNTIL(r, r->a.counts[CONNECTED] > before);
	return fd;
}

static inline int greeted(rig *r)
{
	return greeted_with(r, r->token, false);
}

static inline void say_frame(int fd, kvpi_tcp_frame frame)
{
	unsigned char head[KVPI_TCP_HEAD_BYTES];

	kvpi_tcp_frame_write(head, &frame, false);
	say(fd, head, sizeof(head));
}

#endif
