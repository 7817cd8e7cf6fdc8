/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include "base/buf.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[KVPI_ERROR_MAX];

const char *kvp_status_name(kvp_status status)
{
	switch ((int)status) {
	case KVP_OK:
		return "KVP_OK";
	case KVP_PENDING:
		return "KVP_PENDING";
#define KVP_STATUS(name, value, text)                                                              \
	case name:                                                                                 \
		return #name;
#include <kvpipe/errors.def>
#undef KVP_STATUS
	default:
		return "KVP_E_UNKNOWN";
	}
}

const char *kvp_status_text(kvp_status status)
{
	switch ((int)status) {
	case KVP_OK:
		return "success";
	case KVP_PENDING:
		return "the request has not ended";
#define KVP_STATUS(name, value, text)                                                              \
	case name:                                                                                 \
		return text;
#include <kvpipe/errors.def>
#undef KVP_STATUS
	default:
		return "a status that this version of the library does not know";
	}
}

kvp_scope kvp_status_scope(kvp_status status)
{
	int value = (int)status;

	/* By range, so that a code from a newer library still says how much to rebuild. */
	if (value >= 0)
		return KVP_SCOPE_NONE;
	if (value > -20)
		return KVP_SCOPE_CALL;
	if (value > -40)
		return KVP_SCOPE_REQUEST;
	if (value > -60)
		return KVP_SCOPE_PEER;
	if (value > -80)
		return KVP_SCOPE_PIPE;
	return KVP_SCOPE_PROCESS;
}

const char *kvp_last_error(void)
{
	return last_error;
}

/* `text` may be the last error itself, or a part of it. */
static void remember(const char *text, size_t len)
{
	if (len >= sizeof(last_error))
		len = kvpi_utf8_cut(text, sizeof(last_error) - 1);
	memmove(last_error, text, len);
	last_error[len] = 0;
}

/* Formats aside, for an argument may be the sentence that is being replaced. */
static void remember_format(const char *fmt, va_list args) __attribute__((format(printf, 1, 0)));
static void remember_format(const char *fmt, va_list args)
{
	char text[KVPI_ERROR_MAX + 1]; /* one more, so that remember() sees that it must cut */

	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		text[0] = 0;
	remember(text, strlen(text));
}

kvp_status kvpi_error_set(kvp_status status, const char *sentence)
{
	if (sentence == NULL)
		sentence = kvp_status_text(status);
	remember(sentence, strlen(sentence));
	return status;
}

kvp_status kvpi_error(kvp_status status, const char *fmt, ...)
{
	int saved = errno;
	va_list args;

	if (fmt == NULL)
		return kvpi_error_set(status, NULL);
	va_start(args, fmt);
	remember_format(fmt, args);
	va_end(args);
	errno = saved;
	return status;
}

kvp_status kvpi_error_errno(const char *fmt, ...)
{
	int saved = errno;
	kvp_status status = saved == ENOMEM ? KVP_E_NOMEM : KVP_E_SYSTEM;
	char what[KVPI_ERROR_MAX];
	va_list args;

	va_start(args, fmt);
	if (vsnprintf(what, sizeof(what), fmt, args) < 0)
		what[0] = 0;
	va_end(args);
	errno = saved; /* for %m, and for the caller */
	return kvpi_error(status, "%s: %m", what);
}

kvp_status kvpi_error_nomem(const char *what)
{
	return kvpi_error(KVP_E_NOMEM, "no memory for %s", what);
}
