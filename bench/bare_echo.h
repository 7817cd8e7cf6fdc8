/* SPDX-License-Identifier: Apache-2.0
 *
 * What the store is measured against: a ROUTER that answers, DEALERs that ask, and nothing else.  Plain
 * libzmq, blocking calls, no encoding, one frame each way.  The first four bytes of a request say how
 * many bytes the answer has, so that the frames have the sizes of the store's.
 *
 * Contexts are made in the calling process, so everything here belongs behind a fork.
 */
#ifndef BENCH_BARE_ECHO_H
#define BENCH_BARE_ECHO_H

#include <stddef.h>

#define BARE_FRAME_MIN 4
#define BARE_FRAME_MAX (1024 * 1024)

/* Binds to a free port of 127.0.0.1, writes its url (at most `size` bytes), and returns the server, owned; NULL
 * on failure. */
typedef struct bare_server bare_server;
bare_server *bare_server_new(char *url, size_t size);
/* Answers until an error: in practice, until the process is killed. */
void bare_server_run(bare_server *server);
void bare_server_free(bare_server *server);

/* Returns owned; NULL on failure. */
typedef struct bare_client bare_client;
bare_client *bare_client_new(const char *url);
/* One round trip: `ask` bytes there, `answer` bytes back (each BARE_FRAME_MIN .. BARE_FRAME_MAX).  0, or -1 when
 * there was no answer of that size within 10 seconds. */
int bare_client_ask(bare_client *client, size_t ask, size_t answer);
void bare_client_free(bare_client *client);

#endif
