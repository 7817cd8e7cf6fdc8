/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "kit/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool skipping_is_red(void)
{
	const char *text = getenv("KVP_TEST_NO_SKIP");

	return text != NULL && strcmp(text, "1") == 0;
}

static void before_each(void)
{
	kit_tmpdir_before();
	kit_handles_before();
}

static void after_each(void)
{
	kvpi_fault_disarm_all(); /* with CK_FORK=no the next test is in this process, too */
	kit_tmpdir_after();
	kit_handles_after();
}

int kit_run(const char *name, const TTest *const tests[], size_t count, int loops,
    const char *(*missing)(void))
{
	const char *why = missing == NULL ? NULL : missing();

	if (why != NULL) {
		printf("%s: %s: %s\n", name, skipping_is_red() ? "must not skip" : "skipped", why);
		return skipping_is_red() ? EXIT_FAILURE : 77;
	}

	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	/* libcheck's own default of 4 s is short for a loaded machine; CK_DEFAULT_TIMEOUT rules. */
	if (getenv("CK_DEFAULT_TIMEOUT") == NULL)
		tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, before_each, after_each);
	for (size_t i = 0; i < count; i++)
		tcase_add_loop_test(tcase, tests[i], 0, loops);
	suite_add_tcase(suite, tcase);

	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int run = srunner_ntests_run(runner);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (run == 0)
		printf("%s: no test was run\n",
		    name); /* a filter that matches nothing is no success */
	return run > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

void kit_note_skip(const char *file, int line, const char *why)
{
	if (skipping_is_red())
		kit_fail(file, line, "must not skip: %s", why);
	printf("%s:%d: skipped: %s\n", file, line, why);
	fflush(stdout);
}
