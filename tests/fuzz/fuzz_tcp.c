/* SPDX-License-Identifier: Apache-2.0
 *
 * What a peer says on a data connection of the plane `tcp`.  The first byte chooses: what stands before the greeting,
 * frames on one stream, frames with checksums (the header's is made right, so that more than its check is met), or
 * frames on two streams, where each byte 0xff in front of 40 bytes changes the stream.  Whatever is said, nothing outside
 * of the posted destinations is written, and RECEIVED means that all of one was.
 */
#include "fuzz/fuzz.h"

#include "plane/planes.h"
#include "plane/tcp.h"
#include "base/context.h"
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define POSTS 3
#define BYTES 600
#define GUARD 64

typedef struct ends {
	kvpi_conn *conn;
	unsigned lost, received, notified;
} ends;

static void on_event(void *user, const kvpi_plane_event *event)
{
	ends *e = user;

	switch (event->kind) {
	case KVPI_PLANE_LOST:
		e->lost++;
		if (event->text[0] == 0 || event->status >= 0)
			abort();
		break;
	case KVPI_PLANE_RECEIVED:
		e->received++;
		break;
	case KVPI_PLANE_NOTIFIED:
		e->notified++;
		if (event->len > KVPI_PLANE_NOTIFY_MAX)
			abort();
		break;
	default:
		break;
	}
}

static void wake(void *user)
{
	(void)user;
}

static void must(bool right)
{
	if (!right)
		abort();
}

static void say(int fd, const void *bytes, size_t len)
{
	(void)!send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A guest whose socket is ours. */
static void fuzz_greeting(kvpi_plane *plane, const uint8_t *data, size_t size)
{
	int fds[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	must(kvpi_tcp_watch(plane, fds[0], EPOLLIN, &plane->guests[0]) == KVP_OK);
	plane->guests[0].fd = fds[0];
	plane->guests[0].got = 0;
	plane->guests[0].answered = false;
	plane->guests[0].deadline_ns = INT64_MAX;
	plane->guest_count++;
	say(fds[1], data, size);
	for (int i = 0; i < 8; i++)
		kvpi_plane_tcp.progress(plane, 1u << 20);
	close(fds[1]);
	for (int i = 0; i < 4; i++)
		kvpi_plane_tcp.progress(plane, 1u << 20);
	must(plane->guest_count == 0);
}

/* A connection that is up, its lanes with sockets of ours at their other ends. */
static void come_up(kvpi_plane *plane, kvpi_conn *conn, int streams, bool checksum, int *fds)
{
	conn->next.streams = conn->next.count = streams;
	conn->next.checksum = checksum;
	for (int i = 0; i < streams; i++) {
		int pair[2];

		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
		conn->next.fds[i] = pair[0];
		fds[i] = pair[1];
	}
	kvpi_plane_tcp.progress(plane, 1u << 20);
}

static void fuzz_frames(kvpi_plane *plane, kvpi_conn *conn, int streams, bool checksum, const uint8_t *data, size_t size)
{
	int fds[2], lane = 0;

	come_up(plane, conn, streams, checksum, fds);
	while (size > 0) {
		uint8_t chunk[KVPI_TCP_HEAD_BYTES];
		size_t n = size < sizeof(chunk) ? size : sizeof(chunk);

		if (streams > 1 && data[0] == 0xff) {
			lane = 1 - lane;
			data++;
			size--;
			continue;
		}
		memcpy(chunk, data, n);
		if (checksum && n == sizeof(chunk) && memcmp(chunk, "KVPP", 4) == 0) {
			const uint32_t check = htole32(kvpi_tcp_head_check(chunk));

			memcpy(chunk + 20, &check, sizeof(check));
		}
		say(fds[lane], chunk, n);
		data += n;
		size -= n;
		kvpi_plane_tcp.progress(plane, 1 + size % 500);
	}
	for (int i = 0; i < streams; i++)
		close(fds[i]);
	for (int i = 0; i < 100 && conn->state != KVPI_TCP_WAITING; i++)
		kvpi_plane_tcp.progress(plane, 1u << 20);
	must(conn->state == KVPI_TCP_WAITING);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = "0123456789abcde";
	static unsigned char memory[POSTS][GUARD + BYTES + GUARD];
	ends e = {.lost = 0};
	kvpi_plane_params params = {.listen = {.bind_host = "127.0.0.1"},
	    .streams = 2,
	    .staging_bytes = 16384,
	    .on_event = on_event,
	    .wake = wake};
	kvpi_plane_caps caps;
	kvpi_plane *plane;

	if (size == 0)
		return 0;
	must(kvpi_context_hold(NULL, &params.context) == KVP_OK);
	must(kvpi_plane_tcp.open(&params, &plane, &caps) == KVP_OK);
	plane->params.user = &e;
	must(kvpi_plane_tcp.accept(plane, token, NULL, &e.conn) == KVP_OK);
	memset(memory, 0xa5, sizeof(memory));
	for (uint64_t i = 0; i < POSTS; i++) {
		kvpi_transfer post = {.id = {i, 1}, .direction = KVPI_PUT};

		kvpi_layout_of_bytes(memory[i] + GUARD, i == 2 ? 0 : BYTES, KVP_MEMORY_HOST, 0, &post.local);
		if (i == 1) { /* short runs: through a bounce buffer */
			post.local.ndim = 1;
			post.local.dim[0] = (kvpi_dim){BYTES / 6, 6};
			post.local.block_bytes = 3;
			post.local.bytes = BYTES / 2;
		}
		must(kvpi_plane_tcp.post_recv(e.conn, &post) == KVP_OK);
	}
	if (data[0] % 4 == 0)
		fuzz_greeting(plane, data + 1, size - 1);
	else
		fuzz_frames(plane, e.conn, data[0] % 4 == 3 ? 2 : 1, data[0] % 4 == 2, data + 1, size - 1);
	for (int i = 0; i < POSTS; i++) {
		for (int k = 0; k < GUARD; k++)
			must(memory[i][k] == 0xa5 && memory[i][GUARD + BYTES + k] == 0xa5);
	}
	for (int k = 3; k < BYTES; k += 6)
		must(memory[1][GUARD + k] == 0xa5 && memory[1][GUARD + k + 2] == 0xa5);
	must(e.received <= POSTS);
	kvpi_plane_tcp.close(plane);
	kvpi_context_release(params.context);
	return 0;
}
