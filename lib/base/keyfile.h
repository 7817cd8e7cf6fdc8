/* SPDX-License-Identifier: Apache-2.0
 *
 * The cluster key, as it lies in a file: one key per line, 64 hexadecimal digits; "#" begins a comment.  Two keys at
 * most: the first is the one to talk with, the second is understood as well, which is what a change of keys without
 * downtime needs (SECURITY.md has the steps).
 *
 * A keyring is such a file, read once and looked at again when somebody asks.  A change that cannot be read (half
 * written, wrong permissions, gone) is logged once and leaves the keys as they are: a slip while keys are changed
 * must not lock a running cluster out.  Any thread; one lock, held for a copy of 64 bytes or for reading the file.
 */
#ifndef KVPI_BASE_KEYFILE_H
#define KVPI_BASE_KEYFILE_H

#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_KEY_BYTES 32
#define KVPI_KEYS_MAX 2

/* Copies of keys: wipe them when done. */
typedef struct kvpi_keys {
	int count; /* 1 or 2; 0: there is no cluster key */
	unsigned char key[KVPI_KEYS_MAX][KVPI_KEY_BYTES];
} kvpi_keys;

void kvpi_keys_wipe(kvpi_keys *keys);

/* The text of a key file.  KVP_E_INVALID with the line that is wrong; `name` is for the sentence.  The keys
 * themselves are in no sentence. */
kvp_status kvpi_keys_parse(const char *text, size_t len, const char *name, kvpi_keys *keys);

typedef struct kvpi_keyring kvpi_keyring;

/* Reads the file.  KVP_E_INVALID: it cannot be read, is not a key file, or is open to others than its owner (who is
 * this process's user, or root); the sentence says what to do.  Returns owned. */
kvp_status kvpi_keyring_open(const char *path, kvpi_keyring **ring);
void kvpi_keyring_free(kvpi_keyring *ring); /* wipes; NULL is fine */

/* Looks whether the file has changed, and reads it then.  True when the keys are other ones now. */
bool kvpi_keyring_reload(kvpi_keyring *ring);

/* Copies the keys.  Returns their generation, which grows with each change; from 1. */
uint64_t kvpi_keyring_get(kvpi_keyring *ring, kvpi_keys *keys);

#endif
