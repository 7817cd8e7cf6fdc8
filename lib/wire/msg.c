/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoder and decoder, driven by the table that messages.def becomes here.
 */
#include "wire/msg.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "wire/scan.h"
#include <msgpack.h>
#include <stdbool.h>
#include <string.h>

/* More values than any message of the table can have, lists and all; msgpack-c uses 24 bytes for
 * each. */
#define ELEMENTS_MAX 32768

#define KEY_MAX 63

typedef enum field_type {
	TYPE_UINT,
	TYPE_INT,
	TYPE_STR,
	TYPE_BIN,
	TYPE_UINTS,
	TYPE_INTS,
	TYPE_BINS
} field_type;

enum { OPTIONAL, REQUIRED };

typedef struct field {
	const char *name;
	size_t offset; /* in the message's struct */
	field_type type;
	int key;
	bool required;
	uint64_t umin, umax; /* UINT */
	int64_t imin, imax;  /* INT */
	size_t max_len;      /* bytes of a STR, a BIN or one of BINS */
	size_t max_count;    /* of a list */
} field;

typedef struct message {
	const char *name;
	int id;
	size_t present; /* offset of the member */
	size_t count;
	const field *fields;
} message;

/* First one array of fields per message, then the messages. */
#define FIELD(msg, name_, type_, key_, need)                                                       \
	.name = #name_, .offset = offsetof(kvpi_msg_##msg, name_), .type = type_, .key = key_,     \
	.required = (need) == REQUIRED
#define KVPI_MESSAGE(name, id) static const field fields_of_##name[] = {
#define KVPI_UINT(msg, key, name, min, max, need)                                                  \
	{FIELD(msg, name, TYPE_UINT, key, need), .umin = (min), .umax = (max)},
#define KVPI_INT(msg, key, name, min, max, need)                                                   \
	{FIELD(msg, name, TYPE_INT, key, need), .imin = (min), .imax = (max)},
#define KVPI_STR(msg, key, name, len, need)                                                        \
	{FIELD(msg, name, TYPE_STR, key, need), .max_len = (len)},
#define KVPI_BIN(msg, key, name, len, need)                                                        \
	{FIELD(msg, name, TYPE_BIN, key, need), .max_len = (len)},
#define KVPI_UINTS(msg, key, name, n, need)                                                        \
	{FIELD(msg, name, TYPE_UINTS, key, need), .max_count = (n)},
#define KVPI_INTS(msg, key, name, n, need)                                                         \
	{FIELD(msg, name, TYPE_INTS, key, need), .max_count = (n)},
#define KVPI_BINS(msg, key, name, n, len, need)                                                    \
	{FIELD(msg, name, TYPE_BINS, key, need), .max_count = (n), .max_len = (len)},
#define KVPI_END(name)                                                                             \
	}                                                                                          \
	;
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

static const message messages[] = {
#define KVPI_MESSAGE(name, id)                                                                     \
	{#name, id, offsetof(kvpi_msg_##name, present),                                            \
	    sizeof(fields_of_##name) / sizeof(fields_of_##name[0]), fields_of_##name},
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

static const message *find_message(uint64_t id)
{
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
		if ((uint64_t)messages[i].id == id)
			return &messages[i];
	return NULL;
}

const char *kvpi_msg_name(int id)
{
	const message *m = id > 0 ? find_message((uint64_t)id) : NULL;

	return m != NULL ? m->name : "?";
}

/* Text is UTF-8 (no overlong forms, no surrogates) without 0 bytes, so that it can become a C
 * string and go into anybody's log. */
static bool is_text(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len;) {
		const unsigned char c = p[i++];
		unsigned more;
		uint32_t code, least;

		if (c == 0)
			return false;
		if (c < 0x80)
			continue;
		if (c >= 0xc2 && c <= 0xdf) {
			more = 1;
			code = c & 0x1f;
			least = 0x80;
		} else if (c >= 0xe0 && c <= 0xef) {
			more = 2;
			code = c & 0x0f;
			least = 0x800;
		} else if (c >= 0xf0 && c <= 0xf4) {
			more = 3;
			code = c & 0x07;
			least = 0x10000;
		} else {
			return false;
		}
		if (more > len - i)
			return false;
		for (; more > 0; more--, i++) {
			if ((p[i] & 0xc0) != 0x80)
				return false;
			code = code << 6 | (p[i] & 0x3f);
		}
		if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
			return false;
	}
	return true;
}

/* ---- checks that both directions share
 * ------------------------------------------------------------ */

/* What is wrong with a value of the right type: the sentence names message and field.  The status
 * is KVP_E_PROTOCOL when it came in, KVP_E_INVALID when it would go out. */

static kvp_status check_uint(kvp_status bad, const message *m, const field *f, uint64_t value)
{
	if (value < f->umin || value > f->umax)
		return kvpi_error(bad, "%s.%s is %llu, must be %llu to %llu", m->name, f->name,
		    (unsigned long long)value, (unsigned long long)f->umin,
		    (unsigned long long)f->umax);
	return KVP_OK;
}

static kvp_status check_int(kvp_status bad, const message *m, const field *f, int64_t value)
{
	if (value < f->imin || value > f->imax)
		return kvpi_error(bad, "%s.%s is %lld, must be %lld to %lld", m->name, f->name,
		    (long long)value, (long long)f->imin, (long long)f->imax);
	return KVP_OK;
}

static kvp_status check_bytes(kvp_status bad, const message *m, const field *f, kvpi_view view)
{
	if (view.data == NULL && view.len > 0)
		return kvpi_error(bad, "%s.%s is NULL with a length", m->name, f->name);
	if (view.len > f->max_len)
		return kvpi_error(bad, "%s.%s has %zu bytes, at most %zu are allowed", m->name,
		    f->name, view.len, f->max_len);
	if (f->type == TYPE_STR && !is_text(view.data, view.len))
		return kvpi_error(bad, "%s.%s is not UTF-8 text without 0 bytes", m->name, f->name);
	return KVP_OK;
}

static kvp_status check_count(
    kvp_status bad, const message *m, const field *f, const void *items, size_t count)
{
	if (items == NULL && count > 0)
		return kvpi_error(bad, "%s.%s is NULL with a count", m->name, f->name);
	if (count > f->max_count)
		return kvpi_error(bad, "%s.%s has %zu elements, at most %zu are allowed", m->name,
		    f->name, count, f->max_count);
	return KVP_OK;
}

/* ---- decoding
 * ------------------------------------------------------------------------------------- */

struct kvpi_msg_reader {
	/* Holds msgpack-c's objects and, behind them, the lists of the message.  Kept from message to message: what
	 * a small one needs is allocated once. */
	msgpack_zone *zone;
};

kvpi_msg_reader *kvpi_msg_reader_new(void)
{
	kvpi_msg_reader *reader = KVPI_NEW(kvpi_msg_reader);

	if (reader == NULL)
		return NULL;
	reader->zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
	if (reader->zone == NULL) {
		free(reader);
		return NULL;
	}
	return reader;
}

void kvpi_msg_reader_free(kvpi_msg_reader *reader)
{
	if (reader == NULL)
		return;
	msgpack_zone_free(reader->zone);
	free(reader);
}

static kvp_status wrong_type(const message *m, const field *f, const char *want)
{
	return kvpi_error(KVP_E_PROTOCOL, "%s.%s is not %s", m->name, f->name, want);
}

static bool object_uint(const msgpack_object *o, uint64_t *value)
{
	*value = o->via.u64;
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
}

static bool object_int(const msgpack_object *o, int64_t *value)
{
	*value = o->via.i64;
	return o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ||
	       (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX);
}

/* Memory of the reader, for `count` list elements; the scan has bounded the count by the frame's
 * bytes. */
static void *list_memory(kvpi_msg_reader *reader, size_t count, size_t size)
{
	return kvpi_fault("alloc") ? NULL
	                           : msgpack_zone_malloc(reader->zone, count * size);
}

static kvp_status decode_list(
    kvpi_msg_reader *reader, const message *m, const field *f, const msgpack_object *o, void *place)
{
	if (o->type != MSGPACK_OBJECT_ARRAY)
		return wrong_type(m, f, "a list");

	const msgpack_object *from = o->via.array.ptr;
	const size_t count = o->via.array.size;
	kvp_status status = check_count(KVP_E_PROTOCOL, m, f, from, count);

	if (status != KVP_OK || count == 0)
		return status; /* the struct is zeroed: an empty list */

	if (f->type == TYPE_UINTS) {
		uint64_t *items = list_memory(reader, count, sizeof(*items));

		if (items == NULL)
			return kvpi_error_nomem("a message's list");
		for (size_t i = 0; i < count; i++)
			if (!object_uint(&from[i], &items[i]))
				return wrong_type(m, f, "a list of unsigned integers");
		*(kvpi_uints *)place = (kvpi_uints){items, count};
	} else if (f->type == TYPE_INTS) {
		int64_t *items = list_memory(reader, count, sizeof(*items));

		if (items == NULL)
			return kvpi_error_nomem("a message's list");
		for (size_t i = 0; i < count; i++)
			if (!object_int(&from[i], &items[i]))
				return wrong_type(m, f, "a list of integers");
		*(kvpi_ints *)place = (kvpi_ints){items, count};
	} else {
		kvpi_view *items = list_memory(reader, count, sizeof(*items));

		if (items == NULL)
			return kvpi_error_nomem("a message's list");
		for (size_t i = 0; i < count; i++) {
			if (from[i].type != MSGPACK_OBJECT_BIN)
				return wrong_type(m, f, "a list of byte runs");
			items[i] = kvpi_view_of(from[i].via.bin.ptr, from[i].via.bin.size);
			status = check_bytes(KVP_E_PROTOCOL, m, f, items[i]);
			if (status != KVP_OK)
				return status;
		}
		*(kvpi_views *)place = (kvpi_views){items, count};
	}
	return KVP_OK;
}

static kvp_status decode_field(
    kvpi_msg_reader *reader, const message *m, const field *f, const msgpack_object *o, void *place)
{
	switch (f->type) {
	case TYPE_UINT:
		if (!object_uint(o, place))
			return wrong_type(m, f, "an unsigned integer");
		return check_uint(KVP_E_PROTOCOL, m, f, o->via.u64);
	case TYPE_INT:
		if (!object_int(o, place))
			return wrong_type(m, f, "an integer of 64 bits");
		return check_int(KVP_E_PROTOCOL, m, f, o->via.i64);
	case TYPE_STR:
		if (o->type != MSGPACK_OBJECT_STR)
			return wrong_type(m, f, "text");
		*(kvpi_view *)place = kvpi_view_of(o->via.str.ptr, o->via.str.size);
		return check_bytes(KVP_E_PROTOCOL, m, f, *(kvpi_view *)place);
	case TYPE_BIN:
		if (o->type != MSGPACK_OBJECT_BIN)
			return wrong_type(m, f, "a byte run");
		*(kvpi_view *)place = kvpi_view_of(o->via.bin.ptr, o->via.bin.size);
		return check_bytes(KVP_E_PROTOCOL, m, f, *(kvpi_view *)place);
	case TYPE_UINTS:
	case TYPE_INTS:
	case TYPE_BINS:
		break;
	}
	return decode_list(reader, m, f, o, place);
}

static const field *find_field(const message *m, uint64_t key)
{
	for (size_t i = 0; i < m->count; i++)
		if ((uint64_t)m->fields[i].key == key)
			return &m->fields[i];
	return NULL;
}

static kvp_status decode_map(
    kvpi_msg_reader *reader, const message *m, const msgpack_object_map *map, char *body)
{
	uint64_t seen = 0; /* one bit per key, known or not */

	for (uint32_t i = 0; i < map->size; i++) {
		const msgpack_object_kv *pair = &map->ptr[i];
		uint64_t key;

		if (!object_uint(&pair->key, &key) || key > KEY_MAX)
			return kvpi_error(
			    KVP_E_PROTOCOL, "%s has a key that is not 0 to %d", m->name, KEY_MAX);

		const field *f = find_field(m, key);
		const uint64_t bit = UINT64_C(1) << key;

		if (seen & bit)
			return kvpi_error(KVP_E_PROTOCOL, "%s has the key %d (%s) twice", m->name,
			    (int)key, f != NULL ? f->name : "unknown");
		seen |= bit;
		if (f == NULL)
			continue; /* of a newer version */
		const kvp_status status = decode_field(reader, m, f, &pair->val, body + f->offset);
		if (status != KVP_OK)
			return status;
		if (!f->required)
			*(uint64_t *)(void *)(body + m->present) |= bit;
	}

	for (size_t i = 0; i < m->count; i++)
		if (m->fields[i].required && !(seen >> m->fields[i].key & 1))
			return kvpi_error(
			    KVP_E_PROTOCOL, "%s lacks %s", m->name, m->fields[i].name);
	return KVP_OK;
}

kvp_status kvpi_msg_decode(
    kvpi_msg_reader *reader, const void *frame, size_t len, size_t max_len, kvpi_msg *msg)
{
	const kvpi_scan_limits limits = {
	    .bytes = max_len, .elements = ELEMENTS_MAX, .depth = KVPI_SCAN_DEPTH_MAX};
	const kvp_status status = kvpi_scan(frame, len, &limits);
	msgpack_object object;
	size_t offset = 0;
	uint64_t id;

	if (status != KVP_OK)
		return status;

	msgpack_zone_clear(reader->zone);
	const msgpack_unpack_return rc =
	    kvpi_fault("msg.unpack") ? MSGPACK_UNPACK_NOMEM_ERROR
	                             : msgpack_unpack(frame, len, &offset, reader->zone, &object);
	if (rc == MSGPACK_UNPACK_NOMEM_ERROR)
		return kvpi_error_nomem("a message");
	if (rc != MSGPACK_UNPACK_SUCCESS)
		return kvpi_error(KVP_E_PROTOCOL, "the frame is not msgpack");

	const msgpack_object *o = &object;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != 2 ||
	    !object_uint(&o->via.array.ptr[0], &id) ||
	    o->via.array.ptr[1].type != MSGPACK_OBJECT_MAP)
		return kvpi_error(KVP_E_PROTOCOL, "the frame is not [id, {key: value}]");

	const message *m = find_message(id);
	if (m == NULL)
		return kvpi_error(
		    KVP_E_PROTOCOL, "there is no message with id %llu", (unsigned long long)id);

	memset(msg, 0, sizeof(*msg));
	msg->id = m->id;
	return decode_map(reader, m, &o->via.array.ptr[1].via.map, (char *)&msg->u);
}

/* ---- encoding
 * ------------------------------------------------------------------------------------- */

static kvp_status check_field(const message *m, const field *f, const void *place)
{
	switch (f->type) {
	case TYPE_UINT:
		return check_uint(KVP_E_INVALID, m, f, *(const uint64_t *)place);
	case TYPE_INT:
		return check_int(KVP_E_INVALID, m, f, *(const int64_t *)place);
	case TYPE_STR:
	case TYPE_BIN:
		return check_bytes(KVP_E_INVALID, m, f, *(const kvpi_view *)place);
	case TYPE_UINTS: {
		const kvpi_uints *list = place;

		return check_count(KVP_E_INVALID, m, f, list->items, list->count);
	}
	case TYPE_INTS: {
		const kvpi_ints *list = place;

		return check_count(KVP_E_INVALID, m, f, list->items, list->count);
	}
	case TYPE_BINS:
		break;
	}

	const kvpi_views *list = place;
	kvp_status status = check_count(KVP_E_INVALID, m, f, list->items, list->count);
	for (size_t i = 0; i < list->count && status == KVP_OK; i++)
		status = check_bytes(KVP_E_INVALID, m, f, list->items[i]);
	return status;
}

static bool is_there(const message *m, const field *f, const char *body)
{
	return f->required || (*(const uint64_t *)(const void *)(body + m->present) >> f->key & 1);
}

/* Where the packer writes: counts all bytes, keeps those that fit in a frame. */
typedef struct sink {
	kvpi_buf *buf;
	size_t total, max;
} sink;

static int sink_write(void *to, const char *bytes, size_t len)
{
	sink *s = to;

	s->total += len;
	if (s->total <= s->max)
		kvpi_buf_add(s->buf, bytes, len);
	return 0; /* a failure sticks to the buffer and is seen at the end */
}

static void pack_field(msgpack_packer *packer, const field *f, const void *place)
{
	msgpack_pack_int(packer, f->key);
	switch (f->type) {
	case TYPE_UINT:
		msgpack_pack_uint64(packer, *(const uint64_t *)place);
		break;
	case TYPE_INT:
		msgpack_pack_int64(packer, *(const int64_t *)place);
		break;
	case TYPE_STR: {
		const kvpi_view *view = place;

		msgpack_pack_str_with_body(packer, view->data, view->len);
		break;
	}
	case TYPE_BIN: {
		const kvpi_view *view = place;

		msgpack_pack_bin_with_body(packer, view->data, view->len);
		break;
	}
	case TYPE_UINTS: {
		const kvpi_uints *list = place;

		msgpack_pack_array(packer, list->count);
		for (size_t i = 0; i < list->count; i++)
			msgpack_pack_uint64(packer, list->items[i]);
		break;
	}
	case TYPE_INTS: {
		const kvpi_ints *list = place;

		msgpack_pack_array(packer, list->count);
		for (size_t i = 0; i < list->count; i++)
			msgpack_pack_int64(packer, list->items[i]);
		break;
	}
	case TYPE_BINS: {
		const kvpi_views *list = place;

		msgpack_pack_array(packer, list->count);
		for (size_t i = 0; i < list->count; i++)
			msgpack_pack_bin_with_body(packer, list->items[i].data, list->items[i].len);
		break;
	}
	}
}

kvp_status kvpi_msg_encode(const kvpi_msg *msg, kvpi_buf *out)
{
	const message *m = msg->id > 0 ? find_message((uint64_t)msg->id) : NULL;
	const char *body = (const char *)&msg->u;
	const size_t len_before = out->len;
	size_t count = 0;
	sink to = {.buf = out};
	msgpack_packer packer;

	if (m == NULL)
		return kvpi_error(KVP_E_INVALID, "there is no message with id %d", msg->id);
	if (out->failed)
		return kvpi_error_nomem("a message");
	for (size_t i = 0; i < m->count; i++) {
		const field *f = &m->fields[i];

		if (!is_there(m, f, body))
			continue;
		const kvp_status status = check_field(m, f, body + f->offset);
		if (status != KVP_OK)
			return status;
		count++;
	}

	/* A frame that its reader would refuse for its size must not be written either. */
	to.max = m->id < KVPI_MSG_store_open ? KVPI_CONTROL_FRAME_MAX : KVPI_STORE_FRAME_MAX;
	msgpack_packer_init(&packer, &to, sink_write);
	msgpack_pack_array(&packer, 2);
	msgpack_pack_int(&packer, m->id);
	msgpack_pack_map(&packer, count);
	for (size_t i = 0; i < m->count; i++)
		if (is_there(m, &m->fields[i], body))
			pack_field(&packer, &m->fields[i], body + m->fields[i].offset);

	const bool failed = out->failed;
	if (!failed && to.total <= to.max)
		return KVP_OK;

	out->failed = false;
	out->len = len_before;
	if (out->data != NULL)
		out->data[out->len] = 0;
	if (failed)
		return kvpi_error_nomem("a message");
	return kvpi_error(KVP_E_TOO_LARGE,
	    "%s would be a frame of %zu bytes, at most %zu are allowed", m->name, to.total, to.max);
}
