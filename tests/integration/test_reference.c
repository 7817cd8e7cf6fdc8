/* SPDX-License-Identifier: Apache-2.0
 *
 * The prompts of reference.json through prefill and decode: byte for byte the text that another
 * implementation of the model wrote.
 */
#include "kit/kit.h"

#include <jansson.h>
#include <kvpipe/kvpipe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_MS 60000
#define MAX_TEXT 4096

static const char *from_env(const char *name)
{
	const char *value = getenv(name);

	ck_assert_msg(value != NULL, "%s is set by make check", name);
	return value;
}

static json_t *load_reference(void)
{
	char path[1024];
	json_error_t error;
	json_t *reference;

	snprintf(path, sizeof(path), "%s/examples/model/reference.json", from_env("KVP_SRCDIR"));
	reference = json_load_file(path, 0, &error);
	ck_assert_msg(reference != NULL, "%s: %s", path, error.text);
	ck_assert_uint_gt(json_array_size(reference), 0);
	return reference;
}

/* Runs both programs; the text that decode writes to standard output ends up in text[MAX_TEXT]. */
static size_t run(const char *url, const char *prompt, size_t steps, const char *json, char *text)
{
	char decode[1024], prefill[1024], count[24];
	const char *decode_argv[] = {decode, "--url", url, "--steps", count, json, NULL};
	const char *prefill_argv[] = {prefill, "--url", url, "--prompt", prompt, json, NULL};
	pid_t decode_pid, prefill_pid;
	int decode_out, prefill_out;
	size_t length;

	snprintf(decode, sizeof(decode), "%s/examples/decode", from_env("KVP_BUILDDIR"));
	snprintf(prefill, sizeof(prefill), "%s/examples/prefill", from_env("KVP_BUILDDIR"));
	snprintf(count, sizeof(count), "%zu", steps);
	decode_pid = kit_spawn(decode_argv, &decode_out);
	prefill_pid = kit_spawn(prefill_argv, &prefill_out);
	length = kit_read_all(prefill_out, text, MAX_TEXT);
	ck_assert_uint_gt(length, 0);
	length = kit_read_all(decode_out, text, MAX_TEXT);
	ck_assert_int_eq(kit_wait_exit(prefill_pid, PATIENCE_MS), 0);
	ck_assert_int_eq(kit_wait_exit(decode_pid, PATIENCE_MS), 0);
	return length;
}

static void check_text(const char *url, const json_t *entry)
{
	const json_t *greedy = json_object_get(entry, "greedy");
	const char *prompt = json_string_value(json_object_get(entry, "prompt"));
	size_t steps = json_array_size(greedy);
	char text[MAX_TEXT];

	ck_assert_uint_eq(run(url, prompt, steps, NULL, text), steps);
	for (size_t i = 0; i < steps; i++)
		ck_assert_msg(
		    (unsigned char)text[i] == json_integer_value(json_array_get(greedy, i)),
		    "\"%s\": byte %zu differs in \"%s\"", prompt, i, text);
}

static void check_json(const char *url, const json_t *entry)
{
	const char *prompt = json_string_value(json_object_get(entry, "prompt"));
	const char *wanted = json_string_value(json_object_get(entry, "text"));
	char text[MAX_TEXT];
	json_error_t error;
	json_t *report;

	run(url, prompt, strlen(wanted), "--json", text);
	report = json_loads(text, 0, &error);
	ck_assert_msg(report != NULL, "%s in %s", error.text, text);
	ck_assert_str_eq(json_string_value(json_object_get(report, "text")), wanted);
	ck_assert_int_eq(json_integer_value(json_object_get(report, "prompt_tokens")),
	    (json_int_t)strlen(prompt));
	ck_assert_int_gt(json_integer_value(json_object_get(report, "bytes")), 0);
	ck_assert(json_is_number(json_object_get(report, "gigabytes_per_second")));
	ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(report, "way")), "by "));
	json_decref(report);
}

START_TEST(every_prompt_of_the_reference)
{
	kvp_store_server *server;
	json_t *reference = load_reference();
	json_t *entry;
	size_t i;

	KIT_OK(kvp_store_server_start(NULL, NULL, &server));
	json_array_foreach(reference, i, entry)
	{
		check_text(kvp_store_server_url(server), entry);
	}
	check_json(kvp_store_server_url(server), json_array_get(reference, 0));
	kvp_store_server_free(server);
	json_decref(reference);
}
END_TEST

KIT_MAIN("reference", every_prompt_of_the_reference)
