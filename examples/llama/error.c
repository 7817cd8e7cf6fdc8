/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/error.h"

#include <stdarg.h>
#include <stdio.h>

int llama_error_set(llama_error *err, const char *format, ...)
{
	if (!err)
		return -1;
	va_list args;
	va_start(args, format);
	vsnprintf(err->text, sizeof err->text, format, args);
	va_end(args);
	/* A sentence may quote a name found in a file: keep control characters away from the user's
	 * terminal. */
	for (char *c = err->text; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	return -1;
}
