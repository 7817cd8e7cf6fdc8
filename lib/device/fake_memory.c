/* SPDX-License-Identifier: Apache-2.0
 *
 * Each allocation is a memfd, mapped twice: without access at the address that users see, and with access at one
 * that only this file knows.
 */
#include "device/fake_memory.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/list.h"
#include "device/fake.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long one copy may hold the lock. */
#define COPY_BYTES (1u << 20)

typedef struct allocation {
	kvpi_list node;
	char *user, *hidden;
	uint64_t bytes;  /* that may be touched */
	uint64_t mapped; /* whole pages */
	int device;
	int fd;
	bool imported;
} allocation;

/* The device is one per process, as a real one's driver is. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static kvpi_list allocations = {&allocations, &allocations};
static uint64_t allocation_count;

/* The allocation that holds all of it, or NULL.  Locked. */
static allocation *find(const void *ptr, uint64_t len)
{
	const uintptr_t at = (uintptr_t)ptr;

	KVPI_LIST_FOREACH(pos, nxt, &allocations) {
		allocation *a = KVPI_CONTAINER_OF(pos, allocation, node);
		const uintptr_t begin = (uintptr_t)a->user;

		if (at >= begin && at - begin < a->bytes && len <= a->bytes - (at - begin))
			return a;
	}
	return NULL;
}

/* Where the CPU finds that device memory; NULL if it is not there.  Locked. */
static char *alias(const void *ptr, uint64_t len)
{
	const allocation *a = find(ptr, len);

	return a == NULL ? NULL : a->hidden + ((uintptr_t)ptr - (uintptr_t)a->user);
}

bool kvpi_fake_memory_owns(const void *ptr, int *device)
{
	const allocation *a;

	pthread_mutex_lock(&mutex);
	a = find(ptr, 1);
	if (a != NULL)
		*device = a->device;
	pthread_mutex_unlock(&mutex);
	return a != NULL;
}

/* Maps the descriptor twice and enters it; takes it when that succeeds. */
static kvp_status enter(int device, int fd, uint64_t bytes, bool imported, allocation **entered)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	allocation *a = KVPI_NEW(allocation);

	if (a == NULL)
		return kvpi_error_nomem("fake device memory");
	*a = (allocation){.bytes = bytes,
	    .mapped = (bytes + page - 1) / page * page,
	    .device = device,
	    .fd = fd,
	    .imported = imported};
	a->user = mmap(NULL, a->mapped, PROT_NONE, MAP_SHARED, fd, 0);
	if (a->user == MAP_FAILED)
		goto err_free;
	a->hidden = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (a->hidden == MAP_FAILED)
		goto err_unmap;
	if (!imported)
		memset(a->hidden, KVPI_FAKE_POISON, a->mapped);

	pthread_mutex_lock(&mutex);
	kvpi_list_append(&allocations, &a->node);
	allocation_count++;
	pthread_mutex_unlock(&mutex);
	*entered = a;
	return KVP_OK;

err_unmap:
	munmap(a->user, a->mapped);
err_free:
	free(a);
	return kvpi_error_errno("cannot map fake device memory");
}

kvp_status kvpi_fake_memory_alloc(int device, uint64_t bytes, void **ptr)
{
	allocation *a;
	kvp_status status;
	int fd;

	if (bytes == 0 || bytes > INT64_MAX / 2)
		return kvpi_error(KVP_E_INVALID, "fake device: cannot allocate %llu bytes", (unsigned long long)bytes);
	fd = kvpi_fault("fake.alloc") ? -1 : memfd_create("kvp-fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return kvpi_error_errno("cannot make fake device memory");
	/* A shrunk file would turn an importer's access into a fault. */
	if (ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		status = kvpi_error_errno("cannot make %llu bytes of fake device memory", (unsigned long long)bytes);
		close(fd);
		return status;
	}
	status = enter(device, fd, bytes, false, &a);
	if (status != KVP_OK) {
		close(fd);
		return status;
	}
	*ptr = a->user;
	return KVP_OK;
}

bool kvpi_fake_memory_free(void *ptr, bool imported)
{
	allocation *a;

	pthread_mutex_lock(&mutex);
	a = find(ptr, 1);
	if (a != NULL && (a->imported != imported || (!imported && ptr != a->user)))
		a = NULL;
	if (a != NULL) {
		kvpi_list_remove(&a->node);
		allocation_count--;
	}
	pthread_mutex_unlock(&mutex);
	if (a == NULL)
		return false;
	munmap(a->user, a->mapped);
	munmap(a->hidden, a->mapped);
	close(a->fd);
	free(a);
	return true;
}

kvp_status kvpi_fake_memory_export(void *ptr, uint64_t bytes, kvpi_export *out)
{
	kvpi_export made = {.fd = -1, .bytes = bytes};
	const allocation *a;

	pthread_mutex_lock(&mutex);
	a = find(ptr, bytes);
	if (a != NULL) {
		made.fd = fcntl(a->fd, F_DUPFD_CLOEXEC, 0);
		made.offset = (uint64_t)((char *)ptr - a->user);
		made.whole = a->mapped;
	}
	pthread_mutex_unlock(&mutex);
	if (a == NULL)
		return kvpi_error(KVP_E_INVALID, "fake device: %p is not memory of this device", ptr);
	if (made.fd < 0)
		return kvpi_error_errno("cannot export fake device memory");
	*out = made;
	return KVP_OK;
}

kvp_status kvpi_fake_memory_import(int device, const kvpi_export *in, void **ptr)
{
	const int seals = fcntl(in->fd, F_GET_SEALS);
	allocation *a;
	struct stat st;
	kvp_status status;

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(in->fd, &st) < 0)
		return kvpi_error(KVP_E_INVALID, "fake device: the descriptor %d is not exported memory", in->fd);
	if (in->bytes == 0 || in->offset > (uint64_t)st.st_size || in->bytes > (uint64_t)st.st_size - in->offset)
		return kvpi_error(KVP_E_INVALID, "fake device: %llu bytes at %llu are not inside of what was exported",
		    (unsigned long long)in->bytes, (unsigned long long)in->offset);
	status = enter(device, in->fd, (uint64_t)st.st_size, true, &a);
	if (status != KVP_OK)
		return status;
	*ptr = a->user + in->offset;
	return KVP_OK;
}

uint64_t kvpi_fake_memory_count(void)
{
	uint64_t count;

	pthread_mutex_lock(&mutex);
	count = allocation_count;
	pthread_mutex_unlock(&mutex);
	return count;
}

bool kvpi_fake_memory_copy(void *to, bool to_device, const void *from, bool from_device, uint64_t len)
{
	bool there = true;

	for (uint64_t done = 0; there && done < len;) {
		const uint64_t n = len - done < COPY_BYTES ? len - done : COPY_BYTES;
		char *at = (char *)to + done;
		const char *src = (const char *)from + done;

		pthread_mutex_lock(&mutex);
		if (to_device)
			at = alias(at, n);
		if (from_device)
			src = alias(src, n);
		there = at != NULL && src != NULL;
		if (there)
			memmove(at, src, n);
		pthread_mutex_unlock(&mutex);
		done += n;
	}
	return there;
}

/* Words are shared with other processes too: atomic, beside the lock. */

bool kvpi_fake_memory_load(const uint64_t *word, uint64_t *value)
{
	const uint64_t *at;

	pthread_mutex_lock(&mutex);
	at = (const uint64_t *)(void *)alias(word, sizeof(*word));
	if (at != NULL)
		*value = __atomic_load_n(at, __ATOMIC_ACQUIRE);
	pthread_mutex_unlock(&mutex);
	return at != NULL;
}

bool kvpi_fake_memory_store(uint64_t *word, uint64_t value)
{
	uint64_t *at;

	pthread_mutex_lock(&mutex);
	at = (uint64_t *)(void *)alias(word, sizeof(*word));
	if (at != NULL)
		__atomic_store_n(at, value, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&mutex);
	return at != NULL;
}

kvp_status kvpi_fake_read(const void *ptr, void *out, size_t len)
{
	if (kvpi_fake_memory_copy(out, false, ptr, true, len))
		return KVP_OK;
	return kvpi_error(KVP_E_INVALID, "fake device: %zu bytes at %p are not memory of this device", len, ptr);
}
