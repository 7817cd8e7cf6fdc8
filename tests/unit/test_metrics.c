/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/metrics.h"
#include "base/thread.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sample {
	kvpi_counter sent;
	kvpi_counter depth;
	kvpi_counter busy;
	kvpi_histogram wait;
	kvpi_histogram sizes;
};

static const kvpi_metric table[] = {
    {"kvpipe_sent_bytes_total", "Bytes sent.", KVPI_METRIC_COUNTER, offsetof(struct sample, sent)},
    {"kvpipe_depth", "Requests in the queue.", KVPI_METRIC_GAUGE, offsetof(struct sample, depth)},
    {"kvpipe_busy_seconds_total", "Time.", KVPI_METRIC_COUNTER, offsetof(struct sample, busy)},
    {"kvpipe_wait_seconds", "Waiting.", KVPI_METRIC_HISTOGRAM, offsetof(struct sample, wait)},
    {"kvpipe_size_bytes", "Sizes.", KVPI_METRIC_HISTOGRAM_BYTES, offsetof(struct sample, sizes)},
};

static kvpi_metric_source source_of(const struct sample *sample)
{
	return (kvpi_metric_source){.table = table, .count = 5, .base = sample};
}

START_TEST(values_fall_into_their_buckets)
{
	static kvpi_histogram histogram;
	uint64_t sum = 0, count = 0;

	kvpi_histogram_add(&histogram, 0);
	kvpi_histogram_add(&histogram, 1);
	ck_assert_uint_eq(histogram.bucket[0], 2);
	for (int i = 1; i < 64; i++) {
		uint64_t low = UINT64_C(1) << i;

		kvpi_histogram_add(&histogram, low);
		kvpi_histogram_add(&histogram, low + (low - 1));
		ck_assert_uint_eq(histogram.bucket[i], 2);
		sum += 3 * low - 1;
		count += 2;
	}
	ck_assert_uint_eq(histogram.count, count + 2);
	ck_assert_uint_eq(histogram.sum, sum + 1);
}
END_TEST

START_TEST(quantiles_are_upper_edges)
{
	static kvpi_histogram histogram;

	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 0.5), 0);
	for (int i = 0; i < 90; i++)
		kvpi_histogram_add(&histogram, 100);
	for (int i = 0; i < 10; i++)
		kvpi_histogram_add(&histogram, 5000);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 0), 127);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 0.5), 127);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 0.9), 127);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 0.91), 8191);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 1), 8191);
	kvpi_histogram_add(&histogram, UINT64_MAX);
	ck_assert_uint_eq(kvpi_histogram_quantile(&histogram, 1), UINT64_MAX);
}
END_TEST

START_TEST(the_text_is_what_prometheus_reads)
{
	static struct sample a, b;
	kvpi_metric_source first = source_of(&a), second = source_of(&b);
	kvpi_metrics metrics;
	kvpi_buf buf;

	kvpi_counter_add(&a.sent, 12345);
	kvpi_counter_add(&a.depth, 3);
	kvpi_counter_add(&a.busy, 1500000000);
	kvpi_histogram_add(&a.wait, 1);
	kvpi_histogram_add(&a.wait, 5);
	kvpi_histogram_add(&a.wait, 6);
	kvpi_histogram_add(&b.wait, 3000000000);
	kvpi_histogram_add(&a.sizes, 4);
	kvpi_counter_add(&b.depth, (uint64_t)-2);
	kvpi_metrics_label(&first, "pipe", "kv");
	kvpi_metrics_label(&first, "rank", "0");

	kvpi_buf_init(&buf);
	KIT_OK(kvpi_metrics_init(&metrics));
	kvpi_metrics_text(&metrics, &buf);
	ck_assert_uint_eq(buf.len, 0);
	kvpi_metrics_add(&metrics, &first);
	kvpi_metrics_text(&metrics, &buf);
	ck_assert_str_eq(buf.data,
	    "# HELP kvpipe_sent_bytes_total Bytes sent.\n"
	    "# TYPE kvpipe_sent_bytes_total counter\n"
	    "kvpipe_sent_bytes_total{pipe=\"kv\",rank=\"0\"} 12345\n"
	    "# HELP kvpipe_depth Requests in the queue.\n"
	    "# TYPE kvpipe_depth gauge\n"
	    "kvpipe_depth{pipe=\"kv\",rank=\"0\"} 3\n"
	    "# HELP kvpipe_busy_seconds_total Time.\n"
	    "# TYPE kvpipe_busy_seconds_total counter\n"
	    "kvpipe_busy_seconds_total{pipe=\"kv\",rank=\"0\"} 1.500000000\n"
	    "# HELP kvpipe_wait_seconds Waiting.\n"
	    "# TYPE kvpipe_wait_seconds histogram\n"
	    "kvpipe_wait_seconds_bucket{pipe=\"kv\",rank=\"0\",le=\"0.000000001\"} 1\n"
	    "kvpipe_wait_seconds_bucket{pipe=\"kv\",rank=\"0\",le=\"0.000000003\"} 1\n"
	    "kvpipe_wait_seconds_bucket{pipe=\"kv\",rank=\"0\",le=\"0.000000007\"} 3\n"
	    "kvpipe_wait_seconds_bucket{pipe=\"kv\",rank=\"0\",le=\"+Inf\"} 3\n"
	    "kvpipe_wait_seconds_sum{pipe=\"kv\",rank=\"0\"} 0.000000012\n"
	    "kvpipe_wait_seconds_count{pipe=\"kv\",rank=\"0\"} 3\n"
	    "# HELP kvpipe_size_bytes Sizes.\n"
	    "# TYPE kvpipe_size_bytes histogram\n"
	    "kvpipe_size_bytes_bucket{pipe=\"kv\",rank=\"0\",le=\"1\"} 0\n"
	    "kvpipe_size_bytes_bucket{pipe=\"kv\",rank=\"0\",le=\"3\"} 0\n"
	    "kvpipe_size_bytes_bucket{pipe=\"kv\",rank=\"0\",le=\"7\"} 1\n"
	    "kvpipe_size_bytes_bucket{pipe=\"kv\",rank=\"0\",le=\"+Inf\"} 1\n"
	    "kvpipe_size_bytes_sum{pipe=\"kv\",rank=\"0\"} 4\n"
	    "kvpipe_size_bytes_count{pipe=\"kv\",rank=\"0\"} 1\n");

	/* A second source without labels: its samples stand with the first one's. */
	kvpi_metrics_add(&metrics, &second);
	kvpi_buf_clear(&buf);
	kvpi_metrics_text(&metrics, &buf);
	ck_assert_ptr_nonnull(strstr(buf.data, "# TYPE kvpipe_depth gauge\n"
	                                       "kvpipe_depth{pipe=\"kv\",rank=\"0\"} 3\n"
	                                       "kvpipe_depth -2\n"
	                                       "# HELP kvpipe_busy_seconds_total"));
	ck_assert_ptr_nonnull(strstr(buf.data, "kvpipe_wait_seconds_bucket{le=\"4.294967295\"} 1\n"
	                                       "kvpipe_wait_seconds_bucket{le=\"+Inf\"} 1\n"
	                                       "kvpipe_wait_seconds_sum 3.000000000\n"));
	ck_assert_ptr_nonnull(strstr(buf.data, "kvpipe_size_bytes_bucket{le=\"+Inf\"} 0\n"));
	for (size_t i = 0; i < 5; i++) {
		char type[64];

		snprintf(type, sizeof(type), "# TYPE %s ", table[i].name);
		const char *found = strstr(buf.data, type);
		ck_assert_ptr_nonnull(found);
		ck_assert_ptr_null(strstr(found + 1, type));
	}

	kvpi_metrics_remove(&metrics, &first);
	kvpi_buf_clear(&buf);
	kvpi_metrics_text(&metrics, &buf);
	ck_assert_ptr_null(strstr(buf.data, "rank"));
	ck_assert_ptr_nonnull(strstr(buf.data, "kvpipe_sent_bytes_total 0\n"));
	kvpi_metrics_remove(&metrics, &second);
	kvpi_metrics_remove(&metrics, &second);
	kvpi_buf_fini(&buf);
	kvpi_metrics_fini(&metrics);
}
END_TEST

START_TEST(labels_are_escaped)
{
	kvpi_metric_source source = {.count = 0};

	kvpi_metrics_label(&source, "a", "x\"y\\z\nw");
	kvpi_metrics_label(&source, "b", "");
	ck_assert_str_eq(source.labels, "a=\"x\\\"y\\\\z\\nw\",b=\"\"");
}
END_TEST

START_TEST(labels_are_cut_so_that_they_stay_whole)
{
	static const char *const units[] = {
	    "x", "\"", "\xe2\x82\xac"}; /* 1 byte, escaped, 3 bytes */
	char value[400], name[200];

	for (size_t unit = 0; unit < 3; unit++) {
		for (size_t shift = 0; shift < 4; shift++) {
			kvpi_metric_source source = {.count = 0};
			size_t step = unit == 0 ? 1 : unit + 1; /* in the labels */

			memset(value, 'x', shift);
			value[shift] = 0;
			while (strlen(value) + 4 < sizeof(value))
				strcat(value, units[unit]);
			kvpi_metrics_label(&source, "a", value);
			size_t len = strlen(source.labels);
			ck_assert_uint_lt(len, sizeof(source.labels));
			ck_assert_uint_ge(len, sizeof(source.labels) - step);
			ck_assert_int_eq(source.labels[len - 1], '"');
			ck_assert_uint_eq((len - 4 - shift) % step, 0);

			/* Not even the name fits any more. */
			kvpi_metrics_label(&source, "bbbb", "1");
			ck_assert_uint_eq(strlen(source.labels), len);
		}
	}
	kvpi_metric_source source = {.count = 0};
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	kvpi_metrics_label(&source, name, "1");
	ck_assert_str_eq(source.labels, "");
}
END_TEST

START_TEST(without_memory_the_text_says_so)
{
	static struct sample sample;
	kvpi_metric_source source = source_of(&sample);
	kvpi_metrics metrics;
	kvpi_buf buf;

	KIT_OK(kvpi_metrics_init(&metrics));
	kvpi_metrics_add(&metrics, &source);
	kvpi_buf_init(&buf);
	kvpi_fault_arm("alloc", 2, 1);
	kvpi_metrics_text(&metrics, &buf);
	ck_assert(buf.failed);
	kvpi_buf_fini(&buf);
	kvpi_metrics_fini(&metrics);
}
END_TEST

#define ADDS 50000

static void *add_often(void *user)
{
	struct sample *sample = user;

	for (uint64_t i = 0; i < ADDS; i++) {
		kvpi_counter_add(&sample->sent, 2);
		kvpi_histogram_add(&sample->wait, i);
	}
	return NULL;
}

/* The number behind a sample's name. */
static uint64_t value_of(const char *text, const char *name)
{
	const char *found = strstr(text, name);

	ck_assert_ptr_nonnull(found);
	return strtoull(found + strlen(name), NULL, 10);
}

START_TEST(a_text_under_load_agrees_with_itself)
{
	static struct sample sample;
	kvpi_metric_source source = source_of(&sample);
	pthread_t threads[3];
	kvpi_metrics metrics;
	uint64_t count = 0;
	kvpi_buf buf;

	KIT_OK(kvpi_metrics_init(&metrics));
	kvpi_metrics_add(&metrics, &source);
	kvpi_buf_init(&buf);
	for (size_t i = 0; i < 3; i++)
		KIT_OK(kvpi_thread_start(&threads[i], "adder", add_often, &sample));
	while (count < 3 * ADDS) {
		kvpi_buf_clear(&buf);
		kvpi_metrics_text(&metrics, &buf);
		uint64_t now = value_of(buf.data, "kvpipe_wait_seconds_count ");
		ck_assert_uint_eq(
		    now, value_of(buf.data, "kvpipe_wait_seconds_bucket{le=\"+Inf\"} "));
		ck_assert_uint_ge(now, count);
		count = now;
	}
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(kvpi_counter_get(&sample.sent), 2 * 3 * ADDS);
	ck_assert_uint_eq(sample.wait.sum, UINT64_C(3) * ADDS * (ADDS - 1) / 2);
	kvpi_buf_fini(&buf);
	kvpi_metrics_fini(&metrics);
}
END_TEST

KIT_MAIN("metrics", values_fall_into_their_buckets, quantiles_are_upper_edges,
    the_text_is_what_prometheus_reads, labels_are_escaped, labels_are_cut_so_that_they_stay_whole,
    without_memory_the_text_says_so, a_text_under_load_agrees_with_itself)
