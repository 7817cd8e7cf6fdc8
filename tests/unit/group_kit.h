/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of groups share: ranks as threads or processes, and what a working group does.
 */
#ifndef KVP_TESTS_GROUP_KIT_H
#define KVP_TESTS_GROUP_KIT_H

#include "kit/kit.h"
#include <kvpipe/store.h>
#include <pthread.h>

/* A bound for what should come much sooner; slow machines need it. */
#define SOON_MS 20000

/* Long enough for others to come, short enough to be waited out. */
#define LATE_MS 1500

#define RANKS_MAX 8

/* One rank.  Its thread or process cannot use the checks of the kit: it notes the first line that
 * failed. */
typedef struct member {
	int (*run)(struct member *m); /* 0, or the line that failed */
	const char *url;
	kvp_store *store; /* NULL: opens one of its own */
	const char *name;
	int rank, world_size, open_ms;
	int report_fd;
	kvp_group *group;
	kvp_status opened;
	char sentence[200]; /* of the open that failed */
	int failed_line;
	char why[200];
	pthread_t thread;
} member;

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return __LINE__;                                                           \
	} while (0)

#define CHECK_OK(expr) CHECK((expr) == KVP_OK)

/* Opens store and group, calls run, frees them: a thread's or process's whole life. */
void *run_member(void *arg);

/* The same as a thread.  join_member fails the test if run did, join_opened also if the open did. */
void start_member(member *m);
void join_member(member *m);
void join_opened(member *m);

/* All ranks as threads, each with a store handle of its own, or all with `shared`. */
void run_threads(const char *url, kvp_store *shared, int world_size, int (*run)(member *m));

/* What a test works on; begin makes them, finish frees them. */
extern kvp_store_server *server;
extern kvp_store *store;
void begin(void);
void finish(void);
kvp_store_server *start_server(const char *bind); /* NULL: any port */

/* Until so many calls are parked at the server of this process. */
void wait_parked(int count);

/* Is it that?  Frees it. */
bool equals(kvp_bytes *bytes, const char *expected);

/* Every call of a group, with every rank: for member.run. */
int do_everything(member *m);

/* Nothing but the name's last epoch is left in the store. */
void check_only_epochs_left(void);

#endif
