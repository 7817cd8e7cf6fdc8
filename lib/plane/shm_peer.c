/* SPDX-License-Identifier: Apache-2.0
 *
 * What an end knows of its peer: the page, the memories that it was told of, and whether its process can be read.
 */
#include "plane/shm.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS_MAX 64 /* of the channel, in one step */

static size_t page_bytes(void)
{
	return kvpi_memfd_bytes(offsetof(kvpi_shm_page, ring) + kvpi_ring_bytes(KVPI_SHM_RING_BYTES));
}

kvp_status kvpi_shm_page_new(kvpi_conn *conn)
{
	void *base;
	const kvp_status status = kvpi_memfd_new("kvpipe-connection", page_bytes(), &conn->page_fd, &base);

	if (status != KVP_OK) {
		conn->page_fd = -1;
		return status;
	}
	conn->mine = base;
	kvpi_grants_init(&conn->grants, conn->mine->grants);
	kvpi_ring_init(&conn->out_ring, &conn->mine->ring, KVPI_SHM_RING_BYTES);
	return KVP_OK;
}

void kvpi_shm_page_free(kvpi_conn *conn)
{
	if (conn->mine != NULL)
		kvpi_memfd_free(conn->page_fd, conn->mine, page_bytes());
	if (conn->theirs != NULL)
		munmap(conn->theirs, page_bytes());
	conn->mine = conn->theirs = NULL;
	conn->page_fd = -1;
	kvpi_imports_free(conn->imports);
	conn->imports = NULL;
	memset(conn->announced, 0, sizeof(conn->announced));
	conn->announced_bytes = 0;
}

/* ---- the channel ---- */

kvp_status kvpi_shm_send(kvpi_conn *conn, const kvpi_shm_word *word, int fd)
{
	return kvpi_channel_send(conn->channel, word, sizeof(*word), &fd, fd >= 0 ? 1 : 0);
}

void kvpi_shm_ring_bell(kvpi_conn *conn)
{
	const kvpi_shm_word word = {.kind = KVPI_SHM_BELL};

	/* When the channel is full, there is enough in it to be woken by; when it is broken, that is seen elsewhere. */
	(void)kvpi_shm_send(conn, &word, -1);
}

void kvpi_shm_watch_death(kvpi_conn *conn, bool on)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (conn->watched == on || kvpi_channel_pidfd(conn->channel) < 0)
		return;
	/* The channel ends with the process, unless a child of it holds a copy; then this is what tells.  Without it, it is
	 * seen by the next look at the sockets. */
	conn->watched = epoll_ctl(conn->plane->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
	                    kvpi_channel_pidfd(conn->channel), &event) == 0 && on;
}

void kvpi_shm_meet(kvpi_conn *conn)
{
	kvpi_shm_word word = {.kind = KVPI_SHM_SETUP,
	    .flag = KVPI_SHM_VERSION,
	    .a = page_bytes(),
	    .b = (uint64_t)(uintptr_t)conn->witness};
	kvp_status status = kvpi_shm_page_new(conn);

	conn->state = KVPI_SHM_MEETING;
	kvpi_shm_watch_death(conn, true);
	if (status == KVP_OK)
		status = kvpi_imports_new(KVPI_SHM_MEMORY_MAX, &conn->imports);
	memcpy(word.id, conn->witness, sizeof(word.id));
	if (status == KVP_OK)
		status = kvpi_shm_send(conn, &word, conn->page_fd);
	if (status != KVP_OK)
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
}

static void violation(kvpi_conn *conn, const char *what)
{
	kvpi_shm_fail(conn, KVP_E_PROTOCOL, "the peer sent %s", what);
}

/* Maps the peer's page, which nobody can make shorter under our feet. */
static kvp_status map_page(kvpi_conn *conn, int fd)
{
	kvp_status status = kvpi_memfd_check(fd, page_bytes());
	void *base;

	if (status != KVP_OK)
		return status;
	base = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return kvpi_error_errno("cannot map the peer's page");
	conn->theirs = base;
	return KVP_OK;
}

/* Finds out whether the kernel lets us read the peer's memory: only a real read tells (uid, dumpable, Yama, namespaces). */
static bool try_reading(kvpi_conn *conn, const kvpi_shm_word *setup)
{
	unsigned char bytes[sizeof(setup->id)];
	const struct iovec to = {bytes, sizeof(bytes)}, from = {(void *)(uintptr_t)setup->b, sizeof(bytes)};
	const ssize_t n = conn->pid > 0 ? kvpi_shm_read_peer(conn, &to, 1, &from, 1) : -1;

	if (n == (ssize_t)sizeof(bytes) && memcmp(bytes, setup->id, sizeof(bytes)) == 0)
		return true;
	if (conn->pid <= 0)
		KVPI_LOG(INFO, "plane", "shm: the peer's process is not visible from here; its foreign memory is staged");
	else
		KVPI_LOG(INFO, "plane", "shm: process %d cannot be read (%s); its foreign memory is staged", (int)conn->pid,
		    n < 0 ? strerror(errno) : "other bytes are there than it says");
	return false;
}

static void hear_setup(kvpi_conn *conn, const kvpi_shm_word *setup, int fd)
{
	kvpi_shm_word able = {.kind = KVPI_SHM_ABLE};
	kvp_status status;

	if (conn->heard_setup || setup->flag != KVPI_SHM_VERSION || setup->a != page_bytes() || fd < 0) {
		violation(conn, "a set-up that is not of this version, or comes twice");
		return;
	}
	status = map_page(conn, fd);
	if (status != KVP_OK) {
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
		return;
	}
	conn->heard_setup = true;
	kvpi_ring_init(&conn->in_ring, &conn->theirs->ring, KVPI_SHM_RING_BYTES);
	conn->pid = kvpi_channel_pid(conn->channel);
	conn->reads = try_reading(conn, setup);
	able.flag = conn->reads;
	status = kvpi_shm_send(conn, &able, -1);
	if (status != KVP_OK)
		kvpi_shm_fail(conn, status, "%s", kvp_last_error());
}

/* Takes the descriptor. */
static void hear_memory(kvpi_conn *conn, const kvpi_shm_word *word, int *fd)
{
	const int taken = *fd;
	kvp_status status;

	*fd = -1;
	if (taken < 0) {
		violation(conn, "no descriptor with its memory");
		return;
	}
	status = kvpi_imports_add(conn->imports, word->id, taken, word->a);
	if (status == KVP_E_PROTOCOL || status == KVP_E_CONFLICT || status == KVP_E_TOO_LARGE) {
		kvpi_shm_fail(conn, KVP_E_PROTOCOL, "%s", kvp_last_error());
	} else if (status != KVP_OK) {
		KVPI_LOG(WARN, "plane", "%s", kvp_last_error());
		conn->import_failed = true;
	}
}

static void hear(kvpi_conn *conn, const kvpi_shm_word *word, int *fd)
{
	const bool up = conn->state == KVPI_SHM_UP;

	switch (word->kind) {
	case KVPI_SHM_SETUP:
		hear_setup(conn, word, *fd);
		return;
	case KVPI_SHM_ABLE:
		if (!conn->heard_setup || conn->heard_able || word->flag > 1)
			break;
		conn->heard_able = true;
		conn->able = word->flag == 1;
		return;
	case KVPI_SHM_MEMORY:
		if (!up && !conn->heard_able)
			break;
		hear_memory(conn, word, fd);
		return;
	case KVPI_SHM_FORGET:
		if (!up && !conn->heard_able)
			break;
		kvpi_imports_remove(conn->imports, word->id);
		return;
	case KVPI_SHM_BELL:
		return;
	default:
		break;
	}
	violation(conn, "a word over the channel that has no meaning there");
}

void kvpi_shm_listen(kvpi_conn *conn)
{
	for (int i = 0; i < WORDS_MAX && (conn->state == KVPI_SHM_MEETING || conn->state == KVPI_SHM_UP); i++) {
		unsigned char data[KVPI_CHANNEL_MESSAGE_MAX];
		int fds[KVPI_CHANNEL_FDS_MAX] = {-1};
		size_t len = sizeof(data), count = 0;
		const kvp_status status = kvpi_channel_recv(conn->channel, data, &len, fds, &count);
		kvpi_shm_word word;

		if (status != KVP_OK)
			return; /* nothing, or the channel is lost, which its state tells */
		if (len == sizeof(word) && count <= 1) {
			memcpy(&word, data, sizeof(word));
			hear(conn, &word, &fds[0]);
		} else {
			violation(conn, "a word over the channel that is not of the right size");
		}
		for (size_t f = 0; f < count; f++) {
			if (fds[f] >= 0)
				close(fds[f]);
		}
	}
}

/* ---- memories ---- */

const char *kvpi_shm_import(kvpi_conn *conn, const unsigned char id[KVPI_MEM_ID_BYTES], uint64_t base, uint64_t extent)
{
	/* Announced before it was used, but over the channel: it may lie there still. */
	if (!kvpi_imports_has(conn->imports, id))
		kvpi_shm_listen(conn);
	return kvpi_imports_at(conn->imports, id, base, extent);
}

static kvpi_shm_announced *find_announced(kvpi_conn *conn, const unsigned char id[KVPI_MEM_ID_BYTES])
{
	for (int i = 0; i < KVPI_SHM_MEMORIES; i++) {
		if (conn->announced[i].used && memcmp(conn->announced[i].id, id, KVPI_MEM_ID_BYTES) == 0)
			return &conn->announced[i];
	}
	return NULL;
}

static bool uses(kvpi_list *list, const unsigned char id[KVPI_MEM_ID_BYTES])
{
	KVPI_LIST_FOREACH(pos, nxt, list) {
		const kvpi_shm_item *item = KVPI_CONTAINER_OF(pos, kvpi_shm_item, node);

		if (item->memory != NULL && memcmp(item->memory->id, id, KVPI_MEM_ID_BYTES) == 0)
			return true;
	}
	return false;
}

/* False: a put still refers to it, or the channel is full.  A put's message must not be overtaken. */
static bool forget(kvpi_conn *conn, kvpi_shm_announced *entry)
{
	kvpi_shm_word word = {.kind = KVPI_SHM_FORGET};

	memcpy(word.id, entry->id, sizeof(word.id));
	if (uses(&conn->offered, entry->id) || uses(&conn->recalled, entry->id) || uses(&conn->puts, entry->id) ||
	    kvpi_shm_send(conn, &word, -1) != KVP_OK)
		return false;
	conn->announced_bytes -= entry->bytes;
	entry->used = false;
	return true;
}

/* A free place; makes one if need be. */
static kvpi_shm_announced *make_place(kvpi_conn *conn)
{
	for (int i = 0; i < KVPI_SHM_MEMORIES; i++) {
		if (!conn->announced[i].used)
			return &conn->announced[i];
	}
	for (int i = 0; i < KVPI_SHM_MEMORIES; i++) {
		kvpi_shm_announced *entry = &conn->announced[conn->forget_next++ % KVPI_SHM_MEMORIES];

		if (forget(conn, entry))
			return entry;
	}
	return NULL;
}

kvp_status kvpi_shm_announce(kvpi_conn *conn, const kvpi_mem *memory)
{
	kvpi_shm_word word = {.kind = KVPI_SHM_MEMORY, .a = memory->bytes};
	kvpi_shm_announced *entry = find_announced(conn, memory->id);
	kvp_status status;

	if (entry != NULL)
		return KVP_OK;
	entry = make_place(conn);
	if (entry == NULL || memory->bytes > KVPI_SHM_MEMORY_MAX - conn->stage.bytes - conn->announced_bytes)
		return KVP_E_TOO_LARGE; /* it goes another way */
	memcpy(word.id, memory->id, sizeof(word.id));
	status = kvpi_shm_send(conn, &word, memory->fd);
	if (status != KVP_OK)
		return status;
	*entry = (kvpi_shm_announced){.used = true, .base = memory->base, .bytes = memory->bytes};
	memcpy(entry->id, memory->id, sizeof(entry->id));
	conn->announced_bytes += memory->bytes;
	return KVP_OK;
}

void kvpi_shm_forget_freed(kvpi_conn *conn)
{
	kvpi_shm_announced *entry = NULL;
	kvpi_mem *memory;

	if (conn->state != KVPI_SHM_UP || conn->announced_bytes == 0)
		return;
	do
		entry = &conn->announced[conn->forget_next++ % KVPI_SHM_MEMORIES];
	while (!entry->used);
	memory = kvpi_mem_find(conn->plane->params.context, entry->base, 1);
	if (memory == NULL || memcmp(memory->id, entry->id, sizeof(entry->id)) != 0)
		(void)forget(conn, entry);
	kvpi_mem_release(memory);
}

ssize_t kvpi_shm_read_peer(const kvpi_conn *conn, const struct iovec *to, size_t to_count, const struct iovec *from,
                           size_t from_count)
{
	ssize_t n;

	if (kvpi_fault("shm.readv")) {
		errno = EPERM;
		return -1;
	}
	do {
		n = process_vm_readv(conn->pid, to, to_count, from, from_count, 0);
	} while (n < 0 && errno == EINTR);
	return n;
}
