/* SPDX-License-Identifier: Apache-2.0
 *
 * What the figures were measured on.  No names of hosts or people: results are published.
 */
#include "bench.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

/* The value of the first line of `path` that begins with `key`, without blanks around it. */
static bool find_line(const char *path, const char *key, char *value, size_t capacity)
{
	char line[512];
	bool found = false;
	FILE *const file = fopen(path, "re");

	if (file == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), file) != NULL) {
		char *at = strchr(line, ':');

		if (strncmp(line, key, strlen(key)) != 0 || at == NULL)
			continue;
		at++;
		at += strspn(at, " \t");
		at[strcspn(at, "\n")] = '\0';
		snprintf(value, capacity, "%s", at);
		found = true;
	}
	fclose(file);
	return found;
}

static int usable_cores(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* NCCL is met at run time only, here as in the library. */
static void nccl_version(char text[32])
{
	void *const library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
	int (*get)(int *) = NULL;
	void *symbol;
	int version = 0;

	snprintf(text, 32, "none");
	if (library == NULL)
		return;
	symbol = dlsym(library, "ncclGetVersion");
	memcpy(&get, &symbol, sizeof(get));
	if (get != NULL && get(&version) == 0)
		snprintf(text, 32, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
	/* Not closed: its threads and handlers, if any, stay valid. */
}

json_t *bench_machine(void)
{
	char processor[256] = "unknown", memory[64] = "unknown", zmq[32], nccl[32], kernel[200];
	const char *libc = "unknown";
	struct utsname names;

	find_line("/proc/cpuinfo", "model name", processor, sizeof(processor));
	find_line("/proc/meminfo", "MemTotal", memory, sizeof(memory));
	uname(&names);
	snprintf(kernel, sizeof(kernel), "%s %s %s", names.sysname, names.release, names.machine);
	bench_zmq_version(zmq);
	nccl_version(nccl);
#ifdef __GLIBC__
	char glibc[32];

	snprintf(glibc, sizeof(glibc), "glibc %s", gnu_get_libc_version());
	libc = glibc;
#endif
	return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "processor", processor, "cores", usable_cores(), "memory",
	    memory, "kernel", kernel, "libc", libc, "libzmq", zmq, "nccl", nccl);
}
