/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/zauth.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"
#define LOOK_MS 1000 /* at the key file, at least that often */
/* A handshake that ends later was ended by ZeroMQ's time-out for it (5 s, zsock.c): the peer hangs, which is no word on
 * the key. */
#define HANGS_NS (4 * KVPI_NS_PER_S)
#define EVENTS                                                                                                \
	(ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |         \
	    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_MONITOR_STOPPED)

struct kvpi_zauth {
	void *zmq;
	kvpi_keyring *ring;
	pthread_t thread;
	int epoll_fd;
	kvpi_wakeup wakeup;
	pthread_mutex_t mutex; /* guards all below, and the ends of monitors */
	bool stop;
	kvpi_list watches;
	uint64_t monitors; /* made so far */
	/* The thread's own. */
	void *zap;
	uint64_t generation; /* of the clients' keys */
	int client_count;
	unsigned char clients[KVPI_KEYS_MAX][32];
};

void kvpi_zauth_server_pair(const unsigned char key[KVPI_KEY_BYTES], kvpi_pair *pair)
{
	kvpi_auth_pair(key, KVPI_KEY_BYTES, "kvpipe server 1", pair);
}

void kvpi_zauth_client_pair(const unsigned char key[KVPI_KEY_BYTES], kvpi_pair *pair)
{
	kvpi_auth_pair(key, KVPI_KEY_BYTES, "kvpipe client 1", pair);
}

/* ---- who may come in ---- */

bool kvpi_zap_allows(const kvpi_view *frames, size_t frame_count, const unsigned char (*clients)[32], int count)
{
	bool known = false;

	/* Version, request, domain, address, identity, mechanism, key. */
	if (frame_count != KVPI_ZAP_FRAMES || !kvpi_view_equal(frames[0], kvpi_view_text("1.0")) ||
	    !kvpi_view_equal(frames[2], kvpi_view_text(KVPI_ZAP_DOMAIN)) ||
	    !kvpi_view_equal(frames[5], kvpi_view_text("CURVE")) || frames[6].len != 32)
		return false;
	for (int i = 0; i < count; i++)
		known |= kvpi_secret_equal(frames[6].data, clients[i], 32);
	return known;
}

static void renew_clients(kvpi_zauth *auth)
{
	kvpi_keys keys;
	const uint64_t generation = kvpi_keyring_get(auth->ring, &keys);

	if (generation != auth->generation) {
		for (int i = 0; i < keys.count; i++) {
			kvpi_pair pair;

			kvpi_zauth_client_pair(keys.key[i], &pair);
			memcpy(auth->clients[i], pair.public_key, 32);
			kvpi_wipe(&pair, sizeof(pair));
		}
		auth->client_count = keys.count;
		auth->generation = generation;
	}
	kvpi_keys_wipe(&keys);
}

static int next_frame(void *socket, zmq_msg_t *frame)
{
	int rc;

	do
		rc = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc;
}

static void send_part(void *socket, const void *data, size_t len, bool more)
{
	int rc;

	/* Who asked may be gone: then nobody waits for the answer. */
	do
		rc = zmq_send(socket, data, len, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
	while (rc < 0 && zmq_errno() == EINTR);
}

/* One request and its answer.  False when none waits. */
static bool answer_one(kvpi_zauth *auth)
{
	zmq_msg_t frames[KVPI_ZAP_FRAMES], rest;
	kvpi_view views[KVPI_ZAP_FRAMES];
	size_t count = 0, made = 0;
	bool more = true, allowed;

	for (; more && count < KVPI_ZAP_FRAMES; count++) {
		zmq_msg_init(&frames[made++]);
		if (next_frame(auth->zap, &frames[count]) < 0)
			break;
		views[count] = kvpi_view_of(zmq_msg_data(&frames[count]), zmq_msg_size(&frames[count]));
		more = zmq_msg_more(&frames[count]);
	}
	const bool request = count > 0;
	while (request && more) { /* more than there should be */
		zmq_msg_init(&rest);
		more = next_frame(auth->zap, &rest) >= 0 && zmq_msg_more(&rest);
		zmq_msg_close(&rest);
		count = KVPI_ZAP_FRAMES + 1;
	}
	if (request) {
		renew_clients(auth);
		allowed = kvpi_zap_allows(
		    views, count, (const unsigned char(*)[32])auth->clients, auth->client_count);
		if (!allowed)
			KVPI_LOG(INFO, "wire", "a client was refused: its key is not of this cluster");
		send_part(auth->zap, "1.0", 3, true);
		send_part(auth->zap, count > 1 ? views[1].data : "", count > 1 ? views[1].len : 0, true);
		send_part(auth->zap, allowed ? "200" : "400", 3, true);
		send_part(auth->zap, "", 0, true); /* text */
		send_part(auth->zap, "", 0, true); /* user */
		send_part(auth->zap, "", 0, false); /* metadata */
	}
	for (size_t i = 0; i < made; i++)
		zmq_msg_close(&frames[i]);
	return request;
}

/* ---- what becomes of handshakes ---- */

static void tell(kvpi_zwatch *watch)
{
	if (watch->news == NULL)
		return;
	atomic_store(&watch->fresh, true);
	kvpi_wakeup_post(watch->news);
}

static void forget(kvpi_zauth *auth, kvpi_zwatch *watch)
{
	if (watch->pair != NULL) {
		int fd = -1;
		size_t len = sizeof(fd);

		if (zmq_getsockopt(watch->pair, ZMQ_FD, &fd, &len) == 0)
			epoll_ctl(auth->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		zmq_close(watch->pair);
	}
	kvpi_list_remove(&watch->node);
	free(watch);
}

/* False when the socket is gone and the watch with it. */
static bool note(kvpi_zauth *auth, kvpi_zwatch *watch, unsigned event, uint32_t value)
{
	const int64_t now_ns = kvpi_now(&kvpi_clock_real);

	switch (event) {
	case ZMQ_EVENT_CONNECTED:
		watch->connected_ns = now_ns;
		return true;
	case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
		atomic_store(&watch->failures, 0);
		atomic_store(&watch->mismatch, false);
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
		if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
			atomic_store(&watch->mismatch, true);
		atomic_fetch_add(&watch->failures, 1);
		break;
	case ZMQ_EVENT_MONITOR_STOPPED:
		forget(auth, watch);
		return false;
	default:
		if (now_ns - watch->connected_ns >= HANGS_NS)
			return true;
		atomic_fetch_add(&watch->failures, 1);
		break;
	}
	tell(watch);
	return true;
}

/* An event is a frame of 16 bits of event and 32 of value, and one with the address. */
static void drain(kvpi_zauth *auth, kvpi_zwatch *watch)
{
	zmq_msg_t frame;
	bool alive = true;

	zmq_msg_init(&frame);
	while (alive && next_frame(watch->pair, &frame) >= 0) {
		unsigned char bytes[6] = {0};
		uint16_t event;
		uint32_t value;

		if (zmq_msg_size(&frame) == sizeof(bytes))
			memcpy(bytes, zmq_msg_data(&frame), sizeof(bytes));
		while (zmq_msg_more(&frame) && next_frame(watch->pair, &frame) >= 0)
			;
		memcpy(&event, bytes, sizeof(event));
		memcpy(&value, bytes + sizeof(event), sizeof(value));
		if (event != 0)
			alive = note(auth, watch, event, value);
	}
	zmq_msg_close(&frame);
}

/* ---- the thread ---- */

/* True when it may leave: told to, and the last monitored socket is gone. */
static bool turn(kvpi_zauth *auth)
{
	bool monitors = false;

	/* First, so that requests meet the keys as they are. */
	const bool changed = kvpi_keyring_reload(auth->ring);
	while (answer_one(auth))
		;
	KVPI_LIST_FOREACH (pos, nxt, &auth->watches) {
		kvpi_zwatch *watch = KVPI_CONTAINER_OF(pos, kvpi_zwatch, node);

		if (changed)
			tell(watch);
		if (watch->pair != NULL)
			drain(auth, watch);
	}
	KVPI_LIST_FOREACH (pos, nxt, &auth->watches)
		monitors = monitors || KVPI_CONTAINER_OF(pos, kvpi_zwatch, node)->pair != NULL;
	return auth->stop && !monitors;
}

static void *run(void *arg)
{
	kvpi_zauth *auth = arg;
	struct epoll_event events[8];

	for (;;) {
		kvpi_wakeup_clear(&auth->wakeup);
		pthread_mutex_lock(&auth->mutex);
		const bool leave = turn(auth);
		pthread_mutex_unlock(&auth->mutex);
		if (leave)
			return NULL;
		epoll_wait(auth->epoll_fd, events, 8, LOOK_MS);
	}
}

static kvp_status watch_fd(kvpi_zauth *auth, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (epoll_ctl(auth->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return kvpi_error_errno("cannot watch a socket");
	return KVP_OK;
}

static kvp_status watch_socket(kvpi_zauth *auth, void *socket)
{
	int fd = -1;
	size_t len = sizeof(fd);

	if (zmq_getsockopt(socket, ZMQ_FD, &fd, &len) != 0)
		return kvpi_error(KVP_E_SYSTEM, "a ZeroMQ socket has no descriptor: %s", zmq_strerror(zmq_errno()));
	return watch_fd(auth, fd);
}

static void *quiet_socket(void *zmq, int type)
{
	void *socket = kvpi_fault("zauth.socket") ? (errno = EMFILE, NULL) : zmq_socket(zmq, type);
	const int linger = 0, unbounded = 0;

	if (socket == NULL)
		return NULL;
	zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
	/* What comes in is made in this process, a few dozen a second and connection at most, and a full queue would
	 * block ZeroMQ's I/O thread. */
	zmq_setsockopt(socket, ZMQ_RCVHWM, &unbounded, sizeof(unbounded));
	return socket;
}

static kvp_status set_up(kvpi_zauth *auth)
{
	kvp_status status = kvpi_auth_init();

	if (status != KVP_OK)
		return status;
	auth->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (auth->epoll_fd < 0)
		return kvpi_error_errno("cannot make an epoll set");
	status = kvpi_wakeup_init(&auth->wakeup);
	if (status != KVP_OK)
		return status;
	auth->zap = quiet_socket(auth->zmq, ZMQ_REP);
	if (auth->zap == NULL || zmq_bind(auth->zap, ZAP_ENDPOINT) != 0)
		return kvpi_error(
		    KVP_E_SYSTEM, "cannot answer authentication requests: %s", zmq_strerror(zmq_errno()));
	status = watch_fd(auth, auth->wakeup.fd);
	if (status == KVP_OK)
		status = watch_socket(auth, auth->zap);
	if (status == KVP_OK)
		status = kvpi_thread_start(&auth->thread, "kvp-auth", run, auth);
	return status;
}

/* The thread has left, or never was. */
static void destroy(kvpi_zauth *auth)
{
	if (auth->zap != NULL)
		zmq_close(auth->zap);
	if (auth->wakeup.fd >= 0)
		kvpi_wakeup_fini(&auth->wakeup);
	if (auth->epoll_fd >= 0)
		close(auth->epoll_fd);
	pthread_mutex_destroy(&auth->mutex);
	free(auth);
}

kvp_status kvpi_zauth_start(void *zmq, kvpi_keyring *ring, kvpi_zauth **auth)
{
	kvpi_zauth *made = KVPI_NEW(kvpi_zauth);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("the authentication of a ZeroMQ context");
	made->zmq = zmq;
	made->ring = ring;
	made->epoll_fd = made->wakeup.fd = -1;
	pthread_mutex_init(&made->mutex, NULL);
	kvpi_list_init(&made->watches);
	status = set_up(made);
	if (status != KVP_OK) {
		destroy(made);
		return status;
	}
	*auth = made;
	return KVP_OK;
}

void kvpi_zauth_stop(kvpi_zauth *auth)
{
	if (auth == NULL)
		return;
	pthread_mutex_lock(&auth->mutex);
	auth->stop = true;
	pthread_mutex_unlock(&auth->mutex);
	kvpi_wakeup_post(&auth->wakeup);
	pthread_join(auth->thread, NULL);
	destroy(auth);
}

kvpi_keyring *kvpi_zauth_keyring(const kvpi_zauth *auth)
{
	return auth->ring;
}

/* ---- watching sockets ---- */

/* Connected before the socket is: a monitor without a reader blocks ZeroMQ's I/O thread at its first event. */
static kvp_status make_monitor(kvpi_zauth *auth, void *socket, kvpi_zwatch *watch)
{
	char endpoint[64];
	kvp_status status;

	watch->pair = quiet_socket(auth->zmq, ZMQ_PAIR);
	if (watch->pair == NULL)
		return kvpi_error(KVP_E_SYSTEM, "cannot make a ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
	snprintf(endpoint, sizeof(endpoint), "inproc://kvpipe-monitor-%llu", (unsigned long long)++auth->monitors);
	if (zmq_socket_monitor(socket, endpoint, EVENTS) == 0 && zmq_connect(watch->pair, endpoint) == 0) {
		status = watch_socket(auth, watch->pair);
		if (status == KVP_OK)
			return KVP_OK;
	} else {
		status = kvpi_error(KVP_E_SYSTEM, "cannot monitor a ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
	}
	zmq_socket_monitor(socket, NULL, 0);
	zmq_close(watch->pair);
	return status;
}

kvp_status kvpi_zauth_watch(kvpi_zauth *auth, void *socket, bool monitored, kvpi_wakeup *news, kvpi_zwatch **out)
{
	kvpi_zwatch *watch = KVPI_NEW(kvpi_zwatch);
	kvp_status status = KVP_OK;

	if (watch == NULL)
		return kvpi_error_nomem("the authentication of a socket");
	watch->news = news;
	pthread_mutex_lock(&auth->mutex);
	if (monitored)
		status = make_monitor(auth, socket, watch);
	if (status == KVP_OK)
		kvpi_list_append(&auth->watches, &watch->node);
	pthread_mutex_unlock(&auth->mutex);
	if (status != KVP_OK) {
		free(watch);
		return status;
	}
	kvpi_wakeup_post(&auth->wakeup); /* its descriptor tells of what comes from now on, not of what has come */
	*out = watch;
	return KVP_OK;
}

void kvpi_zauth_leave(kvpi_zauth *auth, kvpi_zwatch *watch)
{
	if (watch == NULL)
		return;
	pthread_mutex_lock(&auth->mutex);
	watch->news = NULL;
	if (watch->pair == NULL)
		forget(auth, watch); /* else when ZeroMQ says that the socket is gone */
	pthread_mutex_unlock(&auth->mutex);
}
