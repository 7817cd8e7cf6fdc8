/* SPDX-License-Identifier: Apache-2.0
 *
 * Listening, connecting, and the proof.  A guest is an accepted connection that has proven nothing; once it has, the
 * channel that expects it takes its descriptor over.
 */
#include "share/broker.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "share/broker_inside.h"
#include "share/proof.h"
#include "wire/auth.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#define GUESTS 8
#define PROOF_NS (5 * KVPI_NS_PER_S)
#define RETRY_NS (20 * KVPI_NS_PER_MS) /* the peer's queue of guests is full; descriptors are short here */
#define ADDRESS_VERSION 1

/* ---- where a broker is: processes of one host, so in its byte order ---- */

typedef struct address {
	unsigned char version, zero[7];
	uint64_t dir_dev, dir_ino; /* 0, 0: the abstract name alone */
	unsigned char name[KVPI_RUNDIR_NAME_BYTES];
} address;

_Static_assert(sizeof(address) <= KVPI_BROKER_ADDRESS_MAX, "an address fits");

/* ---- the broker ---- */

typedef struct guest {
	int fd; /* -1: free */
	int64_t deadline;
	pid_t pid;
	int pidfd;
	bool named; /* has said hello */
	unsigned char name[KVPI_PROOF_NAME_BYTES], nonce[KVPI_PROOF_NONCE_BYTES];
	kvpi_channel *channel; /* the expectation that it was answered for; NULL: none yet */
	unsigned char own_nonce[KVPI_PROOF_NONCE_BYTES];
} guest;

struct kvpi_broker {
	int epoll_fd;
	const kvpi_clock *clock;
	kvpi_rundir dir;
	unsigned char name[KVPI_RUNDIR_NAME_BYTES];
	int listeners[2]; /* by path, by abstract name; -1: cannot be had */
	bool listening;   /* they are in the set */
	int64_t rest;     /* not before then, after a failed accept */
	int own_pidfd;    /* -1: the kernel has none */
	kvpi_list channels;
	guest guests[GUESTS];
};

static kvp_status watch(kvpi_broker *broker, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (kvpi_fault("broker.watch") || epoll_ctl(broker->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return kvpi_error_errno("cannot watch a unix socket");
	return KVP_OK;
}

void kvpi_broker_watch_room(kvpi_broker *broker, int fd, bool room)
{
	struct epoll_event event = {.events = room ? EPOLLIN | EPOLLOUT : EPOLLIN};

	(void)epoll_ctl(broker->epoll_fd, EPOLL_CTL_MOD, fd, &event); /* it is in the set: no memory is needed */
}

void kvpi_broker_unwatch(kvpi_broker *broker, int fd)
{
	if (fd < 0)
		return;
	/* A child of a fork may hold a copy, which would keep it in the set, and the peer waiting for the end. */
	(void)epoll_ctl(broker->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	(void)shutdown(fd, SHUT_RDWR);
	close(fd);
}

static int open_own_pidfd(void)
{
	return kvpi_fault("broker.pidfd") ? -1 : (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int socket_new(void)
{
	if (kvpi_fault("broker.socket")) {
		errno = EMFILE;
		return -1;
	}
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int listen_at(const struct sockaddr_un *where, socklen_t len, const char *point)
{
	int fd = socket_new();

	if (fd < 0)
		return -1;
	if (kvpi_fault(point)) {
		errno = EACCES;
	} else if (bind(fd, (const struct sockaddr *)where, len) == 0) {
		if (listen(fd, 64) == 0)
			return fd;
	}
	int saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

static kvp_status listen_somewhere(kvpi_broker *broker)
{
	struct sockaddr_un where;
	socklen_t len;
	char why[KVPI_ERROR_MAX] = "";

	if (kvpi_rundir_open(&broker->dir) == KVP_OK) {
		kvpi_rundir_sweep(&broker->dir);
		len = kvpi_rundir_path(&broker->dir, broker->name, &where);
		broker->listeners[0] = listen_at(&where, len, "broker.bind");
		if (broker->listeners[0] < 0)
			(void)kvpi_error_errno("no socket can be made in the run directory; set KVPIPE_RUN_DIR to another");
	}
	if (broker->listeners[0] < 0) {
		snprintf(why, sizeof(why), "%s", kvp_last_error());
		KVPI_LOG(INFO, "share", "%s; peers come by an abstract name, within the network namespace", why);
		kvpi_rundir_close(&broker->dir);
	}
	len = kvpi_rundir_abstract(broker->name, &where);
	broker->listeners[1] = listen_at(&where, len, "broker.abstract");
	if (broker->listeners[0] < 0 && broker->listeners[1] < 0)
		return kvpi_error_errno("%s, and neither at an abstract name", why);
	return KVP_OK;
}

/* While no more guests are let in, connections wait in the kernel's queue, and must not wake us. */
static void listen_or_rest(kvpi_broker *broker, bool on)
{
	struct epoll_event event = {.events = on ? EPOLLIN : 0};

	if (on == broker->listening)
		return;
	for (int i = 0; i < 2; i++) {
		if (broker->listeners[i] >= 0)
			(void)epoll_ctl(broker->epoll_fd, EPOLL_CTL_MOD, broker->listeners[i], &event);
	}
	broker->listening = on;
}

kvp_status kvpi_broker_open(int epoll_fd, const kvpi_clock *clock, kvpi_broker **broker)
{
	kvpi_broker *made;
	kvp_status status = kvpi_auth_init();

	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(kvpi_broker);
	if (made == NULL)
		return kvpi_error_nomem("a broker");
	made->epoll_fd = epoll_fd;
	made->clock = clock;
	made->dir.fd = made->listeners[0] = made->listeners[1] = -1;
	made->listening = true;
	for (int i = 0; i < GUESTS; i++)
		made->guests[i].fd = made->guests[i].pidfd = -1;
	kvpi_list_init(&made->channels);
	kvpi_random(made->name, sizeof(made->name));
	made->own_pidfd = open_own_pidfd();
	status = listen_somewhere(made);
	for (int i = 0; i < 2 && status == KVP_OK; i++) {
		if (made->listeners[i] >= 0)
			status = watch(made, made->listeners[i]);
	}
	if (status != KVP_OK) {
		kvpi_broker_close(made);
		return status;
	}
	*broker = made;
	return KVP_OK;
}

static void guest_drop(kvpi_broker *broker, guest *g)
{
	kvpi_broker_unwatch(broker, g->fd);
	if (g->pidfd >= 0)
		close(g->pidfd);
	*g = (guest){.fd = -1, .pidfd = -1};
}

void kvpi_broker_close(kvpi_broker *broker)
{
	if (broker == NULL)
		return;
	for (int i = 0; i < GUESTS; i++)
		guest_drop(broker, &broker->guests[i]);
	if (broker->listeners[0] >= 0)
		kvpi_rundir_remove(&broker->dir, broker->name);
	kvpi_broker_unwatch(broker, broker->listeners[0]);
	kvpi_broker_unwatch(broker, broker->listeners[1]);
	kvpi_rundir_close(&broker->dir);
	if (broker->own_pidfd >= 0)
		close(broker->own_pidfd);
	free(broker);
}

void kvpi_broker_facts_read(kvpi_broker_facts *facts)
{
	kvpi_rundir dir;
	struct stat st;

	*facts = (kvpi_broker_facts){0};
	if (kvpi_rundir_open(&dir) == KVP_OK) {
		facts->dir_dev = dir.dev;
		facts->dir_ino = dir.ino;
		kvpi_rundir_close(&dir);
	}
	if (stat("/proc/self/ns/net", &st) == 0)
		facts->net_ns = (uint64_t)st.st_ino;
}

void kvpi_broker_address(const kvpi_broker *broker, void *out, size_t *len)
{
	address a = {.version = ADDRESS_VERSION, .dir_dev = broker->dir.dev, .dir_ino = broker->dir.ino};

	memcpy(a.name, broker->name, sizeof(a.name));
	memcpy(out, &a, sizeof(a));
	*len = sizeof(a);
}

/* ---- accepting end ---- */

static kvpi_channel *channel_new(kvpi_broker *broker, const unsigned char *token, bool accepting)
{
	kvpi_channel *channel = KVPI_NEW(kvpi_channel);

	if (channel == NULL) {
		(void)kvpi_error_nomem("a connection through a unix socket");
		return NULL;
	}
	channel->broker = broker;
	channel->accepting = accepting;
	channel->fd = channel->pidfd = -1;
	channel->retry = channel->deadline = KVPI_NEVER;
	memcpy(channel->token, token, sizeof(channel->token));
	kvpi_proof_name(token, channel->name);
	kvpi_list_append(&broker->channels, &channel->node);
	return channel;
}

void kvpi_channel_close(kvpi_channel *channel)
{
	if (channel == NULL)
		return;
	for (int i = 0; i < GUESTS; i++) {
		if (channel->broker->guests[i].fd >= 0 && channel->broker->guests[i].channel == channel)
			guest_drop(channel->broker, &channel->broker->guests[i]);
	}
	kvpi_list_remove(&channel->node);
	kvpi_broker_unwatch(channel->broker, channel->fd);
	if (channel->pidfd >= 0)
		close(channel->pidfd);
	free(channel);
}

static kvpi_channel *find_expected(kvpi_broker *broker, const unsigned char *name)
{
	KVPI_LIST_FOREACH(node, next, &broker->channels)
	{
		kvpi_channel *channel = KVPI_CONTAINER_OF(node, kvpi_channel, node);

		if (channel->accepting && channel->state == KVPI_CHANNEL_WAITING &&
		    memcmp(channel->name, name, KVPI_PROOF_NAME_BYTES) == 0)
			return channel;
	}
	return NULL;
}

/* Shows a guest whose token is expected that we know it, too. */
static kvp_status guest_answer(kvpi_broker *broker, guest *g)
{
	kvpi_proof_answer a = {.head = kvpi_proof_head_of(KVPI_PROOF_ANSWER)};
	kvpi_channel *channel = find_expected(broker, g->name);

	if (channel == NULL)
		return KVP_OK; /* perhaps later */
	kvpi_random(a.nonce, sizeof(a.nonce));
	memcpy(g->own_nonce, a.nonce, sizeof(a.nonce));
	kvpi_proof_mac(channel->token, true, g->nonce, a.nonce, a.mac);
	g->channel = channel;
	return kvpi_proof_say(g->fd, &a, sizeof(a), broker->own_pidfd);
}

/* Goes on with a guest as far as it can.  An error: it has to go. */
static kvp_status guest_step(kvpi_broker *broker, guest *g)
{
	unsigned char expected[KVPI_HASH_BYTES];
	kvpi_channel *channel;
	kvp_status status;
	kvpi_proof_hello h;
	kvpi_proof_proof p;

	if (!g->named) {
		int none = 0; /* so that a descriptor which comes with it is closed, not kept */

		status = kvpi_proof_recv(g->fd, &h, KVPI_PROOF_HELLO, sizeof(h), &none);
		if (status != KVP_OK)
			return status == KVP_E_AGAIN ? KVP_OK : status;
		memcpy(g->name, h.name, sizeof(g->name));
		memcpy(g->nonce, h.nonce, sizeof(g->nonce));
		g->named = true;
	}
	if (g->channel == NULL) {
		status = guest_answer(broker, g);
		if (status != KVP_OK)
			return status;
	}
	/* Also while it waits for an expectation: it may have gone. */
	status = kvpi_proof_recv(g->fd, &p, KVPI_PROOF_PROOF, sizeof(p), &g->pidfd);
	if (status != KVP_OK)
		return status == KVP_E_AGAIN ? KVP_OK : status;
	channel = g->channel;
	if (channel == NULL || channel->state != KVPI_CHANNEL_WAITING)
		return kvpi_error(KVP_E_PROTOCOL, "the peer proves what it was not asked, or another was faster");
	kvpi_proof_mac(channel->token, false, g->nonce, g->own_nonce, expected);
	if (!kvpi_secret_equal(expected, p.mac, sizeof(expected)))
		return kvpi_error(KVP_E_PROTOCOL, "the peer does not know the token");
	channel->fd = g->fd;
	channel->pid = g->pid;
	channel->pidfd = g->pidfd;
	channel->state = KVPI_CHANNEL_UP;
	*g = (guest){.fd = -1, .pidfd = -1};
	return KVP_OK;
}

static void guests_step(kvpi_broker *broker)
{
	for (int i = 0; i < GUESTS; i++) {
		guest *g = &broker->guests[i];

		if (g->fd < 0 || guest_step(broker, g) == KVP_OK)
			continue;
		KVPI_LOG(INFO, "share", "a process (pid %ld) that came to the unix socket is sent away: %s", (long)g->pid,
		    kvp_last_error());
		guest_drop(broker, g);
	}
}

kvp_status kvpi_broker_expect(
    kvpi_broker *broker, const unsigned char token[KVPI_BROKER_TOKEN_BYTES], kvpi_channel **channel)
{
	unsigned char name[KVPI_PROOF_NAME_BYTES];
	kvpi_channel *made;

	kvpi_proof_name(token, name);
	if (find_expected(broker, name) != NULL)
		return kvpi_error(KVP_E_CONFLICT, "a peer with this token is expected already");
	made = channel_new(broker, token, true);
	if (made == NULL)
		return KVP_E_NOMEM;
	*channel = made;
	guests_step(broker); /* it may wait already, and nothing else would wake us for it */
	return KVP_OK;
}

static guest *free_guest(kvpi_broker *broker)
{
	for (int i = 0; i < GUESTS; i++) {
		if (broker->guests[i].fd < 0)
			return &broker->guests[i];
	}
	return NULL;
}

/* False: nobody is there, or there is trouble. */
static bool accept_one(kvpi_broker *broker, int listener, int64_t now)
{
	guest *g = free_guest(broker);
	int fd;

	if (kvpi_fault("broker.accept")) {
		errno = EMFILE;
		fd = -1;
	} else {
		fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	if (fd < 0) {
		if (errno == EINTR || errno == ECONNABORTED)
			return true;
		if (errno != EAGAIN) {
			KVPI_LOG(WARN, "share", "cannot accept a connection at the unix socket: %m");
			broker->rest = now + RETRY_NS;
		}
		return false;
	}
	*g = (guest){.fd = fd, .pidfd = -1, .deadline = now + PROOF_NS};
	if (kvpi_packet_peer(fd, &g->pid, &g->pidfd) != KVP_OK || watch(broker, fd) != KVP_OK) {
		KVPI_LOG(INFO, "share", "a process that came to the unix socket is sent away: %s", kvp_last_error());
		guest_drop(broker, g);
	}
	return true;
}

static void accept_all(kvpi_broker *broker, int64_t now)
{
	if (now < broker->rest)
		return;
	broker->rest = 0;
	for (int i = 0; i < 2; i++) {
		/* Bounded, as those who are sent away at once may be many. */
		for (int n = 0; n < 2 * GUESTS && broker->rest == 0 && free_guest(broker) != NULL; n++) {
			if (broker->listeners[i] < 0 || !accept_one(broker, broker->listeners[i], now))
				break;
		}
	}
}

/* ---- connecting end ---- */

/* 0: on its way; else errno, EAGAIN for a peer whose queue is full. */
static int try_connect(int fd, const kvpi_channel *channel)
{
	if (kvpi_fault("broker.connect"))
		return EAGAIN;
	return connect(fd, (const struct sockaddr *)&channel->address, channel->address_len) == 0 ? 0 : errno;
}

static kvp_status say_hello(kvpi_channel *channel)
{
	kvpi_proof_hello h = {.head = kvpi_proof_head_of(KVPI_PROOF_HELLO)};
	kvp_status status = kvpi_packet_peer(channel->fd, &channel->pid, &channel->pidfd);

	if (status == KVP_OK)
		status = watch(channel->broker, channel->fd); /* not before: unconnected, it would wake us all the time */
	if (status != KVP_OK)
		return status;
	kvpi_random(channel->nonce, sizeof(channel->nonce));
	memcpy(h.nonce, channel->nonce, sizeof(h.nonce));
	memcpy(h.name, channel->name, sizeof(h.name));
	status = kvpi_proof_say(channel->fd, &h, sizeof(h), -1);
	channel->connected = status == KVP_OK;
	return status;
}

/* Finds a way to the peer: connected, or AGAIN while its queue is full.  *error: of the last way. */
static int find_way(kvpi_channel *channel, const address *a)
{
	int error = ENOENT;
	kvpi_rundir *dir = &channel->broker->dir;

	if (dir->fd >= 0 && a->dir_ino != 0 && a->dir_dev == dir->dev && a->dir_ino == dir->ino) {
		channel->address_len = kvpi_rundir_path(dir, a->name, &channel->address);
		error = try_connect(channel->fd, channel);
	}
	if (error != 0 && error != EAGAIN) {
		channel->address_len = kvpi_rundir_abstract(a->name, &channel->address);
		error = try_connect(channel->fd, channel);
	}
	return error;
}

kvp_status kvpi_broker_connect(kvpi_broker *broker, const void *bytes, size_t len,
    const unsigned char token[KVPI_BROKER_TOKEN_BYTES], kvpi_channel **channel)
{
	kvpi_channel *made;
	kvp_status status;
	address a;
	int error;

	if (len != sizeof(a) || *(const unsigned char *)bytes != ADDRESS_VERSION)
		return kvpi_error(KVP_E_INVALID, "the peer's address of a unix socket has %zu bytes and makes no sense", len);
	memcpy(&a, bytes, sizeof(a));
	made = channel_new(broker, token, false);
	if (made == NULL)
		return KVP_E_NOMEM;
	made->deadline = kvpi_now(broker->clock) + PROOF_NS;
	made->fd = socket_new();
	if (made->fd < 0) {
		status = kvpi_error_errno("cannot make a unix socket");
		goto err;
	}
	error = find_way(made, &a);
	if (error == EAGAIN) {
		made->retry = kvpi_now(broker->clock) + RETRY_NS;
	} else if (error != 0) {
		status = kvpi_error(KVP_E_UNSUPPORTED,
		    "the peer's unix socket cannot be reached: %s, and its abstract name is not known in this network "
		    "namespace (%s); let both see one KVPIPE_RUN_DIR",
		    a.dir_ino == 0                                             ? "it has no run directory"
		    : broker->dir.fd < 0                                       ? "there is no run directory here"
		    : a.dir_dev != broker->dir.dev || a.dir_ino != broker->dir.ino ? "it has another run directory"
		                                                               : "it is not in the run directory",
		    strerror(error));
		goto err;
	} else {
		status = say_hello(made);
		if (status != KVP_OK)
			goto err;
	}
	*channel = made;
	return KVP_OK;

err:
	kvpi_channel_close(made);
	return status;
}

/* KVP_E_AGAIN: go on later. */
static kvp_status connecting_step(kvpi_channel *channel, int64_t now)
{
	unsigned char expected[KVPI_HASH_BYTES];
	kvpi_proof_proof p = {.head = kvpi_proof_head_of(KVPI_PROOF_PROOF)};
	kvp_status status;
	kvpi_proof_answer a;

	if (now >= channel->deadline)
		return kvpi_error(KVP_E_TIMEOUT, "the peer did not prove within 5 s that it knows the token (unix socket)");
	if (!channel->connected) {
		int error;

		if (now < channel->retry)
			return KVP_E_AGAIN;
		channel->retry = now + RETRY_NS;
		error = try_connect(channel->fd, channel);
		if (error == EAGAIN)
			return KVP_E_AGAIN;
		if (error != 0)
			return kvpi_error(KVP_E_PEER_LOST, "the peer's unix socket is gone: %s", strerror(error));
		channel->retry = KVPI_NEVER;
		status = say_hello(channel);
		if (status != KVP_OK)
			return status;
	}
	status = kvpi_proof_recv(channel->fd, &a, KVPI_PROOF_ANSWER, sizeof(a), &channel->pidfd);
	if (status != KVP_OK)
		return status;
	kvpi_proof_mac(channel->token, true, channel->nonce, a.nonce, expected);
	if (!kvpi_secret_equal(expected, a.mac, sizeof(expected)))
		return kvpi_error(KVP_E_PROTOCOL, "the peer does not know the token");
	kvpi_proof_mac(channel->token, false, channel->nonce, a.nonce, p.mac);
	status = kvpi_proof_say(channel->fd, &p, sizeof(p), channel->broker->own_pidfd);
	if (status == KVP_OK)
		channel->state = KVPI_CHANNEL_UP;
	return status;
}

/* ---- a step ---- */

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t kvpi_broker_step(kvpi_broker *broker, int64_t now)
{
	int64_t next = KVPI_NEVER;
	bool room;

	for (int i = 0; i < GUESTS; i++) {
		if (broker->guests[i].fd >= 0 && now >= broker->guests[i].deadline) {
			KVPI_LOG(INFO, "share", "a process (pid %ld) that came to the unix socket proved nothing within 5 s",
			    (long)broker->guests[i].pid);
			guest_drop(broker, &broker->guests[i]);
		}
	}
	guests_step(broker);
	accept_all(broker, now);
	guests_step(broker); /* those who came with their first packet */
	KVPI_LIST_FOREACH(node, following, &broker->channels)
	{
		kvpi_channel *channel = KVPI_CONTAINER_OF(node, kvpi_channel, node);

		kvpi_channel_look_for_room(channel);
		if (channel->accepting || channel->state != KVPI_CHANNEL_WAITING)
			continue;
		kvp_status status = connecting_step(channel, now);
		if (status == KVP_E_AGAIN)
			next = earlier(next, earlier(channel->deadline, channel->retry));
		else if (status != KVP_OK)
			kvpi_channel_lose(channel, kvp_last_error());
	}
	for (int i = 0; i < GUESTS; i++) {
		if (broker->guests[i].fd >= 0)
			next = earlier(next, broker->guests[i].deadline);
	}
	room = free_guest(broker) != NULL && broker->rest == 0;
	listen_or_rest(broker, room);
	return broker->rest != 0 ? earlier(next, broker->rest) : next;
}
