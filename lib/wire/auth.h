/* SPDX-License-Identifier: Apache-2.0
 *
 * Randomness and hashing, from libsodium (auth.c is the only file that includes it).
 */
#ifndef KVPI_WIRE_AUTH_H
#define KVPI_WIRE_AUTH_H

#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_UUID_BYTES 16
#define KVPI_HASH_BYTES 32
#define KVPI_MAC_KEY_MIN 16
#define KVPI_MAC_KEY_MAX 64

/* Any thread; once is enough, more do no harm.  KVP_E_SYSTEM if libsodium cannot start. */
kvp_status kvpi_auth_init(void);

void kvpi_random(void *out, size_t len); /* cryptographic; after kvpi_auth_init */
uint64_t kvpi_random_u64(void);          /* never 0 */

/* BLAKE2b-256. */
void kvpi_hash(const void *bytes, size_t len, unsigned char out[KVPI_HASH_BYTES]);

/* Keyed BLAKE2b-256 over `len` bytes: shows that one knows the key, and cannot be made without it. */
void kvpi_mac(const void *key, size_t key_len, const void *bytes, size_t len, unsigned char out[KVPI_HASH_BYTES]);

/* A Curve25519 key pair: the secret is the MAC of `role` under the cluster key, so that all who have the key have the
 * pair, and nobody else.  The caller wipes it. */
typedef struct kvpi_pair {
	unsigned char public_key[32], secret_key[32];
} kvpi_pair;
void kvpi_auth_pair(const void *key, size_t key_len, const char *role, kvpi_pair *pair);

void kvpi_wipe(void *bytes, size_t len); /* is not optimised away */

/* Constant time. */
bool kvpi_secret_equal(const void *a, const void *b, size_t len);

/* 16 bytes as 32 hex digits and a 0. */
void kvpi_uuid_text(const unsigned char uuid[KVPI_UUID_BYTES], char out[33]);

#endif
