/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/zguard.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>

#define REBIND_TRIES 200 /* times 1 ms: ZeroMQ gives a port back on its own thread */

struct kvpi_zguard {
	kvpi_zauth *auth;
	kvpi_zwatch *watch;
	void *socket;
	bool server;
	int epoll_fd; /* the socket's descriptor and the news */
	kvpi_wakeup news;
	char endpoint[300];
	unsigned char public_key[32]; /* server: of the pair it was bound with */
	int turn;                     /* client: which key it tries */
	unsigned failures;            /* of the watch's, those that were acted on */
	bool gave_up, told;
};

static bool set_key(void *socket, int option, const unsigned char key[32])
{
	return zmq_setsockopt(socket, option, key, 32) == 0;
}

static bool set_server_key(kvpi_zguard *guard, const kvpi_keys *keys)
{
	const int on = 1;
	kvpi_pair pair;
	bool good;

	kvpi_zauth_server_pair(keys->key[0], &pair);
	good = zmq_setsockopt(guard->socket, ZMQ_CURVE_SERVER, &on, sizeof(on)) == 0 &&
	       set_key(guard->socket, ZMQ_CURVE_SECRETKEY, pair.secret_key);
	memcpy(guard->public_key, pair.public_key, 32);
	kvpi_wipe(&pair, sizeof(pair));
	return good;
}

static bool set_client_key(kvpi_zguard *guard, const kvpi_keys *keys)
{
	const unsigned char *const key = keys->key[guard->turn % keys->count];
	kvpi_pair server, client;
	bool good;

	kvpi_zauth_server_pair(key, &server);
	kvpi_zauth_client_pair(key, &client);
	good = set_key(guard->socket, ZMQ_CURVE_SERVERKEY, server.public_key) &&
	       set_key(guard->socket, ZMQ_CURVE_PUBLICKEY, client.public_key) &&
	       set_key(guard->socket, ZMQ_CURVE_SECRETKEY, client.secret_key);
	kvpi_wipe(&server, sizeof(server));
	kvpi_wipe(&client, sizeof(client));
	return good;
}

static kvp_status set_keys(kvpi_zguard *guard)
{
	kvpi_keys keys;
	bool good;

	(void)kvpi_keyring_get(kvpi_zauth_keyring(guard->auth), &keys);
	good = guard->server ? set_server_key(guard, &keys) : set_client_key(guard, &keys);
	kvpi_keys_wipe(&keys);
	return good ? KVP_OK
	            : kvpi_error(KVP_E_SYSTEM, "ZeroMQ does not take a CURVE key: %s", zmq_strerror(zmq_errno()));
}

static kvp_status join_descriptors(kvpi_zguard *guard)
{
	struct epoll_event event = {.events = EPOLLIN};
	int fd = -1;
	size_t len = sizeof(fd);

	guard->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (guard->epoll_fd < 0 || zmq_getsockopt(guard->socket, ZMQ_FD, &fd, &len) != 0 ||
	    epoll_ctl(guard->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0 ||
	    epoll_ctl(guard->epoll_fd, EPOLL_CTL_ADD, guard->news.fd, &event) != 0)
		return kvpi_error_errno("cannot make an epoll set");
	return KVP_OK;
}

kvp_status kvpi_zguard_new(kvpi_zauth *auth, void *socket, bool server, kvpi_zguard **guard)
{
	kvpi_zguard *made = KVPI_NEW(kvpi_zguard);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("the authentication of a socket");
	made->auth = auth;
	made->socket = socket;
	made->server = server;
	made->epoll_fd = made->news.fd = -1;
	status = kvpi_wakeup_init(&made->news);
	if (status == KVP_OK)
		status = set_keys(made);
	if (status == KVP_OK)
		status = join_descriptors(made);
	if (status == KVP_OK)
		status = kvpi_zauth_watch(auth, socket, !server, &made->news, &made->watch);
	if (status != KVP_OK) {
		kvpi_zguard_free(made);
		return status;
	}
	*guard = made;
	return KVP_OK;
}

void kvpi_zguard_free(kvpi_zguard *guard)
{
	if (guard == NULL)
		return;
	kvpi_zauth_leave(guard->auth, guard->watch);
	if (guard->epoll_fd >= 0)
		close(guard->epoll_fd);
	if (guard->news.fd >= 0)
		kvpi_wakeup_fini(&guard->news);
	free(guard);
}

void kvpi_zguard_at(kvpi_zguard *guard, const char *endpoint)
{
	snprintf(guard->endpoint, sizeof(guard->endpoint), "%s", endpoint);
}

int kvpi_zguard_fd(const kvpi_zguard *guard)
{
	return guard->epoll_fd;
}

/* ---- server ---- */

static bool is_bound_with(const kvpi_zguard *guard, const unsigned char key[KVPI_KEY_BYTES])
{
	kvpi_pair pair;
	bool same;

	kvpi_zauth_server_pair(key, &pair);
	same = kvpi_secret_equal(pair.public_key, guard->public_key, 32);
	kvpi_wipe(&pair, sizeof(pair));
	return same;
}

/* Those who are connected come again by themselves.  Rare enough to wait for the port here. */
static void bind_again(kvpi_zguard *guard)
{
	int rc = -1;

	if (set_keys(guard) == KVP_OK && zmq_unbind(guard->socket, guard->endpoint) == 0) {
		for (int i = 0; i < REBIND_TRIES && rc != 0; i++) {
			rc = zmq_bind(guard->socket, guard->endpoint);
			if (rc != 0)
				kvpi_pause_ms(1);
		}
	}
	if (rc == 0)
		KVPI_LOG(INFO, "wire", "%s is bound with the new cluster key", guard->endpoint);
	else
		KVPI_LOG(ERROR, "wire", "%s cannot be bound with the new cluster key: %s", guard->endpoint,
		    zmq_strerror(zmq_errno()));
}

static void look_as_server(kvpi_zguard *guard)
{
	kvpi_keys keys;

	(void)kvpi_keyring_get(kvpi_zauth_keyring(guard->auth), &keys);
	if (!is_bound_with(guard, keys.key[0]))
		bind_again(guard);
	kvpi_keys_wipe(&keys);
}

/* ---- client ---- */

static int key_count(const kvpi_zguard *guard)
{
	kvpi_keys keys;

	(void)kvpi_keyring_get(kvpi_zauth_keyring(guard->auth), &keys);
	const int count = keys.count;
	kvpi_keys_wipe(&keys);
	return count;
}

static void disconnect(kvpi_zguard *guard)
{
	(void)zmq_disconnect(guard->socket, guard->endpoint); /* fails if ZeroMQ itself has given up */
}

static void connect_again(kvpi_zguard *guard)
{
	disconnect(guard);
	if (set_keys(guard) != KVP_OK || zmq_connect(guard->socket, guard->endpoint) != 0)
		KVPI_LOG(ERROR, "wire", "cannot connect again to %s: %s", guard->endpoint, zmq_strerror(zmq_errno()));
}

static void look_as_client(kvpi_zguard *guard)
{
	const unsigned failures = atomic_load(&guard->watch->failures);

	if (failures <= guard->failures || guard->gave_up) {
		guard->failures = failures;
		return;
	}
	guard->failures = failures;
	if (atomic_load(&guard->watch->mismatch) || failures >= KVPI_ZGUARD_HANDSHAKES * (unsigned)key_count(guard)) {
		guard->gave_up = true;
		guard->told = false;
		disconnect(guard);
		return;
	}
	guard->turn++;
	connect_again(guard);
}

bool kvpi_zguard_look(kvpi_zguard *guard)
{
	if (atomic_load_explicit(&guard->watch->fresh, memory_order_relaxed)) {
		/* What is told from here on is seen below, or at the next look. */
		atomic_store(&guard->watch->fresh, false);
		kvpi_wakeup_clear(&guard->news);
		if (guard->server)
			look_as_server(guard);
		else
			look_as_client(guard);
	}
	return guard->gave_up && !guard->told;
}

kvp_status kvpi_zguard_trouble(kvpi_zguard *guard, const char *url)
{
	if (!guard->gave_up)
		return KVP_OK;
	guard->told = true;
	if (atomic_load(&guard->watch->mismatch))
		return kvpi_error(KVP_E_REFUSED,
		    "%s asks for no cluster key, and this end has one: start it with the key file, too", url);
	return kvpi_error(KVP_E_REFUSED,
	    "the handshake with %s fails every time: different cluster key? (a key has to be the first line of one "
	    "end's key file and in that of the other)",
	    url);
}

void kvpi_zguard_retry(kvpi_zguard *guard)
{
	if (!guard->gave_up && atomic_load_explicit(&guard->watch->failures, memory_order_relaxed) == 0)
		return;
	guard->gave_up = false;
	guard->failures = 0;
	atomic_store(&guard->watch->failures, 0);
	atomic_store(&guard->watch->mismatch, false);
	guard->turn = 0;
	connect_again(guard);
}
