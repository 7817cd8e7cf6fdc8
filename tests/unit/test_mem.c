/* SPDX-License-Identifier: Apache-2.0 */
#include "base/context.h"
#include "base/fault.h"
#include "kit/kit.h"
#include "share/mem.h"
#include <fcntl.h>
#include <kvpipe/log.h>
#include <kvpipe/memory.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))

static atomic_int complaints;

static void count_errors(void *user, kvp_log_level level, const char *component, const char *line)
{
	(void)user;
	(void)line;
	if (level == KVP_LOG_ERROR && strcmp(component, "share") == 0)
		atomic_fetch_add(&complaints, 1);
}

static void listen_to_log(void)
{
	kvp_log_set((kvp_log_callback){.call = count_errors}, KVP_LOG_ERROR);
}

START_TEST(memory_is_there_zeroed_and_found)
{
	kvp_context *context;
	void *ptr = NULL;
	kvpi_mem *mem;

	KIT_OK(kvp_context_new(&context, NULL));
	ck_assert_ptr_null(kvpi_mem_find(context, &context, 1));
	KIT_OK(kvp_mem_alloc(context, 3 * PAGE - 100, &ptr));
	ck_assert_uint_eq((uintptr_t)ptr % PAGE, 0);
	for (size_t i = 0; i < 3 * PAGE; i++)
		ck_assert_int_eq(((char *)ptr)[i], 0);
	kit_random_fill(ptr, 3 * PAGE, 1);

	mem = kvpi_mem_find(context, (char *)ptr + 5, 3 * PAGE - 5);
	ck_assert_ptr_nonnull(mem);
	ck_assert_ptr_eq(mem->base, ptr);
	ck_assert_uint_eq(mem->bytes, 3 * PAGE);
	kvpi_mem_release(mem);
	ck_assert_ptr_null(kvpi_mem_find(context, (char *)ptr + 5, 3 * PAGE - 4));
	ck_assert_ptr_null(kvpi_mem_find(context, (char *)ptr + 5, UINT64_MAX));
	ck_assert_ptr_null(kvpi_mem_find(context, (char *)ptr - 1, 2));
	ck_assert_ptr_null(kvpi_mem_find(context, (char *)ptr + 3 * PAGE, 0));
	ck_assert_ptr_null(kvpi_mem_find(context, (char *)ptr + 3 * PAGE, 1));
	kvp_mem_free(context, ptr);
	ck_assert_ptr_null(kvpi_mem_find(context, ptr, 1));
	kvp_context_free(context);
}
END_TEST

/* The default context comes with the memory and goes with it. */
START_TEST(memory_holds_its_context)
{
	void *ptr;

	KIT_OK(kvp_mem_alloc(NULL, 1, &ptr));
	kit_random_fill(ptr, PAGE, 3);
	kvp_mem_free(NULL, ptr);
	kvp_mem_free(NULL, NULL);
}
END_TEST

START_TEST(many_memories_are_told_apart)
{
	enum { COUNT = 100 };
	kvp_context *context;
	void *ptrs[COUNT];
	uint64_t state = 1;

	KIT_OK(kvp_context_new(&context, NULL));
	for (size_t i = 0; i < COUNT; i++)
		KIT_OK(kvp_mem_alloc(context, PAGE * (1 + i % 3), &ptrs[i]));
	for (size_t gone = 0; gone < COUNT; gone++) {
		for (size_t i = 0; i < COUNT; i++) {
			kvpi_mem *mem = ptrs[i] == NULL ? NULL : kvpi_mem_find(context, (char *)ptrs[i] + 1, PAGE - 1);

			ck_assert_int_eq(mem == NULL, ptrs[i] == NULL);
			if (mem != NULL)
				ck_assert_ptr_eq(mem->base, ptrs[i]);
			kvpi_mem_release(mem);
		}
		size_t i = kit_random(&state) % COUNT;
		while (ptrs[i] == NULL)
			i = (i + 1) % COUNT;
		kvp_mem_free(context, ptrs[i]);
		ptrs[i] = NULL;
	}
	kvp_context_free(context);
}
END_TEST

START_TEST(a_hold_keeps_memory_alive)
{
	kvp_context *context;
	void *ptr;
	kvpi_mem *mem;

	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_mem_alloc(context, PAGE, &ptr));
	mem = kvpi_mem_find(context, ptr, PAGE);
	kvp_mem_free(context, ptr);
	kvp_context_free(context);
	kit_random_fill(ptr, PAGE, 4);
	kit_check_fill(ptr, PAGE, 4);
	ck_assert_ptr_eq(kvpi_mem_hold(mem), mem);
	kvpi_mem_release(mem);
	kvpi_mem_release(mem);
	kvpi_mem_release(NULL);
}
END_TEST

START_TEST(what_is_unknown_is_left_alone)
{
	kvp_context *context, *other;
	char on_stack = 'x';
	void *ptr;

	listen_to_log();
	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_context_new(&other, NULL));
	KIT_OK(kvp_mem_alloc(context, 2 * PAGE, &ptr));
	kvp_mem_free(other, ptr);
	kvp_mem_free(NULL, ptr);
	kvp_mem_free(context, (char *)ptr + PAGE);
	kvp_mem_free(context, &on_stack);
	ck_assert_int_eq(atomic_load(&complaints), 4);
	kit_random_fill(ptr, 2 * PAGE, 5);
	kvp_mem_free(context, ptr);
	kvp_mem_free(context, ptr);
	ck_assert_int_eq(atomic_load(&complaints), 5);
	kvp_context_free(other);
	kvp_context_free(context);
	kvp_log_set((kvp_log_callback){0}, KVP_LOG_OFF);
}
END_TEST

static int use_in_child(void *user)
{
	void **given = user;
	void *ptr;

	if (kvp_mem_alloc(given[0], 1, &ptr) != KVP_E_FORKED)
		return 1;
	kvp_mem_free(given[0], given[1]); /* refused: it is the parent's */
	kvp_mem_free(NULL, given[1]);
	if (kvp_mem_alloc(NULL, 1, &ptr) != KVP_OK)
		return 2;
	kvp_mem_free(NULL, ptr);
	kit_random_fill(given[1], 100, 77); /* it is shared, and still there */
	return 0;
}

START_TEST(a_child_has_memory_of_its_own)
{
	void *given[2];
	kvp_context *context;

	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_mem_alloc(context, PAGE, &given[1]));
	given[0] = context;
	ck_assert_int_eq(kit_wait_exit(kit_fork(use_in_child, given), 10000), 0);
	kit_check_fill(given[1], 100, 77);
	kvp_mem_free(context, given[1]);
	kvp_context_free(context);
}
END_TEST

START_TEST(sizes_that_cannot_be_are_refused)
{
	static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 4096, INT64_MAX, UINT64_C(1) << 50};
	void *ptr = &ptr;

	KIT_STATUS(kvp_mem_alloc(NULL, 0, &ptr), KVP_E_INVALID);
	KIT_STATUS(kvp_mem_alloc(NULL, 10, NULL), KVP_E_INVALID);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		KIT_STATUS(kvp_mem_alloc(NULL, sizes[i], &ptr), KVP_E_NOMEM);
	/* Without /proc the kernel still refuses what no file can have. */
	kvpi_fault_arm("memfd.meminfo", 1, 1);
	KIT_STATUS(kvp_mem_alloc(NULL, (uint64_t)INT64_MAX + 10, &ptr), KVP_E_SYSTEM);
	ck_assert_ptr_eq(ptr, &ptr);
}
END_TEST

START_TEST(what_fails_changes_nothing)
{
	static const char *const points[] = {"memfd.create", "memfd.fallocate", "memfd.mmap", "memfd.seal", "auth.init"};
	static const kvp_status codes[] = {KVP_E_SYSTEM, KVP_E_NOMEM, KVP_E_NOMEM, KVP_E_SYSTEM, KVP_E_SYSTEM};
	void *ptr = &ptr;
	kvp_status status;
	unsigned n = 1;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		kvpi_fault_arm(points[i], 1, 1);
		KIT_STATUS(kvp_mem_alloc(NULL, PAGE, &ptr), codes[i]);
		kvpi_fault_disarm_all();
	}
	for (;; n++) {
		kvpi_fault_arm("alloc", n, 1);
		status = kvp_mem_alloc(NULL, PAGE, &ptr);
		kvpi_fault_disarm_all();
		if (status == KVP_OK)
			break;
		ck_assert_int_eq(status, KVP_E_NOMEM);
		ck_assert_ptr_eq(ptr, &ptr);
	}
	ck_assert_uint_gt(n, 3);
	kvp_mem_free(NULL, ptr);
}
END_TEST

static void ignore_signal(int number)
{
	(void)number;
}

/* A profiler's signals interrupt the kernel's allocation, which then gives back what it has got. */
START_TEST(signals_do_not_keep_it_from_ending)
{
	struct sigaction action = {.sa_handler = ignore_signal};
	struct itimerval often = {.it_interval = {.tv_usec = 5000}, .it_value = {.tv_usec = 5000}}, never = {0};
	void *ptr;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	KIT_OK(kvp_mem_alloc(NULL, UINT64_C(64) << 20, &ptr));
	setitimer(ITIMER_REAL, &never, NULL);
	kvp_mem_free(NULL, ptr);
}
END_TEST

static void *find_often(void *user)
{
	void **given = user;
	size_t found = 0;

	for (int i = 0; i < 20000; i++) {
		kvpi_mem *mem = kvpi_mem_find(given[0], given[1], 8);

		found += mem != NULL && mem->base == given[1];
		kvpi_mem_release(mem);
	}
	return (void *)found;
}

START_TEST(threads_find_while_others_come_and_go)
{
	pthread_t threads[2];
	kvp_context *context;
	void *given[2], *found;

	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_mem_alloc(context, PAGE, &given[1]));
	given[0] = context;
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, find_often, given), 0);
	for (int i = 0; i < 300; i++) {
		void *ptr;

		KIT_OK(kvp_mem_alloc(context, PAGE, &ptr));
		kvp_mem_free(context, ptr);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &found);
		ck_assert_uint_eq((size_t)found, 20000);
	}
	kvp_mem_free(context, given[1]);
	kvp_context_free(context);
}
END_TEST

/* ---- imports ---- */

static const unsigned char id_a[KVPI_MEM_ID_BYTES] = "memory a", id_b[KVPI_MEM_ID_BYTES] = "memory b";

START_TEST(a_peer_reads_what_the_owner_writes)
{
	kvp_context *context;
	kvpi_imports *imports;
	kvpi_mem *mem;
	void *ptr;

	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_mem_alloc(context, 4 * PAGE, &ptr));
	kit_random_fill(ptr, 4 * PAGE, 6);
	mem = kvpi_mem_find(context, ptr, 1);
	KIT_OK(kvpi_imports_new(100 * PAGE, &imports));
	ck_assert(!kvpi_imports_has(imports, mem->id));
	ck_assert_ptr_null(kvpi_imports_at(imports, mem->id, 0, 1));
	KIT_OK(kvpi_imports_add(imports, mem->id, dup(mem->fd), mem->bytes));
	ck_assert(kvpi_imports_has(imports, mem->id));
	ck_assert_uint_eq(kvpi_imports_bytes(imports), 4 * PAGE);
	const char *there = kvpi_imports_at(imports, mem->id, 0, 4 * PAGE);
	ck_assert_ptr_ne(there, ptr);
	kit_check_fill(there, 4 * PAGE, 6);
	kit_random_fill(ptr, 4 * PAGE, 7);
	kit_check_fill(there, 4 * PAGE, 7);
	ck_assert_ptr_eq(kvpi_imports_at(imports, mem->id, 10, 4 * PAGE - 10), there + 10);
	ck_assert_ptr_null(kvpi_imports_at(imports, mem->id, 10, 4 * PAGE - 9));
	ck_assert_ptr_null(kvpi_imports_at(imports, mem->id, UINT64_MAX, 2));
	ck_assert_ptr_null(kvpi_imports_at(imports, mem->id, 2, UINT64_MAX));

	KIT_STATUS(kvpi_imports_add(imports, mem->id, dup(mem->fd), mem->bytes), KVP_E_CONFLICT);
	/* What the owner frees stays until it is taken out here. */
	kvp_mem_free(context, ptr);
	kvpi_imports_remove(imports, id_a);
	kit_check_fill(there, 4 * PAGE, 7);
	kvpi_imports_remove(imports, mem->id);
	ck_assert_uint_eq(kvpi_imports_bytes(imports), 0);
	ck_assert(!kvpi_imports_has(imports, mem->id));
	KIT_OK(kvpi_imports_add(imports, mem->id, dup(mem->fd), mem->bytes));
	kvpi_mem_release(mem);
	kvpi_imports_free(imports);
	kvpi_imports_free(NULL);
	kvp_context_free(context);
}
END_TEST

START_TEST(a_peer_cannot_write_cut_or_grow)
{
	kvp_context *context;
	kvpi_mem *mem;
	void *ptr;

	KIT_OK(kvp_context_new(&context, NULL));
	KIT_OK(kvp_mem_alloc(context, PAGE, &ptr));
	mem = kvpi_mem_find(context, ptr, 1);
	ck_assert_int_ne(ftruncate(mem->fd, 0), 0);
	ck_assert_int_ne(ftruncate(mem->fd, (off_t)(2 * PAGE)), 0);
	ck_assert_ptr_eq(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem->fd, 0), MAP_FAILED);
	ck_assert_int_lt(pwrite(mem->fd, "x", 1, 0), 0);
	ck_assert_int_ne(fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)PAGE), 0);
	kvpi_mem_release(mem);
	kvp_mem_free(context, ptr);
	kvp_context_free(context);
}
END_TEST

static int plain_memfd(uint64_t bytes, bool allocate, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
	if (allocate)
		ck_assert_int_eq(fallocate(fd, 0, 0, (off_t)bytes), 0);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

START_TEST(only_sound_memory_is_imported)
{
	kvpi_imports *imports;
	char path[256];

	snprintf(path, sizeof(path), "%s/file", kit_tmpdir());
	KIT_OK(kvpi_imports_new(10 * PAGE, &imports));
	KIT_STATUS(kvpi_imports_add(imports, id_a, -1, PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, open("/dev/zero", O_RDONLY), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, open(path, O_RDWR | O_CREAT, 0600), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, 0), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_GROW), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, false, F_SEAL_SHRINK), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_SHRINK), 2 * PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(2 * PAGE, true, F_SEAL_SHRINK), PAGE), KVP_E_PROTOCOL);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_SHRINK), 0), KVP_E_PROTOCOL);
	ck_assert_uint_eq(kvpi_imports_bytes(imports), 0);
	ck_assert(!kvpi_imports_has(imports, id_a));
	KIT_OK(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_SHRINK), PAGE));
	kvpi_imports_free(imports);
}
END_TEST

START_TEST(imports_are_bounded)
{
	kvpi_imports *imports;
	unsigned char id[KVPI_MEM_ID_BYTES] = {1};
	int fd = plain_memfd(PAGE, true, F_SEAL_SHRINK);

	KIT_OK(kvpi_imports_new(3 * PAGE, &imports));
	KIT_OK(kvpi_imports_add(imports, id_a, plain_memfd(2 * PAGE, true, F_SEAL_SHRINK), 2 * PAGE));
	KIT_STATUS(
	    kvpi_imports_add(imports, id_b, plain_memfd(2 * PAGE, true, F_SEAL_SHRINK), 2 * PAGE), KVP_E_TOO_LARGE);
	KIT_STATUS(
	    kvpi_imports_add(imports, id_b, plain_memfd(2 * PAGE, true, F_SEAL_SHRINK), UINT64_MAX), KVP_E_TOO_LARGE);
	KIT_OK(kvpi_imports_add(imports, id_b, dup(fd), PAGE));
	ck_assert_uint_eq(kvpi_imports_bytes(imports), 3 * PAGE);
	kvpi_imports_free(imports);

	KIT_OK(kvpi_imports_new(UINT64_MAX, &imports));
	for (unsigned i = 0; i < KVPI_IMPORTS_MAX; i++) {
		memcpy(id + 1, &i, sizeof(i));
		KIT_OK(kvpi_imports_add(imports, id, dup(fd), PAGE));
	}
	KIT_STATUS(kvpi_imports_add(imports, id_a, dup(fd), PAGE), KVP_E_TOO_LARGE);
	kvpi_imports_free(imports);
	close(fd);
}
END_TEST

START_TEST(a_failed_import_changes_nothing)
{
	kvpi_imports *imports = NULL;
	kvp_status status;
	unsigned n;

	for (n = 1;; n++) {
		kvpi_fault_arm("alloc", n, 1);
		status = kvpi_imports_new(10 * PAGE, &imports);
		kvpi_fault_disarm_all();
		if (status == KVP_OK)
			break;
		ck_assert_int_eq(status, KVP_E_NOMEM);
	}
	kvpi_fault_arm("imports.mmap", 1, 1);
	KIT_STATUS(kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_SHRINK), PAGE), KVP_E_NOMEM);
	kvpi_fault_disarm_all();
	for (n = 1;; n++) {
		kvpi_fault_arm("alloc", n, 1);
		status = kvpi_imports_add(imports, id_a, plain_memfd(PAGE, true, F_SEAL_SHRINK), PAGE);
		kvpi_fault_disarm_all();
		if (status == KVP_OK)
			break;
		ck_assert_int_eq(status, KVP_E_NOMEM);
		ck_assert_uint_eq(kvpi_imports_bytes(imports), 0);
		ck_assert(!kvpi_imports_has(imports, id_a));
	}
	ck_assert_uint_gt(n, 1);
	kvpi_imports_free(imports);
}
END_TEST

KIT_MAIN("mem", memory_is_there_zeroed_and_found, memory_holds_its_context, many_memories_are_told_apart,
    a_hold_keeps_memory_alive, what_is_unknown_is_left_alone, a_child_has_memory_of_its_own,
    sizes_that_cannot_be_are_refused, what_fails_changes_nothing, signals_do_not_keep_it_from_ending,
    threads_find_while_others_come_and_go, a_peer_reads_what_the_owner_writes, a_peer_cannot_write_cut_or_grow,
    only_sound_memory_is_imported, imports_are_bounded, a_failed_import_changes_nothing)
