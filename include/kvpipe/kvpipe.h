/* SPDX-License-Identifier: Apache-2.0
 *
 * kvpipe: moves a transformer's KV-cache from the server that computed it to the server that uses it.
 * The umbrella: one header per capability.
 */
#ifndef KVPIPE_KVPIPE_H
#define KVPIPE_KVPIPE_H

#include <kvpipe/context.h>
#include <kvpipe/log.h>
#include <kvpipe/memory.h>
#include <kvpipe/metrics.h>
#include <kvpipe/pipe.h>
#include <kvpipe/status.h>
#include <kvpipe/store.h>
#include <kvpipe/tensor.h>
#include <kvpipe/version.h>

#endif
