/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts.  One static mutex guards every context's count of holds and the pointer to the default
 * one: holds change when handles come and go, so it is never busy, and the last release of the
 * default context cannot race with the next hold of it.  Destroying happens outside of it.
 *
 * Lock order: a context's own mutex (slots) is never taken while holding the static one.
 */
#include "base/context.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/options.h"
#include "base/thread.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAGIC 0x4b565043 /* "KVPC" */

typedef struct slot {
	void *object;
	void (*destroy)(void *object);
} slot;

struct kvp_context {
	kvpi_handle handle;
	int io_threads;
	kvpi_keyring *keyring; /* NULL: no cluster key */
	unsigned char uuid[16];
	unsigned holds; /* static mutex */
	bool users;     /* made by kvp_context_new and not yet freed by its user; static mutex */
	kvpi_metrics metrics;
	pthread_mutex_t mutex; /* slots; held while one is created */
	slot slots[KVPI_SLOT_COUNT];
};

static pthread_mutex_t holds_mutex = PTHREAD_MUTEX_INITIALIZER;
static kvp_context *default_context; /* NULL while nobody holds it */

static const kvpi_option option_rows[] = {
    {"io_threads", KVPI_OPT_INT, KVPI_OPT_FIELD(kvp_context_options, io_threads), .min = 1,
        .max = 8, .def = 1, .help = "threads that move control messages"},
    {"key_file", KVPI_OPT_STRING, KVPI_OPT_FIELD(kvp_context_options, key_file),
        .help = "the cluster key's file; else the one that KVPIPE_KEY_FILE names"},
};

static const kvpi_option_table option_table = {
    "kvp_context_options",
    sizeof(kvp_context_options),
    sizeof(option_rows) / sizeof(option_rows[0]),
    option_rows,
};

/* ---- fork
 * ----------------------------------------------------------------------------------------- */

/* Another thread may hold the mutex while this one forks: the child would wait for ever for a
 * thread that it does not have.  So fork waits for the mutex, and the child begins without a
 * default context. (The parent's is left as it is, in the child's copy: its threads and sockets are
 * not the child's.) */
static void before_fork(void)
{
	pthread_mutex_lock(&holds_mutex);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&holds_mutex);
}

static void after_fork_in_child(void)
{
	default_context = NULL;
	pthread_mutex_unlock(&holds_mutex);
}

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void watch_forks(void)
{
	/* Fails only without memory for a list node; then a child that forks at a bad moment may
	 * hang, as it may in any library that does not ask. */
	(void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- life
 * ----------------------------------------------------------------------------------------- */

void kvp_context_options_init_sized(kvp_context_options *options, size_t size)
{
	kvpi_options_init(&option_table, options, size);
}

/* The cluster key, if there is to be one.  An empty variable is as good as none, as everywhere. */
static kvp_status open_keyring(const char *path, kvpi_keyring **ring)
{
	if (path == NULL)
		path = getenv("KVPIPE_KEY_FILE");
	if (path == NULL || path[0] == '\0')
		return KVP_OK;
	return kvpi_keyring_open(path, ring);
}

/* With one hold, the caller's. */
static kvp_status context_make(const kvp_context_options *options, kvp_context **context)
{
	kvp_context *made = KVPI_NEW(kvp_context);
	kvp_status status;

	if (made == NULL)
		return kvpi_error_nomem("a context");
	/* As few bytes as this come whole or not at all. */
	if (getrandom(made->uuid, sizeof(made->uuid), 0) != (ssize_t)sizeof(made->uuid)) {
		status = kvpi_error_errno("no random bytes for a context");
		free(made);
		return status;
	}
	status = open_keyring(options->key_file, &made->keyring);
	if (status != KVP_OK) {
		free(made);
		return status;
	}
	status = kvpi_metrics_init(&made->metrics);
	if (status != KVP_OK) {
		kvpi_keyring_free(made->keyring);
		free(made);
		return status;
	}
	pthread_mutex_init(&made->mutex, NULL);
	made->io_threads = options->io_threads;
	made->holds = 1;
	kvpi_handle_init(&made->handle, MAGIC);
	*context = made;
	return KVP_OK;
}

static void context_destroy(kvp_context *context)
{
	for (int i = KVPI_SLOT_COUNT - 1; i >= 0; i--)
		if (context->slots[i].object != NULL)
			context->slots[i].destroy(context->slots[i].object);
	kvpi_keyring_free(context->keyring); /* after the slots, which use it */
	kvpi_metrics_fini(&context->metrics);
	pthread_mutex_destroy(&context->mutex);
	kvpi_handle_fini(&context->handle);
	free(context);
}

kvp_status kvp_context_new(kvp_context **context, const kvp_context_options *options)
{
	kvp_context_options o;
	kvp_context *made;
	kvp_status status;

	if (context == NULL)
		return kvpi_error(KVP_E_INVALID, "kvp_context_new: context is NULL");
	status = kvpi_options_read(&option_table, options, &o, "kvp_context_new");
	if (status != KVP_OK)
		return status;
	pthread_once(&fork_once, watch_forks);
	status = context_make(&o, &made);
	if (status != KVP_OK)
		return status;
	made->users = true;
	*context = made;
	return KVP_OK;
}

void kvp_context_free(kvp_context *context)
{
	bool users;

	if (context == NULL ||
	    kvpi_handle_check(&context->handle, MAGIC, "kvp_context_free") != KVP_OK)
		return;
	pthread_mutex_lock(&holds_mutex);
	users = context->users;
	context->users = false;
	pthread_mutex_unlock(&holds_mutex);
	if (users)
		kvpi_context_release(context);
	else
		KVPI_LOG(ERROR, "base", "kvp_context_free: this context was freed before");
}

/* The default context, held; NULL if there is none and `make` is false. */
static kvp_status hold_default(bool make, kvp_context **held)
{
	kvp_context_options o;
	kvp_status status = KVP_OK;

	*held = NULL;
	pthread_once(&fork_once, watch_forks);
	pthread_mutex_lock(&holds_mutex);
	/* A child made without the fork handlers (clone) still must not use its parent's. */
	if (default_context != NULL && !kvpi_handle_is_mine(&default_context->handle))
		default_context = NULL;
	if (default_context != NULL) {
		default_context->holds++;
		*held = default_context;
	} else if (make) {
		kvp_context_options_init(&o);
		status = context_make(&o, held);
		if (status == KVP_OK)
			default_context = *held;
	}
	pthread_mutex_unlock(&holds_mutex);
	return status;
}

kvp_status kvpi_context_hold(kvp_context *context, kvp_context **held)
{
	kvp_context *found;
	kvp_status status;

	if (context == NULL) {
		status = hold_default(true, &found);
		if (status == KVP_OK)
			*held = found;
		return status;
	}
	status = kvpi_handle_check(&context->handle, MAGIC, "the context");
	if (status != KVP_OK)
		return status;
	pthread_mutex_lock(&holds_mutex);
	context->holds++;
	pthread_mutex_unlock(&holds_mutex);
	*held = context;
	return KVP_OK;
}

void kvpi_context_release(kvp_context *context)
{
	bool last;

	/* In a child the parent's context stays as it is. */
	if (context == NULL || !kvpi_handle_is_mine(&context->handle))
		return;
	pthread_mutex_lock(&holds_mutex);
	last = --context->holds == 0;
	if (last && context == default_context)
		default_context = NULL;
	pthread_mutex_unlock(&holds_mutex);
	if (last)
		context_destroy(context);
}

/* ---- what it owns
 * --------------------------------------------------------------------------------- */

kvp_status kvpi_context_get(kvp_context *context, kvpi_context_slot which,
    kvp_status (*create)(kvp_context *context, void **object), void (*destroy)(void *object),
    void **object)
{
	slot *s = &context->slots[which];
	kvp_status status = kvpi_handle_check(&context->handle, MAGIC, "the context");

	if (status != KVP_OK)
		return status;
	pthread_mutex_lock(&context->mutex);
	if (s->object == NULL) {
		status = create(context, &s->object);
		s->destroy = destroy;
	}
	if (status == KVP_OK)
		*object = s->object;
	pthread_mutex_unlock(&context->mutex);
	return status;
}

void *kvpi_context_peek(kvp_context *context, kvpi_context_slot which)
{
	void *object;

	pthread_mutex_lock(&context->mutex);
	object = context->slots[which].object;
	pthread_mutex_unlock(&context->mutex);
	return object;
}

kvpi_metrics *kvpi_context_metrics(kvp_context *context)
{
	return &context->metrics;
}

const unsigned char *kvpi_context_uuid(const kvp_context *context)
{
	return context->uuid;
}

int kvpi_context_io_threads(const kvp_context *context)
{
	return context->io_threads;
}

kvpi_keyring *kvpi_context_keyring(const kvp_context *context)
{
	return context->keyring;
}

bool kvpi_context_keys(const kvp_context *context, kvpi_keys *keys)
{
	*keys = (kvpi_keys){0};
	if (context != NULL && context->keyring != NULL)
		(void)kvpi_keyring_get(context->keyring, keys);
	return keys->count > 0;
}

static kvp_status write_metrics(kvp_context *context, char *text, size_t capacity, size_t *needed)
{
	kvpi_buf buf;
	kvp_status status = KVP_OK;

	kvpi_buf_init(&buf);
	if (context != NULL)
		kvpi_metrics_text(&context->metrics, &buf);
	if (buf.failed) {
		kvpi_buf_fini(&buf);
		return kvpi_error_nomem("the metrics' text");
	}
	if (needed != NULL)
		*needed = buf.len + 1;
	if (buf.len >= capacity)
		status = kvpi_error(KVP_E_TOO_LARGE,
		    "kvp_metrics_text: the text needs %zu bytes, not %zu", buf.len + 1, capacity);
	else
		memcpy(text, buf.len > 0 ? buf.data : "", buf.len + 1);
	kvpi_buf_fini(&buf);
	return status;
}

kvp_status kvp_metrics_text(kvp_context *context, char *text, size_t capacity, size_t *needed)
{
	kvp_context *held;
	kvp_status status;

	if (text == NULL && capacity > 0)
		return kvpi_error(
		    KVP_E_INVALID, "kvp_metrics_text: text is NULL, its capacity is not 0");
	/* Held, so that the handles in it may be freed meanwhile. */
	if (context == NULL)
		status = hold_default(false, &held);
	else
		status = kvpi_context_hold(context, &held);
	if (status != KVP_OK)
		return status;
	status = write_metrics(held, text, capacity, needed);
	kvpi_context_release(held);
	return status;
}

void kvp_bytes_free(kvp_bytes *bytes)
{
	if (bytes == NULL)
		return;
	free(bytes->data);
	*bytes = (kvp_bytes){0};
}
