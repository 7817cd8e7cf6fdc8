/* SPDX-License-Identifier: Apache-2.0
 *
 * What groups need of a store handle beside its public calls.
 */
#ifndef KVPI_STORE_CLIENT_H
#define KVPI_STORE_CLIENT_H

#include <kvpipe/store.h>

/* A public time-out as milliseconds: KVP_TIMEOUT_DEFAULT becomes the store's own.  KVP_E_INVALID
 * for other negative ones. */
kvp_status kvpi_store_timeout(const kvp_store *store, int timeout_ms, const char *call, int *ms);

/* Checks the handle as every public call does. */
kvp_status kvpi_store_check(const kvp_store *store, const char *call);

#endif
