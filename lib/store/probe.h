/* SPDX-License-Identifier: Apache-2.0
 *
 * Why does no store answer there?  For a sentence to people.
 */
#ifndef KVPI_STORE_PROBE_H
#define KVPI_STORE_PROBE_H

#include <stdint.h>

/* Tries a bare TCP connection, until the deadline at most.  A static string. */
const char *kvpi_store_probe(const char *url, int64_t deadline_ns);

/* Does what listens there ask for a cluster key?  It is asked until the deadline at most. */
typedef enum kvpi_store_asks {
	KVPI_STORE_ASKS_UNKNOWN, /* nothing listens, or it speaks something else */
	KVPI_STORE_ASKS_NO_KEY,
	KVPI_STORE_ASKS_KEY
} kvpi_store_asks;
kvpi_store_asks kvpi_store_look(const char *url, int64_t deadline_ns);

#endif
