/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/net.h"

#include "base/error.h"
#include "base/list.h"
#include "kit/kit.h"
#include "sim/seeds.h"
#include "wire/zsock.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#define SOCKET_FRAMES_MAX 1000 /* more: no room */

typedef struct frame {
	kvpi_list node;
	int64_t at_ns;
	kvpi_zid from;
	int from_node;
	size_t len;
	unsigned char data[];
} frame;

struct kvpi_zsock {
	kvpi_list node;
	int owner;
	bool router;
	uint32_t number, generation; /* of a dealer: what a router knows it by, new with each connection */
	char url[128];
	kvpi_list inbox;
	unsigned frames;
	frame *current; /* lent out by the last recv */
};

struct kvpi_zctx {
	char nothing;
};

static struct {
	const kvpi_clock *clock;
	uint64_t random, sodium_random;
	net_weather weather;
	kvpi_list sockets;
	uint32_t made;
	int node;
	uint64_t cut; /* a bit for each node */
} net;

/* ---- the world ------------------------------------------------------------------------------------------ */

static uint32_t library_draw(void)
{
	return (uint32_t)kit_random(&net.sodium_random);
}

static void library_fill(void *out, const size_t len)
{
	unsigned char *at = out;

	for (size_t i = 0; i < len; i++)
		at[i] = (unsigned char)kit_random(&net.sodium_random);
}

static const char *library_name(void)
{
	return "seeded";
}

void net_reset(uint64_t seed, const kvpi_clock *clock)
{
	static randombytes_implementation seeded = {
	    .implementation_name = library_name, .random = library_draw, .buf = library_fill};

	if (net.clock == NULL) {
		randombytes_set_implementation(&seeded);
		kvpi_list_init(&net.sockets);
	}
	SIM_CHECK(kvpi_list_empty(&net.sockets), "a socket was left open");
	net.clock = clock;
	net.random = seed;
	net.sodium_random = ~seed;
	net.weather = (net_weather){.lose = 0};
	net.made = 0;
	net.node = 0;
	net.cut = 0;
}

void net_set_weather(net_weather weather)
{
	net.weather = weather;
}

void net_set_node(int node)
{
	net.node = node;
}

void net_cut(int node, bool cut)
{
	if (cut)
		net.cut |= UINT64_C(1) << node;
	else
		net.cut &= ~(UINT64_C(1) << node);
}

uint64_t net_draw(uint64_t below)
{
	return kit_random(&net.random) % below;
}

static bool is_cut(int node)
{
	return net.cut >> node & 1;
}

/* ---- zsock.h -------------------------------------------------------------------------------------------- */

static kvpi_zctx the_context;

kvp_status kvpi_zctx_new(int io_threads, kvpi_zctx **ctx)
{
	(void)io_threads;
	*ctx = &the_context;
	return KVP_OK;
}

void kvpi_zctx_free(kvpi_zctx *ctx)
{
	(void)ctx;
}

kvp_status kvpi_zctx_new_in(kvp_context *context, kvpi_zctx **ctx)
{
	(void)context;
	*ctx = &the_context;
	return KVP_OK;
}

kvp_status kvpi_zctx_of(kvp_context *context, kvpi_zctx **ctx)
{
	(void)context;
	*ctx = &the_context;
	return KVP_OK;
}

static kvpi_zsock *sock_new(bool router)
{
	kvpi_zsock *sock = calloc(1, sizeof(*sock));

	SIM_CHECK(sock != NULL, "no memory");
	sock->owner = net.node;
	sock->router = router;
	sock->number = ++net.made;
	kvpi_list_init(&sock->inbox);
	kvpi_list_append(&net.sockets, &sock->node);
	return sock;
}

kvp_status kvpi_zsock_router(kvpi_zctx *ctx, const char *bind, size_t max_frame, kvpi_zsock **sock)
{
	(void)ctx, (void)bind, (void)max_frame;
	*sock = sock_new(true);
	snprintf((*sock)->url, sizeof((*sock)->url), "tcp://127.0.0.1:%u", 10000 + (*sock)->number);
	return KVP_OK;
}

kvp_status kvpi_zsock_listen(kvpi_zctx *ctx, const kvpi_listen *listen, size_t max_frame, kvpi_zsock **sock)
{
	(void)listen;
	return kvpi_zsock_router(ctx, "", max_frame, sock);
}

kvp_status kvpi_zsock_dealer(kvpi_zctx *ctx, const char *url, size_t max_frame, kvpi_zdown down, kvpi_zsock **sock)
{
	(void)ctx, (void)max_frame, (void)down;
	*sock = sock_new(false);
	snprintf((*sock)->url, sizeof((*sock)->url), "%s", url);
	return KVP_OK;
}

static void discard(kvpi_zsock *sock, frame *gone)
{
	kvpi_list_remove(&gone->node);
	sock->frames--;
	free(gone);
}

void kvpi_zsock_close(kvpi_zsock *sock)
{
	if (sock == NULL)
		return;
	KVPI_LIST_FOREACH(pos, next, &sock->inbox)
		discard(sock, KVPI_CONTAINER_OF(pos, frame, node));
	free(sock->current);
	kvpi_list_remove(&sock->node);
	free(sock);
}

const char *kvpi_zsock_url(const kvpi_zsock *sock)
{
	return sock->url;
}

static kvpi_zid zid_of(const kvpi_zsock *dealer)
{
	kvpi_zid zid = {.len = 2 * sizeof(uint32_t)};

	memcpy(zid.bytes, &dealer->number, sizeof(uint32_t));
	memcpy(zid.bytes + sizeof(uint32_t), &dealer->generation, sizeof(uint32_t));
	return zid;
}

/* The other end of a dealer, or of the connection that a router knows by that id. */
static kvpi_zsock *find(const kvpi_zsock *from, const kvpi_zid *to)
{
	KVPI_LIST_FOREACH(pos, next, &net.sockets) {
		kvpi_zsock *sock = KVPI_CONTAINER_OF(pos, kvpi_zsock, node);

		if (from->router ? !sock->router && memcmp(zid_of(sock).bytes, to->bytes, to->len) == 0
		                 : sock->router && strcmp(sock->url, from->url) == 0)
			return sock;
	}
	return NULL;
}

/* The dealer's connection breaks: what was under way on it is lost, and the router knows it by a new name. */
static void renew(kvpi_zsock *dealer, kvpi_zsock *router)
{
	KVPI_LIST_FOREACH(pos, next, &dealer->inbox)
		discard(dealer, KVPI_CONTAINER_OF(pos, frame, node));
	if (router != NULL)
		KVPI_LIST_FOREACH(pos, next, &router->inbox) {
			frame *f = KVPI_CONTAINER_OF(pos, frame, node);
			kvpi_zid zid = zid_of(dealer);

			if (memcmp(f->from.bytes, zid.bytes, zid.len) == 0)
				discard(router, f);
		}
	dealer->generation++;
}

static void launch(const kvpi_zsock *from, kvpi_zsock *to, const void *data, size_t len)
{
	frame *f = malloc(sizeof(*f) + len);

	SIM_CHECK(f != NULL, "no memory");
	*f = (frame){.at_ns = kvpi_now(net.clock), .from_node = from->owner, .len = len};
	f->at_ns += (int64_t)net_draw(net.weather.delay_ms + 1) * KVPI_NS_PER_MS;
	if (!from->router)
		f->from = zid_of(from);
	memcpy(f->data, data, len);
	kvpi_list_append(&to->inbox, &f->node);
	to->frames++;
}

kvp_status kvpi_zsock_send(kvpi_zsock *sock, const kvpi_zid *to, const void *data, size_t len)
{
	kvpi_zsock *peer = find(sock, to);
	uint64_t dice = net_draw(1000);

	if (net_draw(1000) < net.weather.no_room)
		return kvpi_error(KVP_E_AGAIN, "no room by chance");
	if (!sock->router && net_draw(1000) < net.weather.renew)
		renew(sock, peer);
	if (peer == NULL)
		return sock->router ? kvpi_error(KVP_E_PEER_LOST, "no such connection") : KVP_OK; /* waits for a peer */
	if (peer->frames >= SOCKET_FRAMES_MAX)
		return kvpi_error(KVP_E_AGAIN, "no room");
	if (is_cut(sock->owner) || is_cut(peer->owner) || dice < net.weather.lose)
		return KVP_OK;
	launch(sock, peer, data, len);
	if (dice >= 1000 - net.weather.twice)
		launch(sock, peer, data, len);
	return KVP_OK;
}

/* The first frame that has arrived. */
static frame *arrived(kvpi_zsock *sock)
{
	KVPI_LIST_FOREACH(pos, next, &sock->inbox) {
		frame *f = KVPI_CONTAINER_OF(pos, frame, node);

		if (is_cut(f->from_node) || is_cut(sock->owner))
			discard(sock, f);
		else if (f->at_ns <= kvpi_now(net.clock))
			return f;
	}
	return NULL;
}

kvp_status kvpi_zsock_recv(kvpi_zsock *sock, kvpi_zid *from, kvpi_view *view)
{
	frame *f = arrived(sock);

	if (f == NULL)
		return kvpi_error(KVP_E_AGAIN, "no message");
	kvpi_list_remove(&f->node);
	sock->frames--;
	free(sock->current);
	sock->current = f;
	if (from != NULL)
		*from = f->from;
	*view = kvpi_view_of(f->data, f->len);
	return KVP_OK;
}

int kvpi_zsock_fd(const kvpi_zsock *sock)
{
	(void)sock;
	return -1;
}

bool kvpi_zsock_ready(kvpi_zsock *sock)
{
	return arrived(sock) != NULL;
}

kvp_status kvpi_zsock_trouble(kvpi_zsock *sock)
{
	(void)sock;
	return KVP_OK; /* nobody here has a key */
}

void kvpi_zsock_retry(kvpi_zsock *sock)
{
	(void)sock;
}

bool kvpi_zsock_draining(const kvpi_zsock *sock)
{
	(void)sock;
	return false;
}
