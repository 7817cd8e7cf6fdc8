/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages as C structs, made from messages.def.  Encoding appends a frame to a buffer.  Decoding first
 * runs the bounded scan (scan.h), which allocates nothing and believes no header, and only then msgpack-c;
 * then it checks every field against the table.  Decoders do not decide, deciders do not decode.
 */
#ifndef KVPI_WIRE_MSG_H
#define KVPI_WIRE_MSG_H

#include "base/buf.h"
#include "wire/view.h"
#include <kvpipe/status.h>
#include <stdint.h>

#define KVPI_WIRE_VERSION_MIN 1
#define KVPI_WIRE_VERSION_MAX 1
#define KVPI_CONTROL_FRAME_MAX (64u * 1024)
#define KVPI_STORE_FRAME_MAX (1024u * 1024)

typedef struct kvpi_uints {
	const uint64_t *items;
	size_t count;
} kvpi_uints;
typedef struct kvpi_ints {
	const int64_t *items;
	size_t count;
} kvpi_ints;
typedef struct kvpi_views {
	const kvpi_view *items;
	size_t count;
} kvpi_views;

/* Structs: kvpi_msg_<name>, last member `present`: bit `key` set for each OPTIONAL field that is there
 * (encoders set it by KVPI_HAS; required fields need no bit).  `key` is below 64. */
#define KVPI_MESSAGE(name, id) typedef struct kvpi_msg_##name {
#define KVPI_UINT(msg, key, name, min, max, need) uint64_t name;
#define KVPI_INT(msg, key, name, min, max, need) int64_t name;
#define KVPI_STR(msg, key, name, max_len, need) kvpi_view name;
#define KVPI_BIN(msg, key, name, max_len, need) kvpi_view name;
#define KVPI_UINTS(msg, key, name, max_count, need) kvpi_uints name;
#define KVPI_INTS(msg, key, name, max_count, need) kvpi_ints name;
#define KVPI_BINS(msg, key, name, max_count, max_len, need) kvpi_views name;
#define KVPI_END(name)                                                                             \
	uint64_t present;                                                                          \
	}                                                                                          \
	kvpi_msg_##name;
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

/* Ids: KVPI_MSG_hello …; keys: KVPI_KEY_announce_withdrawn … */
enum {
#define KVPI_MESSAGE(name, id) KVPI_MSG_##name = id,
#define KVPI_UINT(msg, key, name, min, max, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_INT(msg, key, name, min, max, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_STR(msg, key, name, max_len, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_BIN(msg, key, name, max_len, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_UINTS(msg, key, name, max_count, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_INTS(msg, key, name, max_count, need) KVPI_KEY_##msg##_##name = key,
#define KVPI_BINS(msg, key, name, max_count, max_len, need) KVPI_KEY_##msg##_##name = key,
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

#define KVPI_HAS(msg, field) (UINT64_C(1) << KVPI_KEY_##msg##_##field)

/* Any message: `id` says which member counts. */
typedef struct kvpi_msg {
	int id;
	union {
#define KVPI_MESSAGE(name, id) kvpi_msg_##name name;
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
	} u;
} kvpi_msg;

/* Holds what decoded lists point to; reused from frame to frame.  One thread. */
typedef struct kvpi_msg_reader kvpi_msg_reader;
kvpi_msg_reader *kvpi_msg_reader_new(void); /* returns owned; NULL without memory */
void kvpi_msg_reader_free(kvpi_msg_reader *reader);

/*
 * Decodes one frame of at most max_len bytes.  KVP_E_PROTOCOL with a sentence that says what is wrong
 * where; *msg is then unspecified.  Views in *msg borrow from the frame, lists from the reader until its
 * next decode.
 */
kvp_status kvpi_msg_decode(kvpi_msg_reader *reader, const void *frame, size_t len, size_t max_len, kvpi_msg *msg);

/*
 * Appends the frame to `out`.  The message must obey the table: KVP_E_INVALID names the field that does
 * not (so nothing is written that cannot be read); KVP_E_TOO_LARGE: the frame would pass
 * KVPI_CONTROL_FRAME_MAX (ids below store_open) or KVPI_STORE_FRAME_MAX; KVP_E_NOMEM.  `out` is unchanged
 * then.
 */
kvp_status kvpi_msg_encode(const kvpi_msg *msg, kvpi_buf *out);

const char *kvpi_msg_name(int id); /* "hello"; "?" if there is none */

#endif
