/* SPDX-License-Identifier: Apache-2.0
 *
 * Two pipes of a ring of two, in one process, for tests.
 */
#ifndef KVP_TESTS_PAIR_H
#define KVP_TESTS_PAIR_H

#include <kvpipe/kvpipe.h>

typedef struct kit_pair {
	kvp_store_server *server;
	kvp_pipe *a, *b; /* a sends to b and receives from b */
	kvp_pipe_options options;
} kit_pair;

/* Options for both ends: time-out 20 s, and this plane (NULL: whichever is best). */
void kit_pair_init(kit_pair *pair, const char *plane);
void kit_pair_open(kit_pair *pair);
void kit_pair_free(kit_pair *pair);

#endif
