/* SPDX-License-Identifier: Apache-2.0
 *
 * Key files.
 */
#include "base/keyfile.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 4096 /* two keys and room for comments */

/* What tells one state of a file from another without reading it. */
typedef struct stamp {
	dev_t device;
	ino_t inode;
	off_t bytes;
	struct timespec modified, changed;
	mode_t mode;
	uid_t owner;
	int error; /* errno when there is nothing to look at */
} stamp;

struct kvpi_keyring {
	pthread_mutex_t mutex;
	char *path;
	kvpi_keys keys;
	uint64_t generation;
	stamp seen; /* of the last try to read it, good or bad */
};

void kvpi_keys_wipe(kvpi_keys *keys)
{
	explicit_bzero(keys, sizeof(*keys));
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* One line without its comment and the blanks around it. */
static bool parse_key(const char *text, size_t len, unsigned char key[KVPI_KEY_BYTES])
{
	if (len != 2 * KVPI_KEY_BYTES)
		return false;
	for (size_t i = 0; i < KVPI_KEY_BYTES; i++) {
		const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

kvp_status kvpi_keys_parse(const char *text, size_t len, const char *name, kvpi_keys *keys)
{
	kvpi_keys parsed = {0};
	const char *const end = text + len;
	kvp_status status = KVP_OK;

	for (int line = 1; status == KVP_OK && text < end; line++) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *const next = newline != NULL ? newline + 1 : end;
		const char *stop = newline != NULL ? newline : end;
		const char *const comment = memchr(text, '#', (size_t)(stop - text));

		stop = comment != NULL ? comment : stop;
		while (text < stop && is_blank(*text))
			text++;
		while (stop > text && is_blank(stop[-1]))
			stop--;
		if (stop > text && parsed.count == KVPI_KEYS_MAX)
			status = kvpi_error(KVP_E_INVALID,
			    "the key file %s has more than %d keys: the one to use, and while keys are changed "
			    "one more",
			    name, KVPI_KEYS_MAX);
		else if (stop > text && !parse_key(text, (size_t)(stop - text), parsed.key[parsed.count]))
			status = kvpi_error(KVP_E_INVALID,
			    "line %d of the key file %s is not a key of %d hexadecimal digits; kvpipe-store "
			    "--make-key makes one",
			    line, name, 2 * KVPI_KEY_BYTES);
		else if (stop > text)
			parsed.count++;
		text = next;
	}
	if (status == KVP_OK && parsed.count == 0)
		status = kvpi_error(KVP_E_INVALID,
		    "the key file %s has no key in it; kvpipe-store --make-key makes one", name);
	if (status == KVP_OK && parsed.count == 2 && memcmp(parsed.key[0], parsed.key[1], KVPI_KEY_BYTES) == 0)
		status = kvpi_error(KVP_E_INVALID, "the key file %s has the same key twice", name);
	if (status == KVP_OK)
		*keys = parsed;
	kvpi_keys_wipe(&parsed);
	return status;
}

/* ---- the file ---- */

static stamp stamp_of(const struct stat *st)
{
	return (stamp){.device = st->st_dev,
	    .inode = st->st_ino,
	    .bytes = st->st_size,
	    .modified = st->st_mtim,
	    .changed = st->st_ctim,
	    .mode = st->st_mode,
	    .owner = st->st_uid};
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool same_stamp(const stamp *a, const stamp *b)
{
	return a->error == b->error && a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
	       same_time(a->modified, b->modified) && same_time(a->changed, b->changed) && a->mode == b->mode &&
	       a->owner == b->owner;
}

/* Of the open file, so that it cannot be another one than is read. */
static kvp_status check_permissions(const struct stat *st, const char *path)
{
	if (!S_ISREG(st->st_mode))
		return kvpi_error(KVP_E_INVALID, "the key file %s is not a regular file", path);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return kvpi_error(KVP_E_INVALID,
		    "the key file %s belongs to user %lu, who could change it; it must be this user's or root's",
		    path, (unsigned long)st->st_uid);
	if ((st->st_mode & (S_IRWXG | S_IRWXO)) != 0)
		return kvpi_error(KVP_E_INVALID,
		    "the key file %s is open to others than its owner (mode %04o); run: chmod 600 %s", path,
		    (unsigned)(st->st_mode & 07777), path);
	if (st->st_size > FILE_MAX)
		return kvpi_error(KVP_E_INVALID, "the key file %s has more than %d bytes: it is no key file", path,
		    FILE_MAX);
	return KVP_OK;
}

static kvp_status read_all(int fd, const char *path, kvpi_keys *keys)
{
	char text[FILE_MAX + 1];
	size_t len = 0;
	ssize_t got = 1;
	kvp_status status;

	while (len < sizeof(text) && got != 0) {
		got = kvpi_fault("keyfile.read") ? (errno = EIO, -1) : read(fd, text + len, sizeof(text) - len);
		if (got < 0 && errno != EINTR) {
			status = kvpi_error(KVP_E_INVALID, "cannot read the key file %s: %s", path, strerror(errno));
			goto out;
		}
		len += got > 0 ? (size_t)got : 0;
	}
	status = kvpi_keys_parse(text, len, path, keys);
out:
	explicit_bzero(text, sizeof(text));
	return status;
}

static kvp_status read_file(const char *path, kvpi_keys *keys, stamp *seen)
{
	/* Non-blocking: a pipe in place of the file must not hold us up. */
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	kvp_status status;

	if (fd < 0) {
		*seen = (stamp){.error = errno};
		return kvpi_error(KVP_E_INVALID,
		    "cannot open the key file %s: %s; kvpipe-store --make-key makes one", path, strerror(errno));
	}
	if (fstat(fd, &st) != 0) {
		status = kvpi_error_errno("cannot look at the key file %s", path);
		*seen = (stamp){.error = errno};
	} else {
		*seen = stamp_of(&st);
		status = check_permissions(&st, path);
		if (status == KVP_OK)
			status = read_all(fd, path, keys);
	}
	close(fd);
	return status;
}

/* ---- keyrings ---- */

kvp_status kvpi_keyring_open(const char *path, kvpi_keyring **ring)
{
	kvpi_keyring *made = KVPI_NEW(kvpi_keyring);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("a keyring");
	made->path = kvpi_strdup(path);
	if (made->path == NULL) {
		free(made);
		return kvpi_error_nomem("a keyring");
	}
	pthread_mutex_init(&made->mutex, NULL);
	made->generation = 1;
	status = read_file(path, &made->keys, &made->seen);
	if (status != KVP_OK) {
		kvpi_keyring_free(made);
		return status;
	}
	*ring = made;
	return KVP_OK;
}

void kvpi_keyring_free(kvpi_keyring *ring)
{
	if (ring == NULL)
		return;
	kvpi_keys_wipe(&ring->keys);
	pthread_mutex_destroy(&ring->mutex);
	free(ring->path);
	free(ring);
}

/* Called with the mutex, when the file is another one than was seen last. */
static bool read_again(kvpi_keyring *ring)
{
	kvpi_keys keys = {0};
	bool changed;

	if (read_file(ring->path, &keys, &ring->seen) != KVP_OK) {
		KVPI_LOG(ERROR, "base", "the cluster key stays as it was: %s", kvp_last_error());
		return false;
	}
	changed = memcmp(&keys, &ring->keys, sizeof(keys)) != 0;
	if (changed) {
		ring->keys = keys;
		ring->generation++;
		KVPI_LOG(INFO, "base", "the key file %s has changed: %d key%s now", ring->path, keys.count,
		    keys.count > 1 ? "s" : "");
	}
	kvpi_keys_wipe(&keys);
	return changed;
}

bool kvpi_keyring_reload(kvpi_keyring *ring)
{
	stamp now;
	struct stat st;
	bool changed = false;

	pthread_mutex_lock(&ring->mutex);
	now = stat(ring->path, &st) == 0 ? stamp_of(&st) : (stamp){.error = errno};
	if (!same_stamp(&now, &ring->seen))
		changed = read_again(ring);
	pthread_mutex_unlock(&ring->mutex);
	return changed;
}

uint64_t kvpi_keyring_get(kvpi_keyring *ring, kvpi_keys *keys)
{
	pthread_mutex_lock(&ring->mutex);
	*keys = ring->keys;
	const uint64_t generation = ring->generation;
	pthread_mutex_unlock(&ring->mutex);
	return generation;
}
