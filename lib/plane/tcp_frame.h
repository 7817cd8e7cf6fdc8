/* SPDX-License-Identifier: Apache-2.0
 *
 * The frames of the plane `tcp`, as docs/wire.md describes them ("On the plane `tcp`"): numbers are little-endian,
 * reserved bytes are zero, and what has others is refused.  Pure functions on bytes.
 */
#ifndef KVPI_PLANE_TCP_FRAME_H
#define KVPI_PLANE_TCP_FRAME_H

#include "plane/plane.h"
#include "wire/digest.h"
#include <endian.h>
#include <string.h>

#define KVPI_TCP_MAGIC UINT32_C(0x5050564b) /* "KVPP" */
#define KVPI_TCP_HEAD_BYTES 40
#define KVPI_TCP_CHECK_BYTES 8 /* behind the body, on a connection with checksums */

enum { KVPI_TCP_DATA = 1, KVPI_TCP_NOTIFY = 2 };
enum { KVPI_TCP_LAST = 1 };

/* In the wire's byte order; on a big-endian machine the fields are turned by the functions below. */
typedef struct kvpi_tcp_frame {
	uint32_t magic;
	uint8_t kind, flags;
	uint16_t reserved;
	uint64_t seq;
	uint32_t attempt;
	uint32_t check; /* with checksums: of the header without this field; else 0 */
	uint64_t offset, len;
} kvpi_tcp_frame;

_Static_assert(sizeof(kvpi_tcp_frame) == KVPI_TCP_HEAD_BYTES, "a frame's header has 40 bytes");
_Static_assert(offsetof(kvpi_tcp_frame, kind) == 4 && offsetof(kvpi_tcp_frame, seq) == 8 &&
                   offsetof(kvpi_tcp_frame, attempt) == 16 && offsetof(kvpi_tcp_frame, check) == 20 &&
                   offsetof(kvpi_tcp_frame, offset) == 24 && offsetof(kvpi_tcp_frame, len) == 32,
    "a frame's fields lie where docs/wire.md says");

/* The low half of the digest of the header, its field `check` taken as 0. */
static inline uint32_t kvpi_tcp_head_check(const unsigned char head[KVPI_TCP_HEAD_BYTES])
{
	unsigned char copy[KVPI_TCP_HEAD_BYTES];
	kvpi_digest digest = {0};

	memcpy(copy, head, sizeof(copy));
	memset(copy + offsetof(kvpi_tcp_frame, check), 0, sizeof(uint32_t));
	kvpi_digest_add(&digest, copy, sizeof(copy), 0);
	return (uint32_t)kvpi_digest_end(&digest, sizeof(copy));
}

static inline void kvpi_tcp_frame_write(unsigned char out[KVPI_TCP_HEAD_BYTES], const kvpi_tcp_frame *frame,
                                        bool checksum)
{
	kvpi_tcp_frame wire = {
	    .magic = htole32(KVPI_TCP_MAGIC),
	    .kind = frame->kind,
	    .flags = frame->flags,
	    .seq = htole64(frame->seq),
	    .attempt = htole32(frame->attempt),
	    .offset = htole64(frame->offset),
	    .len = htole64(frame->len),
	};

	memcpy(out, &wire, sizeof(wire));
	if (!checksum)
		return;
	wire.check = htole32(kvpi_tcp_head_check(out));
	memcpy(out, &wire, sizeof(wire));
}

/* NULL, or what is wrong: "the peer sent ...".  `counts`: bytes that stand in front of each notify. */
static inline const char *kvpi_tcp_frame_read(const unsigned char in[KVPI_TCP_HEAD_BYTES], bool checksum, size_t counts,
                                              kvpi_tcp_frame *frame)
{
	static const char no_frame[] = "what is not a frame of this protocol";
	kvpi_tcp_frame wire;

	memcpy(&wire, in, sizeof(wire));
	*frame = (kvpi_tcp_frame){
	    .magic = le32toh(wire.magic),
	    .kind = wire.kind,
	    .flags = wire.flags,
	    .seq = le64toh(wire.seq),
	    .attempt = le32toh(wire.attempt),
	    .check = le32toh(wire.check),
	    .offset = le64toh(wire.offset),
	    .len = le64toh(wire.len),
	};
	if (checksum && frame->check != kvpi_tcp_head_check(in))
		return "a frame whose header was corrupted in transit";
	if (frame->magic != KVPI_TCP_MAGIC || wire.reserved != 0 || (!checksum && frame->check != 0))
		return no_frame;
	if (frame->kind == KVPI_TCP_DATA)
		return (frame->flags & ~KVPI_TCP_LAST) == 0 ? NULL : no_frame;
	if (frame->kind != KVPI_TCP_NOTIFY || frame->flags != 0 || frame->seq != 0 || frame->attempt != 0 ||
	    frame->offset != 0)
		return no_frame;
	return frame->len >= counts && frame->len - counts <= KVPI_PLANE_NOTIFY_MAX ? NULL : no_frame;
}

#endif
