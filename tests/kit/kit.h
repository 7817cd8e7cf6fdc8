/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests share.  A test program is its tests and one line:
 *
 *	START_TEST(put_replaces)
 *	{
 *		KIT_OK(kvpi_map_put(map, "a", 1, value, NULL));
 *	}
 *	END_TEST
 *
 *	KIT_MAIN("map", put_replaces, ...)
 *
 * Each test runs in a process of its own; CK_FORK=no runs them in one, for a debugger.  Around each
 * test the kit counts the process's descriptors and threads: a test that leaves one behind fails.
 *
 * The checks of libcheck and of this kit end the test by a jump: call them on the test's own thread
 * only.  Other threads put their findings into variables.
 */
#ifndef KVP_TESTS_KIT_H
#define KVP_TESTS_KIT_H

#include <check.h>
#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- running ---- */

/* Runs each test `loops` times, with _i from 0 to loops - 1.  `missing` may be NULL; if it returns
 * a sentence, the program cannot run here: it says so and exits with 77, or fails if the
 * environment has KVP_TEST_NO_SKIP=1.  Returns the exit code. */
int kit_run(const char *name, const TTest *const tests[], size_t count, int loops,
    const char *(*missing)(void));

#define KIT_MAIN(name, ...) KIT_MAIN_WITH(name, 1, NULL, __VA_ARGS__)
#define KIT_MAIN_WITH(name, loops, missing, ...)                                                   \
	int main(void)                                                                             \
	{                                                                                          \
		const TTest *const tests[] = {__VA_ARGS__};                                        \
		return kit_run(name, tests, sizeof(tests) / sizeof(tests[0]), loops, missing);     \
	}

/* Leaves the test, saying why; a failure with KVP_TEST_NO_SKIP=1. */
#define KIT_SKIP(why)                                                                              \
	do {                                                                                       \
		kit_note_skip(__FILE__, __LINE__, why);                                            \
		return;                                                                            \
	} while (0)
void kit_note_skip(const char *file, int line, const char *why);

/* The test opens something that lives as long as the process: no count at its end.  Say what. */
void kit_handles_may_change(const char *why);

/* ---- checking ---- */

/* The expression returns KVP_OK. */
#define KIT_OK(expr) kit_check_ok(__FILE__, __LINE__, #expr, (expr))
void kit_check_ok(const char *file, int line, const char *expr, kvp_status status);

/* The expression returns that code, and has left a sentence that obeys the rules for sentences.  It
 * has to be the call itself: the sentence of an earlier one is forgotten first. */
#define KIT_STATUS(expr, expected)                                                                 \
	(kit_forget_error(), kit_check_status(__FILE__, __LINE__, #expr, (expr), (expected)))
void kit_forget_error(void);
void kit_check_status(
    const char *file, int line, const char *expr, kvp_status status, kvp_status expected);

/* Bytes that look random and follow from the seed; never zeros, which forgotten memory also has. */
void kit_random_fill(void *buf, size_t len, uint64_t seed);

/* The first offset at which buf is not what kit_random_fill made; len if all is as it was. */
size_t kit_fill_differs(const void *buf, size_t len, uint64_t seed);
#define kit_check_fill(buf, len, seed) kit_check_fill_at(__FILE__, __LINE__, buf, len, seed)
void kit_check_fill_at(const char *file, int line, const void *buf, size_t len, uint64_t seed);

/* One step of splitmix64: the next of a sequence of random numbers that follows from *state. */
uint64_t kit_random(uint64_t *state);

/* ---- waiting ---- */

/* Asks until cond returns true, and fails when ms have passed: for what has no event to wait for.
 * Slow builds (KVP_SANITIZERS=1) get ten times as long. */
#define kit_wait_until(cond, user, ms) kit_wait_until_at(__FILE__, __LINE__, #cond, cond, user, ms)
void kit_wait_until_at(
    const char *file, int line, const char *what, bool (*cond)(void *user), void *user, int ms);

/* How many threads and descriptors this process has. */
size_t kit_thread_count(void);
size_t kit_fd_count(void);

/* ---- processes, ports, files ---- */

/* A TCP port of 127.0.0.1 that was free a moment ago. */
int kit_free_port(void);

/* Starts argv[0] (found in PATH).  With stdout_fd, *stdout_fd is the reading end of its standard
 * output and the caller's to close.  The process is killed if the test's own one ends first. */
pid_t kit_spawn(const char *const argv[], int *stdout_fd);

/* Reads to the end into text[size], 0 byte included, and closes the descriptor.  Returns the
 * length; what does not fit is read and dropped. */
size_t kit_read_all(int fd, char *text, size_t size);

/* Runs run(user) in a child; its result is the exit code.  The child must not use the checks. */
pid_t kit_fork(int (*run)(void *user), void *user);

void kit_kill(pid_t pid, int signal_number);

/* The exit code, or 128 + the signal that ended it; fails, and kills it, when ms have passed. */
int kit_wait_exit(pid_t pid, int ms);

/* A directory for this test; removed with all that is in it when the test has passed. */
const char *kit_tmpdir(void);

#endif
