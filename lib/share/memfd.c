/* SPDX-License-Identifier: Apache-2.0
 *
 * memfds that cannot surprise: the kernel is asked for all memory before anybody uses it.
 *
 * The kernel does not refuse a memfd that is larger than the machine: it would kill processes until there is room. So
 * what is asked for is compared with what the kernel says is available.
 *
 * Huge pages were tried (MADV_HUGEPAGE): filling, clearing and copying 512 MiB took the same time with and without.
 */
#include "share/mem.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* An interrupted fallocate gives back all that it has got: a profiler's signals would keep it from ever ending.  A piece
 * of this size takes 2 ms. */
#define PIECE_BYTES (UINT64_C(4) << 20)

uint64_t kvpi_memfd_bytes(uint64_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return bytes > UINT64_MAX - (page - 1) ? 0 : (bytes + page - 1) & ~(page - 1);
}

/* Memory and swap that can be had without harm; UINT64_MAX: unknown. */
static uint64_t available_bytes(void)
{
	uint64_t kib, available = UINT64_MAX, swap = 0;
	char line[128];
	FILE *file = kvpi_fault("memfd.meminfo") ? NULL : fopen("/proc/meminfo", "re");

	if (file == NULL)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			available = kib << 10;
		else if (sscanf(line, "SwapFree: %" SCNu64, &kib) == 1)
			swap = kib << 10;
	}
	fclose(file);
	return available > UINT64_MAX - swap ? UINT64_MAX : available + swap;
}

/* The limit of a container on its memory, where there is one. */
static uint64_t container_bytes(void)
{
	uint64_t limit = UINT64_MAX;
	FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");

	if (file == NULL)
		return UINT64_MAX;
	if (fscanf(file, "%" SCNu64, &limit) != 1) /* "max" */
		limit = UINT64_MAX;
	fclose(file);
	return limit;
}

static kvp_status check_room(uint64_t bytes)
{
	struct rlimit limit;
	uint64_t available = available_bytes(), container = container_bytes();

	if (bytes > available)
		return kvpi_error(KVP_E_NOMEM,
		    "no memory for %" PRIu64 " bytes of shared memory: the machine has %" PRIu64 " bytes to give", bytes,
		    available);
	if (bytes > container)
		return kvpi_error(KVP_E_NOMEM,
		    "no memory for %" PRIu64 " bytes of shared memory: the container may have %" PRIu64, bytes, container);
	/* ftruncate beyond it would not just fail, but raise a signal. */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur)
		return kvpi_error(KVP_E_SYSTEM,
		    "shared memory of %" PRIu64 " bytes is above the limit on file sizes of %" PRIu64 " (ulimit -f)", bytes,
		    (uint64_t)limit.rlim_cur);
	return KVP_OK;
}

static int allocate(int fd, uint64_t bytes)
{
	uint64_t offset = 0;

	if (kvpi_fault("memfd.fallocate")) {
		errno = ENOSPC;
		return -1;
	}
	while (offset < bytes) {
		uint64_t piece = bytes - offset < PIECE_BYTES ? bytes - offset : PIECE_BYTES;

		if (fallocate(fd, 0, (off_t)offset, (off_t)piece) == 0)
			offset += piece;
		else if (errno != EINTR)
			return -1;
	}
	return 0;
}

static int seal(int fd, bool others_write)
{
	if (kvpi_fault("memfd.seal")) {
		errno = EPERM;
		return -1;
	}
	if (others_write)
		return fcntl(fd, F_ADD_SEALS, SEALS);
	if (fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_FUTURE_WRITE) == 0)
		return 0;
	return errno == EINVAL ? fcntl(fd, F_ADD_SEALS, SEALS) : -1; /* a kernel from before that seal */
}

static kvp_status memfd_new(const char *name, uint64_t asked, bool others_write, int *fd, void **base)
{
	uint64_t bytes = kvpi_memfd_bytes(asked);
	kvp_status status;
	void *memory;
	int made;

	if (bytes == 0)
		return asked == 0 ? kvpi_error(KVP_E_INVALID, "shared memory of 0 bytes")
		                  : kvpi_error(KVP_E_NOMEM, "no memory for %" PRIu64 " bytes of shared memory", asked);
	status = check_room(bytes);
	if (status != KVP_OK)
		return status;
	if (kvpi_fault("memfd.create")) {
		errno = EMFILE;
		made = -1;
	} else {
		made = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	if (made < 0)
		return kvpi_error_errno("cannot make a memfd (%s)", name);
	if (ftruncate(made, (off_t)bytes) != 0 || allocate(made, bytes) != 0) {
		/* ENOSPC is how the kernel says that there is no memory. */
		if (errno == ENOSPC || errno == ENOMEM)
			status = kvpi_error(KVP_E_NOMEM, "no memory for %" PRIu64 " bytes of shared memory: %m", bytes);
		else
			status = kvpi_error_errno("cannot allocate %" PRIu64 " bytes of shared memory", bytes);
		goto err_close;
	}
	/* Page tables now, too: writing to 512 MiB takes 26 ms so, and 1.1 s with a fault for each page. */
	memory = kvpi_fault("memfd.mmap") ? (errno = ENOMEM, MAP_FAILED)
	                                  : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, made, 0);
	if (memory == MAP_FAILED) {
		status = kvpi_error_errno("cannot map %" PRIu64 " bytes of shared memory", bytes);
		goto err_close;
	}
	if (seal(made, others_write) != 0) {
		status = kvpi_error_errno("cannot seal shared memory");
		goto err_unmap;
	}
	*fd = made;
	*base = memory;
	return KVP_OK;

err_unmap:
	munmap(memory, bytes);
err_close:
	close(made);
	return status;
}

kvp_status kvpi_memfd_new(const char *name, uint64_t bytes, int *fd, void **base)
{
	return memfd_new(name, bytes, true, fd, base);
}

kvp_status kvpi_memfd_new_readable(const char *name, uint64_t bytes, int *fd, void **base)
{
	return memfd_new(name, bytes, false, fd, base);
}

void kvpi_memfd_free(int fd, void *base, uint64_t bytes)
{
	if (base != NULL)
		munmap(base, kvpi_memfd_bytes(bytes));
	if (fd >= 0)
		close(fd);
}

kvp_status kvpi_memfd_check(int fd, uint64_t bytes)
{
	struct stat st;
	/* First, since a look at a file of another kind (FUSE) may block. */
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
		return kvpi_error(KVP_E_PROTOCOL, "the peer sent a descriptor that is %s",
		    seals < 0 ? "no memfd" : "a memfd not sealed against shrinking");
	if (fstat(fd, &st) != 0)
		return kvpi_error_errno("cannot look at a descriptor that the peer sent");
	if (bytes == 0 || (uint64_t)st.st_size != bytes)
		return kvpi_error(KVP_E_PROTOCOL, "the peer sent a memfd of %lld bytes for one of %" PRIu64,
		    (long long)st.st_size, bytes);
	/* A hole would be filled at the reader's expense, and with SIGBUS if there is nothing to fill it with. */
	if ((uint64_t)st.st_blocks * 512 < bytes)
		return kvpi_error(KVP_E_PROTOCOL, "the peer sent a memfd of %" PRIu64 " bytes that is not allocated", bytes);
	return KVP_OK;
}
