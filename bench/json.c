/* SPDX-License-Identifier: Apache-2.0
 *
 * A result: its place in the document, its line in the table.
 */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *spread_json(const bench_series *series)
{
	const bench_spread spread = bench_spread_of(series);
	json_t *const values = json_array();

	for (int i = 0; i < series->count; i++)
		json_array_append_new(values, json_real(series->value[i]));
	return json_pack("{s:f, s:f, s:f, s:o}", "median", spread.median, "min", spread.min, "max", spread.max, "values",
	    values);
}

static bool all_finite(const bench_series *series)
{
	for (int i = 0; i < series->count; i++) {
		if (!isfinite(series->value[i]))
			return false;
	}
	return true;
}

/* One ratio for each repeat: both halves of it were measured side by side. */
static bench_series ratios(const bench_result *result)
{
	bench_series series = {0};

	for (int i = 0; i < result->ours.count && i < result->peer.count; i++)
		bench_add(&series, result->ours.value[i] / result->peer.value[i]);
	return series;
}

static bool is_met(const bench_result *result, const bench_series *ratio)
{
	switch (result->goal) {
	case BENCH_RATIO_AT_LEAST:
		return bench_spread_of(ratio).median >= result->bound;
	case BENCH_RATIO_AT_MOST:
		return bench_spread_of(ratio).median <= result->bound;
	case BENCH_OURS_AT_LEAST:
		return bench_spread_of(&result->ours).median >= result->bound;
	case BENCH_OURS_AT_MOST:
		return bench_spread_of(&result->ours).median <= result->bound;
	default:
		return true;
	}
}

static const char *goal_name(bench_goal goal)
{
	static const char *const names[] = {
	    "", "ratio at least", "ratio at most", "ours at least", "ours at most"};

	return names[goal];
}

/* ---- the table ---- */

static void print_parameters(json_t *parameters)
{
	char text[160] = "", number[32];
	size_t len = 0;
	const char *key;
	json_t *value;

	json_object_foreach(parameters, key, value) {
		const char *shown = number;

		if (json_is_string(value)) {
			shown = json_string_value(value);
		} else {
			const json_int_t n = json_integer_value(value);

			if (json_is_real(value))
				snprintf(number, sizeof(number), "%g", json_real_value(value));
			else if (strcmp(key, "bytes") == 0 && n >= 1 << 20 && n % (1 << 20) == 0)
				snprintf(number, sizeof(number), "%lldMiB", (long long)(n >> 20));
			else if (strcmp(key, "bytes") == 0 && n >= 1 << 10 && n % (1 << 10) == 0)
				snprintf(number, sizeof(number), "%lldKiB", (long long)(n >> 10));
			else
				snprintf(number, sizeof(number), "%lld", (long long)n);
		}
		len += (size_t)snprintf(text + len, sizeof(text) - len, " %s=%s", key, shown);
		if (len >= sizeof(text))
			break;
	}
	printf("%-56s", text);
}

static void print_result(const bench_result *result, const bench_series *ratio)
{
	const bench_spread ours = bench_spread_of(&result->ours), of = bench_spread_of(ratio);

	printf("%-22s", result->name);
	print_parameters(result->parameters);
	printf(" %10.4g %-5s", ours.median, result->unit);
	if (result->peer_name != NULL) {
		printf(" %s %.4g, ratio %.3f (%.3f .. %.3f)", result->peer_name, bench_spread_of(&result->peer).median, of.median,
		       of.min, of.max);
	} else {
		printf(" (%.4g .. %.4g)", ours.min, ours.max);
	}
	if (result->goal != BENCH_NO_GOAL) {
		printf(", goal %s %g: %s", goal_name(result->goal), result->bound,
		       is_met(result, ratio) ? "met" : "MISSED");
	}
	putchar('\n');
	fflush(stdout);
}

/* ---- the document ---- */

static json_t *to_json(const bench_result *result, const bench_series *ratio)
{
	json_t *const object = json_pack("{s:s, s:s, s:O, s:o}", "name", result->name, "unit", result->unit, "parameters",
	    result->parameters, "ours", spread_json(&result->ours));

	if (result->peer_name != NULL) {
		json_t *const peer = spread_json(&result->peer);

		json_object_set_new(peer, "name", json_string(result->peer_name));
		json_object_set_new(object, "peer", peer);
		json_object_set_new(object, "ratio", spread_json(ratio));
	}
	if (result->goal != BENCH_NO_GOAL) {
		json_object_set_new(
		    object, "goal", json_pack("{s:s, s:f}", "what", goal_name(result->goal), "bound", result->bound));
		json_object_set_new(object, "met", json_boolean(is_met(result, ratio)));
	}
	return object;
}

bool bench_report(bench_run *run, bench_result *result)
{
	bench_series ratio;
	bool good = true;

	if (result->parameters == NULL)
		result->parameters = json_object();
	ratio = ratios(result);
	if (result->ours.count == 0 || !all_finite(&result->ours) || !all_finite(&ratio) ||
	    (result->peer_name != NULL && (ratio.count == 0 || !all_finite(&result->peer)))) {
		good = bench_complain("%s: a figure is not a finite number", result->name);
	} else {
		json_array_append_new(json_object_get(run->document, "results"), to_json(result, &ratio));
		if (run->json == NULL || strcmp(run->json, "-") != 0)
			print_result(result, &ratio);
	}
	json_decref(result->parameters);
	result->parameters = NULL;
	return good;
}
