/* SPDX-License-Identifier: Apache-2.0
 *
 * Descriptors and threads before and after a test.
 */
#include "kit/kit.h"

#include "kit/internal.h"
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FDS 1024

static struct {
	bool open[MAX_FDS];
	size_t fds, threads;
	bool may_change;
} before;

/* Calls see(number) for each entry of a directory of numbers, and counts them.  The descriptor of
 * the directory itself is left out. */
static size_t each_number(const char *path, void (*see)(int number, void *user), void *user)
{
	DIR *dir = opendir(path);
	size_t count = 0;

	if (dir == NULL)
		kit_fail(__FILE__, __LINE__, "cannot read %s: %m", path);
	for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		char *end;
		long number = strtol(entry->d_name, &end, 10);

		if (*end != 0 || end == entry->d_name || number == dirfd(dir))
			continue;
		count++;
		if (see != NULL)
			see((int)number, user);
	}
	closedir(dir);
	return count;
}

static void note_open(int fd, void *user)
{
	(void)user;
	if (fd < MAX_FDS)
		before.open[fd] = true;
}

size_t kit_fd_count(void)
{
	return each_number("/proc/self/fd", NULL, NULL);
}

size_t kit_thread_count(void)
{
	return each_number("/proc/self/task", NULL, NULL);
}

void kit_handles_may_change(const char *why)
{
	(void)why;
	before.may_change = true;
}

static void *note_path(void *user)
{
	snprintf(user, 64, "/proc/self/task/%d", (int)gettid());
	return NULL;
}

static bool is_gone(void *user)
{
	return access(user, F_OK) != 0;
}

/* A thread sanitizer starts a helper of its own with a process's first thread: so that the helper
 * is counted, there is a first thread, and it is waited for until it is no longer listed. */
static void have_had_a_thread(void)
{
	pthread_t thread;
	char path[64];

	if (pthread_create(&thread, NULL, note_path, path) != 0)
		kit_fail(__FILE__, __LINE__, "no thread");
	pthread_join(thread, NULL);
	if (!kit_becomes_true(is_gone, path, 2000))
		kit_fail(__FILE__, __LINE__, "a joined thread is still listed");
}

void kit_handles_before(void)
{
	have_had_a_thread();
	memset(&before, 0, sizeof(before));
	before.fds = each_number("/proc/self/fd", note_open, NULL);
	before.threads = kit_thread_count();
}

struct report {
	char text[512];
	size_t len;
};

static void report_new(int fd, void *user)
{
	struct report *report = user;
	char link[64], target[128];

	if (fd < MAX_FDS && before.open[fd])
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t len = readlink(link, target, sizeof(target) - 1);
	target[len < 0 ? 0 : len] = 0;
	if (report->len < sizeof(report->text))
		report->len += (size_t)snprintf(report->text + report->len,
		    sizeof(report->text) - report->len, " %d=%s", fd, target);
}

static void report_thread(int tid, void *user)
{
	struct report *report = user;
	char path[64], name[32] = "?";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
	file = fopen(path, "r");
	if (file != NULL && fgets(name, sizeof(name), file) != NULL)
		name[strcspn(name, "\n")] = 0;
	if (file != NULL)
		fclose(file);
	if (report->len < sizeof(report->text))
		report->len += (size_t)snprintf(
		    report->text + report->len, sizeof(report->text) - report->len, " %s", name);
}

/* A joined thread may still be listed for a moment. */
static bool threads_are_back(void *user)
{
	(void)user;
	return kit_thread_count() <= before.threads;
}

void kit_handles_after(void)
{
	struct report report = {.len = 0};

	if (before.may_change)
		return;
	if (!kit_becomes_true(threads_are_back, NULL, 1000)) {
		each_number("/proc/self/task", report_thread, &report);
		kit_fail(__FILE__, __LINE__, "%zu threads before the test, %zu after:%s",
		    before.threads, kit_thread_count(), report.text);
	}
	size_t fds = each_number("/proc/self/fd", report_new, &report);
	if (fds != before.fds)
		kit_fail(__FILE__, __LINE__, "%zu descriptors before the test, %zu after; new:%s",
		    before.fds, fds, report.len == 0 ? " none" : report.text);
}
