/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/context.h"
#include "base/fault.h"
#include "base/keyfile.h"
#include <kvpipe/log.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define A "00112233445566778899aabbccddeeff0123456789abcdef0123456789ABCDEF"
#define B "ff112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
#define C "fe112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"

static char path[300];

/* As an operator changes it: a new file takes the place of the old one. */
static void put(const char *text, mode_t mode)
{
	char fresh[310];
	FILE *file;

	snprintf(path, sizeof(path), "%s/key", kit_tmpdir());
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	file = fopen(fresh, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(fresh, mode), 0);
	ck_assert_int_eq(rename(fresh, path), 0);
}

static kvp_status parse(const char *text, kvpi_keys *keys)
{
	return kvpi_keys_parse(text, strlen(text), "of the test", keys);
}

START_TEST(one_key_or_two)
{
	static const struct {
		const char *text;
		int count;
	} rows[] = {{A, 1}, {A "\n", 1}, {"# mine\n\n  " A "\t# since May\r\n", 1}, {A "\n" B, 2},
	    {"\n\n" A "#\n#" C "\n" B "\n\n", 2}};
	kvpi_keys keys;

	for (size_t i = 0; i < COUNT(rows); i++) {
		KIT_OK(parse(rows[i].text, &keys));
		ck_assert_int_eq(keys.count, rows[i].count);
		ck_assert_mem_eq(keys.key[0], "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16);
		ck_assert_int_eq(keys.key[0][31], 0xef);
		ck_assert_int_eq(keys.key[1][0], rows[i].count == 2 ? 0xff : 0);
	}
	kvpi_keys_wipe(&keys);
	ck_assert_int_eq(keys.count | keys.key[0][31] | keys.key[1][0], 0);
}
END_TEST

START_TEST(what_is_no_key_file)
{
	static const struct {
		const char *text, *says;
	} rows[] = {{"", "no key"}, {"# " A "\n", "no key"}, {"x", "line 1"}, {A "0", "line 1"}, {A "\n" A, "twice"},
	    {A "\n" B "\n" C, "more than 2"}, {A " " B, "line 1"}, {A "\n\nff", "line 3"}, {A "\n" B "\nx", "more than 2"}};
	kvpi_keys keys = {.count = 7};

	for (size_t i = 0; i < COUNT(rows); i++) {
		KIT_STATUS(parse(rows[i].text, &keys), KVP_E_INVALID);
		ck_assert_msg(strstr(kvp_last_error(), rows[i].says) != NULL, "%s", kvp_last_error());
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "of the test"));
		ck_assert_ptr_null(strstr(kvp_last_error(), "0011")); /* keys are in no sentence */
		ck_assert_int_eq(keys.count, 7);
	}
	KIT_STATUS(kvpi_keys_parse(A "\0" B, 129, "of the test", &keys), KVP_E_INVALID);
}
END_TEST

START_TEST(only_its_owner_may_read_it)
{
	kvpi_keyring *ring = NULL;
	char large[5000];

	put(A, 0644);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "chmod 600"));
	put(A, 0620);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	put(A, 0601);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	KIT_STATUS(kvpi_keyring_open(kit_tmpdir(), &ring), KVP_E_INVALID);
	memset(large, '\n', sizeof(large) - 1);
	large[sizeof(large) - 1] = 0;
	put(large, 0600);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "more than 4096 bytes"));
	put(A, 0600);
	unlink(path);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "--make-key"));
	ck_assert_int_eq(mkfifo(path, 0600), 0); /* does not hang */
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	put(A, 0600);
	if (geteuid() == 0) {
		ck_assert_int_eq(chown(path, 12345, (gid_t)-1), 0);
		KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "12345"));
		ck_assert_int_eq(chown(path, 0, (gid_t)-1), 0);
	}
	kvpi_fault_arm("keyfile.read", 1, 1);
	KIT_STATUS(kvpi_keyring_open(path, &ring), KVP_E_INVALID);
	ck_assert_ptr_null(ring);
	for (unsigned nth = 1; ring == NULL; nth++) {
		kvpi_fault_arm("alloc", nth, 1);
		const kvp_status status = kvpi_keyring_open(path, &ring);

		ck_assert(status == KVP_OK || (status == KVP_E_NOMEM && ring == NULL));
		ck_assert_uint_lt(nth, 10);
	}
	kvpi_keyring_free(ring);
	kvpi_keyring_free(NULL);
}
END_TEST

static unsigned errors;

static void count_line(void *user, kvp_log_level level, const char *component, const char *line)
{
	(void)user;
	(void)component;
	(void)line;
	errors += level == KVP_LOG_ERROR;
}

START_TEST(a_ring_follows_its_file)
{
	kvpi_keyring *ring;
	kvpi_keys keys;

	kvp_log_set((kvp_log_callback){.call = count_line}, KVP_LOG_ERROR);
	put(A, 0600);
	KIT_OK(kvpi_keyring_open(path, &ring));
	ck_assert(!kvpi_keyring_reload(ring));
	ck_assert_uint_eq(kvpi_keyring_get(ring, &keys), 1);
	put(A "\n" B, 0600);
	ck_assert(kvpi_keyring_reload(ring));
	ck_assert(!kvpi_keyring_reload(ring));
	ck_assert_uint_eq(kvpi_keyring_get(ring, &keys), 2);
	ck_assert_int_eq(keys.count, 2);
	put("# the same, written differently\n" A "\n" B, 0600);
	ck_assert(!kvpi_keyring_reload(ring));

	/* What is wrong changes nothing, and is told once. */
	put("nonsense", 0600);
	for (int i = 0; i < 3; i++)
		ck_assert(!kvpi_keyring_reload(ring));
	ck_assert_uint_eq(errors, 1);
	unlink(path);
	for (int i = 0; i < 3; i++)
		ck_assert(!kvpi_keyring_reload(ring));
	ck_assert_uint_eq(errors, 2);
	put(B, 0644);
	ck_assert(!kvpi_keyring_reload(ring));
	ck_assert_uint_eq(errors, 3);
	ck_assert_uint_eq(kvpi_keyring_get(ring, &keys), 2);
	ck_assert_int_eq(keys.count, 2);
	ck_assert_int_eq(chmod(path, 0600), 0); /* mended */
	ck_assert(kvpi_keyring_reload(ring));
	ck_assert_uint_eq(kvpi_keyring_get(ring, &keys), 3);
	ck_assert_int_eq(keys.count, 1);
	ck_assert_int_eq(keys.key[0][0], 0xff);
	ck_assert_int_eq(keys.key[1][0], 0);
	kvp_log_set((kvp_log_callback){.call = NULL}, KVP_LOG_OFF);
	kvpi_keyring_free(ring);
}
END_TEST

START_TEST(contexts_read_theirs)
{
	kvp_context_options options;
	kvp_context *context = NULL, *held;
	kvpi_keys keys;

	unsetenv("KVPIPE_KEY_FILE");
	KIT_OK(kvp_context_new(&context, NULL));
	ck_assert(!kvpi_context_keys(context, &keys));
	ck_assert_int_eq(keys.count, 0);
	ck_assert_ptr_null(kvpi_context_keyring(context));
	kvp_context_free(context);
	context = NULL;

	put(A "\n" B, 0600);
	kvp_context_options_init(&options);
	ck_assert_ptr_null(options.key_file);
	options.key_file = path;
	KIT_OK(kvp_context_new(&context, &options));
	ck_assert(kvpi_context_keys(context, &keys));
	ck_assert_int_eq(keys.count, 2);
	kvp_context_free(context);
	context = NULL;

	/* The variable holds for the default context, too, and the option stands above it. */
	setenv("KVPIPE_KEY_FILE", "/no/such/file", 1);
	KIT_STATUS(kvp_context_new(&context, NULL), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "/no/such/file"));
	KIT_STATUS(kvpi_context_hold(NULL, &held), KVP_E_INVALID);
	ck_assert_ptr_null(context);
	KIT_OK(kvp_context_new(&context, &options));
	kvp_context_free(context);
	put(A, 0600);
	setenv("KVPIPE_KEY_FILE", path, 1);
	KIT_OK(kvpi_context_hold(NULL, &held));
	ck_assert(kvpi_context_keys(held, &keys));
	kvpi_context_release(held);
	setenv("KVPIPE_KEY_FILE", "", 1);
	KIT_OK(kvpi_context_hold(NULL, &held));
	ck_assert(!kvpi_context_keys(held, &keys));
	kvpi_context_release(held);
}
END_TEST

KIT_MAIN("keyfile", one_key_or_two, what_is_no_key_file, only_its_owner_may_read_it, a_ring_follows_its_file,
    contexts_read_theirs)
