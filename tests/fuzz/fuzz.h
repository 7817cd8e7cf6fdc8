/* SPDX-License-Identifier: Apache-2.0
 *
 * The one function of a fuzz target; libFuzzer calls it, or replay.c.
 */
#ifndef KVPI_FUZZ_H
#define KVPI_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0.  A finding is a crash, an abort or a sanitizer's report. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
