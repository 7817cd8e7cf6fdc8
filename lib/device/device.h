/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory kinds and streams behind one table: host, the CPU-played test device, CUDA.
 *
 * The stream contract, made here because it is expensive to change:
 *   - A sender's data is ready when the work queued so far on the tensor's stream is done.  `record` notes that
 *     point *on the caller's thread*, inside the public call; the library only queries it (a wait on an event
 *     that is not yet recorded silently does nothing).
 *   - What a receiver's stream waits on is a device word, a 64-bit generation in device memory that the
 *     transfer's last act writes (`write_word`), never an event of another process or one yet to be recorded.
 *   - A wait list is captured once and filled before each replay: entries {word, generation}; the stream goes
 *     on when every word has reached its generation (word >= generation), or when the failure bit (KVPI_WORD_FAILED)
 *     shows in one, or when the list is canceled or its bound passes: no device wait is endless.  It ends with
 *     a result word that says which: KVPI_WAIT_OK, KVPI_WAIT_FAILED, KVPI_WAIT_EXPIRED.
 *   - The library's own streams never wait for a peer: waits go on user streams only.
 *
 * Threads: every function may be called from any thread unless it says otherwise; none blocks except alloc, free,
 * stream_free, export and import (slow calls: never on a worker).
 */
#ifndef KVPI_DEVICE_DEVICE_H
#define KVPI_DEVICE_DEVICE_H

#include "device/layout.h"
#include <kvpipe/status.h>
#include <kvpipe/tensor.h>

#define KVPI_WORD_FAILED (UINT64_C(1) << 63) /* set in a device word: what it stood for will not come */

typedef enum kvpi_wait_result {
	KVPI_WAIT_PENDING = 0,
	KVPI_WAIT_OK = 1,
	KVPI_WAIT_FAILED = 2,
	KVPI_WAIT_EXPIRED = 3
} kvpi_wait_result;

typedef struct kvpi_event kvpi_event;         /* a recorded point of a stream */
typedef struct kvpi_wait_list kvpi_wait_list; /* see above */

typedef struct kvpi_wait_entry {
	const uint64_t *word; /* device memory */
	uint64_t generation;  /* below 2^63 */
} kvpi_wait_entry;

/* A device allocation made shareable: the descriptor is the importer's to close. */
typedef struct kvpi_export {
	int fd;
	uint64_t offset; /* of the exported pointer inside what the descriptor names */
	uint64_t bytes;
	uint64_t whole;  /* bytes of what the descriptor names: it is mapped whole or not at all */
} kvpi_export;

typedef struct kvpi_device_ops {
	size_t size; /* sizeof, first, so that tables can grow */
	const char *name;
	kvp_memory memory;

	/* Is `ptr` memory of this kind?  Fills the ordinal.  No side effect, in particular no context. */
	bool (*owns)(const void *ptr, int *device);

	/* Device memory; what is in it is unspecified (the fake fills it with a poison pattern). */
	kvp_status (*alloc)(int device, uint64_t bytes, void **ptr);
	void (*free)(int device, void *ptr);

	/* Makes the device ready for use by the library's threads: kernels, pools.  Slow the first time: the caller's thread,
	 * before anything of that device is handed to a worker.  KVP_E_UNSUPPORTED: the process has no context there. */
	kvp_status (*prepare)(int device);

	/* Makes host memory that a plane copies through fast for the device, and back.  KVP_OK also where that means
	 * nothing. */
	kvp_status (*pin)(int device, void *ptr, uint64_t bytes);
	void (*unpin)(int device, void *ptr);

	/* A stream of the library's own (non-blocking against the default stream). */
	kvp_status (*stream_new)(int device, void **stream);
	void (*stream_free)(int device, void *stream); /* after what is queued has run */

	/* Notes the present end of `stream`'s queue (NULL: the default stream).  Caller's thread.  The event is
	 * returned owned. */
	kvp_status (*record)(int device, void *stream, kvpi_event **event);
	kvp_status (*query)(kvpi_event *event); /* KVP_OK reached, KVP_PENDING, KVP_E_DEVICE */
	void (*event_free)(kvpi_event *event);  /* NULL is fine; may be before it is reached */

	/* Queues copies on a library stream; each piece's ends may be device memory of this kind or host memory,
	 * which must stay until a later event is reached.  The pieces array is copied. */
	kvp_status (*copy)(int device, void *stream, const kvpi_piece *pieces, size_t count);

	/* One call for a whole block transfer between two layouts of equal size (ids are copied). */
	kvp_status (*copy_blocks)(int device, void *stream, const kvpi_layout *to, const kvpi_layout *from);

	/* Queues a store of `value` to a device word, ordered after everything before it on the stream. */
	kvp_status (*write_word)(int device, void *stream, uint64_t *word, uint64_t value);

	/* A list of up to `capacity` entries.  fill copies the entries for the next enqueue or replay; enqueue
	 * queues the wait on a user stream, bounded by timeout_ns from the moment it starts to wait; cancel ends the
	 * waits that are under way or queued with FAILED, not later ones; result is of the last one that ended. */
	kvp_status (*wait_list_new)(int device, size_t capacity, kvpi_wait_list **list);
	void (*wait_list_free)(kvpi_wait_list *list); /* no wait may be queued any more */
	kvp_status (*wait_list_fill)(kvpi_wait_list *list, const kvpi_wait_entry *entries, size_t count);
	kvp_status (*wait_list_enqueue)(kvpi_wait_list *list, void *stream, int64_t timeout_ns);
	void (*wait_list_cancel)(kvpi_wait_list *list);
	kvpi_wait_result (*wait_list_result)(const kvpi_wait_list *list);

	/* Shares the allocation that holds [ptr, ptr+bytes); and maps such a descriptor (takes it) at a new address. */
	kvp_status (*export_memory)(int device, void *ptr, uint64_t bytes, kvpi_export *out);
	kvp_status (*import_memory)(int device, const kvpi_export *in, void **ptr);
	void (*unimport)(int device, void *ptr, uint64_t bytes);
} kvpi_device_ops;

/* The table of a memory kind; NULL if this build has none (whether the machine has the device shows when it is
 * used).  HOST always has one: its streams and events
 * are always done (record gives an event that is reached), copy copies at once. */
const kvpi_device_ops *kvpi_device_find(kvp_memory memory);

/* Resolves AUTO by asking every device, checks that an explicit kind is there: KVP_E_UNSUPPORTED with a sentence,
 * KVP_E_INVALID when the pointer (not NULL) is not memory of that kind. */
kvp_status kvpi_device_resolve(const void *ptr, kvp_memory *memory, int *device);

#endif
