/* SPDX-License-Identifier: Apache-2.0
 *
 * What the plane `tcp` writes on a data connection.  All numbers are little-endian; reserved bytes are zero,
 * and what has others is refused.
 *
 * Greeting.  The connecting end sends one hello of 40 bytes, the accepting end answers with one:
 *
 *	offset  bytes  field
 *	     0      4  magic     "KVPP" (0x5050564b)
 *	     4      2  version   1
 *	     6      2  kind      1 hello of the connecting end, 2 answer
 *	     8     16  token     the secret that both ends got from the control session
 *	    24     16  reserved
 *
 * A hello that is not right, or whose token nobody expects, is answered by closing the connection.  The
 * connecting end sends nothing else before the answer has come.  At most 8 connections may be in the greeting
 * at a time, each for at most 5 s; more wait in the listen queue.  A connection that shows the token of one that is
 * open takes its place.
 *
 * Frames.  From then on each end sends frames, a header of 40 bytes and `len` bytes behind it:
 *
 *	offset  bytes  field
 *	     0      4  magic     "KVPP"
 *	     4      1  kind      1 data, 2 notify
 *	     5      1  flags     data: bit 0 = the transfer's last frame
 *	     6      2  reserved
 *	     8      8  seq       data: the transfer; notify: 0
 *	    16      4  attempt   likewise
 *	    20      4  reserved
 *	    24      8  offset    data: where the bytes belong in the transfer's dense order; notify: 0
 *	    32      8  len       bytes that follow; notify: at most 4096
 *
 * A transfer is one frame, or several with rising offsets and no gap, not mixed with those of other transfers.
 * The frame that reaches the transfer's end, and no other, has the last flag; an empty transfer is one frame
 * of no bytes.  Frames of a transfer for which there is no destination (it was canceled) are read and thrown away.  Any
 * other offset or length, an empty frame in the middle, an unknown kind or flag: the connection is closed.
 * A transfer that stops between two frames was canceled by its sender.
 */
#ifndef KVPI_PLANE_TCP_FRAME_H
#define KVPI_PLANE_TCP_FRAME_H

#include "plane/plane.h"
#include <endian.h>
#include <string.h>

#define KVPI_TCP_MAGIC UINT32_C(0x5050564b)
#define KVPI_TCP_VERSION 1
#define KVPI_TCP_HEAD_BYTES 40

enum { KVPI_TCP_HELLO = 1, KVPI_TCP_ANSWER = 2 };
enum { KVPI_TCP_DATA = 1, KVPI_TCP_NOTIFY = 2 };
enum { KVPI_TCP_LAST = 1 };

/* In the wire's byte order; on a big-endian machine the fields are turned by the functions below. */
typedef struct kvpi_tcp_hello {
	uint32_t magic;
	uint16_t version, kind;
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	unsigned char reserved[16];
} kvpi_tcp_hello;

typedef struct kvpi_tcp_frame {
	uint32_t magic;
	uint8_t kind, flags;
	uint16_t reserved;
	uint64_t seq;
	uint32_t attempt;
	uint32_t reserved2;
	uint64_t offset, len;
} kvpi_tcp_frame;

_Static_assert(sizeof(kvpi_tcp_hello) == KVPI_TCP_HEAD_BYTES, "a hello has 40 bytes");
_Static_assert(offsetof(kvpi_tcp_hello, kind) == 6 && offsetof(kvpi_tcp_hello, token) == 8 &&
                   offsetof(kvpi_tcp_hello, reserved) == 24,
    "a hello's fields lie where the table above says");
_Static_assert(sizeof(kvpi_tcp_frame) == KVPI_TCP_HEAD_BYTES, "a frame's header has 40 bytes");
_Static_assert(offsetof(kvpi_tcp_frame, kind) == 4 && offsetof(kvpi_tcp_frame, seq) == 8 &&
                   offsetof(kvpi_tcp_frame, attempt) == 16 && offsetof(kvpi_tcp_frame, offset) == 24 &&
                   offsetof(kvpi_tcp_frame, len) == 32,
    "a frame's fields lie where the table above says");

static inline void kvpi_tcp_hello_write(unsigned char out[KVPI_TCP_HEAD_BYTES], uint16_t kind,
                                        const unsigned char token[KVPI_PLANE_TOKEN_BYTES])
{
	kvpi_tcp_hello hello = {
	    .magic = htole32(KVPI_TCP_MAGIC), .version = htole16(KVPI_TCP_VERSION), .kind = htole16(kind)};

	memcpy(hello.token, token, sizeof(hello.token));
	memcpy(out, &hello, sizeof(hello));
}

/* False unless it is a hello of that kind and of this version.  The token is for the caller to compare. */
static inline bool kvpi_tcp_hello_read(const unsigned char in[KVPI_TCP_HEAD_BYTES], uint16_t kind,
                                       unsigned char token[KVPI_PLANE_TOKEN_BYTES])
{
	static const unsigned char zero[16];
	kvpi_tcp_hello hello;

	memcpy(&hello, in, sizeof(hello));
	memcpy(token, hello.token, sizeof(hello.token));
	return le32toh(hello.magic) == KVPI_TCP_MAGIC && le16toh(hello.version) == KVPI_TCP_VERSION &&
	       le16toh(hello.kind) == kind && memcmp(hello.reserved, zero, sizeof(zero)) == 0;
}

static inline void kvpi_tcp_frame_write(unsigned char out[KVPI_TCP_HEAD_BYTES], const kvpi_tcp_frame *frame)
{
	const kvpi_tcp_frame wire = {
	    .magic = htole32(KVPI_TCP_MAGIC),
	    .kind = frame->kind,
	    .flags = frame->flags,
	    .seq = htole64(frame->seq),
	    .attempt = htole32(frame->attempt),
	    .offset = htole64(frame->offset),
	    .len = htole64(frame->len),
	};

	memcpy(out, &wire, sizeof(wire));
}

/* False unless it is a header that can be: magic, kind, flags and reserved bytes are right. */
static inline bool kvpi_tcp_frame_read(const unsigned char in[KVPI_TCP_HEAD_BYTES], kvpi_tcp_frame *frame)
{
	kvpi_tcp_frame wire;

	memcpy(&wire, in, sizeof(wire));
	*frame = (kvpi_tcp_frame){
	    .magic = le32toh(wire.magic),
	    .kind = wire.kind,
	    .flags = wire.flags,
	    .seq = le64toh(wire.seq),
	    .attempt = le32toh(wire.attempt),
	    .offset = le64toh(wire.offset),
	    .len = le64toh(wire.len),
	};
	if (frame->magic != KVPI_TCP_MAGIC || wire.reserved != 0 || wire.reserved2 != 0)
		return false;
	if (frame->kind == KVPI_TCP_NOTIFY)
		return frame->flags == 0 && frame->seq == 0 && frame->attempt == 0 && frame->offset == 0 &&
		       frame->len <= KVPI_PLANE_NOTIFY_MAX;
	return frame->kind == KVPI_TCP_DATA && (frame->flags & ~KVPI_TCP_LAST) == 0;
}

#endif
