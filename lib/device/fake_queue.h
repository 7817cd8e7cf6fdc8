/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the fake device: operations, and the queues and the thread that run them (fake_queue.c).  The device
 * table, which makes operations of calls, is fake.c.
 */
#ifndef KVPI_DEVICE_FAKE_QUEUE_H
#define KVPI_DEVICE_FAKE_QUEUE_H

#include "base/list.h"
#include "device/fake.h"
#include <stdatomic.h>

struct kvpi_event {
	atomic_int state; /* kvp_status */
	atomic_int holders;
};

/* Guarded by kvpi_fake_lock, but for the result. */
struct kvpi_wait_list {
	int device;
	int holders; /* the user and the queued waits */
	uint64_t cancels;
	atomic_int result;
	size_t capacity, count;
	kvpi_wait_entry entries[];
};

typedef enum kvpi_fake_kind {
	KVPI_FAKE_RECORD,
	KVPI_FAKE_COPY,
	KVPI_FAKE_COPY_BLOCKS,
	KVPI_FAKE_WORD,
	KVPI_FAKE_WAIT
} kvpi_fake_kind;

typedef struct kvpi_fake_stream kvpi_fake_stream;

typedef struct kvpi_fake_piece {
	kvpi_piece piece;
	bool to_device, from_device;
} kvpi_fake_piece;

/* An operation; who makes it fills what its kind needs. */
typedef struct kvpi_fake_op {
	kvpi_list in_stream, in_queue;
	kvpi_fake_stream *stream;
	kvpi_fake_kind kind;
	unsigned delay;
	kvpi_event *event;          /* RECORD: shared */
	uint64_t *word, value;      /* WORD */
	kvpi_layout to, from;       /* COPY_BLOCKS */
	kvpi_wait_list *list;       /* WAIT: shared */
	uint64_t cancels;           /* of the list, when the wait was queued */
	int64_t timeout_ns, deadline_ns;
	bool waits;                 /* it has begun to, the deadline stands */
	size_t count;               /* COPY, WAIT: of what is in `rest` */
	void *rest;                 /* owned: pieces, wait entries or ids */
} kvpi_fake_op;

void kvpi_fake_lock(void);
void kvpi_fake_unlock(void);
void kvpi_fake_changed(void); /* whoever waits for a change looks again; locked */

void kvpi_fake_event_release(kvpi_event *event);
void kvpi_fake_list_release(kvpi_wait_list *list); /* locked */

kvpi_fake_op *kvpi_fake_op_new(kvpi_fake_kind kind);
void kvpi_fake_op_free(kvpi_fake_op *op); /* locked when it has a list */

/* Queues the operation; takes it, also when that fails. */
kvp_status kvpi_fake_submit(int device, void *stream, kvpi_fake_op *op);

/* Memory or a stream begins to exist: the thread is there from the first to the last.  KVP_E_INVALID: no such
 * device. */
kvp_status kvpi_fake_hold(int device);
void kvpi_fake_release(void); /* the last one waits until the thread has ended */

kvp_status kvpi_fake_stream_new(int device, void **stream);
void kvpi_fake_stream_free(int device, void *stream);

#endif
