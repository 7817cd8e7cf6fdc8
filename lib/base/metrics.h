/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters, gauges and log2 histograms without locks on the hot path, described by a table, and a
 * snapshot of them as Prometheus text (exposition format 0.0.4).
 *
 * A histogram has 64 buckets; bucket i counts values in [2^i, 2^(i+1)), bucket 0 also 0.  Units are in
 * the names ("_bytes", "_ns"); nanoseconds are written as seconds when the name ends in _seconds.
 */
#ifndef KVPI_BASE_METRICS_H
#define KVPI_BASE_METRICS_H

#include "base/buf.h"
#include "base/list.h"
#include <kvpipe/status.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef _Atomic uint64_t kvpi_counter;

typedef struct kvpi_histogram {
	_Atomic uint64_t bucket[64];
	_Atomic uint64_t count, sum;
} kvpi_histogram;

static inline void kvpi_counter_add(kvpi_counter *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t kvpi_counter_get(kvpi_counter *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void kvpi_histogram_add(kvpi_histogram *histogram, uint64_t value);

/* The largest value of the bucket that holds the q-quantile (0..1), 0 if empty. */
uint64_t kvpi_histogram_quantile(const kvpi_histogram *histogram, double q);

typedef enum kvpi_metric_type {
	KVPI_METRIC_COUNTER,   /* kvpi_counter at offset */
	KVPI_METRIC_GAUGE,     /* kvpi_counter at offset, may fall */
	KVPI_METRIC_HISTOGRAM, /* kvpi_histogram at offset, nanoseconds shown as seconds */
	KVPI_METRIC_HISTOGRAM_BYTES
} kvpi_metric_type;

typedef struct kvpi_metric {
	const char *name; /* "kvpipe_pipe_sent_bytes_total" */
	const char *help;
	kvpi_metric_type type;
	size_t offset; /* in the struct of one instance */
} kvpi_metric;

/* One instance (a pipe, a store server) in a registry: its struct, its table, its labels. */
typedef struct kvpi_metric_source {
	kvpi_list node;
	const kvpi_metric *table;
	size_t count;
	const void *base;
	char labels[160]; /* pipe="kv",rank="0"   already escaped, see kvpi_metrics_label */
} kvpi_metric_source;

typedef struct kvpi_metrics {
	pthread_mutex_t mutex;
	kvpi_list sources;
} kvpi_metrics;

kvp_status kvpi_metrics_init(kvpi_metrics *metrics);
void kvpi_metrics_fini(kvpi_metrics *metrics);

/* The source stays the caller's and must be removed before its base goes away. */
void kvpi_metrics_add(kvpi_metrics *metrics, kvpi_metric_source *source);
void kvpi_metrics_remove(kvpi_metrics *metrics, kvpi_metric_source *source);

/* Appends name="value" to source->labels with the value escaped; cut when full. */
void kvpi_metrics_label(kvpi_metric_source *source, const char *name, const char *value);

/* The whole registry as text; families of one name are written together, HELP and TYPE once. */
void kvpi_metrics_text(kvpi_metrics *metrics, kvpi_buf *out);

#endif
