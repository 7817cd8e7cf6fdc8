/* SPDX-License-Identifier: Apache-2.0
 *
 * Most of this goes over the whole table: for every field of every message, frames are packed here,
 * by msgpack-c and from the table alone, good ones and each kind of bad one.
 */
#include "kit/kit.h"

#include "base/fault.h"
#include "wire/msg.h"
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NO_LIMIT (16u * 1024 * 1024)

typedef enum type { UINT, INT, STR, BIN, UINTS, INTS, BINS } type;
enum { OPTIONAL, REQUIRED };

typedef struct row {
	const char *msg, *name;
	int id, key;
	type type;
	bool required;
	size_t offset, present;
	uint64_t umin, umax;
	int64_t imin, imax;
	size_t max_len, max_count;
} row;

#define ROW(m, k, n, t, need)                                                                      \
	.msg = #m, .name = #n, .id = KVPI_MSG_##m, .key = k, .type = t, .required = (need),        \
	.offset = offsetof(kvpi_msg_##m, n), .present = offsetof(kvpi_msg_##m, present)

static const row rows[] = {
#define KVPI_MESSAGE(name, id)
#define KVPI_UINT(msg, key, name, min, max, need)                                                  \
	{ROW(msg, key, name, UINT, need), .umin = (min), .umax = (max)},
#define KVPI_INT(msg, key, name, min, max, need)                                                   \
	{ROW(msg, key, name, INT, need), .imin = (min), .imax = (max)},
#define KVPI_STR(msg, key, name, len, need) {ROW(msg, key, name, STR, need), .max_len = (len)},
#define KVPI_BIN(msg, key, name, len, need) {ROW(msg, key, name, BIN, need), .max_len = (len)},
#define KVPI_UINTS(msg, key, name, n, need) {ROW(msg, key, name, UINTS, need), .max_count = (n)},
#define KVPI_INTS(msg, key, name, n, need) {ROW(msg, key, name, INTS, need), .max_count = (n)},
#define KVPI_BINS(msg, key, name, n, len, need)                                                    \
	{ROW(msg, key, name, BINS, need), .max_count = (n), .max_len = (len)},
#define KVPI_END(name)
#include "wire/messages.def"
#undef KVPI_MESSAGE
#undef KVPI_UINT
#undef KVPI_INT
#undef KVPI_STR
#undef KVPI_BIN
#undef KVPI_UINTS
#undef KVPI_INTS
#undef KVPI_BINS
#undef KVPI_END
};

static const struct {
	const char *name;
	int id;
} messages[] = {
#define KVPI_MESSAGE(name, id) {#name, id},
#define KVPI_UINT(msg, key, name, min, max, need)
#define KVPI_INT(msg, key, name, min, max, need)
#define KVPI_STR(msg, key, name, max_len, need)
#define KVPI_BIN(msg, key, name, max_len, need)
#define KVPI_UINTS(msg, key, name, max_count, need)
#define KVPI_INTS(msg, key, name, max_count, need)
#define KVPI_BINS(msg, key, name, max_count, max_len, need)
#define KVPI_END(name)
#include "wire/messages.def"
#undef KVPI_MESSAGE
#undef KVPI_UINT
#undef KVPI_INT
#undef KVPI_STR
#undef KVPI_BIN
#undef KVPI_UINTS
#undef KVPI_INTS
#undef KVPI_BINS
#undef KVPI_END
};

/* How the frame treats the one field under test; all others are GOOD. */
typedef enum how {
	GOOD,
	MISSING,
	TWICE,
	/* of a wrong type; each is right for some type */
	AS_NIL,
	AS_BOOL,
	AS_FLOAT,
	AS_NEGATIVE,
	AS_HUGE, /* above INT64_MAX */
	AS_STR,
	AS_BIN,
	AS_MAP,
	AS_LIST_OF_NIL,
	/* of the right type, at and beyond its bounds */
	AT_MIN,
	AT_MAX,
	BELOW_MIN,
	ABOVE_MAX,
	LONGEST,
	TOO_LONG,
	MOST,
	TOO_MANY,
	LONGEST_ELEMENT,
	TOO_LONG_ELEMENT,
	NOT_UTF8,
	ZERO_BYTE,
	HOW_COUNT
} how;

enum { NOT_POSSIBLE, TAKEN, REFUSED };

static bool is_list(type t)
{
	return t == UINTS || t == INTS || t == BINS;
}

/* What the decoder must make of it. */
static int expected(const row *r, how h)
{
	switch (h) {
	case GOOD:
		return TAKEN;
	case MISSING:
		return r->required ? REFUSED : TAKEN;
	case TWICE:
	case AS_NIL:
	case AS_BOOL:
	case AS_FLOAT:
	case AS_MAP:
	case AS_LIST_OF_NIL:
		return REFUSED;
	case AS_NEGATIVE:
		return r->type == INT ? NOT_POSSIBLE : REFUSED; /* BELOW_MIN */
	case AS_HUGE:
		return r->type == UINT ? NOT_POSSIBLE : REFUSED; /* ABOVE_MAX */
	case AS_STR:
		return r->type == STR ? NOT_POSSIBLE : REFUSED;
	case AS_BIN:
		return r->type == BIN ? NOT_POSSIBLE : REFUSED;
	case AT_MIN:
	case AT_MAX:
		return r->type == UINT || r->type == INT ? TAKEN : NOT_POSSIBLE;
	case BELOW_MIN:
		return (r->type == UINT && r->umin > 0) || (r->type == INT && r->imin > INT64_MIN)
		           ? REFUSED
		           : NOT_POSSIBLE;
	case ABOVE_MAX:
		return (r->type == UINT && r->umax < UINT64_MAX) ||
		               (r->type == INT && r->imax < INT64_MAX)
		           ? REFUSED
		           : NOT_POSSIBLE;
	case LONGEST:
		return r->type == STR || r->type == BIN ? TAKEN : NOT_POSSIBLE;
	case TOO_LONG:
		return r->type == STR || r->type == BIN ? REFUSED : NOT_POSSIBLE;
	case MOST:
		return is_list(r->type) ? TAKEN : NOT_POSSIBLE;
	case TOO_MANY:
		return is_list(r->type) ? REFUSED : NOT_POSSIBLE;
	case LONGEST_ELEMENT:
		return r->type == BINS ? TAKEN : NOT_POSSIBLE;
	case TOO_LONG_ELEMENT:
		return r->type == BINS ? REFUSED : NOT_POSSIBLE;
	case NOT_UTF8:
	case ZERO_BYTE:
		return r->type == STR ? REFUSED : NOT_POSSIBLE;
	case HOW_COUNT:
		break;
	}
	return NOT_POSSIBLE;
}

/* ---- packing ---- */

static unsigned char zeros[1024 * 1024]; /* contents of byte runs */
static char text_a[1024 * 1024];         /* and of text */

static void pack_int_by(msgpack_packer *p, const row *r, how h)
{
	if (r->type == UINT)
		msgpack_pack_uint64(p, h == AT_MAX      ? r->umax
		                       : h == BELOW_MIN ? r->umin - 1
		                       : h == ABOVE_MAX ? r->umax + 1
		                                        : r->umin);
	else
		msgpack_pack_int64(p, h == AT_MAX      ? r->imax
		                      : h == BELOW_MIN ? r->imin - 1
		                      : h == ABOVE_MAX ? r->imax + 1
		                                       : r->imin);
}

static void pack_list_by(msgpack_packer *p, const row *r, how h)
{
	const bool one = h == LONGEST_ELEMENT || h == TOO_LONG_ELEMENT;
	const size_t count = h == MOST       ? r->max_count
	                     : h == TOO_MANY ? r->max_count + 1
	                     : one           ? 1
	                                     : 2;
	const size_t len = one ? r->max_len + (h == TOO_LONG_ELEMENT) : 1;

	msgpack_pack_array(p, count);
	for (size_t i = 0; i < count; i++) {
		if (r->type == UINTS)
			msgpack_pack_uint64(p, i % 2 ? UINT64_MAX : i);
		else if (r->type == INTS)
			msgpack_pack_int64(p, i % 2 ? INT64_MIN : INT64_MAX);
		else
			msgpack_pack_bin_with_body(p, zeros, len);
	}
}

static void pack_value(msgpack_packer *p, const row *r, how h)
{
	const size_t len = h == LONGEST ? r->max_len : h == TOO_LONG ? r->max_len + 1 : 2;

	switch (h) {
	case AS_NIL:
		msgpack_pack_nil(p);
		return;
	case AS_BOOL:
		msgpack_pack_true(p);
		return;
	case AS_FLOAT:
		msgpack_pack_double(p, 1.0);
		return;
	case AS_NEGATIVE:
		msgpack_pack_int64(p, -1);
		return;
	case AS_HUGE:
		msgpack_pack_uint64(p, (uint64_t)INT64_MAX + 1);
		return;
	case AS_STR:
		msgpack_pack_str_with_body(p, "t", 1);
		return;
	case AS_BIN:
		msgpack_pack_bin_with_body(p, "b", 1);
		return;
	case AS_MAP:
		msgpack_pack_map(p, 0);
		return;
	case AS_LIST_OF_NIL:
		msgpack_pack_array(p, 1);
		msgpack_pack_nil(p);
		return;
	case NOT_UTF8:
		msgpack_pack_str_with_body(p, "\xff", 1);
		return;
	case ZERO_BYTE:
		msgpack_pack_str_with_body(p, "a\0b", 3);
		return;
	default:
		break;
	}
	if (r->type == UINT || r->type == INT)
		pack_int_by(p, r, h);
	else if (is_list(r->type))
		pack_list_by(p, r, h);
	else if (r->type == STR)
		msgpack_pack_str_with_body(p, text_a, len);
	else
		msgpack_pack_bin_with_body(p, zeros, len);
}

/* The frame of message `id`, all fields GOOD but `tested` (may be NULL). */
static void pack_frame(msgpack_sbuffer *buf, int id, const row *tested, how h)
{
	msgpack_packer p;
	size_t count = 0;

	if (text_a[0] == 0)
		memset(text_a, 'a', sizeof(text_a));
	msgpack_sbuffer_init(buf);
	msgpack_packer_init(&p, buf, msgpack_sbuffer_write);
	for (size_t i = 0; i < COUNT(rows); i++)
		count += rows[i].id == id;
	if (h == MISSING)
		count--;
	if (h == TWICE)
		count++;
	msgpack_pack_array(&p, 2);
	msgpack_pack_int(&p, id);
	msgpack_pack_map(&p, count);
	for (size_t i = 0; i < COUNT(rows); i++) {
		if (rows[i].id != id || (&rows[i] == tested && h == MISSING))
			continue;
		for (int n = &rows[i] == tested && h == TWICE ? 2 : 1; n > 0; n--) {
			msgpack_pack_int(&p, rows[i].key);
			pack_value(&p, &rows[i], &rows[i] == tested ? h : GOOD);
		}
	}
}

/* ---- looking ---- */

static void check_value(const row *r, how h, const kvpi_msg *msg)
{
	const char *at = (const char *)&msg->u + r->offset;
	kvpi_view view;
	kvpi_views views;

	if (r->type == UINT) {
		uint64_t value;

		memcpy(&value, at, sizeof(value));
		ck_assert_uint_eq(value, h == AT_MAX ? r->umax : r->umin);
	} else if (r->type == INT) {
		int64_t value;

		memcpy(&value, at, sizeof(value));
		ck_assert_int_eq(value, h == AT_MAX ? r->imax : r->imin);
	} else if (r->type == STR || r->type == BIN) {
		memcpy(&view, at, sizeof(view));
		ck_assert_uint_eq(view.len, h == LONGEST ? r->max_len : 2);
		ck_assert_mem_eq(view.data, r->type == STR ? (void *)text_a : zeros, view.len);
	} else {
		memcpy(&views, at, sizeof(views)); /* all lists begin with a pointer and a count */
		ck_assert_uint_eq(views.count, h == MOST              ? r->max_count
		                               : h == LONGEST_ELEMENT ? 1
		                                                      : 2);
		if (r->type == BINS) {
			ck_assert_uint_eq(
			    views.items[0].len, h == LONGEST_ELEMENT ? r->max_len : 1);
			ck_assert_mem_eq(views.items[0].data, zeros, views.items[0].len);
		} else if (views.count > 1) {
			const uint64_t *items = (const void *)views.items;

			ck_assert_uint_eq(items[0], r->type == UINTS ? 0 : (uint64_t)INT64_MAX);
			ck_assert_uint_eq(
			    items[1], r->type == UINTS ? UINT64_MAX : (uint64_t)INT64_MIN);
		}
	}
}

static uint64_t present_of(const row *r, const kvpi_msg *msg)
{
	uint64_t present;

	memcpy(&present, (const char *)&msg->u + r->present, sizeof(present));
	return present;
}

/* All fields are as packed, and `present` tells of the optional ones. */
static void check_decoded(const row *tested, how h, const kvpi_msg *msg)
{
	uint64_t present = 0;

	ck_assert_int_eq(msg->id, tested->id);
	for (size_t i = 0; i < COUNT(rows); i++) {
		const row *r = &rows[i];

		if (r->id != tested->id || (r == tested && h == MISSING))
			continue;
		check_value(r, r == tested ? h : GOOD, msg);
		if (!r->required)
			present |= UINT64_C(1) << r->key;
	}
	ck_assert_uint_eq(present_of(tested, msg), present);
}

/* The sentence names message and field. */
static void check_sentence(const row *r, how h)
{
	char names[128];

	if (h == MISSING)
		snprintf(names, sizeof(names), "%s lacks %s", r->msg, r->name);
	else if (h == TWICE)
		snprintf(
		    names, sizeof(names), "%s has the key %d (%s) twice", r->msg, r->key, r->name);
	else
		snprintf(names, sizeof(names), "%s.%s ", r->msg, r->name);
	ck_assert_msg(strstr(kvp_last_error(), names) != NULL, "\"%s\" does not say \"%s\"",
	    kvp_last_error(), names);
}

/* ---- tests over the whole table ---- */

START_TEST(the_table_is_sane)
{
	for (size_t i = 0; i < COUNT(messages); i++) {
		ck_assert_int_ge(messages[i].id, 1);
		ck_assert_int_le(messages[i].id, 127);
		ck_assert_str_eq(kvpi_msg_name(messages[i].id), messages[i].name);
		for (size_t k = i + 1; k < COUNT(messages); k++)
			ck_assert_int_ne(messages[i].id, messages[k].id);
	}
	for (size_t i = 0; i < COUNT(rows); i++) {
		ck_assert_int_ge(rows[i].key, 0);
		ck_assert_int_le(rows[i].key, 63);
		ck_assert(rows[i].umin <= rows[i].umax && rows[i].imin <= rows[i].imax);
		for (size_t k = i + 1; k < COUNT(rows); k++)
			ck_assert(rows[i].id != rows[k].id || rows[i].key != rows[k].key);
	}
	ck_assert_str_eq(kvpi_msg_name(0), "?");
	ck_assert_str_eq(kvpi_msg_name(-1), "?");
	ck_assert_str_eq(kvpi_msg_name(127), "?");
}
END_TEST

START_TEST(every_field_is_checked_when_it_comes_in)
{
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_msg msg;

	for (size_t i = 0; i < COUNT(rows); i++) {
		for (how h = GOOD; h < HOW_COUNT; h++) {
			const int expect = expected(&rows[i], h);
			msgpack_sbuffer frame;

			if (expect == NOT_POSSIBLE)
				continue;
			pack_frame(&frame, rows[i].id, &rows[i], h);
			if (expect == TAKEN) {
				KIT_OK(kvpi_msg_decode(
				    reader, frame.data, frame.size, NO_LIMIT, &msg));
				check_decoded(&rows[i], h, &msg);
			} else {
				KIT_STATUS(
				    kvpi_msg_decode(reader, frame.data, frame.size, NO_LIMIT, &msg),
				    KVP_E_PROTOCOL);
				check_sentence(&rows[i], h);
			}
			msgpack_sbuffer_destroy(&frame);
		}
	}
	kvpi_msg_reader_free(reader);
}
END_TEST

START_TEST(what_is_encoded_is_what_was_decoded)
{
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_buf out;
	kvpi_msg msg;

	kvpi_buf_init(&out);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (how h = GOOD; h < HOW_COUNT; h++) {
			msgpack_sbuffer frame;

			if (expected(&rows[i], h) != TAKEN)
				continue;
			pack_frame(&frame, rows[i].id, &rows[i], h);
			KIT_OK(kvpi_msg_decode(reader, frame.data, frame.size, NO_LIMIT, &msg));
			kvpi_buf_clear(&out);
			kvpi_buf_add(&out, "before", 6); /* a frame is appended */
			KIT_OK(kvpi_msg_encode(&msg, &out));
			ck_assert_uint_eq(out.len, 6 + frame.size);
			ck_assert_mem_eq(out.data, "before", 6);
			ck_assert_mem_eq(out.data + 6, frame.data, frame.size);
			msgpack_sbuffer_destroy(&frame);
		}
	}
	kvpi_buf_fini(&out);
	kvpi_msg_reader_free(reader);
}
END_TEST

/* Puts the value that `h` says into the struct; false if the struct cannot hold it. */
static bool spoil(const row *r, how h, kvpi_msg *msg)
{
	char *at = (char *)&msg->u + r->offset;
	static uint64_t numbers[20000];
	static kvpi_view bins[20000];
	kvpi_view view;
	kvpi_views list;

	switch (h) {
	case BELOW_MIN:
	case ABOVE_MAX: {
		/* In two's complement the same step for both types. */
		uint64_t value = h == BELOW_MIN ? r->umin - 1 : r->umax + 1;

		if (r->type == INT)
			value = h == BELOW_MIN ? (uint64_t)r->imin - 1 : (uint64_t)r->imax + 1;
		memcpy(at, &value, sizeof(value));
		return true;
	}
	case TOO_LONG:
		view = kvpi_view_of(r->type == STR ? (void *)text_a : zeros, r->max_len + 1);
		break;
	case NOT_UTF8:
		view = kvpi_view_of("\xc3", 1);
		break;
	case ZERO_BYTE:
		view = kvpi_view_of("\0", 1);
		break;
	case TOO_MANY:
		ck_assert_uint_lt(r->max_count, COUNT(bins));
		list.items = r->type == BINS ? bins : (const void *)numbers;
		list.count = r->max_count + 1;
		memcpy(at, &list, sizeof(list));
		return true;
	case TOO_LONG_ELEMENT:
		bins[0] = kvpi_view_of(zeros, r->max_len + 1);
		list = (kvpi_views){bins, 1};
		memcpy(at, &list, sizeof(list));
		return true;
	default:
		return false;
	}
	memcpy(at, &view, sizeof(view));
	return true;
}

START_TEST(every_field_is_checked_when_it_goes_out)
{
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_buf out;
	kvpi_msg msg;
	int spoiled = 0;

	kvpi_buf_init(&out);
	kvpi_buf_add(&out, "before", 6);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (how h = GOOD; h < HOW_COUNT; h++) {
			msgpack_sbuffer frame;

			if (expected(&rows[i], h) != REFUSED)
				continue;
			pack_frame(&frame, rows[i].id, &rows[i], GOOD);
			KIT_OK(kvpi_msg_decode(reader, frame.data, frame.size, NO_LIMIT, &msg));
			if (spoil(&rows[i], h, &msg)) {
				KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
				check_sentence(&rows[i], h);
				ck_assert_uint_eq(out.len, 6);
				ck_assert_str_eq(out.data, "before");
				spoiled++;
			}
			msgpack_sbuffer_destroy(&frame);
		}
	}
	ck_assert_int_gt(spoiled, 50);
	kvpi_buf_fini(&out);
	kvpi_msg_reader_free(reader);
}
END_TEST

/* ---- single points ---- */

static kvpi_msg_reader *reader;
static kvpi_msg decoded;

#define DECODE(text) kvpi_msg_decode(reader, text, sizeof(text) - 1, 1024, &decoded)
#define DECODE_REFUSED(text, sentence)                                                             \
	do {                                                                                       \
		KIT_STATUS(DECODE(text), KVP_E_PROTOCOL);                                          \
		ck_assert_msg(strstr(kvp_last_error(), sentence) != NULL, "%s", kvp_last_error()); \
	} while (0)

/* The bytes on the wire are a promise to other versions. */
START_TEST(frames_have_these_bytes)
{
	kvpi_msg msg = {.id = KVPI_MSG_beat};
	kvpi_buf out;

	kvpi_buf_init(&out);
	msg.u.beat.session = 0x1234;
	KIT_OK(kvpi_msg_encode(&msg, &out));
	ck_assert_uint_eq(out.len, 7);
	ck_assert_mem_eq(out.data, "\x92\x04\x81\x01\xcd\x12\x34", 7);

	const int64_t shape[] = {2, -1};
	msg = (kvpi_msg){.id = KVPI_MSG_announce};
	msg.u.announce.session = UINT64_MAX;
	msg.u.announce.seq = 1;
	msg.u.announce.shape = (kvpi_ints){shape, 2};
	msg.u.announce.withdrawn = -22;
	msg.u.announce.present = KVPI_HAS(announce, withdrawn);
	kvpi_buf_clear(&out);
	KIT_OK(kvpi_msg_encode(&msg, &out));
	ck_assert_uint_eq(out.len, 23);
	ck_assert_mem_eq(out.data,
	    "\x92\x10\x85\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x02\x01\x03\x00\x04\x92\x02\xff"
	    "\x05\xea",
	    23);
	kvpi_buf_fini(&out);
}
END_TEST

START_TEST(unknown_keys_are_skipped)
{
	reader = kvpi_msg_reader_new();
	KIT_OK(DECODE("\x92\x04\x82\x3f\x91\x82\x01\xc0\xa1x\xcb\1\2\3\4\5\6\7\x08\x01\x05"));
	ck_assert_int_eq(decoded.id, KVPI_MSG_beat);
	ck_assert_uint_eq(decoded.u.beat.session, 5);
	ck_assert_uint_eq(decoded.u.beat.present, 0);
	DECODE_REFUSED(
	    "\x92\x04\x83\x3f\xc0\x3f\xc0\x01\x05", "beat has the key 63 (unknown) twice");
	DECODE_REFUSED("\x92\x04\x82\x40\xc0\x01\x05", "key that is not 0 to 63");
	DECODE_REFUSED("\x92\x04\x82\xff\xc0\x01\x05", "key that is not 0 to 63");
	DECODE_REFUSED("\x92\x04\x82\xa1k\xc0\x01\x05", "key that is not 0 to 63");
	DECODE_REFUSED("\x92\x04\x82\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x01\x05",
	    "key that is not 0 to 63");
	kvpi_msg_reader_free(reader);
}
END_TEST

START_TEST(long_forms_of_numbers_are_the_numbers)
{
	reader = kvpi_msg_reader_new();
	KIT_OK(DECODE("\xdd\0\0\0\2\xd3\0\0\0\0\0\0\0\4\xdf\0\0\0\1\xcd\0\1\xd2\0\0\0\5"));
	ck_assert_int_eq(decoded.id, KVPI_MSG_beat);
	ck_assert_uint_eq(decoded.u.beat.session, 5);
	kvpi_msg_reader_free(reader);
}
END_TEST

START_TEST(a_frame_is_an_id_and_a_map)
{
	reader = kvpi_msg_reader_new();
	DECODE_REFUSED("\x90", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x91\x04", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x93\x04\x81\x01\x05\xc0", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x92\x04\x05", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x92\xff\x80", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x92\xa1x\x80", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x92\x80\x04", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x05", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x81\x01\x05", "the frame is not [id, {key: value}]");
	DECODE_REFUSED("\x92\x00\x80", "no message with id 0");
	DECODE_REFUSED("\x92\x7f\x80", "no message with id 127");
	DECODE_REFUSED("\x92\xcf\1\0\0\0\0\0\0\4\x81\1\5", "no message with id 72057594037927940");
	DECODE_REFUSED("\x92\x04\x80", "beat lacks session");
	DECODE_REFUSED("\x92\x04\x81\x01\x05\x00", "1 bytes follow");
	DECODE_REFUSED("", "ends at byte 0");
	DECODE_REFUSED("\xdd\xff\xff\xff\xff", "claims 4294967295 values");
	kvpi_msg_reader_free(reader);
}
END_TEST

START_TEST(text_is_utf8)
{
	static const char *const good[] = {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
	    "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
	    "\n\t", "x\xe2\x82\xac"};
	static const char *const bad[] = {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2x",
	    "\xc2\xc0", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xe2\x82", "\xe2\x82x", "\xed\xa0\x80",
	    "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80",
	    "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", "\xfe", "\xff", "a\xe2\x28\xa1"};
	kvpi_msg msg = {.id = KVPI_MSG_bye};
	kvpi_buf out;

	kvpi_buf_init(&out);
	msg.u.bye.session = 1;
	for (size_t i = 0; i < COUNT(good); i++) {
		msg.u.bye.text = kvpi_view_text(good[i]);
		KIT_OK(kvpi_msg_encode(&msg, &out));
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		msg.u.bye.text = kvpi_view_text(bad[i]);
		KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
	}
	kvpi_buf_fini(&out);
}
END_TEST

START_TEST(null_with_a_length_is_refused)
{
	kvpi_msg msg = {.id = KVPI_MSG_bye};
	kvpi_buf out;

	kvpi_buf_init(&out);
	msg.u.bye.session = 1;
	KIT_OK(kvpi_msg_encode(&msg, &out)); /* NULL without one is an empty text */
	msg.u.bye.text.len = 1;
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
	msg = (kvpi_msg){.id = KVPI_MSG_state};
	msg.u.state.session = 1;
	KIT_OK(kvpi_msg_encode(&msg, &out));
	msg.u.state.grants.count = 1;
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
	msg = (kvpi_msg){.id = 99};
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
	msg.id = -1;
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_INVALID);
	kvpi_buf_fini(&out);
}
END_TEST

START_TEST(a_frame_above_the_limit_is_neither_taken_nor_made)
{
	static kvpi_view bins[1024];
	kvpi_msg msg = {.id = KVPI_MSG_store_compare_set};
	kvpi_buf out;

	reader = kvpi_msg_reader_new();
	kvpi_buf_init(&out);
	kvpi_buf_add(&out, "before", 6);
	msg.u.store_compare_set.id = 1;
	msg.u.store_compare_set.desired = kvpi_view_of(zeros, 983040);
	KIT_OK(kvpi_msg_encode(&msg, &out));
	const size_t len = out.len - 6;
	KIT_OK(kvpi_msg_decode(reader, out.data + 6, len, len, &decoded));
	KIT_STATUS(kvpi_msg_decode(reader, out.data + 6, len, len - 1, &decoded), KVP_E_PROTOCOL);

	out.len = 6;
	msg.u.store_compare_set.expected = kvpi_view_of(zeros, 983040);
	msg.u.store_compare_set.present = KVPI_HAS(store_compare_set, expected);
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_TOO_LARGE);
	ck_assert_uint_eq(out.len, 6);
	ck_assert_str_eq(out.data, "before");

	/* A gigabyte is refused without having been there. */
	for (size_t i = 0; i < COUNT(bins); i++)
		bins[i] = kvpi_view_of(zeros, 983040);
	msg = (kvpi_msg){.id = KVPI_MSG_store_reply};
	msg.u.store_reply.id = msg.u.store_reply.incarnation = 1;
	msg.u.store_reply.values = (kvpi_views){bins, COUNT(bins)};
	msg.u.store_reply.present = KVPI_HAS(store_reply, values);
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_TOO_LARGE);
	ck_assert_uint_eq(out.len, 6);
	ck_assert_uint_le(out.capacity, 2 * KVPI_STORE_FRAME_MAX);
	kvpi_buf_fini(&out);
	kvpi_msg_reader_free(reader);
}
END_TEST

/* The largest message of each kind, all fields at their limits, stays below the kind's frame limit
 * where the table alone bounds it: control messages. */
START_TEST(control_messages_cannot_be_too_large)
{
	static size_t most[128];

	for (size_t i = 0; i < COUNT(rows); i++) {
		const row *r = &rows[i];

		most[r->id] +=
		    16 + r->max_len * (r->type == BINS ? 0 : 1) + r->max_count * (r->max_len + 9);
	}
	for (int id = 0; id < KVPI_MSG_store_open; id++)
		ck_assert_uint_le(most[id], KVPI_CONTROL_FRAME_MAX);
}
END_TEST

START_TEST(a_reader_serves_frame_after_frame)
{
	static const char two[] = "\x92\x11\x84\x01\x05\x02\x00\x03\x00\x04\x92\x07\x08";
	static const char none[] = "\x92\x11\x84\x01\x05\x02\x00\x03\x00\x04\x90";

	reader = kvpi_msg_reader_new();
	for (int i = 0; i < 3; i++) {
		KIT_OK(DECODE(two));
		ck_assert_uint_eq(decoded.u.state.grants.count, 2);
		ck_assert_uint_eq(decoded.u.state.grants.items[1], 8);
		KIT_OK(DECODE(none));
		ck_assert_uint_eq(decoded.u.state.grants.count, 0);
		KIT_STATUS(DECODE("\x92\x11"), KVP_E_PROTOCOL);
	}
	kvpi_msg_reader_free(reader);
	kvpi_msg_reader_free(NULL);
}
END_TEST

START_TEST(without_memory)
{
	static const char grants[] = "\x92\x11\x84\x01\x05\x02\x00\x03\x00\x04\x92\x07\x08";
	static const char shape[] = "\x92\x10\x84\x01\x05\x02\x01\x03\x00\x04\x91\x07";
	static const char values[] = "\x92\x29\x84\x01\x05\x02\x01\x03\x00\x05\x91\xc4\x01v";
	kvpi_msg msg = {.id = KVPI_MSG_beat};
	kvpi_buf out;

	kvpi_fault_arm("alloc", 1, 1);
	ck_assert_ptr_null(kvpi_msg_reader_new());
	reader = kvpi_msg_reader_new();
	ck_assert_ptr_nonnull(reader);

	kvpi_fault_arm("alloc", 1, 3);
	KIT_STATUS(DECODE(grants), KVP_E_NOMEM);
	KIT_STATUS(DECODE(shape), KVP_E_NOMEM);
	KIT_STATUS(DECODE(values), KVP_E_NOMEM);
	KIT_OK(DECODE(grants));
	KIT_OK(DECODE(shape));
	KIT_OK(DECODE(values));
	kvpi_fault_arm("msg.unpack", 1, 1);
	KIT_STATUS(DECODE(grants), KVP_E_NOMEM);
	KIT_OK(DECODE(grants));
	kvpi_msg_reader_free(reader);

	kvpi_buf_init(&out);
	msg.u.beat.session = 1;
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_NOMEM);
	ck_assert_uint_eq(out.len, 0);
	ck_assert(!out.failed);
	KIT_OK(kvpi_msg_encode(&msg, &out));

	/* The buffer's own failure is older than the message, and stays. */
	out.failed = true;
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_NOMEM);
	ck_assert(out.failed);
	kvpi_buf_fini(&out);

	/* Growing fails in the middle of a message. */
	char *text = calloc(1, 2048);
	memset(text, 'a', 2047);
	msg = (kvpi_msg){.id = KVPI_MSG_refuse};
	msg.u.refuse.status = -1;
	msg.u.refuse.text = kvpi_view_text(text);
	kvpi_buf_add(&out, "before", 6);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_msg_encode(&msg, &out), KVP_E_NOMEM);
	ck_assert_uint_eq(out.len, 6);
	ck_assert_str_eq(out.data, "before");
	KIT_OK(kvpi_msg_encode(&msg, &out));
	kvpi_buf_fini(&out);
	free(text);
}
END_TEST

KIT_MAIN("msg", the_table_is_sane, every_field_is_checked_when_it_comes_in,
    what_is_encoded_is_what_was_decoded, every_field_is_checked_when_it_goes_out,
    frames_have_these_bytes, unknown_keys_are_skipped, long_forms_of_numbers_are_the_numbers,
    a_frame_is_an_id_and_a_map, text_is_utf8, null_with_a_length_is_refused,
    a_frame_above_the_limit_is_neither_taken_nor_made, control_messages_cannot_be_too_large,
    a_reader_serves_frame_after_frame, without_memory)
