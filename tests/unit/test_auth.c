/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "wire/auth.h"
#include <string.h>

static void hash_text(const char *text, char out[65])
{
	unsigned char hash[KVPI_HASH_BYTES];

	kvpi_hash(text, strlen(text), hash);
	kvpi_uuid_text(hash, out);
	kvpi_uuid_text(hash + KVPI_UUID_BYTES, out + 32);
}

START_TEST(hash_is_blake2b_256)
{
	char text[65];

	KIT_OK(kvpi_auth_init());
	hash_text("", text);
	ck_assert_str_eq(text, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
	hash_text("abc", text);
	ck_assert_str_eq(text, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}
END_TEST

START_TEST(random_bytes_differ_and_stay_in_their_place)
{
	unsigned char a[34] = {0}, b[34] = {0};

	KIT_OK(kvpi_auth_init());
	KIT_OK(kvpi_auth_init()); /* once more does no harm */
	kvpi_random(a + 1, 32);
	kvpi_random(b + 1, 32);
	ck_assert_mem_ne(a, b, sizeof(a));
	ck_assert_int_eq(a[0] | a[33] | b[0] | b[33], 0);
	ck_assert_uint_ne(kvpi_random_u64(), 0);
	ck_assert_uint_ne(kvpi_random_u64(), kvpi_random_u64());
}
END_TEST

START_TEST(secrets_compare_to_the_last_bit)
{
	unsigned char a[16] = {1, 2, 3}, b[16] = {1, 2, 3};

	KIT_OK(kvpi_auth_init());
	ck_assert(kvpi_secret_equal(a, b, sizeof(a)));
	b[15] = 0x80;
	ck_assert(!kvpi_secret_equal(a, b, sizeof(a)));
	ck_assert(kvpi_secret_equal(a, b, 15));
	ck_assert(kvpi_secret_equal(a, b, 0));
}
END_TEST

START_TEST(uuid_as_text)
{
	unsigned char uuid[KVPI_UUID_BYTES];
	char text[33];

	for (int i = 0; i < KVPI_UUID_BYTES; i++)
		uuid[i] = (unsigned char)(i * 17);
	kvpi_uuid_text(uuid, text);
	ck_assert_str_eq(text, "00112233445566778899aabbccddeeff");
}
END_TEST

START_TEST(no_randomness_is_an_error)
{
	kvpi_fault_arm("auth.init", 1, 1);
	KIT_STATUS(kvpi_auth_init(), KVP_E_SYSTEM);
	KIT_OK(kvpi_auth_init());
}
END_TEST

KIT_MAIN("auth", hash_is_blake2b_256, random_bytes_differ_and_stay_in_their_place,
    secrets_compare_to_the_last_bit, uuid_as_text, no_randomness_is_an_error)
