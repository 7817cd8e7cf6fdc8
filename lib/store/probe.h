/* SPDX-License-Identifier: Apache-2.0
 *
 * Why does no store answer there?  For a sentence to people.
 */
#ifndef KVPI_STORE_PROBE_H
#define KVPI_STORE_PROBE_H

#include <stdbool.h>
#include <stdint.h>

/* Tries a bare TCP connection, until the deadline at most.  A static string. */
const char *kvpi_store_probe(const char *url, int64_t deadline_ns);

/* Does what listens there ask for a cluster key?  Until the deadline at most. */
bool kvpi_store_wants_key(const char *url, int64_t deadline_ns);

#endif
