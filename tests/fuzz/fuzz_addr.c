/* SPDX-License-Identifier: Apache-2.0
 *
 * A text.  What is an address stays the same one through format and parse.  Nothing is looked up.
 */
#include "fuzz/fuzz.h"

#include "wire/addr.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kvpi_addr addr, again;
	char formatted[300];
	char *text = malloc(size + 1);

	if (text == NULL)
		abort();
	if (size > 0)
		memcpy(text, data, size);
	text[size] = 0;
	if (kvpi_addr_parse(text, &addr) == KVP_OK) {
		kvpi_addr_format(&addr, formatted, sizeof(formatted));
		if (kvpi_addr_parse(formatted, &again) != KVP_OK ||
		    strcmp(addr.host, again.host) != 0 || addr.port != again.port)
			abort();
	}
	kvpi_listen listen = {.bind_host = NULL};
	char host[256];
	if (kvpi_listen_parse(text, host, &listen) == KVP_OK &&
	    (listen.bind_host != host || listen.port_min > listen.port_max || strlen(host) >= sizeof(host)))
		abort();
	free(text);
	return 0;
}
