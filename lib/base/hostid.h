/* SPDX-License-Identifier: Apache-2.0
 *
 * Which host this is, for "do the two ends share memory?".  Two processes are on one host when their
 * boot ids are equal; they may use shared memory or CUDA IPC only when the other facts agree too
 * (containers share a boot id but not always /dev/shm or namespaces).
 */
#ifndef KVPI_BASE_HOSTID_H
#define KVPI_BASE_HOSTID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_hostid {
	char boot_id[40];   /* /proc/sys/kernel/random/boot_id; "" unknown */
	char host_name[64]; /* for people, never compared */
	uint64_t shm_dev;   /* st_dev of /dev/shm; 0 unknown */
	uint64_t ipc_ns, pid_ns, net_ns; /* inode numbers of /proc/self/ns; 0 unknown */
	uint64_t run_dev, run_ino; /* the directory where processes of one host meet (share/broker.h), filled by who knows
	                              it; 0, 0: none, or unknown */
	uint64_t user, user_ns; /* effective user id + 1, and the namespace in which it means something; 0 unknown */
} kvpi_hostid;

/* KVPIPE_HOSTID in the environment replaces boot_id (tests, odd containers). */
void kvpi_hostid_read(kvpi_hostid *id);
bool kvpi_hostid_same_host(const kvpi_hostid *a, const kvpi_hostid *b); /* unknown is not the same */

/* One line, parseable: "boot=… name=… shm=… ipc=… pid=… net=… rundev=… runino=… user=… userns=…".  The
 * last four may be missing, as older versions do not know them. */
void kvpi_hostid_format(const kvpi_hostid *id, char *out, size_t len);
bool kvpi_hostid_parse(kvpi_hostid *id, const char *text, size_t len);

#endif
