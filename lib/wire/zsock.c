/* SPDX-License-Identifier: Apache-2.0
 *
 * ZeroMQ, met here, and in zauth.c and zguard.c where there is a cluster key.
 */
#include "wire/zsock.h"
#include "base/alloc.h"
#include "base/context.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "wire/addr.h"
#include "wire/zguard.h"
#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#define LINGER_MS 200
#define HIGH_WATER 256 /* messages per peer and direction */
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_INTERVAL_S 2
#define KEEPALIVE_COUNT 3
#define UNACKNOWLEDGED_MS 5000
#define HANDSHAKE_MS 5000
#define RECONNECT_MS 50
#define RECONNECT_MAX_MS 2000
#define SOCKETS_MAX 16384

/* Frames of a message that should have one, dropped per recv: the peer may send any number, and the
 * caller has other peers. */
#define DRAIN_MAX 256

struct kvpi_zctx {
	void *zmq;
	atomic_int sockets; /* open ones */
	kvpi_zauth *auth;   /* NULL: no cluster key */
};

struct kvpi_zsock {
	kvpi_zctx *ctx;
	void *zmq;
	kvpi_zguard *guard; /* NULL: no cluster key */
	bool router;
	bool draining;   /* inside a message of several frames */
	zmq_msg_t frame; /* what the last recv gave out */
	char url[300];
};

/* ZeroMQ's errno as a status, with its text. */
static kvp_status zmq_error(const char *what, const char *url)
{
	const int err = zmq_errno();

	if (err == ENOMEM)
		return kvpi_error_nomem("a ZeroMQ object");
	return kvpi_error(KVP_E_SYSTEM, "%s%s%s: %s", what, url != NULL ? " " : "",
	    url != NULL ? url : "", zmq_strerror(err));
}

/* ---- context
 * -------------------------------------------------------------------------------------- */

kvp_status kvpi_zctx_new(int io_threads, kvpi_zctx **ctx)
{
	kvpi_zctx *made = KVPI_NEW(kvpi_zctx);

	if (made == NULL)
		return kvpi_error_nomem("a ZeroMQ context");
	made->zmq = kvpi_fault("zsock.context") ? (errno = EMFILE, NULL) : zmq_ctx_new();
	if (made->zmq == NULL) {
		const kvp_status status = zmq_error("cannot make a ZeroMQ context", NULL);

		free(made);
		return status;
	}
	zmq_ctx_set(made->zmq, ZMQ_IO_THREADS, io_threads);
	/* ZeroMQ's default of 1023 is less than the pipes and stores that one process may have. */
	const int most = zmq_ctx_get(made->zmq, ZMQ_SOCKET_LIMIT);
	zmq_ctx_set(made->zmq, ZMQ_MAX_SOCKETS, most < SOCKETS_MAX ? most : SOCKETS_MAX);
	*ctx = made;
	return KVP_OK;
}

void kvpi_zctx_free(kvpi_zctx *ctx)
{
	if (ctx == NULL)
		return;

	/* With an open socket zmq_ctx_term would wait for ever. */
	const int sockets = atomic_load(&ctx->sockets);
	if (sockets != 0) {
		KVPI_LOG(
		    ERROR, "wire", "a ZeroMQ context with %d open sockets is left alone", sockets);
		return;
	}
	kvpi_zauth_stop(ctx->auth);
	/* Waits for the sockets' linger time; a signal is no reason to leave I/O threads behind. */
	while (zmq_ctx_term(ctx->zmq) != 0 && zmq_errno() == EINTR)
		;
	free(ctx);
}

kvp_status kvpi_zctx_new_in(kvp_context *context, kvpi_zctx **ctx)
{
	kvpi_keyring *const ring = kvpi_context_keyring(context);
	kvpi_zctx *made;
	kvp_status status = kvpi_zctx_new(kvpi_context_io_threads(context), &made);

	if (status == KVP_OK && ring != NULL) {
		status = zmq_has("curve") ? kvpi_zauth_start(made->zmq, ring, &made->auth)
		                          : kvpi_error(KVP_E_UNSUPPORTED,
		                                "there is a cluster key, but this libzmq was built without CURVE");
		if (status != KVP_OK)
			kvpi_zctx_free(made);
	}
	if (status == KVP_OK)
		*ctx = made;
	return status;
}

static kvp_status create_for_context(kvp_context *context, void **object)
{
	kvpi_zctx *ctx;
	const kvp_status status = kvpi_zctx_new_in(context, &ctx);

	if (status == KVP_OK)
		*object = ctx;
	return status;
}

static void destroy_for_context(void *object)
{
	kvpi_zctx_free(object);
}

kvp_status kvpi_zctx_of(kvp_context *context, kvpi_zctx **ctx)
{
	void *object;
	const kvp_status status = kvpi_context_get(
	    context, KVPI_SLOT_ZMQ, create_for_context, destroy_for_context, &object);

	if (status == KVP_OK)
		*ctx = object;
	return status;
}

/* ---- opening and closing
 * -------------------------------------------------------------------------- */

static bool set_int(kvpi_zsock *sock, int option, int value)
{
	return zmq_setsockopt(sock->zmq, option, &value, sizeof(value)) == 0;
}

/*
 * TCP watches for dead hosts, not ZeroMQ's heartbeats: with those, libzmq aborts the process
 * (assertion !_io_error, its issue 4364) when a peer goes away while its messages wait at the
 * high-water mark.
 */
static bool set_options(kvpi_zsock *sock, size_t max_frame, kvpi_zdown down, bool ipv6)
{
	const int64_t max = (int64_t)(max_frame + (sock->ctx->auth != NULL ? KVPI_ZGUARD_OVERHEAD : 0));

	return set_int(sock, ZMQ_LINGER, LINGER_MS) &&
	       zmq_setsockopt(sock->zmq, ZMQ_MAXMSGSIZE, &max, sizeof(max)) == 0 &&
	       set_int(sock, ZMQ_SNDHWM, HIGH_WATER) && set_int(sock, ZMQ_RCVHWM, HIGH_WATER) &&
	       set_int(sock, ZMQ_TCP_KEEPALIVE, 1) &&
	       set_int(sock, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S) &&
	       set_int(sock, ZMQ_TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL_S) &&
	       set_int(sock, ZMQ_TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT) &&
	       set_int(sock, ZMQ_TCP_MAXRT, UNACKNOWLEDGED_MS) &&
	       set_int(sock, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
	       set_int(sock, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
	       set_int(sock, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) &&
	       set_int(sock, ZMQ_IPV6, ipv6) &&
	       zmq_setsockopt(sock->zmq, ZMQ_ZAP_DOMAIN, KVPI_ZAP_DOMAIN, strlen(KVPI_ZAP_DOMAIN)) == 0 &&
	       (sock->router ? set_int(sock, ZMQ_ROUTER_MANDATORY, 1)
	                     : set_int(sock, ZMQ_IMMEDIATE, down == KVPI_ZDOWN_REFUSE));
}

/*
 * libzmq aborts the process when it finds no descriptor for an epoll set or an eventfd while its threads start, and they
 * start with the first socket.  So there must be room for all that a context takes; other threads may still be quicker.
 */
static kvp_status check_descriptors(const kvpi_zctx *ctx)
{
	const int count = 2 * (zmq_ctx_get(ctx->zmq, ZMQ_IO_THREADS) + 1) + 2; /* threads and reaper; socket, context */
	int fds[2 * (8 + 1) + 2];
	int made = 0;
	kvp_status status = KVP_OK;

	while (made < count && status == KVP_OK) {
		fds[made] = eventfd(0, EFD_CLOEXEC);
		if (fds[made] < 0)
			status = kvpi_error_errno("no room for the descriptors of a ZeroMQ socket");
		else
			made++;
	}
	while (made > 0)
		close(fds[--made]);
	return status;
}

/* A socket with its options set, neither bound nor connected. */
static kvp_status socket_new(
    kvpi_zctx *ctx, bool router, size_t max_frame, kvpi_zdown down, bool ipv6, kvpi_zsock **sock)
{
	kvpi_zsock *made = KVPI_NEW(kvpi_zsock);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("a socket");
	status = check_descriptors(ctx);
	if (status != KVP_OK) {
		free(made);
		return status;
	}
	made->ctx = ctx;
	made->router = router;
	made->zmq = kvpi_fault("zsock.socket")
	                ? (errno = EMFILE, NULL)
	                : zmq_socket(ctx->zmq, router ? ZMQ_ROUTER : ZMQ_DEALER);
	if (made->zmq == NULL) {
		status = zmq_error("cannot make a ZeroMQ socket", NULL);
		free(made);
		return status;
	}
	atomic_fetch_add(&ctx->sockets, 1);
	zmq_msg_init(&made->frame);
	if (!set_options(made, max_frame, down, ipv6)) {
		status = zmq_error("cannot set a ZeroMQ option", NULL);
		kvpi_zsock_close(made);
		return status;
	}
	status = ctx->auth != NULL ? kvpi_zguard_new(ctx->auth, made->zmq, router, &made->guard) : KVP_OK;
	if (status != KVP_OK) {
		kvpi_zsock_close(made);
		return status;
	}
	*sock = made;
	return KVP_OK;
}

void kvpi_zsock_close(kvpi_zsock *sock)
{
	if (sock == NULL)
		return;
	kvpi_zguard_free(sock->guard);
	zmq_msg_close(&sock->frame);
	zmq_close(sock->zmq);
	atomic_fetch_sub(&sock->ctx->sockets, 1);
	free(sock);
}

/* Binds to the first port of the range that is free, and writes down where. */
static kvp_status bind_in_range(kvpi_zsock *sock, const kvpi_listen *listen, kvpi_addr *addr)
{
	char url[300];
	size_t len = sizeof(url);

	for (unsigned port = listen->port_min; port <= listen->port_max; port++) {
		addr->port = (uint16_t)port;
		kvpi_addr_format(addr, url, sizeof(url)); /* ZeroMQ, too, takes port 0 as "choose" */
		if ((kvpi_fault("zsock.bind") ? (errno = EADDRINUSE, -1) : zmq_bind(sock->zmq, url)) == 0) {
			if (zmq_getsockopt(sock->zmq, ZMQ_LAST_ENDPOINT, url, &len) != 0)
				return zmq_error("cannot find out the port of", url);
			if (sock->guard != NULL)
				kvpi_zguard_at(sock->guard, url);
			return kvpi_addr_parse(url, addr);
		}
		if (zmq_errno() != EADDRINUSE || listen->port_min == listen->port_max)
			return zmq_error("cannot bind", url);
	}
	return kvpi_listen_range_full(listen, addr);
}

kvp_status kvpi_zsock_listen(kvpi_zctx *ctx, const kvpi_listen *listen, size_t max_frame, kvpi_zsock **sock)
{
	kvpi_zsock *made;
	kvpi_addr addr;
	kvp_status status = kvpi_listen_resolve(listen, ctx->auth != NULL, &addr);

	if (status != KVP_OK)
		return status;
	status = socket_new(
	    ctx, true, max_frame, KVPI_ZDOWN_REFUSE, strchr(addr.host, ':') != NULL, &made);
	if (status != KVP_OK)
		return status;
	status = bind_in_range(made, listen, &addr);
	if (status == KVP_OK)
		status = kvpi_listen_advertised(listen, &addr, &addr);
	if (status != KVP_OK) {
		kvpi_zsock_close(made);
		return status;
	}
	kvpi_addr_format(&addr, made->url, sizeof(made->url));
	*sock = made;
	return KVP_OK;
}

kvp_status kvpi_zsock_router(kvpi_zctx *ctx, const char *bind, size_t max_frame, kvpi_zsock **sock)
{
	kvpi_listen listen = {.bind_host = NULL};
	char host[256];
	const kvp_status status = kvpi_listen_parse(bind, host, &listen);

	return status == KVP_OK ? kvpi_zsock_listen(ctx, &listen, max_frame, sock) : status;
}

/*
 * Looks the host up on the caller's thread: ZeroMQ would do it on its I/O thread, where a slow name
 * server stalls every socket of the process.
 */
static kvp_status numeric_addr(const char *text, kvpi_addr *numeric, bool *ipv6)
{
	kvpi_addr addr;
	const kvp_status status = kvpi_addr_parse(text, &addr);

	return status == KVP_OK ? kvpi_addr_numeric(&addr, numeric, ipv6) : status;
}

kvp_status kvpi_zsock_dealer(
    kvpi_zctx *ctx, const char *url, size_t max_frame, kvpi_zdown down, kvpi_zsock **sock)
{
	kvpi_zsock *made;
	kvpi_addr addr;
	bool ipv6 = false;
	char numeric[300];
	kvp_status status = numeric_addr(url, &addr, &ipv6);

	if (status != KVP_OK)
		return status;
	if (addr.port == 0)
		return kvpi_error(
		    KVP_E_INVALID, "cannot connect to %s: port 0 is for binding", url);
	status = socket_new(ctx, false, max_frame, down, ipv6, &made);
	if (status != KVP_OK)
		return status;

	kvpi_addr_format(&addr, numeric, sizeof(numeric));
	snprintf(made->url, sizeof(made->url), "%s", url);
	if (made->guard != NULL)
		kvpi_zguard_at(made->guard, numeric);
	if ((kvpi_fault("zsock.connect") ? (errno = EMFILE, -1)
	                                 : zmq_connect(made->zmq, numeric)) != 0) {
		status = zmq_error("cannot connect to", url);
		kvpi_zsock_close(made);
		return status;
	}
	*sock = made;
	return KVP_OK;
}

kvp_status kvpi_zsock_trouble(kvpi_zsock *sock)
{
	return sock->guard != NULL ? kvpi_zguard_trouble(sock->guard, sock->url) : KVP_OK;
}

void kvpi_zsock_retry(kvpi_zsock *sock)
{
	if (sock->guard != NULL)
		kvpi_zguard_retry(sock->guard);
}

const char *kvpi_zsock_url(const kvpi_zsock *sock)
{
	return sock->url;
}

/* ---- messages
 * ------------------------------------------------------------------------------------- */

/* Both may be interrupted by a signal without having done anything. */
static int msg_send(kvpi_zsock *sock, zmq_msg_t *msg, int flags)
{
	int rc;

	do
		rc = zmq_msg_send(msg, sock->zmq, flags | ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc;
}

static int msg_recv(kvpi_zsock *sock, zmq_msg_t *msg)
{
	int rc;

	do
		rc = zmq_msg_recv(msg, sock->zmq, ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc;
}

static kvp_status send_error(const kvpi_zsock *sock)
{
	switch (zmq_errno()) {
	case EAGAIN:
		return kvpi_error(
		    KVP_E_AGAIN, "no room to send on %s, or nobody connected", sock->url);
	case EHOSTUNREACH:
		return kvpi_error(
		    KVP_E_PEER_LOST, "the peer of %s is not connected any more", sock->url);
	default:
		return zmq_error("cannot send on", sock->url);
	}
}

static kvp_status init_copy(zmq_msg_t *msg, const void *bytes, size_t len)
{
	if (kvpi_fault("alloc") || zmq_msg_init_size(msg, len) != 0)
		return kvpi_error_nomem("a frame to send");
	if (len > 0)
		memcpy(zmq_msg_data(msg), bytes, len);
	return KVP_OK;
}

kvp_status kvpi_zsock_send(kvpi_zsock *sock, const kvpi_zid *to, const void *frame, size_t len)
{
	zmq_msg_t body, id;
	kvp_status status = init_copy(&body, frame, len);

	if (status != KVP_OK)
		return status;
	if (sock->router) {
		status = init_copy(&id, to->bytes, to->len);
		if (status != KVP_OK)
			goto close_body;
		if (msg_send(sock, &id, ZMQ_SNDMORE) < 0) {
			status = send_error(sock);
			zmq_msg_close(&id);
			goto close_body;
		}
		/* From here ZeroMQ takes the body whatever happens to the peer, so that the next
		 * send begins with an id again. */
	}
	if (msg_send(sock, &body, 0) >= 0)
		return KVP_OK;
	status = send_error(sock);
close_body:
	zmq_msg_close(&body);
	return status;
}

/* Drops what is left of a message of several frames, one frame in memory at a time.  Ends with
 * sock->draining false, or true when more is to be dropped. */
static void drain(kvpi_zsock *sock)
{
	for (int i = 0; i < DRAIN_MAX && sock->draining; i++) {
		if (msg_recv(sock, &sock->frame) < 0)
			return;
		sock->draining = zmq_msg_more(&sock->frame);
	}
	/* Let the last of them go, too. */
	zmq_msg_close(&sock->frame);
	zmq_msg_init(&sock->frame);
}

/* The frame in front of a ROUTER's message.  False if the id is not one that the ROUTER made up (a
 * 0 and four bytes): peers must not choose their own, lest one takes another's. */
static bool take_id(kvpi_zsock *sock, kvpi_zid *id)
{
	const size_t len = zmq_msg_size(&sock->frame);
	const unsigned char *bytes = zmq_msg_data(&sock->frame);

	memset(id, 0, sizeof(*id));
	if (len <= sizeof(id->bytes)) {
		id->len = (uint8_t)len;
		memcpy(id->bytes, bytes, len);
	}
	return len == 5 && bytes[0] == 0;
}

kvp_status kvpi_zsock_recv(kvpi_zsock *sock, kvpi_zid *from, kvpi_view *frame)
{
	kvpi_zid id = {0};
	bool id_ours = true;

	if (sock->guard != NULL)
		(void)kvpi_zguard_look(sock->guard);
	if (sock->draining)
		drain(sock);
	if (sock->draining)
		return kvpi_error(KVP_E_AGAIN, "the rest of a message is being dropped");
	if (msg_recv(sock, &sock->frame) < 0)
		goto err;
	if (sock->router) {
		id_ours = take_id(sock, &id);
		/* The parts of a message come together: there is no waiting for the second one. */
		if (msg_recv(sock, &sock->frame) < 0)
			goto err;
	}

	if (from != NULL)
		*from = id;
	if (zmq_msg_more(&sock->frame)) {
		sock->draining = true;
		drain(sock);
		return kvpi_error(
		    KVP_E_PROTOCOL, "a message of several frames came in on %s", sock->url);
	}
	if (!id_ours)
		return kvpi_error(
		    KVP_E_PROTOCOL, "a peer of %s chose its own ZeroMQ id", sock->url);
	*frame = kvpi_view_of(zmq_msg_data(&sock->frame), zmq_msg_size(&sock->frame));
	return KVP_OK;
err:
	/* So often that it must not cost the formatting of a sentence. */
	if (zmq_errno() == EAGAIN)
		return kvpi_error_set(KVP_E_AGAIN, "no message has come");
	return zmq_error("cannot receive on", sock->url);
}

bool kvpi_zsock_draining(const kvpi_zsock *sock)
{
	return sock->draining;
}

int kvpi_zsock_fd(const kvpi_zsock *sock)
{
	int fd = -1;
	size_t len = sizeof(fd);

	if (sock->guard != NULL)
		return kvpi_zguard_fd(sock->guard);
	zmq_getsockopt(sock->zmq, ZMQ_FD, &fd, &len);
	return fd;
}

bool kvpi_zsock_ready(kvpi_zsock *sock)
{
	int events = 0;
	size_t len = sizeof(events);

	if (sock->guard != NULL && kvpi_zguard_look(sock->guard))
		return true;
	while (zmq_getsockopt(sock->zmq, ZMQ_EVENTS, &events, &len) != 0 && zmq_errno() == EINTR)
		;
	return events & ZMQ_POLLIN;
}
