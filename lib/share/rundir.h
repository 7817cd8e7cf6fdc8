/* SPDX-License-Identifier: Apache-2.0
 *
 * The run directory: where the sockets of a host's processes lie, so that containers that share it can meet.
 *
 * KVPIPE_RUN_DIR, else XDG_RUNTIME_DIR/kvpipe, else /tmp/kvpipe-UID.  It is made 0700, and refused if it is no directory
 * (a link is none), belongs to somebody else, or can be written by others.  Once open it is used through its descriptor
 * (/proc/self/fd/N/name): what is put in its place later does not matter, nor how long its path is.
 *
 * A socket in it is found by a random name; nobody opens a path that a peer has named.
 */
#ifndef KVPI_SHARE_RUNDIR_H
#define KVPI_SHARE_RUNDIR_H

#include <kvpipe/status.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define KVPI_RUNDIR_NAME_BYTES 16 /* random */

typedef struct kvpi_rundir {
	int fd; /* -1: not open */
	uint64_t dev, ino;
} kvpi_rundir;

/* Any thread.  KVP_E_SYSTEM, KVP_E_NOMEM; *dir is closed then. */
kvp_status kvpi_rundir_open(kvpi_rundir *dir);
void kvpi_rundir_close(kvpi_rundir *dir);

/* The address of the socket of that name in the directory, or among the abstract names (of the network namespace). */
socklen_t kvpi_rundir_path(
    const kvpi_rundir *dir, const unsigned char name[KVPI_RUNDIR_NAME_BYTES], struct sockaddr_un *address);
socklen_t kvpi_rundir_abstract(const unsigned char name[KVPI_RUNDIR_NAME_BYTES], struct sockaddr_un *address);

void kvpi_rundir_remove(const kvpi_rundir *dir, const unsigned char name[KVPI_RUNDIR_NAME_BYTES]);

/* Removes sockets that nobody listens at, left behind by processes that were killed. */
void kvpi_rundir_sweep(const kvpi_rundir *dir);

#endif
