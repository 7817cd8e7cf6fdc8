/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that the library can hand to a peer without a copy of its own: allocated here, mapped there.
 *
 * Any memory can be sent and received.  Memory from kvp_mem_alloc is faster between processes of one host: the plane
 * `shm` maps it at the other end, and each byte is copied once, without a system call.
 */
#ifndef KVPIPE_MEMORY_H
#define KVPIPE_MEMORY_H

#include <kvpipe/context.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Any thread.  `bytes` of zeroed host memory, aligned to a page, belonging to `context` (NULL: the default one) and
 * holding it.  It is there in full when the call returns (no SIGBUS later when the machine is short of memory), and goes
 * with the last process that has it mapped, however that ends.  Returns owned, freed with kvp_mem_free.
 * KVP_E_NOMEM (also: /dev/shm-like memory is short), KVP_E_SYSTEM, KVP_E_INVALID (0 bytes).
 */
KVP_API kvp_status kvp_mem_alloc(kvp_context *context, uint64_t bytes, void **ptr);

/* Any thread.  Frees what kvp_mem_alloc returned; no request may still use it.  NULL is fine; a pointer that is not the
 * start of such memory is logged and left alone. */
KVP_API void kvp_mem_free(void *ptr);

#ifdef __cplusplus
}
#endif
#endif
