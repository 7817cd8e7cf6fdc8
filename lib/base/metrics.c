/* SPDX-License-Identifier: Apache-2.0 */
#include "base/metrics.h"

#include "base/error.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BUCKETS 64
#define NS_PER_S UINT64_C(1000000000)

void kvpi_histogram_add(kvpi_histogram *histogram, uint64_t value)
{
	int bucket = 63 - __builtin_clzll(value | 1);

	atomic_fetch_add_explicit(&histogram->bucket[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->sum, value, memory_order_relaxed);
}

/* The largest value that the bucket counts. */
static uint64_t upper_edge(int bucket)
{
	return UINT64_MAX >> (63 - bucket);
}

/* Copies the buckets and returns their sum.  The histogram's own count may be ahead of them while
 * another thread adds, and a text whose +Inf bucket is not its count is refused by its readers. */
static uint64_t snapshot(const kvpi_histogram *histogram, uint64_t bucket[BUCKETS])
{
	uint64_t count = 0;

	for (int i = 0; i < BUCKETS; i++) {
		bucket[i] = atomic_load_explicit(&histogram->bucket[i], memory_order_relaxed);
		count += bucket[i];
	}
	return count;
}

uint64_t kvpi_histogram_quantile(const kvpi_histogram *histogram, double q)
{
	uint64_t bucket[BUCKETS];
	uint64_t count = snapshot(histogram, bucket);
	uint64_t seen = 0;
	int last = 0;

	for (int i = 0; i < BUCKETS; i++) {
		if (bucket[i] == 0)
			continue;
		last = i;
		seen += bucket[i];
		if ((double)seen >= q * (double)count)
			break;
	}
	return count == 0 ? 0 : upper_edge(last);
}

kvp_status kvpi_metrics_init(kvpi_metrics *metrics)
{
	int err = pthread_mutex_init(&metrics->mutex, NULL);

	if (err != 0) {
		errno = err;
		return kvpi_error_errno("cannot make the lock of the metrics");
	}
	kvpi_list_init(&metrics->sources);
	return KVP_OK;
}

void kvpi_metrics_fini(kvpi_metrics *metrics)
{
	pthread_mutex_destroy(&metrics->mutex);
}

void kvpi_metrics_add(kvpi_metrics *metrics, kvpi_metric_source *source)
{
	pthread_mutex_lock(&metrics->mutex);
	kvpi_list_append(&metrics->sources, &source->node);
	pthread_mutex_unlock(&metrics->mutex);
}

void kvpi_metrics_remove(kvpi_metrics *metrics, kvpi_metric_source *source)
{
	pthread_mutex_lock(&metrics->mutex);
	kvpi_list_remove(&source->node);
	pthread_mutex_unlock(&metrics->mutex);
}

void kvpi_metrics_label(kvpi_metric_source *source, const char *name, const char *value)
{
	size_t start = strlen(source->labels);
	/* Two bytes are kept back for the closing quote and the 0. */
	size_t end = sizeof(source->labels) - 2;
	int head = snprintf(source->labels + start, sizeof(source->labels) - start, "%s%s=\"",
	    start == 0 ? "" : ",", name);

	if (head < 0 || start + (size_t)head > end) {
		source->labels[start] = 0; /* half a label would spoil the whole text */
		return;
	}
	size_t len = start + (size_t)head;
	for (size_t i = 0; value[i] != 0; i++) {
		char c = value[i] == '\n' ? 'n' : value[i];
		bool escaped = value[i] == '\n' || c == '"' || c == '\\';

		if (len + (escaped ? 2 : 1) > end) {
			len -= i - kvpi_utf8_cut(value, i); /* no part of a character stays */
			break;
		}
		if (escaped)
			source->labels[len++] = '\\';
		source->labels[len++] = c;
	}
	source->labels[len++] = '"';
	source->labels[len] = 0;
}

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), end_len = strlen(end);

	return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

static bool in_seconds(const kvpi_metric *metric)
{
	switch (metric->type) {
	case KVPI_METRIC_HISTOGRAM:
		return true;
	case KVPI_METRIC_HISTOGRAM_BYTES:
		return false;
	default:
		return ends_with(metric->name, "_seconds") ||
		       ends_with(metric->name, "_seconds_total");
	}
}

/* Without floating point: exact, and no locale's comma. */
static void write_value(kvpi_buf *out, uint64_t value, bool seconds)
{
	if (seconds)
		kvpi_buf_printf(out, "%" PRIu64 ".%09" PRIu64, value / NS_PER_S, value % NS_PER_S);
	else
		kvpi_buf_printf(out, "%" PRIu64, value);
}

/* name{labels} and a blank; `suffix` is "_sum" and the like. */
static void write_name(
    kvpi_buf *out, const kvpi_metric *metric, const char *suffix, const kvpi_metric_source *source)
{
	kvpi_buf_printf(out, "%s%s", metric->name, suffix);
	if (source->labels[0] != 0)
		kvpi_buf_printf(out, "{%s}", source->labels);
	kvpi_buf_printf(out, " ");
}

static void write_histogram(kvpi_buf *out, const kvpi_metric *metric,
    const kvpi_metric_source *source, const kvpi_histogram *histogram)
{
	bool seconds = in_seconds(metric);
	const char *comma = source->labels[0] == 0 ? "" : ",";
	uint64_t bucket[BUCKETS];
	uint64_t count = snapshot(histogram, bucket);
	uint64_t cumulated = 0;

	for (int i = 0; i < BUCKETS && cumulated < count; i++) {
		cumulated += bucket[i];
		kvpi_buf_printf(out, "%s_bucket{%s%sle=\"", metric->name, source->labels, comma);
		write_value(out, upper_edge(i), seconds);
		kvpi_buf_printf(out, "\"} %" PRIu64 "\n", cumulated);
	}
	kvpi_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", metric->name,
	    source->labels, comma, count);
	write_name(out, metric, "_sum", source);
	write_value(out, atomic_load_explicit(&histogram->sum, memory_order_relaxed), seconds);
	kvpi_buf_printf(out, "\n");
	write_name(out, metric, "_count", source);
	kvpi_buf_printf(out, "%" PRIu64 "\n", count);
}

static void write_sample(kvpi_buf *out, const kvpi_metric *metric, const kvpi_metric_source *source)
{
	const void *place = (const char *)source->base + metric->offset;

	if (metric->type == KVPI_METRIC_HISTOGRAM || metric->type == KVPI_METRIC_HISTOGRAM_BYTES) {
		write_histogram(out, metric, source, place);
		return;
	}

	const kvpi_counter *counter = place;
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
	/* A gauge that one thread raises and another lowers can pass below zero for a moment. */
	bool negative = metric->type == KVPI_METRIC_GAUGE && value > INT64_MAX;
	write_name(out, metric, "", source);
	if (negative)
		kvpi_buf_printf(out, "-");
	write_value(out, negative ? 0 - value : value, in_seconds(metric));
	kvpi_buf_printf(out, "\n");
}

static const kvpi_metric *find_metric(const kvpi_metric_source *source, const char *name)
{
	for (size_t i = 0; i < source->count; i++) {
		if (strcmp(source->table[i].name, name) == 0)
			return &source->table[i];
	}
	return NULL;
}

/* HELP, TYPE, and the samples of this source and of all behind it. */
static void write_family(
    kvpi_buf *out, const kvpi_list *end, kvpi_metric_source *first, const kvpi_metric *metric)
{
	static const char *const types[] = {"counter", "gauge", "histogram", "histogram"};

	kvpi_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help,
	    metric->name, types[metric->type]);
	for (kvpi_list *node = &first->node; node != end; node = node->next) {
		kvpi_metric_source *source = KVPI_CONTAINER_OF(node, kvpi_metric_source, node);
		const kvpi_metric *same = find_metric(source, metric->name);

		if (same != NULL && same->type == metric->type)
			write_sample(out, same, source);
	}
}

static bool written_before(
    kvpi_metrics *metrics, const kvpi_metric_source *source, const char *name)
{
	KVPI_LIST_FOREACH (node, next, &metrics->sources) {
		if (node == &source->node)
			return false;
		if (find_metric(KVPI_CONTAINER_OF(node, kvpi_metric_source, node), name) != NULL)
			return true;
	}
	return false;
}

void kvpi_metrics_text(kvpi_metrics *metrics, kvpi_buf *out)
{
	pthread_mutex_lock(&metrics->mutex);
	KVPI_LIST_FOREACH (node, next, &metrics->sources) {
		kvpi_metric_source *source = KVPI_CONTAINER_OF(node, kvpi_metric_source, node);

		for (size_t i = 0; i < source->count; i++) {
			if (!written_before(metrics, source, source->table[i].name))
				write_family(out, &metrics->sources, source, &source->table[i]);
		}
	}
	pthread_mutex_unlock(&metrics->mutex);
}
