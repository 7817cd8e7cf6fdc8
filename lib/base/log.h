/* SPDX-License-Identifier: Apache-2.0
 *
 * KVPI_LOG(WARN, "control", "peer %s does not answer", name): the level and component are checked
 * before the arguments are evaluated; errno survives.  House rules: lower case, exact cause, values
 * unquoted after a space ("device %s", not "device=%s"), %m for system errors, no newline.
 */
#ifndef KVPI_BASE_LOG_H
#define KVPI_BASE_LOG_H

#include <kvpipe/log.h>
#include <stdbool.h>

bool kvpi_log_enabled(kvp_log_level level, const char *component);
void kvpi_log_write(kvp_log_level level, const char *component, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define KVPI_LOG(level, component, ...)                                                            \
	do {                                                                                       \
		if (kvpi_log_enabled(KVP_LOG_##level, component))                                  \
			kvpi_log_write(KVP_LOG_##level, component, __VA_ARGS__);                   \
	} while (0)

#endif
