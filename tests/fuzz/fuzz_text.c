/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts of several kinds, told apart by the first byte: a key file, the list of planes, a host line of a peer, a range of
 * ports.
 */
#include "fuzz/fuzz.h"

#include "base/hostid.h"
#include "base/keyfile.h"
#include "plane/spec.h"
#include "wire/addr.h"
#include <kvpipe/pipe.h>
#include <stdlib.h>
#include <string.h>

static void keys(const char *text, size_t size)
{
	kvpi_keys keys;

	if (kvpi_keys_parse(text, size, "key", &keys) == KVP_OK && (keys.count < 1 || keys.count > 2))
		abort();
}

static void planes(const char *text)
{
	kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
	size_t count = 0;

	if (kvpi_plane_specs_parse(text, specs, &count) == KVP_OK && count > KVPI_PLANE_SPECS_MAX)
		abort();
}

/* What was read is written and read again the same. */
static void host(const char *text, size_t size)
{
	kvpi_hostid id, again;
	char line[1024];

	if (!kvpi_hostid_parse(&id, text, size))
		return;
	kvpi_hostid_format(&id, line, sizeof(line));
	if (!kvpi_hostid_parse(&again, line, strlen(line)) || strcmp(id.boot_id, again.boot_id) != 0)
		abort();
}

static void ports(const char *text)
{
	kvpi_listen listen = {.bind_host = NULL};

	if (kvpi_listen_ports(&listen, text) == KVP_OK && listen.port_min > listen.port_max)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (size == 0)
		return 0;
	text = malloc(size);
	if (text == NULL)
		abort();
	memcpy(text, data + 1, size - 1);
	text[size - 1] = 0;
	switch (data[0] % 4) {
	case 0:
		keys(text, size - 1);
		break;
	case 1:
		planes(text);
		break;
	case 2:
		host(text, size - 1);
		break;
	case 3:
		ports(text);
		break;
	}
	free(text);
	return 0;
}
