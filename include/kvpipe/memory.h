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
 * Any thread.  `bytes` (rounded up to whole pages) of zeroed host memory, aligned to a page, belonging to `context` (NULL:
 * the default one) and holding it.  It is there in full when the call returns, which takes 0.8 s per GiB (no SIGBUS later
 * when the machine is short of memory), and goes with the last process that has it mapped, however that ends.  Returns
 * owned, freed with kvp_mem_free.  After a fork the child shares it: it is no copy.
 * KVP_E_NOMEM (also: the machine or container is short), KVP_E_SYSTEM, KVP_E_INVALID (0 bytes).
 */
KVP_API kvp_status kvp_mem_alloc(kvp_context *context, uint64_t bytes, void **ptr);

/* Any thread.  Frees what kvp_mem_alloc returned in the same context (NULL: the default one); no request may still use it.
 * A ptr of NULL is fine; one that is not the start of such memory is logged and left alone. */
KVP_API void kvp_mem_free(kvp_context *context, void *ptr);

#ifdef __cplusplus
}
#endif
#endif
