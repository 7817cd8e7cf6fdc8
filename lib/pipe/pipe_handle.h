/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipe's struct, shared by open.c (how it comes to be) and pipe.c (what it does).
 */
#ifndef KVPI_PIPE_PIPE_HANDLE_H
#define KVPI_PIPE_PIPE_HANDLE_H

#include "base/context.h"
#include "base/options.h"
#include "base/thread.h"
#include "engine/engine.h"
#include <kvpipe/pipe.h>
#include <stdatomic.h>

#define KVPI_PIPE_MAGIC 0x6b767070u

struct kvp_pipe {
	kvpi_handle handle;
	kvp_context *context;
	kvpi_engine *engine;
	kvp_store_server *server; /* rank 0 without a store of its own hosts one */
	kvp_store *store;         /* opened here, or NULL: the caller's */
	kvp_store *meeting;       /* whichever it is */
	char key[200], url[300];  /* named ends: what this one has set in the store; key "": nothing */
	int timeout_ms;           /* store_timeout_ms */
	bool host_only;           /* kv_buffer_device "cpu" */
	atomic_bool closed;
	_Atomic uint64_t refused_twice; /* sends that the admission counted twice */
	kvpi_wakeup room;           /* kvp_pipe_room_fd */
	pthread_mutex_t turn_mutex; /* one at a time looks at the next tensor and then takes it */
	pthread_cond_t turn_free;
	bool turn_taken;
};

extern const kvpi_option_table kvpi_pipe_option_table, kvpi_send_option_table;

/* now + timeout_ms, where KVP_TIMEOUT_DEFAULT is the pipe's. */
int64_t kvpi_pipe_deadline(const kvp_pipe *pipe, int timeout_ms);

/* Ends and frees whatever parts there are; keeps the last error. */
void kvpi_pipe_destroy(kvp_pipe *pipe);

#endif
