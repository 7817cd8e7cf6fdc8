/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/options.h"
#include <limits.h>
#include <string.h>

struct sample {
	size_t size;
	int rank;
	uint64_t window_bytes;
	int eager;
	const char *name;
	void (*callback)(void *user);
	char blob[24];
	int late; /* came with a later version */
};

#define OLD_SIZE offsetof(struct sample, late)

static const kvpi_option rows[] = {
    {"rank", KVPI_OPT_INT, KVPI_OPT_FIELD(struct sample, rank), -1, 7, 3, NULL, "rank"},
    {"window_bytes", KVPI_OPT_BYTES, KVPI_OPT_FIELD(struct sample, window_bytes), 1, 1e12, 65536,
        NULL, "window, bytes"},
    {"eager", KVPI_OPT_BOOL, KVPI_OPT_FIELD(struct sample, eager), 0, 1, 1, NULL, "eager"},
    {"name", KVPI_OPT_STRING, KVPI_OPT_FIELD(struct sample, name), 0, 0, 0, "kv", "name"},
    {"callback", KVPI_OPT_OTHER, KVPI_OPT_FIELD(struct sample, callback), 0, 0, 0, NULL,
        "callback"},
    {"blob", KVPI_OPT_OTHER, KVPI_OPT_FIELD(struct sample, blob), 0, 0, 0, NULL, "blob"},
    {"late", KVPI_OPT_INT, KVPI_OPT_FIELD(struct sample, late), 0, 100, 50, NULL, "late"},
};

static const kvpi_option_table table = {
    "kvp_sample_options", sizeof(struct sample), sizeof(rows) / sizeof(rows[0]), rows};

static const kvpi_option wide_rows[] = {
    {"bytes", KVPI_OPT_BYTES, KVPI_OPT_FIELD(struct sample, window_bytes), 0,
        18446744073709551615.0, 0, NULL, "any number of bytes"},
    {"number", KVPI_OPT_INT, KVPI_OPT_FIELD(struct sample, rank), INT_MIN, INT_MAX, 0, NULL, "any"},
};

static const kvpi_option_table wide = {"kvp_wide_options", sizeof(struct sample), 2, wide_rows};

static void check_defaults(const struct sample *sample)
{
	static const char zeros[24];

	ck_assert_uint_eq(sample->size, sizeof(*sample));
	ck_assert_int_eq(sample->rank, 3);
	ck_assert_uint_eq(sample->window_bytes, 65536);
	ck_assert_int_eq(sample->eager, 1);
	ck_assert_str_eq(sample->name, "kv");
	ck_assert(sample->callback == NULL);
	ck_assert_mem_eq(sample->blob, zeros, sizeof(zeros));
	ck_assert_int_eq(sample->late, 50);
}

static void nothing(void *user)
{
	(void)user;
}

START_TEST(init_sets_the_defaults)
{
	struct sample sample;

	kit_random_fill(&sample, sizeof(sample), 1);
	kvpi_options_init(&table, &sample, table.struct_size);
	check_defaults(&sample);
}
END_TEST

/* A newer library fills an older caller's struct, whose end is nearer than its own. */
START_TEST(init_of_an_older_struct_stays_inside_it)
{
	struct sample sample;

	kit_random_fill(&sample, sizeof(sample), 1);
	sample.late = 4711;
	kvpi_options_init(&table, &sample, OLD_SIZE);
	ck_assert_uint_eq(sample.size, OLD_SIZE);
	ck_assert_int_eq(sample.rank, 3);
	ck_assert_int_eq(sample.late, 4711);
	kvpi_options_init(&table, NULL, OLD_SIZE);
}
END_TEST

START_TEST(text_sets_each_type)
{
	const char *name = "borrowed";
	struct sample sample;

	kvpi_options_init(&table, &sample, table.struct_size);
	KIT_OK(kvpi_options_set(&table, &sample, "rank", "-1"));
	ck_assert_int_eq(sample.rank, -1);
	KIT_OK(kvpi_options_set(&table, &sample, "window_bytes", "2MiB"));
	ck_assert_uint_eq(sample.window_bytes, 2097152);
	KIT_OK(kvpi_options_set(&table, &sample, "eager", "no"));
	ck_assert_int_eq(sample.eager, 0);
	KIT_OK(kvpi_options_set(&table, &sample, "name", name));
	ck_assert_ptr_eq(sample.name, name);
	ck_assert_int_eq(sample.late, 50);
}
END_TEST

START_TEST(bytes_have_many_forms)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"123", 123}, {"1e9", 1000000000}, {"25E3", 25000}, {"7e0", 7},
	    {"64KiB", 65536}, {"2MiB", 2097152}, {"1GiB", 1073741824}, {"3TiB", 3298534883328},
	    {"18446744073709551615", UINT64_MAX}, {"1e19", UINT64_C(10000000000000000000)},
	    {"0e999999999", 0}, {"16777215TiB", UINT64_C(16777215) << 40},
	    {"9007199254740993", UINT64_C(9007199254740993)}};
	static const char *const bad[] = {"", " 1", "1 ", "-1", "+1", "1.5", "1.5GiB", "0x10",
	    "KiB", "1kib", "1KB", "1K", "1e", "1e-3", "1e+3", "1e 3", "1e20", "2e19",
	    "1e2147483648", "1e9KiB", "18446744073709551616", "99999999999999999999999",
	    "16777216TiB", "nan", "inf", "1GiBx"};
	struct sample sample;

	kvpi_options_init(&wide, &sample, wide.struct_size);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		KIT_OK(kvpi_options_set(&wide, &sample, "bytes", good[i].text));
		ck_assert_uint_eq(sample.window_bytes, good[i].bytes);
	}
	sample.window_bytes = 77;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		KIT_STATUS(kvpi_options_set(&wide, &sample, "bytes", bad[i]), KVP_E_INVALID);
		ck_assert_uint_eq(sample.window_bytes, 77);
	}
}
END_TEST

START_TEST(integers_and_booleans_are_strict)
{
	static const char *const bad_numbers[] = {"", " 1", "1 ", "1x", "0x1", "1.0", "1e1", "+1",
	    "-", "--1", "2147483648", "-2147483649", "99999999999999999999"};
	static const char *const truths[] = {"1", "true", "yes", "on"};
	static const char *const lies[] = {"0", "false", "no", "off"};
	static const char *const neither[] = {"", "2", "-1", "True", "y", "on ", "00"};
	struct sample sample;

	kvpi_options_init(&wide, &sample, wide.struct_size);
	KIT_OK(kvpi_options_set(&wide, &sample, "number", "2147483647"));
	ck_assert_int_eq(sample.rank, INT_MAX);
	KIT_OK(kvpi_options_set(&wide, &sample, "number", "-2147483648"));
	ck_assert_int_eq(sample.rank, INT_MIN);
	for (size_t i = 0; i < sizeof(bad_numbers) / sizeof(bad_numbers[0]); i++)
		KIT_STATUS(
		    kvpi_options_set(&wide, &sample, "number", bad_numbers[i]), KVP_E_INVALID);

	kvpi_options_init(&table, &sample, table.struct_size);
	for (size_t i = 0; i < 4; i++) {
		KIT_OK(kvpi_options_set(&table, &sample, "eager", lies[i]));
		ck_assert_int_eq(sample.eager, 0);
		KIT_OK(kvpi_options_set(&table, &sample, "eager", truths[i]));
		ck_assert_int_eq(sample.eager, 1);
	}
	for (size_t i = 0; i < sizeof(neither) / sizeof(neither[0]); i++)
		KIT_STATUS(kvpi_options_set(&table, &sample, "eager", neither[i]), KVP_E_INVALID);
	ck_assert_int_eq(sample.eager, 1);
}
END_TEST

START_TEST(ranges_hold_and_are_told)
{
	struct sample sample;

	kvpi_options_init(&table, &sample, table.struct_size);
	KIT_OK(kvpi_options_set(&table, &sample, "rank", "7"));
	KIT_STATUS(kvpi_options_set(&table, &sample, "rank", "8"), KVP_E_INVALID);
	ck_assert_str_eq(kvp_last_error(), "kvp_sample_options: rank \"8\" is not within -1 .. 7");
	KIT_STATUS(kvpi_options_set(&table, &sample, "rank", "-2"), KVP_E_INVALID);
	KIT_STATUS(kvpi_options_set(&table, &sample, "window_bytes", "0"), KVP_E_INVALID);
	KIT_OK(kvpi_options_set(&table, &sample, "window_bytes", "1e12"));
	KIT_STATUS(kvpi_options_set(&table, &sample, "window_bytes", "1TiB"), KVP_E_INVALID);
	ck_assert_int_eq(sample.rank, 7);
	ck_assert_uint_eq(sample.window_bytes, 1000000000000);
}
END_TEST

START_TEST(unknown_names_get_the_list)
{
	struct sample sample;

	kvpi_options_init(&table, &sample, table.struct_size);
	KIT_STATUS(kvpi_options_set(&table, &sample, "colour", "red"), KVP_E_NOT_FOUND);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "colour"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), " rank window_bytes eager name late"));
	ck_assert_ptr_null(strstr(kvp_last_error(), "callback"));
	KIT_STATUS(kvpi_options_set(&table, &sample, "callback", "0"), KVP_E_NOT_FOUND);
	KIT_STATUS(kvpi_options_set(&table, NULL, "rank", "0"), KVP_E_INVALID);
	KIT_STATUS(kvpi_options_set(&table, &sample, NULL, "0"), KVP_E_INVALID);
	KIT_STATUS(kvpi_options_set(&table, &sample, "rank", NULL), KVP_E_INVALID);
	check_defaults(&sample);
}
END_TEST

START_TEST(an_older_struct_is_not_written_past_its_end)
{
	struct sample sample;

	kvpi_options_init(&table, &sample, table.struct_size);
	sample.size = OLD_SIZE;
	KIT_STATUS(kvpi_options_set(&table, &sample, "late", "1"), KVP_E_INVALID);
	ck_assert_int_eq(sample.late, 50);
	KIT_OK(kvpi_options_set(&table, &sample, "rank", "1"));
}
END_TEST

START_TEST(read_copies_what_the_caller_has)
{
	struct sample mine, out;

	kit_random_fill(&out, sizeof(out), 1);
	KIT_OK(kvpi_options_read(&table, NULL, &out, "kvp_sample_open"));
	check_defaults(&out);

	kvpi_options_init(&table, &mine, table.struct_size);
	mine.rank = 5;
	mine.callback = nothing;
	memcpy(mine.blob, "blob", 5);
	mine.late = 1;
	kit_random_fill(&out, sizeof(out), 1);
	KIT_OK(kvpi_options_read(&table, &mine, &out, "kvp_sample_open"));
	ck_assert_mem_eq(&out, &mine, sizeof(out));
}
END_TEST

START_TEST(read_fills_what_an_older_caller_does_not_know)
{
	struct sample mine, out;

	/* Every size at which a caller's header may have ended, also within a field. */
	for (size_t size = sizeof(size_t); size < sizeof(mine); size++) {
		kvpi_options_init(&table, &mine, table.struct_size);
		mine.rank = 5;
		mine.window_bytes = 6;
		mine.eager = 0;
		mine.name = "n";
		mine.callback = nothing;
		memset((char *)&mine + size, 0xee, sizeof(mine) - size);
		mine.size = size;
		kit_random_fill(&out, sizeof(out), 1);
		KIT_OK(kvpi_options_read(&table, &mine, &out, "kvp_sample_open"));
#define HAS(field) (size >= offsetof(struct sample, field) + sizeof(mine.field))
		ck_assert_uint_eq(out.size, sizeof(out));
		ck_assert_int_eq(out.rank, HAS(rank) ? 5 : 3);
		ck_assert_uint_eq(out.window_bytes, HAS(window_bytes) ? 6 : 65536);
		ck_assert_int_eq(out.eager, HAS(eager) ? 0 : 1);
		ck_assert_str_eq(out.name, HAS(name) ? "n" : "kv");
		ck_assert(out.callback == (HAS(callback) ? nothing : NULL));
		ck_assert_int_eq(out.late, 50);
	}
}
END_TEST

/* Refused, with `word` in the sentence, and out is as it was. */
static void check_refused(const struct sample *mine, const char *word)
{
	struct sample out;

	kit_random_fill(&out, sizeof(out), 9);
	KIT_STATUS(kvpi_options_read(&table, mine, &out, "kvp_sample_open"), KVP_E_INVALID);
	kit_check_fill(&out, sizeof(out), 9);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), word));
	ck_assert_int_eq(strncmp(kvp_last_error(), "kvp_sample_open: ", 17), 0);
}

START_TEST(read_checks_before_it_writes)
{
	struct sample mine;

	kvpi_options_init(&table, &mine, table.struct_size);
	mine.size = 0;
	check_refused(&mine, "_init");
	mine.size = sizeof(size_t) - 1;
	check_refused(&mine, "_init");
	mine.size = sizeof(mine) + 1;
	check_refused(&mine, "older");
	mine.size = SIZE_MAX;
	check_refused(&mine, "older");

	kvpi_options_init(&table, &mine, table.struct_size);
	mine.rank = 8;
	check_refused(&mine, "rank 8 is not within -1 .. 7");
	kvpi_options_init(&table, &mine, table.struct_size);
	mine.window_bytes = 0;
	check_refused(&mine, "window_bytes 0");
	kvpi_options_init(&table, &mine, table.struct_size);
	mine.window_bytes = UINT64_MAX;
	check_refused(&mine, "window_bytes 18446744073709551615");
	kvpi_options_init(&table, &mine, table.struct_size);
	mine.eager = 2;
	check_refused(&mine, "eager");
	kvpi_options_init(&table, &mine, table.struct_size);
	mine.late = -1;
	check_refused(&mine, "late");
}
END_TEST

KIT_MAIN("options", init_sets_the_defaults, init_of_an_older_struct_stays_inside_it,
    text_sets_each_type, bytes_have_many_forms,
    integers_and_booleans_are_strict, ranges_hold_and_are_told, unknown_names_get_the_list,
    an_older_struct_is_not_written_past_its_end, read_copies_what_the_caller_has,
    read_fills_what_an_older_caller_does_not_know, read_checks_before_it_writes)
