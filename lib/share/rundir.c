/* SPDX-License-Identifier: Apache-2.0 */
#include "share/rundir.h"

#include "base/error.h"
#include "base/fault.h"
#include "wire/auth.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "kvp-"

/* A socket that is bound and does not listen yet refuses connections, too; by this age it listens. */
#define SWEEP_AGE_S 10
#define SWEEP_MAX 256 /* entries looked at in one sweep */

static kvp_status choose(char path[PATH_MAX])
{
	const char *given = getenv("KVPIPE_RUN_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
	int len;

	if (given != NULL && *given != 0)
		len = snprintf(path, PATH_MAX, "%s", given);
	else if (runtime != NULL && *runtime != 0)
		len = snprintf(path, PATH_MAX, "%s/kvpipe", runtime);
	else
		len = snprintf(path, PATH_MAX, "/tmp/kvpipe-%lu", (unsigned long)geteuid());
	if (len < 0 || len >= PATH_MAX)
		return kvpi_error(KVP_E_SYSTEM, "the path of the run directory is longer than %d bytes", PATH_MAX - 1);
	return KVP_OK;
}

kvp_status kvpi_rundir_open(kvpi_rundir *dir)
{
	char path[PATH_MAX];
	struct stat st;
	kvp_status status = choose(path);
	int fd = -1;

	*dir = (kvpi_rundir){.fd = -1};
	if (status != KVP_OK)
		return status;
	if (kvpi_fault("rundir.open"))
		errno = EACCES;
	else if (mkdir(path, 0700) == 0 || errno == EEXIST)
		fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return kvpi_error_errno("the run directory %s cannot be used; set KVPIPE_RUN_DIR to another", path);
	if (fstat(fd, &st) != 0) {
		status = kvpi_error_errno("the run directory %s cannot be looked at", path);
		goto err_close;
	}
	if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		status = kvpi_error(KVP_E_SYSTEM,
		    "the run directory %s %s; remove it, or set KVPIPE_RUN_DIR to another", path,
		    st.st_uid != geteuid() ? "belongs to another user" : "can be written by other users");
		goto err_close;
	}
	*dir = (kvpi_rundir){.fd = fd, .dev = (uint64_t)st.st_dev, .ino = (uint64_t)st.st_ino};
	return KVP_OK;

err_close:
	close(fd);
	return status;
}

void kvpi_rundir_close(kvpi_rundir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	*dir = (kvpi_rundir){.fd = -1};
}

static void file_name(const unsigned char *name, char out[sizeof(PREFIX) + 2 * KVPI_RUNDIR_NAME_BYTES])
{
	memcpy(out, PREFIX, sizeof(PREFIX) - 1);
	kvpi_uuid_text(name, out + sizeof(PREFIX) - 1);
}

static socklen_t path_address(const kvpi_rundir *dir, const char *file, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%.60s", dir->fd, file);
	return sizeof(*address);
}

socklen_t kvpi_rundir_path(
    const kvpi_rundir *dir, const unsigned char name[KVPI_RUNDIR_NAME_BYTES], struct sockaddr_un *address)
{
	char file[sizeof(PREFIX) + 2 * KVPI_RUNDIR_NAME_BYTES];

	file_name(name, file);
	return path_address(dir, file, address);
}

socklen_t kvpi_rundir_abstract(const unsigned char name[KVPI_RUNDIR_NAME_BYTES], struct sockaddr_un *address)
{
	char text[2 * KVPI_RUNDIR_NAME_BYTES + 1];
	int len;

	kvpi_uuid_text(name, text);
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	len = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "kvpipe-%s", text);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

void kvpi_rundir_remove(const kvpi_rundir *dir, const unsigned char name[KVPI_RUNDIR_NAME_BYTES])
{
	char file[sizeof(PREFIX) + 2 * KVPI_RUNDIR_NAME_BYTES];

	file_name(name, file);
	(void)unlinkat(dir->fd, file, 0);
}

/* Is it a socket of ours, of that age, which refuses? */
static bool is_stale(const kvpi_rundir *dir, const char *file)
{
	struct sockaddr_un address;
	struct stat st;
	socklen_t len;
	int fd;
	bool refused;

	if (strncmp(file, PREFIX, sizeof(PREFIX) - 1) != 0 || strlen(file) != sizeof(PREFIX) - 1 + 2 * KVPI_RUNDIR_NAME_BYTES ||
	    fstatat(dir->fd, file, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(st.st_mode) ||
	    time(NULL) - st.st_mtime < SWEEP_AGE_S)
		return false;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	len = path_address(dir, file, &address);
	refused = connect(fd, (struct sockaddr *)&address, len) != 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

void kvpi_rundir_sweep(const kvpi_rundir *dir)
{
	/* A description of its own: the place in the directory belongs to that. */
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (entries == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (int i = 0; i < SWEEP_MAX && (entry = readdir(entries)) != NULL; i++) {
		if (is_stale(dir, entry->d_name))
			(void)unlinkat(dir->fd, entry->d_name, 0);
	}
	closedir(entries);
}
