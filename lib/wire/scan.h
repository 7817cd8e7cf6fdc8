/* SPDX-License-Identifier: Apache-2.0
 *
 * The bounded scan: walks one msgpack frame without allocating and without believing it.  msgpack-c
 * allocates what a header claims (`dd ff ff ff ff` asks for about 96 GB); it sees only frames that
 * passed here.
 */
#ifndef KVPI_WIRE_SCAN_H
#define KVPI_WIRE_SCAN_H

#include <kvpipe/status.h>
#include <stddef.h>

#define KVPI_SCAN_DEPTH_MAX 8

typedef struct kvpi_scan_limits {
	size_t bytes;    /* of the whole frame */
	size_t elements; /* values in all, keys and containers included */
	unsigned depth;  /* nesting, at most KVPI_SCAN_DEPTH_MAX */
} kvpi_scan_limits;

/* Exactly one value must fill the frame.  Every container's count must fit in the bytes that follow (each
 * element needs one at least).  KVP_E_PROTOCOL with the byte offset and the reason. */
kvp_status kvpi_scan(const void *frame, size_t len, const kvpi_scan_limits *limits);

#endif
