/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/spec.h"

#include "kit/kit.h"
#include "plane/wrap.h"

#include <string.h>

static kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
static size_t count;

static void parse(const char *list)
{
	KIT_OK(kvpi_plane_specs_parse(list, specs, &count));
}

START_TEST(nothing_means_every_plane_best_first)
{
	static const char *const lists[] = {NULL, "", "  "};

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		count = 0;
		parse(lists[i]);
		ck_assert_uint_ge(count, 2);
		for (size_t k = 0; k < count; k++) {
			ck_assert_ptr_eq(specs[k].base, kvpi_plane_registry()[k]);
			ck_assert_uint_eq(specs[k].wraps, 0);
		}
		ck_assert_ptr_null(kvpi_plane_registry()[count]);
	}
}
END_TEST

START_TEST(the_list_gives_the_order)
{
	parse("tcp,self");
	ck_assert_uint_eq(count, 2);
	ck_assert_str_eq(specs[0].base->name, "tcp");
	ck_assert_str_eq(specs[1].base->name, "self");
	parse(" self , tcp ");
	ck_assert_uint_eq(count, 2);
	ck_assert_str_eq(specs[0].base->name, "self");
	ck_assert_str_eq(specs[1].base->name, "tcp");
}
END_TEST

static bool is(kvpi_view text, const char *expected)
{
	return kvpi_view_equal(text, kvpi_view_text(expected));
}

START_TEST(wrappers_nest_and_have_settings)
{
	parse("trace( fault(tcp; seed=7; delay = 5ms) ), fault(self)");
	ck_assert_uint_eq(count, 2);
	ck_assert_str_eq(specs[0].base->name, "tcp");
	ck_assert_uint_eq(specs[0].wraps, 2);
	ck_assert_ptr_eq(specs[0].wrap[0].wrapper, &kvpi_plane_trace);
	ck_assert_uint_eq(specs[0].wrap[0].settings.len, 0);
	ck_assert_ptr_eq(specs[0].wrap[1].wrapper, &kvpi_plane_fault);
	ck_assert(is(specs[0].wrap[1].settings, "seed=7; delay = 5ms"));
	ck_assert_str_eq(specs[1].base->name, "self");
	ck_assert_uint_eq(specs[1].wraps, 1);
	parse("fault(fault(fault(fault(self; seed=1); seed=2); seed=3); seed=4)");
	ck_assert_uint_eq(specs[0].wraps, KVPI_PLANE_WRAPS_MAX);
	ck_assert(is(specs[0].wrap[0].settings, "seed=4"));
	ck_assert(is(specs[0].wrap[3].settings, "seed=1"));
}
END_TEST

START_TEST(nonsense_is_refused_with_a_sentence_that_helps)
{
	static const struct {
		const char *list, *says;
	} wrong[] = {
	    {"pigeon", "\"pigeon\"; there are: self"},
	    {"tcp,", "there is no data plane \"\""},
	    {",tcp", "there is no data plane \"\""},
	    {"tcp self", "\"tcp self\""},
	    {"tcp,tcp", "named twice"},
	    {"tcp,fault(tcp)", "named twice"},
	    {"fault", "needs one: fault(tcp)"},
	    {"fault()", "there is no data plane \"\""},
	    {"fault(pigeon)", "\"pigeon\""},
	    {"foil(tcp)", "\"foil\" wraps data planes; there are: fault trace"},
	    {"tcp(self)", "\"tcp\" wraps"},
	    {"(tcp)", "\"\" wraps"},
	    {"fault(tcp", "parentheses"},
	    {"fault(tcp))", "parentheses"},
	    {"fault(tcp)x", "parentheses"},
	    {"fault)tcp(", "parentheses"},
	    {"tcp)", "\"tcp)\""},
	    {"fault(fault(fault(fault(fault(tcp)))))", "more than 4 wrappers"},
	    {"fault(tcp; colour=3)", "no setting \"colour\"; there are: seed delay"},
	    {"fault(tcp; seed)", "key=value"},
	    {"fault(tcp; seed=1;)", "key=value"},
	    {"fault(tcp; seed=-1)", "a number, not \"-1\""},
	    {"fault(tcp; seed=)", "a number"},
	    {"fault(tcp; seed=18446744073709551616)", "a number"},
	    {"fault(tcp; again=1001)", "0 to 1000"},
	    {"fault(tcp; again=1 0)", "0 to 1000"},
	    {"fault(tcp; delay=5)", "50us, 5ms or 2s"},
	    {"fault(tcp; delay=ms)", "50us, 5ms or 2s"},
	    {"fault(tcp; delay=3601s)", "at most an hour"},
	    {"fault(tcp; delay=18446744073709551615s)", "at most an hour"},
	    {"fault(tcp; seed=7, delay=1ms)", "\"7, delay=1ms\""},
	    {"trace(tcp; loud=1)", "there are: none"},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		count = 77;
		KIT_STATUS(kvpi_plane_specs_parse(wrong[i].list, specs, &count), KVP_E_INVALID);
		ck_assert_msg(strstr(kvp_last_error(), wrong[i].says) != NULL, "%s: %s", wrong[i].list, kvp_last_error());
		ck_assert_uint_eq(count, 77);
	}
}
END_TEST

/* However deep, however long: bounded work, and a sentence. */
START_TEST(length_and_depth_are_bounded)
{
	static char deep[20001], twice[2 * sizeof(deep)];

	memset(deep, '(', sizeof(deep) - 1);
	KIT_STATUS(kvpi_plane_specs_parse(deep, specs, &count), KVP_E_INVALID);
	memset(deep, ')', sizeof(deep) - 1);
	KIT_STATUS(kvpi_plane_specs_parse(deep, specs, &count), KVP_E_INVALID);
	memset(deep, 'x', sizeof(deep) - 1);
	KIT_STATUS(kvpi_plane_specs_parse(deep, specs, &count), KVP_E_INVALID);
	memset(deep, ',', sizeof(deep) - 1);
	KIT_STATUS(kvpi_plane_specs_parse(deep, specs, &count), KVP_E_INVALID);
	for (size_t i = 0; i + 6 < sizeof(twice); i += 6)
		memcpy(twice + i, "fault(", 6);
	KIT_STATUS(kvpi_plane_specs_parse(twice, specs, &count), KVP_E_INVALID);
}
END_TEST

KIT_MAIN("spec", nothing_means_every_plane_best_first, the_list_gives_the_order, wrappers_nest_and_have_settings,
         nonsense_is_refused_with_a_sentence_that_helps, length_and_depth_are_bounded)
