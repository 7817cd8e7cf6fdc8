/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection to a store, shared by any number of threads without a thread of its own.
 *
 * Leader and followers: the thread that waits while nobody else does becomes the leader; it alone
 * uses the socket, and ends the calls of the others as their replies come in.  The others queue
 * their frames, wake the leader and sleep.  Whose own call is done hands the lead on.  A thread
 * that is alone thus sends, sleeps on the socket and receives, and no other thread is ever
 * involved.
 */
#ifndef KVPI_STORE_LINK_H
#define KVPI_STORE_LINK_H

#include "store/calls.h"
#include <kvpipe/context.h>

typedef struct kvpi_store_link kvpi_store_link;

/* `context` must be held until the link is freed.  The connection comes about by itself, later. */
kvp_status kvpi_store_link_new(kvp_context *context, const char *url, kvpi_store_link **link);

/* Nobody may be inside a call.  NULL is fine. */
void kvpi_store_link_free(kvpi_store_link *link);

/* Any thread.  Ends pending and later calls with KVP_E_CLOSED; returns at once. */
void kvpi_store_link_close(kvpi_store_link *link);

/* Any thread.  An id for the next call. */
uint64_t kvpi_store_link_id(kvpi_store_link *link);

/* Any thread.  Sends the call's frame and returns when the call has ended, at its deadline at the
 * latest. */
void kvpi_store_link_call(kvpi_store_link *link, kvpi_store_call *call);

/* Any thread.  0 before the first answer. */
uint64_t kvpi_store_link_incarnation(const kvpi_store_link *link);

/* Any thread.  Was there ever a connection to something that speaks ZeroMQ? */
bool kvpi_store_link_met_somebody(kvpi_store_link *link);

#endif
