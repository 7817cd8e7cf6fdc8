/* SPDX-License-Identifier: Apache-2.0
 *
 * The greeting on a data connection of the plane `tcp`, as docs/wire.md describes it: hello, answer, confirm.  Both
 * ends show that they know the connection's token, which both got through the control session; the token itself
 * does not travel.  Pure functions on bytes; kvpi_auth_init comes first.
 *
 * Each proof is a MAC under the token over its sender's role, the hello and the answer without its proof.  So both
 * nonces are in it (an older one cannot be played back), the role (a proof cannot be sent back to its maker), and
 * all that was agreed.
 */
#ifndef KVPI_PLANE_TCP_GREET_H
#define KVPI_PLANE_TCP_GREET_H

#include "plane/plane.h"
#include "wire/auth.h"

#define KVPI_TCP_VERSION 2
#define KVPI_TCP_GREETING_BYTES 64
#define KVPI_TCP_PREFIX_BYTES 8 /* magic, version, kind: these stay as they are in all versions */
#define KVPI_TCP_NONCE_BYTES 16
#define KVPI_TCP_NAME_BYTES 16
#define KVPI_TCP_STREAMS_MAX 16

enum { KVPI_TCP_HELLO = 1, KVPI_TCP_ANSWER = 2, KVPI_TCP_CONFIRM = 3 };
enum { KVPI_TCP_CHECKSUM = 1 };

typedef struct kvpi_tcp_greeting {
	uint32_t magic;
	uint16_t version, kind;
	uint8_t streams; /* hello: how many are wanted; answer: how many it will be */
	uint8_t stream;  /* which of them this socket is; the first is 0 */
	uint8_t flags;   /* hello: checksums are wanted; answer: there will be checksums */
	uint8_t reserved[5];
	unsigned char first[KVPI_TCP_NAME_BYTES]; /* hello: name; answer: nonce */
	union {
		unsigned char proof[KVPI_HASH_BYTES]; /* answer, confirm */
		struct {                              /* hello */
			unsigned char nonce[KVPI_TCP_NONCE_BYTES];
			unsigned char session[KVPI_TCP_NONCE_BYTES]; /* nonce of the answer on stream 0; on it: 0 */
		};
	};
} kvpi_tcp_greeting;

_Static_assert(sizeof(kvpi_tcp_greeting) == KVPI_TCP_GREETING_BYTES, "a greeting has 64 bytes");
_Static_assert(offsetof(kvpi_tcp_greeting, first) == 16 && offsetof(kvpi_tcp_greeting, proof) == 32 &&
                   offsetof(kvpi_tcp_greeting, session) == 48,
    "a greeting's fields lie where docs/wire.md says");

/* What a connection is called where all can read it. */
void kvpi_tcp_name(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], unsigned char name[KVPI_TCP_NAME_BYTES]);

/* Each with a fresh nonce.  `session` may be NULL (stream 0). */
void kvpi_tcp_hello_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], int streams, int stream, bool checksum,
                         const unsigned char *session, kvpi_tcp_greeting *hello);
void kvpi_tcp_answer_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                          int streams, bool checksum, kvpi_tcp_greeting *answer);
void kvpi_tcp_confirm_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                           const kvpi_tcp_greeting *answer, kvpi_tcp_greeting *confirm);

/* Of the first 8 bytes.  KVP_E_PROTOCOL: no greeting of that kind; KVP_E_VERSION: of another version, in *version. */
kvp_status kvpi_tcp_prefix_check(const void *bytes, uint16_t kind, unsigned *version);

/* Is it one whose fields can be?  A hello's name and session are for the caller to find. */
bool kvpi_tcp_hello_right(const kvpi_tcp_greeting *hello);
bool kvpi_tcp_answer_right(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                           const kvpi_tcp_greeting *answer);
bool kvpi_tcp_confirm_right(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                            const kvpi_tcp_greeting *answer, const kvpi_tcp_greeting *confirm);

#endif
