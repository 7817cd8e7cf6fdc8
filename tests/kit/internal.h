/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the kit.
 */
#ifndef KVP_TESTS_KIT_INTERNAL_H
#define KVP_TESTS_KIT_INTERNAL_H

#include <stdbool.h>

/* Before and after each test. */
void kit_handles_before(void);
void kit_handles_after(void);
void kit_tmpdir_before(void);
void kit_tmpdir_after(void);

/* kit_wait_until, but says false instead of failing. */
bool kit_becomes_true(bool (*cond)(void *user), void *user, int ms);

/* Fails the test as if at that place; does not return. */
void kit_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

#endif
