/* SPDX-License-Identifier: Apache-2.0
 *
 * Randomness and hashing: libsodium, met in this file only.
 */
#include "wire/auth.h"
#include "base/error.h"
#include "base/fault.h"
#include <sodium.h>
#include <string.h>

_Static_assert(crypto_generichash_BYTES_MIN <= KVPI_HASH_BYTES &&
                   KVPI_HASH_BYTES <= crypto_generichash_BYTES_MAX,
    "BLAKE2b gives digests of this length");
_Static_assert(crypto_generichash_KEYBYTES_MIN <= KVPI_MAC_KEY_MIN && KVPI_MAC_KEY_MAX <= crypto_generichash_KEYBYTES_MAX,
    "BLAKE2b takes keys of these lengths");
_Static_assert(crypto_scalarmult_SCALARBYTES == KVPI_HASH_BYTES && crypto_scalarmult_BYTES == 32,
    "a MAC is a Curve25519 secret key");

kvp_status kvpi_auth_init(void)
{
	/* 1 says that it was done before. */
	if (kvpi_fault("auth.init") || sodium_init() < 0)
		return kvpi_error(
		    KVP_E_SYSTEM, "libsodium does not start: no source of randomness");
	return KVP_OK;
}

void kvpi_random(void *out, size_t len)
{
	randombytes_buf(out, len);
}

uint64_t kvpi_random_u64(void)
{
	uint64_t value;

	do
		randombytes_buf(&value, sizeof(value));
	while (value == 0);
	return value;
}

void kvpi_hash(const void *bytes, size_t len, unsigned char out[KVPI_HASH_BYTES])
{
	/* Fails only for lengths that the assertion above rules out. */
	(void)crypto_generichash(out, KVPI_HASH_BYTES, bytes, len, NULL, 0);
}

void kvpi_mac(const void *key, size_t key_len, const void *bytes, size_t len, unsigned char out[KVPI_HASH_BYTES])
{
	(void)crypto_generichash(out, KVPI_HASH_BYTES, bytes, len, key, key_len); /* key lengths: see the assertion */
}

void kvpi_auth_pair(const void *key, size_t key_len, const char *role, kvpi_pair *pair)
{
	kvpi_mac(key, key_len, role, strlen(role), pair->secret_key);
	/* Fails only for points of the other end's choice; this is the base point. */
	(void)crypto_scalarmult_base(pair->public_key, pair->secret_key);
}

void kvpi_wipe(void *bytes, size_t len)
{
	sodium_memzero(bytes, len);
}

bool kvpi_secret_equal(const void *a, const void *b, size_t len)
{
	return sodium_memcmp(a, b, len) == 0;
}

void kvpi_uuid_text(const unsigned char uuid[KVPI_UUID_BYTES], char out[33])
{
	sodium_bin2hex(out, 33, uuid, KVPI_UUID_BYTES);
}
