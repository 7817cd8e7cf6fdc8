/* SPDX-License-Identifier: Apache-2.0
 *
 * A request: one send, receive or peek on its way through the engine.  Shared by the caller and the engine
 * (two references); outlives the pipe if the caller keeps it.
 *
 * Who touches what: the submitting thread fills it before submit; then only the worker, until it has ended;
 * `mutex` guards the outcome (status … receipt), which any thread may read.
 *
 * Requests come from a pool, so that posting one allocates nothing once as many have been open before.  The pool lives
 * until its owner has closed it and the last request of it is gone.
 */
#ifndef KVPI_ENGINE_REQUEST_H
#define KVPI_ENGINE_REQUEST_H

#include "base/error.h"
#include "base/thread.h"
#include "engine/rx.h"
#include "engine/tx.h"
#include <kvpipe/pipe.h>
#include <stdatomic.h>

struct kvpi_engine;

typedef enum kvpi_request_kind { KVPI_REQUEST_SEND, KVPI_REQUEST_RECV, KVPI_REQUEST_PEEK } kvpi_request_kind;

typedef struct kvpi_request_pool kvpi_request_pool;

struct kvp_request {
	kvpi_handle handle;
	atomic_uint references;
	kvpi_request_kind kind;
	int64_t poll_ns; /* who waits looks this long before he sleeps */
	/* worker */
	kvpi_list inbox;
	bool in_engine;
	kvp_tensor tensor;
	kvpi_tx_item item; /* SEND */
	kvpi_rx_post post; /* RECV, PEEK */
	const kvpi_device_ops *device;
	kvpi_event *after; /* SEND: the producer's stream had got here when send was called */
	int64_t begun_ns;
	int timeout_ms;    /* what KVP_TIMEOUT_DEFAULT means for it */
	uint64_t charged;  /* bytes to give back when it ends */
	void (*done)(void *user, kvp_status status);
	void *done_user;
	atomic_bool cancel_wanted;
	bool stale; /* a planned receive that was handed in before one ahead of it failed */
	struct {    /* while a device copy of it cannot be revoked: what to say when that has ended */
		kvpi_list node;
		kvpi_transfer_id id;
		kvp_status status;
		int64_t until_ns;
	} settling;
	/* outcome */
	_Atomic kvp_status status;  /* KVP_PENDING until the end; written last, so that a glance without the lock will do */
	kvp_receipt receipt;
	kvp_times times;
	struct kvpi_engine *engine; /* NULL once ended: nothing to cancel any more */
	/* What follows stays from one use of the struct to the next. */
	char text[KVPI_ERROR_MAX];
	pthread_mutex_t mutex;
	pthread_cond_t ended;
	kvpi_request_pool *pool;
	kvpi_list idle; /* while it waits in the pool */
};

#define KVPI_REQUEST_MAGIC 0x6b765271u

/* poll_ns: see kvp_request.  Returns owned; KVP_E_NOMEM. */
kvp_status kvpi_request_pool_new(int64_t poll_ns, kvpi_request_pool **pool);
/* The owner's farewell: requests that are open stay valid until released.  NULL is fine. */
void kvpi_request_pool_close(kvpi_request_pool *pool);

/* Any thread.  With one reference.  KVP_E_NOMEM, KVP_E_SYSTEM. */
kvp_status kvpi_request_new(kvpi_request_pool *pool, kvpi_request_kind kind, kvp_request **request);
void kvpi_request_hold(kvp_request *request);
void kvpi_request_release(kvp_request *request); /* with the last back to the pool */

/* The worker ends it: outcome, wake-up, then the done callback. */
void kvpi_request_end(kvp_request *request, kvp_status status, const char *text, kvp_receipt receipt, int64_t now);

/* Waits for the end; KVP_E_TIMEOUT, else the outcome with its sentence set for this thread. */
kvp_status kvpi_request_wait_until(kvp_request *request, int64_t deadline_ns);

#endif
