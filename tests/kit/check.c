/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/error.h"
#include "kit/internal.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void kit_fail(const char *file, int line, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	_ck_assert_failed(file, line, "Failed", "%s", text);
}

void kit_check_ok(const char *file, int line, const char *expr, kvp_status status)
{
	if (status != KVP_OK)
		kit_fail(file, line, "%s: %s (%d): %s", expr, kvp_status_name(status), (int)status,
		    kvp_last_error());
	mark_point();
}

void kit_forget_error(void)
{
	kvpi_error_set(KVP_OK, "");
}

/* What is wrong with the sentence; NULL if nothing. */
static const char *fault_of_sentence(const char *sentence)
{
	size_t len = strlen(sentence);

	if (len == 0)
		return "no sentence";
	if (sentence[0] >= 'A' && sentence[0] <= 'Z')
		return "a sentence that starts with a capital";
	if (strchr(sentence, '\n') != NULL)
		return "a sentence with a newline";
	if (sentence[len - 1] == '.')
		return "a sentence that ends with a full stop";
	return NULL;
}

void kit_check_status(
    const char *file, int line, const char *expr, kvp_status status, kvp_status expected)
{
	const char *sentence = kvp_last_error();
	const char *wrong = status < 0 ? fault_of_sentence(sentence) : NULL;

	if (status != expected)
		kit_fail(file, line, "%s: %s instead of %s: %s", expr, kvp_status_name(status),
		    kvp_status_name(expected), sentence);
	if (wrong != NULL)
		kit_fail(file, line, "%s: %s with %s: \"%s\"", expr, kvp_status_name(status), wrong,
		    sentence);
	mark_point();
}

uint64_t kit_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static size_t shorter(size_t a, size_t b)
{
	return a < b ? a : b;
}

void kit_random_fill(void *buf, size_t len, uint64_t seed)
{
	unsigned char *bytes = buf;

	for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t word = kit_random(&seed);

		memcpy(bytes + i, &word, shorter(sizeof(word), len - i));
	}
}

size_t kit_fill_differs(const void *buf, size_t len, uint64_t seed)
{
	const unsigned char *bytes = buf;

	for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t word = kit_random(&seed);
		unsigned char expected[sizeof(word)];

		memcpy(expected, &word, sizeof(word));
		for (size_t j = 0; j < shorter(sizeof(word), len - i); j++) {
			if (bytes[i + j] != expected[j])
				return i + j;
		}
	}
	return len;
}

void kit_check_fill_at(const char *file, int line, const void *buf, size_t len, uint64_t seed)
{
	size_t offset = kit_fill_differs(buf, len, seed);

	if (offset != len)
		kit_fail(file, line, "wrong bytes from offset %zu of %zu on (seed %llu)", offset,
		    len, (unsigned long long)seed);
	mark_point();
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

bool kit_becomes_true(bool (*cond)(void *user), void *user, int ms)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	int64_t deadline = now_ms() + (int64_t)ms * (getenv("KVP_SANITIZERS") != NULL ? 10 : 1);

	while (!cond(user)) {
		if (now_ms() >= deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

void kit_wait_until_at(
    const char *file, int line, const char *what, bool (*cond)(void *user), void *user, int ms)
{
	if (!kit_becomes_true(cond, user, ms))
		kit_fail(file, line, "%s did not become true within %d ms", what, ms);
	mark_point();
}
