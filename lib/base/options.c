/* SPDX-License-Identifier: Apache-2.0 */
#include "base/options.h"

#include "base/error.h"
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One field's value, whatever its type. */
union value {
	int number;
	uint64_t bytes;
	const char *text;
};

static void store(const kvpi_option *row, void *options, const union value *value)
{
	memcpy((char *)options + row->offset, value, row->width);
}

static void store_default(const kvpi_option *row, void *options)
{
	union value value;

	memset(&value, 0, sizeof(value));
	switch (row->type) {
	case KVPI_OPT_INT:
	case KVPI_OPT_BOOL:
		value.number = (int)row->def;
		break;
	case KVPI_OPT_BYTES:
		value.bytes = (uint64_t)row->def;
		break;
	case KVPI_OPT_STRING:
		value.text = row->def_text;
		break;
	case KVPI_OPT_OTHER:
		memset((char *)options + row->offset, 0, row->width); /* of any width */
		return;
	}
	store(row, options, &value);
}

void kvpi_options_init(const kvpi_option_table *table, void *options, size_t size)
{
	if (options == NULL)
		return;
	memset(options, 0, size);
	memcpy(options, &size, sizeof(size));
	for (size_t i = 0; i < table->count; i++) {
		if (table->rows[i].offset + table->rows[i].width <= size)
			store_default(&table->rows[i], options);
	}
}

static bool in_range(const kvpi_option *row, const union value *value)
{
	double number;

	switch (row->type) {
	case KVPI_OPT_BOOL:
		return value->number == 0 || value->number == 1;
	case KVPI_OPT_INT:
		number = value->number;
		break;
	case KVPI_OPT_BYTES:
		number = (double)value->bytes;
		break;
	default:
		return true;
	}
	return number >= row->min && number <= row->max;
}

/* What is allowed, in words. */
static void describe_range(const kvpi_option *row, char *out, size_t len)
{
	if (row->type == KVPI_OPT_BOOL)
		snprintf(out, len, "0, 1, true, false, yes, no, on or off");
	else
		snprintf(out, len, "%.0f .. %.0f%s", row->min, row->max,
		    row->type == KVPI_OPT_BYTES ? " bytes, also with KiB MiB GiB TiB" : "");
}

static bool parse_int(const char *text, int *out)
{
	char *end;
	long number;
	int saved = errno;

	/* strtol would pass over blanks. */
	if ((*text < '0' || *text > '9') && *text != '-')
		return false;
	errno = 0;
	number = strtol(text, &end, 10);
	bool valid =
	    errno == 0 && end != text && *end == 0 && number >= INT_MIN && number <= INT_MAX;
	errno = saved;
	if (valid)
		*out = (int)number;
	return valid;
}

/* Digits, then e and an exponent, or a unit.  Not through strtod: that depends on the locale and
 * rounds above 2^53. */
static bool parse_bytes(const char *text, uint64_t *out)
{
	static const struct {
		const char *name;
		unsigned shift;
	} units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
	uint64_t number = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			return false;
	}
	if (p == text)
		return false;

	if (*p == 'e' || *p == 'E') {
		int exponent;

		if (!parse_int(p + 1, &exponent) || exponent < 0)
			return false;
		for (; exponent > 0 && number != 0; exponent--) {
			if (__builtin_mul_overflow(number, 10, &number))
				return false;
		}
		*out = number;
		return true;
	}

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(p, units[i].name) == 0)
			return !__builtin_mul_overflow(number, UINT64_C(1) << units[i].shift, out);
	}
	return false;
}

static bool parse_bool(const char *text, int *out)
{
	static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(text, words[i]) == 0) {
			*out = (int)(i % 2);
			return true;
		}
	}
	return false;
}

static bool parse(const kvpi_option *row, const char *text, union value *value)
{
	switch (row->type) {
	case KVPI_OPT_INT:
		return parse_int(text, &value->number);
	case KVPI_OPT_BYTES:
		return parse_bytes(text, &value->bytes);
	case KVPI_OPT_BOOL:
		return parse_bool(text, &value->number);
	case KVPI_OPT_STRING:
		value->text = text;
		return true;
	default:
		return false;
	}
}

static kvp_status not_found(const kvpi_option_table *table, const char *name)
{
	char names[KVPI_ERROR_MAX] = "";
	size_t len = 0;

	for (size_t i = 0; i < table->count && len < sizeof(names); i++) {
		if (table->rows[i].type != KVPI_OPT_OTHER)
			len += (size_t)snprintf(
			    names + len, sizeof(names) - len, " %s", table->rows[i].name);
	}
	return kvpi_error(KVP_E_NOT_FOUND,
	    "%s: no option %s that can be set from text; there are%s", table->name, name,
	    len == 0 ? " none" : names);
}

kvp_status kvpi_options_set(
    const kvpi_option_table *table, void *options, const char *name, const char *value)
{
	const kvpi_option *row = NULL;
	union value parsed;
	size_t size;

	if (options == NULL || name == NULL || value == NULL)
		return kvpi_error(KVP_E_INVALID, "%s: options, name or value is NULL", table->name);
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->rows[i].name, name) == 0)
			row = &table->rows[i];
	}
	if (row == NULL || row->type == KVPI_OPT_OTHER)
		return not_found(table, name);

	memcpy(&size, options, sizeof(size));
	if (size < row->offset + row->width)
		return kvpi_error(KVP_E_INVALID,
		    "%s: a struct of %zu bytes has no %s; fill it with its _init function",
		    table->name, size, name);
	memset(&parsed, 0, sizeof(parsed));
	if (!parse(row, value, &parsed) || !in_range(row, &parsed)) {
		char range[128];

		describe_range(row, range, sizeof(range));
		return kvpi_error(KVP_E_INVALID, "%s: %s \"%s\" is not within %s", table->name,
		    name, value, range);
	}
	store(row, options, &parsed);
	return KVP_OK;
}

static kvp_status check_row(const kvpi_option *row, const void *options, const char *call)
{
	union value value;
	char range[128];

	if (row->type == KVPI_OPT_OTHER)
		return KVP_OK;
	memset(&value, 0, sizeof(value));
	memcpy(&value, (const char *)options + row->offset, row->width);
	if (in_range(row, &value))
		return KVP_OK;
	if (row->type == KVPI_OPT_BOOL)
		return kvpi_error(KVP_E_INVALID, "%s: option %s %d is neither 0 nor 1", call,
		    row->name, value.number);
	describe_range(row, range, sizeof(range));
	if (row->type == KVPI_OPT_INT)
		return kvpi_error(KVP_E_INVALID, "%s: option %s %d is not within %s", call,
		    row->name, value.number, range);
	return kvpi_error(KVP_E_INVALID, "%s: option %s %llu is not within %s", call, row->name,
	    (unsigned long long)value.bytes, range);
}

kvp_status kvpi_options_read(
    const kvpi_option_table *table, const void *options, void *out, const char *call)
{
	size_t size;

	if (options == NULL) {
		kvpi_options_init(table, out, table->struct_size);
		return KVP_OK;
	}
	memcpy(&size, options, sizeof(size));
	if (size < sizeof(size))
		return kvpi_error(KVP_E_INVALID,
		    "%s: %s has size %zu; fill the struct with its _init function", call,
		    table->name, size);
	if (size > table->struct_size)
		return kvpi_error(KVP_E_INVALID,
		    "%s: %s has %zu bytes, this library knows %zu; it is older than the "
		    "header the caller was compiled with",
		    call, table->name, size, table->struct_size);

	/* All checks come before the first byte of `out` changes. */
	for (size_t i = 0; i < table->count; i++) {
		const kvpi_option *row = &table->rows[i];
		kvp_status status =
		    row->offset + row->width <= size ? check_row(row, options, call) : KVP_OK;

		if (status != KVP_OK)
			return status;
	}
	kvpi_options_init(table, out, table->struct_size);
	for (size_t i = 0; i < table->count; i++) {
		const kvpi_option *row = &table->rows[i];

		if (row->offset + row->width <= size)
			memcpy((char *)out + row->offset, (const char *)options + row->offset,
			    row->width);
	}
	return KVP_OK;
}
