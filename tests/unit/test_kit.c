/* SPDX-License-Identifier: Apache-2.0
 *
 * The kit must see red: each planted mistake runs in a program of its own, which has to fail and to
 * say what is wrong.
 */
#include "kit/kit.h"

#include "base/error.h"
#include "base/fault.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- planted ---- */

START_TEST(leaks_a_descriptor)
{
	ck_assert_int_ge(open("/dev/null", O_RDONLY), 0);
}
END_TEST

static void *wait_for_ever(void *user)
{
	for (;;)
		pause();
	return user;
}

START_TEST(leaks_a_thread)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_ever, NULL), 0);
}
END_TEST

START_TEST(declares_its_leak)
{
	ck_assert_int_ge(open("/dev/null", O_RDONLY), 0);
	kit_handles_may_change("planted");
}
END_TEST

START_TEST(is_not_ok)
{
	KIT_OK(kvpi_error(KVP_E_PEER_LOST, "peer a went away"));
}
END_TEST

START_TEST(is_another_status)
{
	KIT_STATUS(kvpi_error(KVP_E_PEER_LOST, "peer a went away"), KVP_E_INVALID);
}
END_TEST

/* Fails without a sentence of its own, while one of an earlier call lies there. */
static kvp_status say_nothing(void)
{
	return KVP_E_INVALID;
}

START_TEST(has_no_sentence)
{
	kvpi_error(KVP_E_INVALID, "earlier");
	KIT_STATUS(say_nothing(), KVP_E_INVALID);
}
END_TEST

START_TEST(has_a_bad_sentence)
{
	KIT_STATUS(kvpi_error(KVP_E_INVALID, "with a full stop."), KVP_E_INVALID);
}
END_TEST

START_TEST(has_one_wrong_byte)
{
	char buf[100];

	kit_random_fill(buf, sizeof(buf), 5);
	buf[77] ^= 1;
	kit_check_fill(buf, sizeof(buf), 5);
}
END_TEST

static bool never(void *user)
{
	(void)user;
	return false;
}

START_TEST(waits_in_vain)
{
	kit_wait_until(never, NULL, 1);
}
END_TEST

START_TEST(starts_what_is_not_there)
{
	static const char *const argv[] = {"/nonexistent/program", NULL};

	kit_spawn(argv, NULL);
}
END_TEST

static int hang(void *user)
{
	wait_for_ever(user);
	return 0;
}

START_TEST(has_a_child_that_hangs)
{
	kit_wait_exit(kit_fork(hang, NULL), 1);
}
END_TEST

START_TEST(skips)
{
	KIT_SKIP("no such device here");
}
END_TEST

static const char *nothing_missing(void)
{
	return NULL;
}

static const char *device_missing(void)
{
	return "no device here";
}

static const struct planted {
	const char *name;
	const TTest *const *test;
	const char *(*missing)(void);
	int exit_code;
	int exit_code_no_skip; /* with KVP_TEST_NO_SKIP=1 */
	const char *message;
} all_planted[] = {
    {"leaks-fd", &leaks_a_descriptor, NULL, 1, 1, "=/dev/null"},
    {"leaks-thread", &leaks_a_thread, NULL, 1, 1, " threads before the test, "},
    {"declares", &declares_its_leak, NULL, 0, 0, "100%"},
    {"not-ok", &is_not_ok, NULL, 1, 1, "KVP_E_PEER_LOST (-40): peer a went away"},
    {"other-status", &is_another_status, NULL, 1, 1,
        "KVP_E_PEER_LOST instead of KVP_E_INVALID: peer a went away"},
    {"no-sentence", &has_no_sentence, NULL, 1, 1, "no sentence"},
    {"bad-sentence", &has_a_bad_sentence, NULL, 1, 1, "ends with a full stop"},
    {"wrong-byte", &has_one_wrong_byte, NULL, 1, 1, "offset 77 of 100"},
    {"in-vain", &waits_in_vain, NULL, 1, 1, "never did not become true within 1 ms"},
    {"not-there", &starts_what_is_not_there, NULL, 1, 1,
        "cannot start /nonexistent/program: No such file"},
    {"hangs", &has_a_child_that_hangs, NULL, 1, 1, "did not end within 1 ms"},
    {"skips", &skips, nothing_missing, 0, 1, "no such device here"},
    {"missing", &skips, device_missing, 77, 1, "no device here"},
};

#define PLANTED (sizeof(all_planted) / sizeof(all_planted[0]))

static int run_planted(const char *name, const char *fork, const char *no_skip)
{
	setenv("CK_FORK", fork, 1);
	setenv("KVP_TEST_NO_SKIP", no_skip, 1);
	for (size_t i = 0; i < PLANTED; i++) {
		const TTest *const test = *all_planted[i].test;

		if (strcmp(all_planted[i].name, name) == 0)
			return kit_run(name, &test, 1, 1, all_planted[i].missing);
	}
	return 99;
}

static void check_planted(
    const struct planted *planted, const char *fork, const char *no_skip, int exit_code)
{
	const char *const argv[] = {"/proc/self/exe", planted->name, fork, no_skip, NULL};
	char output[4000];
	int fd;
	pid_t pid = kit_spawn(argv, &fd);

	kit_read_all(fd, output, sizeof(output));
	int code = kit_wait_exit(pid, 30000);
	ck_assert_msg(code == exit_code && strstr(output, planted->message) != NULL,
	    "%s: exit code %d instead of %d, or not \"%s\" in: %s", planted->name, code, exit_code,
	    planted->message, output);
}

START_TEST(planted_mistakes_are_seen)
{
	const char *fork = _i == 0 ? "yes" : "no";

	/* A sanitizer has things to say about a planted leak, too, and with an exit code of its
	 * own. */
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
	setenv("TSAN_OPTIONS", "report_thread_leaks=0", 1);
	for (size_t i = 0; i < PLANTED; i++) {
		check_planted(&all_planted[i], fork, "0", all_planted[i].exit_code);
		if (all_planted[i].exit_code_no_skip != all_planted[i].exit_code)
			check_planted(&all_planted[i], fork, "1", all_planted[i].exit_code_no_skip);
	}
}
END_TEST

/* ---- and green where it should be ---- */

START_TEST(fills_follow_from_the_seed)
{
	unsigned char a[100], b[100];
	size_t zeros = 0;

	for (size_t len = 0; len <= sizeof(a); len++) {
		memset(a, 0, sizeof(a));
		kit_random_fill(a, len, 5);
		kit_check_fill(a, len, 5);
		ck_assert(len == sizeof(a) || a[len] == 0);
	}
	kit_random_fill(b, sizeof(b), 6);
	ck_assert_uint_lt(kit_fill_differs(b, sizeof(b), 5), 8);
	for (size_t i = 0; i < sizeof(a); i++)
		zeros += a[i] == 0;
	ck_assert_uint_lt(zeros, 10);
}
END_TEST

START_TEST(children_tell_how_they_ended)
{
	static const char *const echo[] = {"sh", "-c", "echo hello; exit 7", NULL};
	static const char *const quiet[] = {"sh", "-c", "exit 3", NULL};
	char text[16];
	int fd;
	pid_t pid = kit_spawn(echo, &fd);

	ck_assert_uint_eq(kit_read_all(fd, text, sizeof(text)), 6);
	ck_assert_str_eq(text, "hello\n");
	ck_assert_int_eq(kit_wait_exit(pid, 20000), 7);
	pid = kit_spawn(echo, &fd);
	ck_assert_uint_eq(kit_read_all(fd, text, 4), 3);
	ck_assert_str_eq(text, "hel");
	ck_assert_int_eq(kit_wait_exit(pid, 20000), 7);
	ck_assert_int_eq(kit_wait_exit(kit_spawn(quiet, NULL), 20000), 3);
	pid = kit_fork(hang, NULL);
	kit_kill(pid, SIGKILL);
	ck_assert_int_eq(kit_wait_exit(pid, 20000), 128 + SIGKILL);
}
END_TEST

START_TEST(ports_can_be_bound)
{
	int port = kit_free_port();

	ck_assert_int_gt(port, 1023);
	ck_assert_int_lt(port, 65536);
}
END_TEST

static char dir_of_before[300];

START_TEST(a_tmpdir_can_be_filled)
{
	char path[400];
	struct stat st;

	/* With CK_FORK=no the second round sees what the first has left: nothing. */
	if (dir_of_before[0] != 0)
		ck_assert_int_ne(stat(dir_of_before, &st), 0);
	snprintf(dir_of_before, sizeof(dir_of_before), "%s", kit_tmpdir());
	ck_assert_str_eq(kit_tmpdir(), dir_of_before);
	snprintf(path, sizeof(path), "%s/sub", kit_tmpdir());
	ck_assert_int_eq(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/sub/file", kit_tmpdir());
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
}
END_TEST

START_TEST(faults_end_with_the_test)
{
	ck_assert(!kvpi_fault("kit.planted"));
	kvpi_fault_arm("kit.planted", 1, 0);
}
END_TEST

int main(int argc, char **argv)
{
	const TTest *const tests[] = {planted_mistakes_are_seen, fills_follow_from_the_seed,
	    children_tell_how_they_ended, ports_can_be_bound, a_tmpdir_can_be_filled,
	    faults_end_with_the_test};

	if (argc == 4)
		return run_planted(argv[1], argv[2], argv[3]);
	return kit_run("kit", tests, sizeof(tests) / sizeof(tests[0]), 2, nothing_missing);
}
