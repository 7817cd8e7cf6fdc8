/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/spec.h"

#include "base/error.h"
#include "plane/wrap.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TIME_MAX_NS (3600 * KVPI_NS_PER_S)

static const kvpi_plane_wrapper *const wrappers[] = {&kvpi_plane_fault, &kvpi_plane_trace};
#define WRAPPERS (sizeof(wrappers) / sizeof(wrappers[0]))

static kvpi_view trim(const char *from, const char *to)
{
	while (from < to && (*from == ' ' || *from == '\t'))
		from++;
	while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
		to--;
	return kvpi_view_of(from, (size_t)(to - from));
}

/* The first `what` outside of parentheses, or `end`. */
static const char *find(const char *from, const char *end, char what)
{
	int depth = 0;

	for (const char *at = from; at < end; at++) {
		if (*at == what && depth == 0)
			return at;
		depth += *at == '(' ? 1 : *at == ')' ? -1 : 0;
	}
	return end;
}

static int shown(kvpi_view text)
{
	return text.len < 64 ? (int)text.len : 64;
}

static kvp_status unknown(kvpi_view name, bool wraps)
{
	char known[256] = "";

	if (wraps) {
		for (size_t i = 0; i < WRAPPERS; i++)
			snprintf(known + strlen(known), sizeof(known) - strlen(known), " %s", wrappers[i]->name);
		return kvpi_error(KVP_E_INVALID, "nothing named \"%.*s\" wraps data planes; there are:%s", shown(name),
		                  (const char *)name.data, known);
	}
	for (const kvpi_plane_ops *const *ops = kvpi_plane_registry(); *ops != NULL; ops++)
		snprintf(known + strlen(known), sizeof(known) - strlen(known), " %s", (*ops)->name);
	return kvpi_error(KVP_E_INVALID, "there is no data plane \"%.*s\"; there are:%s", shown(name),
	                  (const char *)name.data, known);
}

static const kvpi_plane_wrapper *find_wrapper(kvpi_view name)
{
	for (size_t i = 0; i < WRAPPERS; i++)
		if (kvpi_view_equal(name, kvpi_view_text(wrappers[i]->name)))
			return wrappers[i];
	return NULL;
}

/* Takes one wrapper off: *text becomes what is within. */
static kvp_status parse_wrap(kvpi_plane_spec *spec, kvpi_view *text, const char *open)
{
	const char *from = text->data, *end = from + text->len, *inside = open + 1, *semicolon;
	kvpi_view name = trim(from, open);
	const kvpi_plane_wrapper *wrapper = find_wrapper(name);

	if (find(inside, end, ')') != end - 1)
		return kvpi_error(KVP_E_INVALID, "the parentheses of \"%.*s\" do not match", shown(*text), from);
	if (wrapper == NULL)
		return unknown(name, true);
	if (spec->wraps == KVPI_PLANE_WRAPS_MAX)
		return kvpi_error(KVP_E_INVALID, "more than %d wrappers around one data plane", KVPI_PLANE_WRAPS_MAX);
	semicolon = find(inside, end - 1, ';');
	spec->wrap[spec->wraps].wrapper = wrapper;
	spec->wrap[spec->wraps].settings =
	    semicolon < end - 1 ? trim(semicolon + 1, end - 1) : kvpi_view_of(semicolon, 0);
	*text = trim(inside, semicolon);
	return wrapper->check(spec->wrap[spec->wraps++].settings);
}

static kvp_status parse_spec(kvpi_view text, kvpi_plane_spec *spec)
{
	const char *open;

	memset(spec, 0, sizeof(*spec));
	while (text.len > 0 && (open = memchr(text.data, '(', text.len)) != NULL) {
		const kvp_status status = parse_wrap(spec, &text, open);

		if (status != KVP_OK)
			return status;
	}
	spec->base = kvpi_plane_find(text.data, text.len);
	if (spec->base == NULL && find_wrapper(text) != NULL)
		return kvpi_error(KVP_E_INVALID, "\"%.*s\" wraps a data plane and needs one: %.*s(tcp)", shown(text),
		                  (const char *)text.data, shown(text), (const char *)text.data);
	return spec->base != NULL ? KVP_OK : unknown(text, false);
}

/* The ends agree by name, so a name must mean one plane. */
static kvp_status check_twice(const kvpi_plane_spec *specs, size_t count)
{
	for (size_t i = 0; i + 1 < count; i++)
		if (specs[i].base == specs[count - 1].base)
			return kvpi_error(KVP_E_INVALID, "the data plane \"%s\" is named twice", specs[i].base->name);
	return KVP_OK;
}

kvp_status kvpi_plane_specs_parse(const char *list, kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX], size_t *count)
{
	const char *at = list != NULL ? list : "", *end = at + strlen(at), *comma;
	kvp_status status = KVP_OK;
	size_t n = 0;

	if (trim(at, end).len == 0) {
		for (const kvpi_plane_ops *const *ops = kvpi_plane_registry(); *ops != NULL; ops++)
			specs[n++] = (kvpi_plane_spec){.base = *ops};
		*count = n;
		return KVP_OK;
	}
	for (; status == KVP_OK && at <= end; at = comma + 1) {
		comma = find(at, end, ',');
		if (n == KVPI_PLANE_SPECS_MAX)
			return kvpi_error(KVP_E_INVALID, "more than %d data planes are named", KVPI_PLANE_SPECS_MAX);
		status = parse_spec(trim(at, comma), &specs[n]);
		if (status == KVP_OK)
			status = check_twice(specs, ++n);
	}
	if (status == KVP_OK)
		*count = n;
	return status;
}

kvp_status kvpi_plane_open_level(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                                 const kvpi_plane_ops **ops, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	if (level < spec->wraps)
		return spec->wrap[level].wrapper->open(spec, level, params, ops, plane, caps);
	*ops = spec->base;
	return spec->base->open(params, plane, caps);
}

kvp_status kvpi_plane_open(const kvpi_plane_spec *spec, const kvpi_plane_params *params, const kvpi_plane_ops **ops,
                           kvpi_plane **plane, kvpi_plane_caps *caps)
{
	return kvpi_plane_open_level(spec, 0, params, ops, plane, caps);
}

/* ---- settings --------------------------------------------------------------------------------------- */

/* Digits, then a unit, which stays. */
static bool parse_number(kvpi_view *text, uint64_t *number)
{
	const char *at = text->data;
	size_t n = 0;

	*number = 0;
	for (; n < text->len && at[n] >= '0' && at[n] <= '9'; n++)
		if (__builtin_mul_overflow(*number, 10, number) ||
		    __builtin_add_overflow(*number, (uint64_t)(at[n] - '0'), number))
			return false;
	*text = kvpi_view_of(at + n, text->len - n);
	return n > 0;
}

static bool parse_time(kvpi_view text, int64_t *ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {{"us", 1000}, {"ms", KVPI_NS_PER_MS}, {"s", KVPI_NS_PER_S}};
	uint64_t number;

	if (!parse_number(&text, &number))
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (kvpi_view_equal(text, kvpi_view_text(units[i].name))) {
			*ns = (int64_t)(number * units[i].ns);
			return number <= TIME_MAX_NS / units[i].ns;
		}
	return false;
}

static kvp_status set(const kvpi_setting *row, const char *wrapper, kvpi_view value, void *out)
{
	static const char *const wanted[] = {"a number", "0 to 1000, so many times in a thousand",
	                                     "a time of at most an hour, such as 50us, 5ms or 2s"};
	kvpi_view rest = value;
	uint64_t number = 0;
	int64_t ns = 0;
	bool good;

	if (row->type == KVPI_SETTING_TIME)
		good = parse_time(value, &ns);
	else
		good = parse_number(&rest, &number) && rest.len == 0 && (row->type != KVPI_SETTING_MILLE || number <= 1000);
	if (!good)
		return kvpi_error(KVP_E_INVALID, "%s: %s is %s, not \"%.*s\"", wrapper, row->key, wanted[row->type],
		                  shown(value), (const char *)value.data);
	if (row->type == KVPI_SETTING_TIME)
		memcpy((char *)out + row->offset, &ns, sizeof(ns));
	else
		memcpy((char *)out + row->offset, &number, sizeof(number));
	return KVP_OK;
}

static kvp_status set_by_key(kvpi_view pair, const char *wrapper, const kvpi_setting *rows, size_t count, void *out)
{
	const char *from = pair.data, *end = from + pair.len, *equals = find(from, end, '=');
	kvpi_view key = trim(from, equals);
	char known[256] = "";

	if (equals == end)
		return kvpi_error(KVP_E_INVALID, "%s: \"%.*s\" is not of the form key=value", wrapper, shown(pair), from);
	for (size_t i = 0; i < count; i++)
		if (kvpi_view_equal(key, kvpi_view_text(rows[i].key)))
			return set(&rows[i], wrapper, trim(equals + 1, end), out);
	for (size_t i = 0; i < count; i++)
		snprintf(known + strlen(known), sizeof(known) - strlen(known), " %s", rows[i].key);
	return kvpi_error(KVP_E_INVALID, "%s has no setting \"%.*s\"; there are:%s", wrapper, shown(key),
	                  (const char *)key.data, count > 0 ? known : " none");
}

kvp_status kvpi_plane_settings_read(kvpi_view settings, const char *wrapper, const kvpi_setting *rows, size_t count,
                                    void *out)
{
	const char *at = settings.data, *end = at + settings.len, *semicolon;
	kvp_status status = KVP_OK;

	if (settings.len == 0)
		return KVP_OK;
	for (; status == KVP_OK && at <= end; at = semicolon + 1) {
		semicolon = find(at, end, ';');
		status = set_by_key(trim(at, semicolon), wrapper, rows, count, out);
	}
	return status;
}
