/* SPDX-License-Identifier: Apache-2.0
 *
 * What exists once per context, counted.  base/ knows only the slots; the floor that owns a thing makes
 * and destroys it through functions it hands in, so nothing here looks up.
 */
#ifndef KVPI_BASE_CONTEXT_H
#define KVPI_BASE_CONTEXT_H

#include "base/keyfile.h"
#include "base/metrics.h"
#include <kvpipe/context.h>

typedef enum kvpi_context_slot {
	KVPI_SLOT_ZMQ,  /* wire: the ZeroMQ context */
	KVPI_SLOT_SELF, /* plane: the meeting place of endpoints of this process */
	KVPI_SLOT_MEM,  /* share: memories that can be mapped into peers, by address */
	KVPI_SLOT_COUNT
} kvpi_context_slot;

/* Holds `context`, or the default one when NULL (made if need be).  Every handle holds one and releases
 * it as the last act of its free.  KVP_E_FORKED for a parent's context. */
kvp_status kvpi_context_hold(kvp_context *context, kvp_context **held);
void kvpi_context_release(kvp_context *context); /* NULL is fine; the last one destroys, slots in reverse order */

/* The slot's object, made by the first who asks.  Any thread. */
kvp_status kvpi_context_get(kvp_context *context, kvpi_context_slot slot,
                            kvp_status (*create)(kvp_context *context, void **object),
                            void (*destroy)(void *object), void **object);

/* The slot's object, NULL if nobody has asked for it yet.  Any thread that holds the context. */
void *kvpi_context_peek(kvp_context *context, kvpi_context_slot slot);

kvpi_metrics *kvpi_context_metrics(kvp_context *context);
int kvpi_context_io_threads(const kvp_context *context);

/* The cluster key as it is now.  Any thread.  False, and a count of 0, when the context has none, or is NULL.  The caller wipes
 * what it got (kvpi_keys_wipe). */
bool kvpi_context_keys(const kvp_context *context, kvpi_keys *keys);
kvpi_keyring *kvpi_context_keyring(const kvp_context *context); /* NULL: none; lives as long as the context */

/* 16 random bytes made with the context (getrandom): endpoints that show the same can meet in its slots. */
const unsigned char *kvpi_context_uuid(const kvp_context *context);

#endif
