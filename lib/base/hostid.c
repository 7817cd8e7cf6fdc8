/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hostid.h"

#include "base/fault.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copies what may stand in a line of blank-separated fields, and nothing else. */
static void copy_word(char *out, size_t size, const char *text, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < size; i++) {
		unsigned char c = (unsigned char)text[i];

		out[n++] = c > 0x20 && c < 0x7f ? (char)c : '_';
	}
	out[n] = 0;
}

static void read_boot_id(char *out, size_t size)
{
	const char *given = getenv("KVPIPE_HOSTID");
	char text[64];
	ssize_t len = -1;

	out[0] = 0;
	if (given != NULL && *given != 0) {
		copy_word(out, size, given, strlen(given));
		return;
	}
	int fd = kvpi_fault("hostid.boot_id")
	             ? -1
	             : open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	do {
		len = read(fd, text, sizeof(text));
	} while (len < 0 && errno == EINTR);
	close(fd);
	if (len <= 0)
		return;
	const char *end = memchr(text, '\n', (size_t)len);
	copy_word(out, size, text, end == NULL ? (size_t)len : (size_t)(end - text));
}

static bool read_stat(const char *path, struct stat *st)
{
	return !kvpi_fault("hostid.stat") && stat(path, st) == 0;
}

static uint64_t read_namespace(const char *path)
{
	struct stat st;

	return read_stat(path, &st) ? (uint64_t)st.st_ino : 0;
}

void kvpi_hostid_read(kvpi_hostid *id)
{
	int saved = errno;
	char name[sizeof(id->host_name)] = "";
	struct stat st;

	*id = (kvpi_hostid){0};
	read_boot_id(id->boot_id, sizeof(id->boot_id));
	if (gethostname(name, sizeof(name) - 1) == 0)
		copy_word(id->host_name, sizeof(id->host_name), name, strlen(name));
	if (read_stat("/dev/shm", &st))
		id->shm_dev = (uint64_t)st.st_dev;
	id->ipc_ns = read_namespace("/proc/self/ns/ipc");
	id->pid_ns = read_namespace("/proc/self/ns/pid");
	id->net_ns = read_namespace("/proc/self/ns/net");
	id->user_ns = read_namespace("/proc/self/ns/user");
	id->user = (uint64_t)geteuid() + 1;
	errno = saved;
}

bool kvpi_hostid_same_host(const kvpi_hostid *a, const kvpi_hostid *b)
{
	return a->boot_id[0] != 0 && strcmp(a->boot_id, b->boot_id) == 0;
}

void kvpi_hostid_format(const kvpi_hostid *id, char *out, size_t len)
{
	snprintf(out, len,
	    "boot=%s name=%s shm=%" PRIu64 " ipc=%" PRIu64 " pid=%" PRIu64 " net=%" PRIu64 " rundev=%" PRIu64
	    " runino=%" PRIu64 " user=%" PRIu64 " userns=%" PRIu64,
	    id->boot_id, id->host_name, id->shm_dev, id->ipc_ns, id->pid_ns, id->net_ns, id->run_dev, id->run_ino, id->user,
	    id->user_ns);
}

static bool parse_word(char *out, size_t size, const char *text, size_t len)
{
	if (len >= size)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c <= 0x20 || c >= 0x7f)
			return false;
	}
	memcpy(out, text, len);
	out[len] = 0;
	return true;
}

static bool parse_number(uint64_t *out, const char *text, size_t len)
{
	uint64_t number = 0;

	if (len == 0)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(text[i] - '0'), &number))
			return false;
	}
	*out = number;
	return true;
}

static bool parse_field(kvpi_hostid *id, size_t field, const char *text, size_t len)
{
	switch (field) {
	case 0:
		return parse_word(id->boot_id, sizeof(id->boot_id), text, len);
	case 1:
		return parse_word(id->host_name, sizeof(id->host_name), text, len);
	case 2:
		return parse_number(&id->shm_dev, text, len);
	case 3:
		return parse_number(&id->ipc_ns, text, len);
	case 4:
		return parse_number(&id->pid_ns, text, len);
	case 5:
		return parse_number(&id->net_ns, text, len);
	case 6:
		return parse_number(&id->run_dev, text, len);
	case 7:
		return parse_number(&id->run_ino, text, len);
	case 8:
		return parse_number(&id->user, text, len);
	default:
		return parse_number(&id->user_ns, text, len);
	}
}

#define REQUIRED 6 /* the fields that every version writes */

/* The fields in their order; what a newer version has put behind them is passed over. */
bool kvpi_hostid_parse(kvpi_hostid *id, const char *text, size_t len)
{
	static const char *const keys[] = {
	    "boot=", "name=", "shm=", "ipc=", "pid=", "net=", "rundev=", "runino=", "user=", "userns="};
	kvpi_hostid parsed = {0};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		size_t key_len = strlen(keys[i]);

		if (i >= REQUIRED && (len <= key_len || *text != ' ' || memcmp(text + 1, keys[i], key_len) != 0))
			break; /* an older version; or what a newer one has put there */
		if (i > 0) {
			if (len == 0 || *text != ' ')
				return false;
			text++;
			len--;
		}
		if (len < key_len || memcmp(text, keys[i], key_len) != 0)
			return false;
		text += key_len;
		len -= key_len;
		const char *blank = memchr(text, ' ', len);
		size_t value_len = blank == NULL ? len : (size_t)(blank - text);
		if (!parse_field(&parsed, i, text, value_len))
			return false;
		text += value_len;
		len -= value_len;
	}
	*id = parsed;
	return true;
}
