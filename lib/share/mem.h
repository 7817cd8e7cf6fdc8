/* SPDX-License-Identifier: Apache-2.0
 *
 * Host memory that can be mapped into peers: memfds, sealed against shrinking and growing, allocated in full before use,
 * so that no access to them, here or there, can end in SIGBUS.  The context knows its memories by address.
 */
#ifndef KVPI_SHARE_MEM_H
#define KVPI_SHARE_MEM_H

#include <kvpipe/context.h>
#include <stdbool.h>

#define KVPI_MEM_ID_BYTES 16
#define KVPI_IMPORTS_MAX 1024 /* memories of one peer; the kernel bounds mappings, too (65530 per process) */

/* One allocation; counted, so that it stays while a transfer or a peer's announcement uses it.  Peers to whom the
 * descriptor is sent can read it, and not write. */
typedef struct kvpi_mem {
	unsigned char id[KVPI_MEM_ID_BYTES]; /* random: never names another memory, in no process */
	void *base;
	uint64_t bytes; /* of the file: a multiple of the page size */
	int fd;         /* the memfd */
} kvpi_mem;

/* Any thread, without allocating.  The memory that holds all of [ptr, ptr+bytes), with a hold of the caller's; NULL if
 * there is none. */
kvpi_mem *kvpi_mem_find(kvp_context *context, const void *ptr, uint64_t bytes);
kvpi_mem *kvpi_mem_hold(kvpi_mem *mem);
void kvpi_mem_release(kvpi_mem *mem); /* any thread; NULL is fine; the last one unmaps and closes */

/* A memfd for the library's own use (pages, staging), which both ends write: `bytes` rounded up to whole pages, zeroed,
 * allocated, sealed, mapped read-write.  Slow (0.8 s per GiB, measured).  KVP_E_NOMEM, KVP_E_SYSTEM with a sentence that
 * names what is short. */
kvp_status kvpi_memfd_new(const char *name, uint64_t bytes, int *fd, void **base);
/* The same, but no process that the descriptor is sent to can write. */
kvp_status kvpi_memfd_new_readable(const char *name, uint64_t bytes, int *fd, void **base);
void kvpi_memfd_free(int fd, void *base, uint64_t bytes);
uint64_t kvpi_memfd_bytes(uint64_t bytes); /* rounded up to whole pages; 0 on overflow */

/* A descriptor that a peer sent: KVP_OK if it is a memfd of just that many bytes, which can neither shrink nor be short
 * of memory.  KVP_E_PROTOCOL otherwise.  Does not block, whatever it is. */
kvp_status kvpi_memfd_check(int fd, uint64_t bytes);

/* ---- the peer's memories, mapped here ------------------------------------------------------------------ */

/* Import cache of one connection: what the peer has sent a descriptor for, by id.  One thread.
 *
 * Page tables are filled by the first reads, 16 pages at a time: that costs 0.05 s per GiB (measured), against 0.15 s for
 * filling them at once. */
typedef struct kvpi_imports kvpi_imports;

kvp_status kvpi_imports_new(uint64_t max_bytes, kvpi_imports **imports); /* bound of all mappings together */
void kvpi_imports_free(kvpi_imports *imports); /* unmaps all; NULL is fine */

/* Takes the descriptor, closes it in any case.  KVP_E_PROTOCOL: not a memfd, not sealed against shrinking, not allocated
 * in full, or not of that size; KVP_E_TOO_LARGE: the bound, or KVPI_IMPORTS_MAX; KVP_E_NOMEM; KVP_E_CONFLICT: the id is
 * there already. */
kvp_status kvpi_imports_add(kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES], int fd, uint64_t bytes);

/* Where [offset, offset+bytes) of that memory lies here (read-only); NULL: unknown id or out of range. */
const void *kvpi_imports_at(const kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES], uint64_t offset,
                            uint64_t bytes);
bool kvpi_imports_has(const kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES]);
void kvpi_imports_remove(kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES]); /* unknown: nothing */
uint64_t kvpi_imports_bytes(const kvpi_imports *imports);

#endif
