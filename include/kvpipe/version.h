/* SPDX-License-Identifier: Apache-2.0 */

/* The version of these headers. configure reads the string, so this is the only place that names it. */

#ifndef KVPIPE_VERSION_H
#define KVPIPE_VERSION_H

#define KVP_VERSION_MAJOR 0
#define KVP_VERSION_MINOR 1
#define KVP_VERSION_PATCH 0
#define KVP_VERSION_STRING "0.1.0"

#endif /* KVPIPE_VERSION_H */
