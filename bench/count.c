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

/* Hidden, as everything is by default here, they would stand in front of nobody but this program. */
#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

/* initial-exec: looking at it must not allocate. */
static _Thread_local bench_counts mine __attribute__((tls_model("initial-exec")));

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

SEEN_BY_LIBRARIES void *malloc(size_t bytes)
{
	mine.allocations++;
	return __libc_malloc(bytes);
}

SEEN_BY_LIBRARIES void *calloc(size_t count, size_t bytes)
{
	mine.allocations++;
	return __libc_calloc(count, bytes);
}

SEEN_BY_LIBRARIES void *realloc(void *old, size_t bytes)
{
	mine.allocations++;
	return __libc_realloc(old, bytes);
}

SEEN_BY_LIBRARIES void *memalign(size_t alignment, size_t bytes)
{
	mine.allocations++;
	return __libc_memalign(alignment, bytes);
}

SEEN_BY_LIBRARIES void *aligned_alloc(size_t alignment, size_t bytes)
{
	return memalign(alignment, bytes);
}

SEEN_BY_LIBRARIES int posix_memalign(void **result, size_t alignment, size_t bytes)
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

SEEN_BY_LIBRARIES ssize_t write(int fd, const void *data, size_t bytes)
{
	mine.writes++;
	return syscall(SYS_write, fd, data, bytes);
}

/* A figure of 0 must not come from counting nothing: making a context cannot be done without an allocation. */
static bool counts_the_library(void)
{
	const uint64_t before = mine.allocations;
	kvp_context *context;

	if (kvp_context_new(&context, NULL) == KVP_OK)
		kvp_context_free(context);
	return mine.allocations != before;
}

bool bench_count(bench_counts *counts)
{
	static int works = -1; /* not tried yet */

	if (works < 0)
		works = counts_the_library();
	*counts = mine;
	return works;
}

#else

bool bench_count(bench_counts *counts)
{
	*counts = (bench_counts){0};
	return false;
}

#endif
