/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the environment: it is read once per process, so each case is a process ---- */

static int log_samples(void)
{
	dup2(STDOUT_FILENO, STDERR_FILENO);
	errno = ENOENT;
	KVPI_LOG(ERROR, "pipe", "cannot open %s: %m", "x");
	KVPI_LOG(WARN, "pipe", "errno is still %d", errno == ENOENT);
	KVPI_LOG(DEBUG, "pipe", "pipe debug");
	KVPI_LOG(INFO, "store", "store info");
	KVPI_LOG(DEBUG, "store", "store debug");
	KVPI_LOG(INFO, "wire", "wire info");
	setenv("KVP_LOG", "debug", 1); /* too late */
	KVPI_LOG(DEBUG, "wire", "wire debug");
	return 0;
}

#define ERROR_LINE "kvpipe error pipe: cannot open x: No such file or directory\n"
#define WARN_LINE "kvpipe warn pipe: errno is still 1\n"

static const struct {
	const char *environment; /* NULL: not set */
	const char *output;
} cases[] = {
    {NULL, ""},
    {"", ""},
    {"off", ""},
    {"error", ERROR_LINE},
    {"debug", ERROR_LINE WARN_LINE "kvpipe debug pipe: pipe debug\nkvpipe info store: store info\n"
                                   "kvpipe debug store: store debug\nkvpipe info wire: wire info\n"
                                   "kvpipe debug wire: wire debug\n"},
    {"pipe:debug,store:info",
        ERROR_LINE WARN_LINE "kvpipe debug pipe: pipe debug\nkvpipe info store: store info\n"},
    {"info,pipe:off,", "kvpipe info store: store info\nkvpipe info wire: wire info\n"},
    {"pipe:off,pipe:error", ERROR_LINE},
    {"loud,pipe:error,:warn,averylongcomponentname:warn,store:",
        "kvpipe warn base: KVP_LOG: loud is not "
        "level or component:level, with a level of off error warn info debug\n"
        "kvpipe warn base: KVP_LOG: :warn is not "
        "level or component:level, with a level of off error warn info debug\n"
        "kvpipe warn base: KVP_LOG: averylongcomponentname:warn is not "
        "level or component:level, with a level of off error warn info debug\n"
        "kvpipe warn base: KVP_LOG: store: is not "
        "level or component:level, with a level of off error warn info debug\n" ERROR_LINE},
};

START_TEST(environment_is_obeyed)
{
	static const char *const self[] = {"/proc/self/exe", "log-samples", NULL};
	char output[2000];
	int fd;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (cases[i].environment == NULL)
			unsetenv("KVP_LOG");
		else
			setenv("KVP_LOG", cases[i].environment, 1);
		pid_t pid = kit_spawn(self, &fd);
		kit_read_all(fd, output, sizeof(output));
		ck_assert_int_eq(kit_wait_exit(pid, 20000), 0);
		ck_assert_str_eq(output, cases[i].output);
	}
	unsetenv("KVP_LOG");
}
END_TEST

/* ---- the callback ---- */

struct sink {
	char lines[1200];
	unsigned calls;
	unsigned frees;
};

static void append_line(void *user, kvp_log_level level, const char *component, const char *line)
{
	struct sink *sink = user;
	size_t len = strlen(sink->lines);

	sink->calls++;
	snprintf(
	    sink->lines + len, sizeof(sink->lines) - len, "%d %s %s|", (int)level, component, line);
}

static void count_free(void *user)
{
	((struct sink *)user)->frees++;
}

static void set(struct sink *sink, kvp_log_level level)
{
	kvp_log_set((kvp_log_callback){append_line, sink, count_free}, level);
}

static void reset(void)
{
	kvp_log_set((kvp_log_callback){NULL, NULL, NULL}, KVP_LOG_OFF);
}

static int evaluate(unsigned *times)
{
	return (int)++*times;
}

START_TEST(lines_up_to_the_level_arrive)
{
	struct sink sink = {.calls = 0};
	unsigned evaluated = 0;

	set(&sink, KVP_LOG_WARN);
	ck_assert(kvpi_log_enabled(KVP_LOG_WARN, "pipe"));
	ck_assert(!kvpi_log_enabled(KVP_LOG_INFO, "pipe"));
	ck_assert(!kvpi_log_enabled(KVP_LOG_OFF, "pipe"));
	KVPI_LOG(WARN, "pipe", "w%d", evaluate(&evaluated));
	KVPI_LOG(INFO, "pipe", "i%d", evaluate(&evaluated));
	KVPI_LOG(ERROR, "store", "e%d", evaluate(&evaluated));
	kvpi_log_write(KVP_LOG_DEBUG, "pipe", "asked without the macro");
	ck_assert_str_eq(sink.lines, "2 pipe w1|1 store e2|");
	ck_assert_uint_eq(evaluated, 2);
	reset();
	ck_assert_uint_eq(sink.frees, 1);
	KVPI_LOG(ERROR, "pipe", "e%d", evaluate(&evaluated));
	ck_assert_uint_eq(evaluated, 2);
}
END_TEST

static void spoil_errno(void *user, kvp_log_level level, const char *component, const char *line)
{
	append_line(user, level, component, line);
	errno = EXDEV;
}

START_TEST(errno_is_kept)
{
	struct sink sink = {.calls = 0};

	kvp_log_set((kvp_log_callback){spoil_errno, &sink, NULL}, KVP_LOG_DEBUG);
	errno = ENOENT;
	KVPI_LOG(DEBUG, "wire", "%m");
	ck_assert_int_eq(errno, ENOENT);
	ck_assert_str_eq(sink.lines, "4 wire No such file or directory|");
	reset();
}
END_TEST

START_TEST(a_line_is_one_line_and_bounded)
{
	struct sink sink = {.calls = 0};
	char large[2000];

	memset(large, 'x', sizeof(large) - 1);
	large[sizeof(large) - 1] = 0;
	set(&sink, KVP_LOG_DEBUG);
	KVPI_LOG(INFO, "wire", "peer a\nkvpipe error pipe: forged\x1b[2J");
	ck_assert_str_eq(sink.lines, "3 wire peer a kvpipe error pipe: forged [2J|");
	sink.lines[0] = 0;
	KVPI_LOG(INFO, "wire", "%s", large);
	ck_assert_uint_eq(strlen(sink.lines), strlen("3 wire |") + 1023);
	reset();
}
END_TEST

START_TEST(each_callback_is_freed_once)
{
	struct sink sinks[3] = {{.calls = 0}};

	for (size_t i = 0; i < 3; i++) {
		set(&sinks[i], KVP_LOG_ERROR);
		KVPI_LOG(ERROR, "pipe", "x");
		for (size_t j = 0; j < 3; j++)
			ck_assert_uint_eq(sinks[j].frees, j < i);
	}
	reset();
	reset();
	for (size_t i = 0; i < 3; i++) {
		ck_assert_uint_eq(sinks[i].calls, 1);
		ck_assert_uint_eq(sinks[i].frees, 1);
	}
	/* A user that comes without a call is taken all the same. */
	kvp_log_set((kvp_log_callback){NULL, &sinks[0], count_free}, KVP_LOG_ERROR);
	ck_assert_uint_eq(sinks[0].frees, 2);
	/* And one without free is fine. */
	kvp_log_set((kvp_log_callback){append_line, &sinks[0], NULL}, KVP_LOG_ERROR);
	reset();
	ck_assert_uint_eq(sinks[0].frees, 2);
}
END_TEST

START_TEST(without_memory_the_callback_before_stays)
{
	struct sink before = {.calls = 0}, after = {.calls = 0};

	set(&before, KVP_LOG_ERROR);
	kvpi_fault_arm("alloc", 1, 1);
	set(&after, KVP_LOG_DEBUG);
	ck_assert_uint_eq(after.frees, 1);
	ck_assert_uint_eq(before.frees, 0);
	ck_assert_str_eq(before.lines, "1 base no memory for a log callback|");
	ck_assert(!kvpi_log_enabled(KVP_LOG_WARN, "pipe"));
	reset();
	ck_assert_uint_eq(before.frees, 1);
	ck_assert_uint_eq(after.frees, 1);
}
END_TEST

/* ---- several threads ---- */

struct gate {
	_Atomic bool entered, open;
	_Atomic unsigned frees;
	pthread_t freed_by;
};

static void stand_in_the_gate(
    void *user, kvp_log_level level, const char *component, const char *line)
{
	struct gate *gate = user;

	(void)level;
	(void)component;
	(void)line;
	atomic_store(&gate->entered, true);
	while (!atomic_load(&gate->open))
		sched_yield();
}

static void free_gate(void *user)
{
	struct gate *gate = user;

	gate->freed_by = pthread_self();
	atomic_fetch_add(&gate->frees, 1);
}

static void *log_once(void *user)
{
	KVPI_LOG(ERROR, "pipe", "x");
	return user;
}

static bool has_entered(void *user)
{
	return atomic_load(&((struct gate *)user)->entered);
}

START_TEST(a_callback_in_use_is_freed_by_its_last_user)
{
	struct gate gate = {.frees = 0};
	struct sink sink = {.calls = 0};
	pthread_t thread;

	kvp_log_set((kvp_log_callback){stand_in_the_gate, &gate, free_gate}, KVP_LOG_ERROR);
	KIT_OK(kvpi_thread_start(&thread, "logger", log_once, NULL));
	kit_wait_until(has_entered, &gate, 20000);
	set(&sink, KVP_LOG_ERROR); /* must not wait for it */
	KVPI_LOG(ERROR, "pipe", "y");
	ck_assert_str_eq(sink.lines, "1 pipe y|");
	ck_assert_uint_eq(atomic_load(&gate.frees), 0);
	atomic_store(&gate.open, true);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(atomic_load(&gate.frees), 1);
	ck_assert(pthread_equal(gate.freed_by, thread));
	reset();
}
END_TEST

#define SWAPS 3000
#define ALIVE 0xa11feu

struct user {
	_Atomic unsigned state;
	_Atomic unsigned frees;
};

static _Atomic unsigned calls_after_free;
static _Atomic bool stop;

static void call_user(void *data, kvp_log_level level, const char *component, const char *line)
{
	(void)level;
	(void)component;
	(void)line;
	if (atomic_load(&((struct user *)data)->state) != ALIVE)
		atomic_fetch_add(&calls_after_free, 1);
}

static void free_user(void *data)
{
	struct user *user = data;

	atomic_store(&user->state, 0);
	atomic_fetch_add(&user->frees, 1);
}

static void *log_often(void *user)
{
	while (!atomic_load(&stop))
		KVPI_LOG(ERROR, "pipe", "number %d", 42);
	return user;
}

START_TEST(swapping_under_load_frees_each_once)
{
	static struct user users[SWAPS];
	pthread_t threads[4];

	atomic_store(&stop, false);
	for (size_t i = 0; i < 4; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "logger", log_often, NULL));
	for (size_t i = 0; i < SWAPS; i++) {
		atomic_store(&users[i].state, ALIVE);
		kvp_log_set((kvp_log_callback){call_user, &users[i], free_user}, KVP_LOG_ERROR);
	}
	reset();
	atomic_store(&stop, true);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(atomic_load(&calls_after_free), 0);
	for (size_t i = 0; i < SWAPS; i++)
		ck_assert_uint_eq(atomic_load(&users[i].frees), 1);
}
END_TEST

static int log_in_child(void *user)
{
	static struct user own = {.state = ALIVE};

	(void)user;
	KVPI_LOG(ERROR, "pipe", "in the child");
	kvp_log_set((kvp_log_callback){call_user, &own, free_user}, KVP_LOG_ERROR);
	KVPI_LOG(ERROR, "pipe", "in the child");
	reset();
	return (int)atomic_load(&own.frees) - 1;
}

START_TEST(a_child_can_log_whatever_the_parent_did)
{
	static struct user user = {.state = ALIVE};
	pthread_t threads[4];

	atomic_store(&stop, false);
	kvp_log_set((kvp_log_callback){call_user, &user, free_user}, KVP_LOG_ERROR);
	for (size_t i = 0; i < 4; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "logger", log_often, NULL));
	for (int i = 0; i < 200; i++)
		ck_assert_int_eq(kit_wait_exit(kit_fork(log_in_child, NULL), 20000), 0);
	atomic_store(&stop, true);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	reset();
	ck_assert_uint_eq(atomic_load(&user.frees), 1);
}
END_TEST

int main(int argc, char **argv)
{
	const TTest *const tests[] = {environment_is_obeyed, lines_up_to_the_level_arrive,
	    errno_is_kept, a_line_is_one_line_and_bounded, each_callback_is_freed_once,
	    without_memory_the_callback_before_stays, a_callback_in_use_is_freed_by_its_last_user,
	    swapping_under_load_frees_each_once, a_child_can_log_whatever_the_parent_did};

	if (argc > 1 && strcmp(argv[1], "log-samples") == 0)
		return log_samples();
	return kit_run("log", tests, sizeof(tests) / sizeof(tests[0]), 1, NULL);
}
