/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/alloc.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_LINE 1024
#define MAX_COMPONENTS 16
#define MAX_COMPONENT_LEN 16
#define NO_CALLBACK (-1)

static const char *const level_names[] = {"off", "error", "warn", "info", "debug"};

/* What KVP_LOG says; written once, before anybody reads it. */
static struct {
	kvp_log_level all;
	struct {
		char component[MAX_COMPONENT_LEN];
		kvp_log_level level;
	} rows[MAX_COMPONENTS];
	size_t count;
} environment;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;

/* A callback, and who uses it: the setting, and every thread that is in a call. */
struct sink {
	kvp_log_callback callback;
	kvp_log_level level;
	unsigned users;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards current and all `users` */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static struct sink *current;
static atomic_int current_level = NO_CALLBACK; /* so that a silent line costs one load */

/* One write() per line, so that lines of several threads do not mix. */
static void write_stderr(kvp_log_level level, const char *component, const char *text)
{
	char line[MAX_LINE + 64];
	int len = snprintf(
	    line, sizeof(line) - 1, "kvpipe %s %s: %s", level_names[level], component, text);

	if (len < 0)
		return;
	if (len > (int)sizeof(line) - 2)
		len = (int)sizeof(line) - 2;
	line[len++] = '\n';
	while (write(STDERR_FILENO, line, (size_t)len) < 0 && errno == EINTR)
		;
}

static bool parse_level(const char *text, size_t len, kvp_log_level *level)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
		if (strlen(level_names[i]) == len && memcmp(level_names[i], text, len) == 0) {
			*level = (kvp_log_level)i;
			return true;
		}
	}
	return false;
}

/* One item of KVP_LOG: "level" or "component:level". */
static bool parse_item(const char *item, size_t len)
{
	const char *colon = memchr(item, ':', len);
	kvp_log_level level;

	if (colon == NULL) {
		if (!parse_level(item, len, &level))
			return false;
		environment.all = level;
		return true;
	}

	size_t name_len = (size_t)(colon - item);
	if (name_len == 0 || name_len >= MAX_COMPONENT_LEN || environment.count == MAX_COMPONENTS ||
	    !parse_level(colon + 1, len - name_len - 1, &level))
		return false;
	memcpy(environment.rows[environment.count].component, item, name_len);
	environment.rows[environment.count].level = level;
	environment.count++;
	return true;
}

static void parse_environment(void)
{
	const char *text = getenv("KVP_LOG");

	while (text != NULL && *text != 0) {
		size_t len = strcspn(text, ",");

		if (len != 0 && !parse_item(text, len)) {
			char complaint[128];

			snprintf(complaint, sizeof(complaint),
			    "KVP_LOG: %.*s is not level or component:level, with a level of off "
			    "error "
			    "warn info debug",
			    len > 32 ? 32 : (int)len, text);
			write_stderr(KVP_LOG_WARN, "base", complaint);
		}
		text += len;
		if (*text == ',')
			text++;
	}
}

static kvp_log_level environment_level(const char *component)
{
	pthread_once(&environment_once, parse_environment);
	/* Backwards: what was said last holds. */
	for (size_t i = environment.count; i > 0; i--) {
		if (strcmp(environment.rows[i - 1].component, component) == 0)
			return environment.rows[i - 1].level;
	}
	return environment.all;
}

static bool within(kvp_log_level level, int limit)
{
	return level > KVP_LOG_OFF && level <= KVP_LOG_DEBUG && (int)level <= limit;
}

bool kvpi_log_enabled(kvp_log_level level, const char *component)
{
	int saved = errno;
	int limit = atomic_load_explicit(&current_level, memory_order_relaxed);

	if (limit == NO_CALLBACK)
		limit = (int)environment_level(component);
	errno = saved;
	return within(level, limit);
}

static struct sink *sink_get(void)
{
	if (atomic_load_explicit(&current_level, memory_order_relaxed) == NO_CALLBACK)
		return NULL;
	pthread_mutex_lock(&mutex);
	struct sink *sink = current;
	if (sink != NULL)
		sink->users++;
	pthread_mutex_unlock(&mutex);
	return sink;
}

/* The last user frees, without the lock: `free` is foreign code. */
static void sink_put(struct sink *sink)
{
	if (sink == NULL)
		return;
	pthread_mutex_lock(&mutex);
	bool last = --sink->users == 0;
	pthread_mutex_unlock(&mutex);
	if (!last)
		return;
	if (sink->callback.free != NULL)
		sink->callback.free(sink->callback.user);
	free(sink);
}

/* Names that peers chose end up in lines; they shall not forge lines or drive a terminal. */
static void make_one_line(char *text)
{
	for (; *text != 0; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f)
			*text = ' ';
	}
}

void kvpi_log_write(kvp_log_level level, const char *component, const char *fmt, ...)
{
	int saved = errno;
	struct sink *sink = sink_get();
	char line[MAX_LINE];
	va_list args;

	/* The setting may have changed since the caller asked. */
	if (within(level, sink != NULL ? (int)sink->level : (int)environment_level(component))) {
		errno = saved; /* for %m */
		va_start(args, fmt);
		if (vsnprintf(line, sizeof(line), fmt, args) < 0)
			line[0] = 0;
		va_end(args);
		make_one_line(line);
		if (sink != NULL)
			sink->callback.call(sink->callback.user, level, component, line);
		else
			write_stderr(level, component, line);
	}
	sink_put(sink);
	errno = saved;
}

/*
 * Another thread may hold the mutex while this one forks, and the child does not have that
 * thread.  The child gets a new mutex; the words that it guards are whole at any time, and at worst
 * the child counts a user too many and never frees its copy of a callback.  fork() does not wait.
 */
static void after_fork_in_child(void)
{
	pthread_mutex_init(&mutex, NULL);
}

static void watch_forks(void)
{
	/* Fails only without memory; then a fork at a bad moment is as bad as it is elsewhere. */
	(void)pthread_atfork(NULL, NULL, after_fork_in_child);
}

void kvp_log_set(kvp_log_callback callback, kvp_log_level level)
{
	struct sink *sink = NULL;

	if (callback.call != NULL) {
		pthread_once(&fork_once, watch_forks);
		sink = KVPI_NEW(struct sink);
		if (sink == NULL) {
			/* The one before stays; the new one's user was taken, so it is freed. */
			KVPI_LOG(ERROR, "base", "no memory for a log callback");
			if (callback.free != NULL)
				callback.free(callback.user);
			return;
		}
		*sink = (struct sink){.callback = callback, .level = level, .users = 1};
	}

	pthread_mutex_lock(&mutex);
	struct sink *before = current;
	current = sink;
	atomic_store_explicit(
	    &current_level, sink == NULL ? NO_CALLBACK : (int)level, memory_order_relaxed);
	pthread_mutex_unlock(&mutex);
	sink_put(before);
	if (sink == NULL && callback.free != NULL)
		callback.free(callback.user);
}
