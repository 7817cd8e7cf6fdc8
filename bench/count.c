/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts what the calling thread asks of malloc and write, by standing in front of them: a program's own function comes
 * before the C library's, for the calls of shared libraries as well.
 */
#include "bench.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZER 1
#endif
#endif

#if defined(__GLIBC__) && !defined(SANITIZER)

/* initial-exec: looking at it must not allocate. */
static _Thread_local bench_counts mine __attribute__((tls_model("initial-exec")));

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes)
{
	mine.allocations++;
	return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	mine.allocations++;
	return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
	mine.allocations++;
	return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
	mine.allocations++;
	return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	return memalign(alignment, bytes);
}

int posix_memalign(void **result, size_t alignment, size_t bytes)
{
	void *data;

	if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0)
		return EINVAL;
	data = memalign(alignment, bytes);
	if (data == NULL)
		return ENOMEM;
	*result = data;
	return 0;
}

ssize_t write(int fd, const void *data, size_t bytes)
{
	mine.writes++;
	return syscall(SYS_write, fd, data, bytes);
}

bool bench_count(bench_counts *counts)
{
	*counts = mine;
	return true;
}

#else

bool bench_count(bench_counts *counts)
{
	*counts = (bench_counts){0};
	return false;
}

#endif
