/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <string.h>

void report_open(struct report *report, FILE *out, int json)
{
	report->out = out;
	report->json = json;
	report->count = 0;
}

static void begin(struct report *report, const char *name)
{
	if (report->json)
		fprintf(report->out, "%s\n  \"%s\": ", report->count == 0 ? "{" : ",", name);
	else
		fprintf(report->out, "%s: ", name);
	report->count++;
}

static void end(struct report *report)
{
	if (!report->json)
		fputc('\n', report->out);
}

void report_number(struct report *report, const char *name, uint64_t number)
{
	begin(report, name);
	fprintf(report->out, "%llu", (unsigned long long)number);
	end(report);
}

void report_real(struct report *report, const char *name, double number)
{
	begin(report, name);
	fprintf(report->out, "%.6g", number);
	end(report);
}

static void json_string(FILE *out, const unsigned char *text, size_t bytes)
{
	fputc('"', out);
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '"' || text[i] == '\\')
			fprintf(out, "\\%c", text[i]);
		else if (text[i] == '\n')
			fputs("\\n", out);
		else if (text[i] < 0x20 || text[i] >= 0x7f)
			fprintf(out, "\\u%04x", text[i]);
		else
			fputc(text[i], out);
	}
	fputc('"', out);
}

void report_text(struct report *report, const char *name, const void *text, size_t bytes)
{
	begin(report, name);
	if (report->json)
		json_string(report->out, text, bytes);
	else
		fwrite(text, 1, bytes, report->out);
	end(report);
}

/* Of one tensor, on average.  Tensors overlap, so these do not add up to the seconds of all. */
static double each_us(const struct time_split *split, double seconds)
{
	return split->count > 0 ? seconds * 1e6 / (double)split->count : 0;
}

void report_transfer(
    struct report *report, const struct time_split *split, double seconds, const char *way)
{
	double rate = seconds > 0 ? (double)split->bytes * 1e-9 / seconds : 0;
	double queue = each_us(split, split->queue), credit = each_us(split, split->credit);
	double wire = each_us(split, split->wire), notify = each_us(split, split->notify);

	if (!report->json) {
		fprintf(report->out, "%llu tensors, %llu bytes in %.4f s: %.3g GB/s\n",
		    (unsigned long long)split->count, (unsigned long long)split->bytes, seconds,
		    rate);
		fprintf(report->out,
		    "one tensor on average: queue %.0f us, credit %.0f us, wire %.0f us, notify "
		    "%.0f us\n",
		    queue, credit, wire, notify);
		fputs(way, report->out);
		return;
	}
	report_number(report, "tensors", split->count);
	report_number(report, "bytes", split->bytes);
	report_real(report, "seconds", seconds);
	report_real(report, "gigabytes_per_second", rate);
	report_real(report, "queue_us", queue);
	report_real(report, "credit_us", credit);
	report_real(report, "wire_us", wire);
	report_real(report, "notify_us", notify);
	report_text(report, "way", way, strlen(way));
}

void report_close(struct report *report)
{
	if (report->json)
		fprintf(report->out, "%s\n}\n", report->count == 0 ? "{" : "");
	if (fflush(report->out) != 0 || ferror(report->out))
		fail("cannot write the figures");
}
