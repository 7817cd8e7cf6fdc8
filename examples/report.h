/* SPDX-License-Identifier: Apache-2.0
 *
 * The figures of a run: lines for people, or one flat JSON object for programs.
 */
#ifndef EXAMPLES_REPORT_H
#define EXAMPLES_REPORT_H

#include "common.h"

#include <stdio.h>

struct report {
	FILE *out;
	int json;
	int count; /* figures so far */
};

void report_open(struct report *report, FILE *out, int json);

void report_number(struct report *report, const char *name, uint64_t number);
void report_real(struct report *report, const char *name, double number);

/* In JSON each byte becomes the character of its number, so that any bytes can be read back. */
void report_text(struct report *report, const char *name, const void *text, size_t bytes);

/* What every transfer is asked: how much, how fast, where the time went, and which way (by
 * kvp_pipe_explain). */
void report_transfer(
    struct report *report, const struct time_split *split, double seconds, const char *way);

void report_close(struct report *report);

#endif
